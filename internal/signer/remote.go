package signer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/redact"
)

// Remote names a wallet of a signer that speaks JSON-RPC: web3signer, clef, a node
// with an unlocked account.
type Remote struct {
	URL     string
	Address chain.Address
	// Method is eth_signTransaction, or clef's account_signTransaction.
	Method string
}

// maxRemoteBytes bounds an answer: a transaction of our largest batch, thrice.
const maxRemoteBytes = 1 << 20

// NewRemote signs by way of a remote signer. It asks nothing yet.
func NewRemote(r Remote, chainID uint64) (*Wallet, error) {
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("the HTTP transport was replaced")
	}
	transport = transport.Clone()
	transport.MaxIdleConnsPerHost = 16 // a lane's transactions are signed at once
	return &Wallet{kind: "remote", address: r.Address, chainID: chainID, holder: &remote{
		url: r.URL, method: r.Method, chainID: chainID,
		client: &http.Client{
			Transport: transport,
			// What was meant for one signer is not sent to another.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		secrets: redact.Of(r.URL),
	}}, nil
}

type remote struct {
	url, method string
	chainID     uint64
	client      *http.Client
	// secrets of the URL, which the signer may repeat.
	secrets redact.Secrets
}

// request is a transaction as eth_signTransaction takes it.
type request struct {
	From    string         `json:"from"`
	To      string         `json:"to"`
	Gas     hexutil.Uint64 `json:"gas"`
	FeeCap  hexutil.Uint64 `json:"maxFeePerGas"`
	TipCap  hexutil.Uint64 `json:"maxPriorityFeePerGas"`
	Value   *hexutil.Big   `json:"value"`
	Nonce   hexutil.Uint64 `json:"nonce"`
	Data    hexutil.Bytes  `json:"data"`
	ChainID hexutil.Uint64 `json:"chainId"`
}

func (s *remote) sign(ctx context.Context, u evm.Unsigned, d evm.Draft, from chain.Address) (evm.Signed, error) {
	result, err := s.call(ctx, request{
		From: from.String(), To: u.Call.To.String(), Gas: hexutil.Uint64(u.GasLimit), FeeCap: hexutil.Uint64(u.Fees.FeeCap), TipCap: hexutil.Uint64(u.Fees.TipCap),
		Value: (*hexutil.Big)(u.Value.Big()), Nonce: hexutil.Uint64(u.WalletNonce), Data: u.Call.Data, ChainID: hexutil.Uint64(s.chainID),
	})
	if err != nil {
		return evm.Signed{}, fmt.Errorf("%s: %w", s.method, err)
	}
	raw, err := rawOf(result)
	if err != nil {
		return evm.Signed{}, fmt.Errorf("%s: %w", s.method, err)
	}
	return d.Accept(raw, from)
}

// rawOf finds the signed bytes: web3signer answers with them, nodes and clef with
// an object that has them beside the transaction's fields.
func rawOf(result json.RawMessage) (hexutil.Bytes, error) {
	var raw hexutil.Bytes
	if json.Unmarshal(result, &raw) == nil && len(raw) > 0 {
		return raw, nil
	}
	var object struct {
		Raw hexutil.Bytes `json:"raw"`
	}
	if json.Unmarshal(result, &object) == nil && len(object.Raw) > 0 {
		return object.Raw, nil
	}
	return nil, fmt.Errorf("%w: no signed bytes in the answer", evm.ErrSignature)
}

func (s *remote) call(ctx context.Context, r request) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": s.method, "params": []request{r}})
	if err != nil {
		return nil, err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("its URL can't be used") // the cause quotes it
	}
	post.Header.Set("Content-Type", "application/json")
	response, err := s.client.Do(post)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRemoteBytes+1))
	if err != nil {
		return nil, withoutURL(err)
	}
	if len(text) > maxRemoteBytes {
		return nil, fmt.Errorf("%w: the answer is too long", evm.ErrSignature)
	}
	var answer struct {
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	switch err := json.Unmarshal(text, &answer); {
	case err == nil && answer.Error != nil:
		return nil, fmt.Errorf("the signer says %d: %.200q", answer.Error.Code, s.secrets.Text(answer.Error.Message))
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("HTTP status %d", response.StatusCode)
	case err != nil:
		return nil, fmt.Errorf("%w: the answer is no JSON-RPC", evm.ErrSignature)
	}
	return answer.Result, nil
}

// withoutURL leaves the cause of a failed request. The URL may hold a secret (I10).
func withoutURL(err error) error {
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err
	}
	return err
}

func (s *remote) Close() error {
	s.client.CloseIdleConnections()
	return nil
}
