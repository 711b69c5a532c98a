package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/devnet"
	"facilitator/internal/x402"
)

const (
	// smallest is the amount of a scenario's first payment, in atomic units; each
	// later one is a unit larger, so that every payment is known by its transfer.
	smallest = 1_000
	// validity is long because a chain with several blocks a second may count a
	// whole second for each.
	validity = 24 * time.Hour
)

// sale is a signed payment, ready to be sent.
type sale struct {
	request []byte // the whole HTTP request
	payer   common.Address
	payee   common.Address
	amount  uint64
	nonce   common.Hash // of the authorization
	// signature and terms are for those who send it without the service.
	signature []byte
	terms     devnet.Sale
}

// signSales signs n payments, of the site's payers to its payees in turn. No
// two of a site are of the same amount.
func (s *site) signSales(n int) ([]sale, error) {
	return signAll(s, n, s.signSale)
}

// signAll signs n more of the site's payments, on all cores.
func signAll[T any](s *site, n int, sign func(i int) (T, error)) ([]T, error) {
	signed := make([]T, n)
	first := s.signed
	s.signed += n
	errs := make([]error, n)
	var signers sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		signers.Go(func() {
			for i := w; i < n; i += workers {
				signed[i], errs[i] = sign(first + i)
			}
		})
	}
	signers.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return signed, nil
}

// terms of the site's i-th payment.
func (s *site) terms(i int) (devnet.Sale, error) {
	terms := devnet.Sale{
		Payer: s.payers[i%len(s.payers)], PayTo: s.payees[i%len(s.payees)].Address,
		Amount: smallest + uint64(i), //nolint:gosec // an index
	}.ForNow(time.Now(), validity)
	if _, err := rand.Read(terms.Nonce[:]); err != nil {
		return terms, fmt.Errorf("nonce: %w", err)
	}
	return terms, nil
}

func (s *site) signSale(i int) (sale, error) {
	terms, err := s.terms(i)
	if err != nil {
		return sale{}, err
	}
	request, err := s.chain.Request(terms)
	if err != nil {
		return sale{}, err
	}
	signature, err := signatureIn(request)
	if err != nil {
		return sale{}, err
	}
	text, err := postOf("/settle", request)
	if err != nil {
		return sale{}, err
	}
	return sale{
		request: text, payer: terms.Payer.Address, payee: terms.PayTo,
		amount: terms.Amount, nonce: terms.Nonce, signature: signature, terms: terms,
	}, nil
}

// postOf is the whole HTTP request with a body of JSON.
func postOf(path string, body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, len(text))
	return append([]byte(head), text...), nil
}

// transfer is the call of the token that pays it.
func (s *sale) transfer() []byte {
	return evm.TransferData(evm.Authorization{
		From: chain.Address(s.payer), To: chain.Address(s.payee), Value: x402.NewUint256(s.amount),
		ValidAfter: x402.NewUint256(s.terms.ValidAfter), ValidBefore: x402.NewUint256(s.terms.ValidBefore), Nonce: chain.Hash(s.nonce),
	}, s.signature, evm.BothOverloads)
}

// signatureIn finds the payer's signature in a request.
func signatureIn(request map[string]any) ([]byte, error) {
	outer, _ := request["paymentPayload"].(map[string]any)
	inner, _ := outer["payload"].(map[string]any)
	text, _ := inner["signature"].(string)
	return hexutil.Decode(text)
}
