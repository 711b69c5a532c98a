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

	"facilitator/internal/devnet"
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
	sales := make([]sale, n)
	first := s.signed
	s.signed += n
	errs := make([]error, n)
	var signers sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		signers.Go(func() {
			for i := w; i < n; i += workers {
				sales[i], errs[i] = s.signSale(first + i)
			}
		})
	}
	signers.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return sales, nil
}

func (s *site) signSale(i int) (sale, error) {
	terms := devnet.Sale{
		Payer: s.payers[i%len(s.payers)], PayTo: s.payees[i%len(s.payees)].Address,
		Amount: smallest + uint64(i), //nolint:gosec // an index
	}.ForNow(time.Now(), validity)
	if _, err := rand.Read(terms.Nonce[:]); err != nil {
		return sale{}, fmt.Errorf("nonce: %w", err)
	}
	request, err := s.chain.Request(terms)
	if err != nil {
		return sale{}, err
	}
	signature, err := signatureIn(request)
	if err != nil {
		return sale{}, err
	}
	body, err := json.Marshal(request)
	if err != nil {
		return sale{}, fmt.Errorf("request: %w", err)
	}
	head := fmt.Sprintf("POST /settle HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body))
	return sale{
		request: append([]byte(head), body...), payer: terms.Payer.Address, payee: terms.PayTo,
		amount: terms.Amount, nonce: terms.Nonce, signature: signature, terms: terms,
	}, nil
}

// signatureIn finds the payer's signature in a request.
func signatureIn(request map[string]any) ([]byte, error) {
	outer, _ := request["paymentPayload"].(map[string]any)
	inner, _ := outer["payload"].(map[string]any)
	text, _ := inner["signature"].(string)
	return hexutil.Decode(text)
}
