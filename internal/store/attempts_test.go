package store_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

func hashes(tx payment.Transaction) []chain.Hash {
	var list []chain.Hash
	for _, a := range tx.Attempts {
		list = append(list, a.Hash)
	}
	return list
}

func TestAReplacementKeepsTheWalletNonceAndWhatWasSignedBefore(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 4)
	open, settled, later := r.claim(t, 1).ID, r.claim(t, 2).ID, r.claim(t, 3).ID
	tx := r.sign(t, lane, open, settled)
	next := r.sign(t, lane, later)
	p := r.payment(t, settled)
	must(t, r.RecordOutcome(t.Context(), p.Failed(x402.ReasonExactValidBefore, "expired", &payment.Evidence{Kind: payment.EvidenceExpired})))
	for n := range byte(2) {
		a, err := r.AddAttempt(t.Context(), lane, tx.ID, bumper(lane, n+1))
		must(t, err)
		if want := bump(lane, 4, n+1); a.Hash != want.Hash || a.ID == 0 || a.SignedAt.IsZero() {
			t.Errorf("attempt %+v, want %+v", a, want)
		}
	}
	list := r.opened(t, lane)
	if len(list) != 2 {
		t.Fatalf("open: %+v", list)
	}
	got := list[0].Transaction
	want := []chain.Hash{attempt(lane, 4).Hash, bump(lane, 4, 1).Hash, bump(lane, 4, 2).Hash}
	if diff := cmp.Diff(want, hashes(got)); diff != "" || got.ID != tx.ID || got.WalletNonce != 4 {
		t.Errorf("transaction %+v (-want +got):\n%s", got, diff)
	}
	if newest := got.Newest(); newest.Fees != (chain.Fees{FeeCap: 1e9 + 2, TipCap: 1e6 + 2}) || !slices.Equal(newest.Raw, []byte{2, 4, 2}) {
		t.Errorf("newest attempt %+v", newest)
	}
	if q := r.wantState(t, open, payment.StateSigned); q.TxHash != want[2] || q.Tries != 1 || q.TransactionID != tx.ID {
		t.Errorf("payment %+v, want the newest hash", q)
	}
	if q := r.wantState(t, settled, payment.StateFailed); q.TxHash != want[0] {
		t.Errorf("a payment that is decided moved to %s", q.TxHash)
	}
	if q := r.payment(t, later); q.TransactionID != next.ID || q.TxHash != attempt(lane, 5).Hash {
		t.Errorf("another transaction's payment moved: %+v", q)
	}
	if n, err := r.NextWalletNonce(t.Context(), lane); n != 6 || err != nil {
		t.Errorf("next wallet nonce %d, %v", n, err)
	}
	for _, hash := range want {
		if list, err := r.PaymentsByTransaction(t.Context(), network, hash); err != nil || len(list) != 2 {
			t.Errorf("%d payments by %s, %v", len(list), hash, err)
		}
	}
	// Whichever is mined pays.
	rc := receipt(tx, 7, true)
	q := r.payment(t, open)
	r.include(t, got, rc, q.Paid(payment.EvidenceReceipt, rc))
	if q := r.wantState(t, open, payment.StateIncluded); q.TxHash != want[0] {
		t.Errorf("settled by %s, mined was %s", q.TxHash, want[0])
	}
}

