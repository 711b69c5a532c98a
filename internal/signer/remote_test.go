package signer

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/signer/core/apitypes"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
)

// signHere signs what a remote signer was asked to sign, by clef's own reading of
// the request, after change has had its way with it.
func signHere(t *testing.T, r *http.Request, signer signs, change func(*types.DynamicFeeTx)) string {
	t.Helper()
	var in struct {
		JSONRPC, Method string
		ID              json.RawMessage
		Params          []apitypes.SendTxArgs
	}
	decode(t, r.Body, &in)
	if in.JSONRPC != "2.0" || len(in.Params) != 1 || in.Params[0].From.Address() != common.Address(addressOf(signer.key)) {
		t.Errorf("asked for %+v", in)
		return ""
	}
	asked, err := in.Params[0].ToTransaction()
	if err != nil {
		t.Error(err)
		return ""
	}
	tx := &types.DynamicFeeTx{
		ChainID: asked.ChainId(), Nonce: asked.Nonce(), To: asked.To(), Value: asked.Value(), Data: asked.Data(), Gas: asked.Gas(),
		GasFeeCap: asked.GasFeeCap(), GasTipCap: asked.GasTipCap(),
	}
	if change != nil {
		change(tx)
	}
	signed, err := types.SignNewTx(signer.with, types.LatestSignerForChainID(tx.ChainID), tx)
	if err != nil {
		t.Error(err)
		return ""
	}
	raw, err := signed.MarshalBinary()
	if err != nil {
		t.Error(err)
	}
	return hexutil.Encode(raw)
}

func openRemote(t *testing.T, url string, a chain.Address) *Wallet {
	t.Helper()
	w, err := NewRemote(Remote{URL: url, Address: a, Method: "eth_signTransaction"}, chainID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestARemoteSignerSigns(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for name, result := range map[string]func(raw string) any{
		"as web3signer answers":       func(raw string) any { return raw },
		"as clef and a node answer":   func(raw string) any { return map[string]any{"raw": raw, "tx": map[string]string{"type": "0x2"}} },
		"with nulls beside, as a few": func(raw string) any { return map[string]any{"raw": raw, "tx": nil} },
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s with %v", r.Method, r.Header)
			}
			answer(t, w, map[string]any{"jsonrpc": "2.0", "id": 1, "result": result(signHere(t, r, signs{key, key}, nil))})
		})
		w := openRemote(t, s.URL, addressOf(key))
		signed, err := w.Sign(t.Context(), ask())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		isSigned(t, signed, key)
		if w.Kind() != "remote" {
			t.Errorf("kind %q", w.Kind())
		}
		// What a signer is tried with passes there too.
		probe, err := w.Sign(t.Context(), evm.Probe(w.Address()))
		if err != nil || len(probe.Raw) == 0 {
			t.Errorf("%s: a probe: %v", name, err)
		}
	}
}

func TestARemoteSignerThatSignsSomethingElseIsRefused(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	thief := common.Address{19: 9}
	for name, row := range map[string]struct {
		with   signs
		change func(*types.DynamicFeeTx)
	}{
		"another wallet": {signs{key, newKey(t)}, nil},
		"to a thief":     {signs{key, key}, func(tx *types.DynamicFeeTx) { tx.To = &thief }},
		"with money":     {signs{key, key}, func(tx *types.DynamicFeeTx) { tx.Value = big.NewInt(1) }},
		"a later nonce":  {signs{key, key}, func(tx *types.DynamicFeeTx) { tx.Nonce++ }},
		"more fees":      {signs{key, key}, func(tx *types.DynamicFeeTx) { tx.GasFeeCap = big.NewInt(9e9) }},
		"another chain":  {signs{key, key}, func(tx *types.DynamicFeeTx) { tx.ChainID = big.NewInt(1) }},
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			answer(t, w, map[string]any{"jsonrpc": "2.0", "id": 1, "result": signHere(t, r, row.with, row.change)})
		})
		signed, err := openRemote(t, s.URL, addressOf(key)).Sign(t.Context(), ask())
		if !errors.Is(err, evm.ErrSignature) || signed.Raw != nil {
			t.Errorf("%s: %x, %v", name, signed.Raw, err)
		}
	}
}

func TestWhatARemoteSignerSaysWrong(t *testing.T) {
	t.Parallel()
	elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
	for _, row := range []struct {
		name, want string
		serve      http.HandlerFunc
		wrong      bool // an answer, and no signature
	}{
		{"an error", `the signer says -32000: "no account"`, text(200, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no account"}}`), false},
		{"an error with its status", "the signer says -32600", text(400, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"x"}}`), false},
		{"an error that would forge a log line", `"a\nlevel=error"`, text(200, `{"error":{"code":1,"message":"a\nlevel=error"}}`), false},
		{"throttling", "HTTP status 429", text(429, "slow down"), false},
		{"an outage", "HTTP status 503", text(503, ""), false},
		{"elsewhere", "HTTP status 307", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, false},
		{"no JSON", "no JSON-RPC", text(200, "<html>"), true},
		{"nothing", "no signed bytes", text(200, `{"jsonrpc":"2.0","id":1}`), true},
		{"null", "no signed bytes", text(200, `{"jsonrpc":"2.0","id":1,"result":null}`), true},
		{"no hex", "no signed bytes", text(200, `{"jsonrpc":"2.0","id":1,"result":"signed"}`), true},
		{"no transaction", "no transaction", text(200, `{"jsonrpc":"2.0","id":1,"result":"0x02c0"}`), true},
		{"too much", "too long", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"result":"0x`+strings.Repeat("00", maxRemoteBytes)+`"}`)
		}, true},
	} {
		s := serve(t, row.serve)
		signed, err := openRemote(t, s.URL, chain.Address{1}).Sign(t.Context(), ask())
		if err == nil || !strings.Contains(err.Error(), row.want) || errors.Is(err, evm.ErrSignature) != row.wrong || signed.Raw != nil {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { failure(status, body)(w) }
}

func TestARemoteSignerThatHangsIsLeft(t *testing.T) {
	t.Parallel()
	ctx, leave := context.WithCancel(t.Context())
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) { hang(r, leave) })
	if _, err := openRemote(t, s.URL, chain.Address{1}).Sign(ctx, ask()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestARemoteSignersURLIsNotTold(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for _, url := range []string{strings.Replace(closed.URL, "http://", "http://user:hunter2@", 1) + "/hunter2?key=hunter2", "http://hunter2\x7f/"} {
		_, err := openRemote(t, url, chain.Address{1}).Sign(t.Context(), ask())
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}
