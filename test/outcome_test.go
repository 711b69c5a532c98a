package test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"facilitator/internal/devnet"
)

// gasCap is gas.max_per_payment where it is not configured.
const gasCap = 500_000

// outcome is what is to become of a payment, first by /verify and then by
// /settle. Reasons are empty for isValid and success. What is neither success
// nor says what it moved must not have moved anything.
type outcome struct {
	verify, settle string
	says           string // found in the message of whichever refuses first
	// tries are the transactions that were sent though none paid: each at most at
	// the cap of gas.
	tries int
	// paid and spent are what the payee got and the payer lost, where that is not
	// the amount on success and nothing otherwise.
	paid, spent int64
	// between changes the world after /verify, on purpose.
	between func(t *testing.T)
}

// newJudge starts a service whose transactions carry one payment each.
func newJudge(t *testing.T, c *devnet.Chain, overlay string) *service {
	t.Helper()
	return setup{chain: c, overlay: overlay, more: "chains: {'" + c.Network() + "': {batch: {max_payments: 1}}}"}.start(t)
}

// refused is a payment that both refuse.
func refused(reason, says string) outcome { return outcome{verify: reason, settle: reason, says: says} }

// wantOutcome verifies and settles a payment and fails the test unless both say
// what they should, the chain agrees, and a repeat earns nothing.
func (s *service) wantOutcome(t *testing.T, c *devnet.Chain, deal devnet.Sale, body badBody, want outcome) {
	t.Helper()
	token, payer := deal.Asset, common.HexToAddress(body.str(badAuthorization+".from"))
	if token == (common.Address{}) {
		token = c.USDC()
	}
	had, payee := foreignBalance(t, c, token, payer), foreignBalance(t, c, token, deal.PayTo)
	r := s.post(t, "/verify", body)
	if r.status != http.StatusOK || r.is("isValid") != (want.verify == "") || r.str("invalidReason") != want.verify {
		t.Errorf("verify: %d %s, want %q", r.status, r.text, want.verify)
	}
	message := r.str("invalidMessage")
	if want.between != nil {
		want.between(t)
		had, payee = foreignBalance(t, c, token, payer), foreignBalance(t, c, token, deal.PayTo)
	}
	r = s.post(t, "/settle", body)
	if r.status != http.StatusOK || r.is("success") != (want.settle == "") || r.str("errorReason") != want.settle {
		t.Fatalf("settle: %d %s, want %q", r.status, r.text, want.settle)
	}
	if want.verify == "" {
		message = r.str("errorMessage")
	}
	if !strings.Contains(message, want.says) {
		t.Errorf("message %q does not say %q", message, want.says)
	}
	if want.settle == "" {
		want.paid, want.spent = 10_000, 10_000
	}
	s.wantCosts(t, c, body, r, want)
	if got := foreignBalance(t, c, token, deal.PayTo) - payee; got != want.paid {
		t.Errorf("the payee got %d, want %d", got, want.paid)
	}
	if got := had - foreignBalance(t, c, token, payer); got != want.spent {
		t.Errorf("the payer lost %d, want %d", got, want.spent)
	}
	again := s.post(t, "/settle", body)
	if want.settle == "" {
		wantDuplicate(t, again, r.str("transaction"))
		return
	}
	if again.is("success") || again.str("errorReason") != want.settle {
		t.Errorf("repeat: %d %s, want %q", again.status, again.text, want.settle)
	}
}

// wantCosts fails the test unless exactly the transactions that should have were
// sent for a payment, none of them above the cap of gas.
func (s *service) wantCosts(t *testing.T, c *devnet.Chain, body badBody, settled reply, want outcome) {
	t.Helper()
	nonce := common.HexToHash(body.str(badAuthorization + ".nonce"))
	payer := common.HexToAddress(body.str(badAuthorization + ".from"))
	tries := queryRows[int64](t, s.databaseURL, "SELECT tries FROM payments WHERE authorization_nonce = $1 AND payer = $2", nonce[:], payer[:])
	sent := want.tries
	if want.settle == "" {
		sent = 1
	}
	switch {
	case len(tries) == 0 && sent == 0:
		if settled.str("transaction") != "" {
			t.Errorf("refused with a transaction: %s", settled.text)
		}
		return
	case len(tries) != 1 || tries[0] != int64(sent):
		t.Fatalf("it was tried %v times, want %d", tries, sent)
	case sent == 0:
		return
	}
	receipt, err := c.Client().TransactionReceipt(t.Context(), common.HexToHash(settled.str("transaction")))
	if err != nil {
		t.Fatalf("transaction %s: %v", settled.str("transaction"), err)
	}
	if want.settle == "" && receipt.Status != types.ReceiptStatusSuccessful {
		t.Errorf("success was told of a transaction that failed: %+v", receipt)
	}
	s.wantWithinCap(t, c)
}

// wantWithinCap fails the test if a transaction of a service of newJudge may have
// burnt more than the cap.
func (s *service) wantWithinCap(t *testing.T, c *devnet.Chain) {
	t.Helper()
	for _, hash := range queryRows[[]byte](t, s.databaseURL, "SELECT hash FROM attempts") {
		tx, _, err := c.Client().TransactionByHash(t.Context(), common.BytesToHash(hash))
		if err != nil {
			t.Fatal(err)
		}
		if tx.Gas() > gasCap {
			t.Errorf("transaction %x has %d gas, the cap is %d", hash, tx.Gas(), gasCap)
		}
	}
}

// kindRow is one kind of payment and its outcome.
type kindRow struct {
	sentence string
	// sale makes what is signed and sent.
	sale func(t *testing.T) (devnet.Sale, badBody)
	want outcome
}

// judges runs every row against one service.
func (s *service) judges(t *testing.T, c *devnet.Chain, rows []kindRow) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			deal, body := row.sale(t)
			s.wantOutcome(t, c, deal, body, row.want)
		})
	}
}