func TestOnlyAnOpenTransactionOfTheLaneIsReplaced(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane, other := r.lane(t, 1, 0), r.lane(t, 2, 0)
	mined, final, replaced, foreign := r.sign(t, lane, r.claim(t, 1).ID), r.sign(t, lane, r.claim(t, 2).ID),
		r.sign(t, lane, r.claim(t, 3).ID), r.sign(t, other, r.claim(t, 4).ID)
	r.include(t, mined, receipt(mined, 7, true))
	r.include(t, final, receipt(final, 6, true))
	must(t, r.RecordFinal(t.Context(), network, []chain.Head{head(6)}))
	must(t, r.RecordReplaced(t.Context(), lane, replaced.ID))
	before := r.dump(t)
	for name, id := range map[string]int64{
		"that is mined": mined.ID, "that is final": final.ID, "that is replaced": replaced.ID, "of another lane": foreign.ID, "that there is not": 1 << 40,
	} {
		_, err := r.AddAttempt(t.Context(), lane, id, func(context.Context, uint64) (payment.Attempt, error) {
			t.Errorf("a transaction %s was signed again", name)
			return payment.Attempt{}, errors.New("not to be signed")
		})
		if !errors.Is(err, payment.ErrTransition) {
			t.Errorf("a transaction %s: %v", name, err)
		}
	}
	if diff := cmp.Diff(before, r.dump(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestAReplacementThatIsNotSignedWritesNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	tx := r.sign(t, lane, r.claim(t, 1).ID)
	before := r.dump(t)
	locked := errors.New("key store is locked")
	_, err := r.AddAttempt(t.Context(), lane, tx.ID, func(context.Context, uint64) (payment.Attempt, error) { return payment.Attempt{}, locked })
	wantErr(t, err, locked)
	_, err = r.AddAttempt(t.Context(), lane, tx.ID, signer(lane)) // a hash that is known
	if err == nil || errors.Is(err, payment.ErrUnavailable) {
		t.Errorf("a hash that is known already: %v", err)
	}
	if diff := cmp.Diff(before, r.dump(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// TestAWalletNonceThatSomebodyElseUsedIsGivenUp, and the payments' fates with it.
func TestAWalletNonceThatSomebodyElseUsedIsGivenUp(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	again, doubtful := r.claim(t, 1).ID, r.claim(t, 2).ID
	tx := r.sign(t, lane, again, doubtful)
	must(t, r.RecordReplaced(t.Context(), lane, tx.ID))
	p := r.payment(t, again)
	must(t, r.RecordOutcome(t.Context(), p.Requeued()))
	if q := r.wantState(t, again, payment.StateQueued); q.TransactionID != 0 || q.Tries != 1 {
		t.Errorf("queued again: %+v", q)
	}
	list := r.opened(t, lane)
	if len(list) != 1 || list[0].Transaction.State != payment.TxReplaced || len(list[0].Payments) != 1 || list[0].Payments[0].ID != doubtful {
		t.Fatalf("the payment that is not judged yet: %+v", list)
	}
	if n, err := r.NextWalletNonce(t.Context(), lane); n != 1 || err != nil {
		t.Errorf("next wallet nonce %d, %v", n, err)
	}
	before := r.dump(t)
	wantErr(t, r.RecordReplaced(t.Context(), lane, tx.ID), payment.ErrTransition)
	r.include(t, tx, receipt(tx, 7, true))
	if diff := cmp.Diff(before, r.dump(t)); diff != "" {
		t.Errorf("what was given up was written again (-before +after):\n%s", diff)
	}
	q := r.payment(t, doubtful)
	must(t, r.RecordOutcome(t.Context(), q.Requeued()))
	if list := r.opened(t, lane); len(list) != 0 {
		t.Errorf("open: %+v", list)
	}
	next := r.sign(t, lane, again, doubtful)
	if next.WalletNonce != 1 {
		t.Errorf("they go again at wallet nonce %d", next.WalletNonce)
	}
	wantErr(t, r.RecordReplaced(t.Context(), lane, tx.ID), payment.ErrTransition)
	r.include(t, next, receipt(next, 8, true))
	wantErr(t, r.RecordReplaced(t.Context(), lane, next.ID), payment.ErrTransition)
}

// TestAFailureAfterSettlingIsAReversal: who was told "settled" must be told.
func TestAFailureAfterSettlingIsAReversal(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	ours := r.settledBy(t, 1, lane, 7)
	foreign := r.claim(t, 2)
	rc := &chain.Receipt{TxHash: chain.Hash{9}, BlockHash: head(7).Hash, BlockNumber: 7, Succeeded: true}
	must(t, r.RecordOutcome(t.Context(), foreign.Paid(payment.EvidenceOtherTransaction, rc)))
	never := r.claim(t, 3)
	must(t, r.RecordReorg(t.Context(), network, head(7)))
	evidence := &payment.Evidence{Kind: payment.EvidenceConsumed}
	for _, id := range []payment.ID{ours, foreign.ID, never.ID} {
		p := r.payment(t, id)
		must(t, r.RecordOutcome(t.Context(), p.Failed(x402.ReasonExactNonceUsed, "cancelled", evidence)))
		r.wantState(t, id, payment.StateFailed)
	}
	if events := r.events(t); !cmp.Equal(events[4:], []string{"payment.reversed", "payment.reversed", "payment.failed"}) {
		t.Errorf("events %v", events)
	}
}

// TestATakenBackPaymentThatWasSettledIsAReversal: somebody else's transaction
// settled it, was reorganised out, and no lane could take it.
func TestATakenBackPaymentThatWasSettledIsAReversal(t *testing.T) {
	t.Parallel()
	r := open(t)
	p := r.claim(t, 1)
	rc := &chain.Receipt{TxHash: chain.Hash{9}, BlockHash: head(7).Hash, BlockNumber: 7, Succeeded: true}
	must(t, r.RecordOutcome(t.Context(), p.Paid(payment.EvidenceOtherTransaction, rc)))
	must(t, r.RecordReorg(t.Context(), network, head(7)))
	must(t, r.Withdraw(t.Context(), p.ID, x402.ReasonUnexpectedSettle, "the chain could not tell"))
	r.wantState(t, p.ID, payment.StateFailed)
	if events := r.events(t); !cmp.Equal(events, []string{"payment.settled", "payment.reorged", "payment.reversed"}) {
		t.Errorf("events %v", events)
	}
}
