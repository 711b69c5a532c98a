package store_test

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sync/errgroup"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

func TestAMinedTransactionDecidesAllItsPaymentsAtOnce(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	paid, failed, again := r.claim(t, 1).ID, r.claim(t, 2).ID, r.claim(t, 3).ID
	tx := r.sign(t, lane, paid, failed, again)
	must(t, r.MarkBroadcast(t.Context(), tx.Lane, []int64{tx.ID}))
	rc := receipt(tx, 7, true)
	outcomes := func() []payment.Outcome {
		p, f, q := r.payment(t, paid), r.payment(t, failed), r.payment(t, again)
		return []payment.Outcome{
			p.Paid(payment.EvidenceReceipt, rc),
			f.Failed(x402.ReasonExactNonceUsed, "used by somebody else", payment.ReceiptEvidence(payment.EvidenceConsumed, rc, "why")),
			q.Requeued(),
		}
	}()
	r.include(t, tx, rc, outcomes...)

	p := r.wantState(t, paid, payment.StateIncluded)
	wantEvidence := &payment.Evidence{Kind: payment.EvidenceReceipt, TxHash: &rc.TxHash, BlockNumber: 7, BlockHash: &rc.BlockHash}
	if diff := cmp.Diff(wantEvidence, p.Evidence); diff != "" || p.TxHash != rc.TxHash || p.BlockNumber != 7 || p.BlockHash != rc.BlockHash {
		t.Errorf("paid: %+v (-want +got):\n%s", p, diff)
	}
	f := r.wantState(t, failed, payment.StateFailed)
	if f.Reason != x402.ReasonExactNonceUsed || f.Message != "used by somebody else" || f.Evidence.Kind != payment.EvidenceConsumed || f.BlockNumber != 0 {
		t.Errorf("failed: %+v", f)
	}
	q := r.wantState(t, again, payment.StateQueued)
	if q.TransactionID != 0 || q.Tries != 1 || !q.Sent() {
		t.Errorf("queued again: %+v", q)
	}
	if events := r.events(t); !cmp.Equal(events, []string{"payment.failed", "payment.settled"}) {
		t.Errorf("events %v", events)
	}
	if list := r.opened(t, lane); len(list) != 0 {
		t.Errorf("still open: %v", list)
	}
	gas := one[string](t, r.conn, "SELECT concat_ws(' ', state, gas_used, gas_price, cost, succeeded, block_number) FROM transactions")
	if gas != "included 85764 1000000000 85764000000000 t 7" {
		t.Errorf("transaction: %s", gas)
	}

	// The second time it changes nothing.
	before := r.dump(t)
	r.include(t, tx, rc, outcomes...)
	if diff := cmp.Diff(before, r.dump(t)); diff != "" {
		t.Errorf("recorded twice (-once +twice):\n%s", diff)
	}

	// A payment that is queued again goes with another transaction.
	next := r.sign(t, lane, again)
	if p := r.wantState(t, again, payment.StateSigned); p.TransactionID != next.ID || p.Tries != 2 || next.WalletNonce != 1 {
		t.Errorf("payment %+v in transaction %+v", p, next)
	}
}

func TestAnInclusionIsWrittenWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	r := open(t)
	a, b := r.claim(t, 1).ID, r.claim(t, 2).ID
	tx := r.sign(t, r.lane(t, 1, 0), a, b)
	rc := receipt(tx, 7, true)
	pa, pb := r.payment(t, a), r.payment(t, b)
	noOutcome, noID := pb.Paid(payment.EvidenceReceipt, rc), pb.Paid(payment.EvidenceReceipt, rc)
	noOutcome.To, noID.Payment = payment.StateBroadcast, "42"
	for name, second := range map[string]payment.Outcome{"that is none": noOutcome, "of no payment": noID} {
		outcomes := []payment.Outcome{pa.Paid(payment.EvidenceReceipt, rc), second}
		before := r.dump(t)
		err := r.RecordInclusions(t.Context(), tx.Lane, []payment.Inclusion{{Transaction: tx.ID, Receipt: rc, Outcomes: outcomes}})
		if err == nil || errors.Is(err, payment.ErrTransition) {
			t.Errorf("an outcome %s: %v", name, err)
		}
		if diff := cmp.Diff(before, r.dump(t)); diff != "" {
			t.Errorf("an outcome %s (-before +after):\n%s", name, diff)
		}
	}
}

func TestAPaymentThatMovedOnIsPassedOverByItsTransaction(t *testing.T) {
	t.Parallel()
	r := open(t)
	stays, moved := r.claim(t, 1).ID, r.claim(t, 2).ID
	tx := r.sign(t, r.lane(t, 1, 0), stays, moved)
	rc := receipt(tx, 7, false)
	a, b := r.payment(t, stays), r.payment(t, moved)
	must(t, r.RecordOutcome(t.Context(), b.Failed(x402.ReasonExactNonceUsed, "first", &payment.Evidence{Kind: payment.EvidenceConsumed})))
	r.include(t, tx, rc, b.Requeued(), a.Requeued())
	r.wantState(t, stays, payment.StateQueued)
	if p := r.wantState(t, moved, payment.StateFailed); p.Message != "first" {
		t.Errorf("failed: %+v", p)
	}
	if state := one[string](t, r.conn, "SELECT state FROM transactions"); state != "included" {
		t.Errorf("transaction is %s", state)
	}
}

func TestAMinedTransactionStaysOpenUntilItsPaymentsAreJudged(t *testing.T) {
	t.Parallel()
	r := open(t)
	judged, doubtful := r.claim(t, 1).ID, r.claim(t, 2).ID
	lane := r.lane(t, 1, 0)
	tx := r.sign(t, lane, judged, doubtful)
	rc := receipt(tx, 7, true)
	p := r.payment(t, judged)
	r.include(t, tx, rc, p.Paid(payment.EvidenceReceipt, rc))
	list := r.opened(t, lane)
	if len(list) != 1 || list[0].Transaction.State != payment.TxIncluded || list[0].Transaction.BlockNumber != 7 || len(list[0].Payments) != 2 {
		t.Fatalf("open: %+v", list)
	}
	q := r.payment(t, doubtful)
	must(t, r.RecordOutcome(t.Context(), q.Paid(payment.EvidenceReceipt, rc)))
	if list := r.opened(t, lane); len(list) != 0 {
		t.Errorf("still open: %+v", list)
	}
}

func TestAnOutcomeOfAnEarlierTryIsNotWritten(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	id := r.claim(t, 1).ID
	queued := r.payment(t, id)
	first := r.sign(t, lane, id)
	signed := r.payment(t, id)
	must(t, r.RecordOutcome(t.Context(), signed.Requeued()))
	requeued := r.payment(t, id)
	second := r.sign(t, lane, id)
	evidence := &payment.Evidence{Kind: payment.EvidenceConsumed}
	for name, stale := range map[string]payment.Payment{"never signed": queued, "in its first transaction": signed, "queued again": requeued} {
		for _, o := range []payment.Outcome{
			stale.Paid(payment.EvidenceReceipt, receipt(first, 7, true)), stale.Failed(x402.ReasonExactNonceUsed, "", evidence), stale.Requeued(),
		} {
			if err := r.RecordOutcome(t.Context(), o); !errors.Is(err, payment.ErrTransition) {
				t.Errorf("judged when it was %s, to %s: %v", name, o.To, err)
			}
		}
	}
	p := r.wantState(t, id, payment.StateSigned)
	if p.TransactionID != second.ID || len(r.events(t)) != 0 {
		t.Errorf("payment %+v, events %v", p, r.events(t))
	}
	must(t, r.RecordOutcome(t.Context(), p.Paid(payment.EvidenceReceipt, receipt(second, 8, true))))
	r.wantState(t, id, payment.StateIncluded)
}

func TestAPaymentThatFailedIsPaidAfterAllByItsOwnTransaction(t *testing.T) {
	t.Parallel()
	r := open(t)
	id, never := r.claim(t, 1).ID, r.claim(t, 2).ID
	tx := r.sign(t, r.lane(t, 1, 0), id)
	p := r.payment(t, id)
	must(t, r.RecordOutcome(t.Context(), p.Failed(x402.ReasonExactValidBefore, "expired", &payment.Evidence{Kind: payment.EvidenceExpired})))
	must(t, r.RecordOutcome(t.Context(), p.Paid(payment.EvidenceReceipt, receipt(tx, 9, true))))
	if p := r.wantState(t, id, payment.StateIncluded); p.Reason != "" || p.Message != "" || p.Evidence.Kind != payment.EvidenceReceipt {
		t.Errorf("paid: %+v", p)
	}
	// One for which nothing was ever signed is not.
	must(t, r.Withdraw(t.Context(), never, x402.ReasonUnexpectedSettle, ""))
	q := r.payment(t, never)
	wantErr(t, r.RecordOutcome(t.Context(), q.Paid(payment.EvidenceReceipt, receipt(tx, 9, true))), payment.ErrTransition)
}

func TestAQueuedPaymentIsDecidedWithoutATransaction(t *testing.T) {
	t.Parallel()
	r := open(t)
	paid, failed := r.claim(t, 1), r.claim(t, 2)
	rc := &chain.Receipt{TxHash: chain.Hash{9}, BlockHash: chain.Hash{8}, BlockNumber: 7, Succeeded: true}
	must(t, r.RecordOutcome(t.Context(), paid.Paid(payment.EvidenceOtherTransaction, rc)))
	must(t, r.RecordOutcome(t.Context(), failed.Failed(x402.ReasonExactInsufficientBalance, "no money", &payment.Evidence{Kind: payment.EvidenceUnsendable})))
	if p := r.wantState(t, paid.ID, payment.StateIncluded); p.TxHash != rc.TxHash || p.Sent() {
		t.Errorf("paid by somebody else: %+v", p)
	}
	r.wantState(t, failed.ID, payment.StateFailed)
	list, err := r.PaymentsByTransaction(t.Context(), network, rc.TxHash)
	if err != nil || len(list) != 1 || list[0].ID != paid.ID {
		t.Errorf("by the hash that settled it: %v, %v", list, err)
	}
	wantErr(t, r.RecordOutcome(t.Context(), paid.Requeued()), payment.ErrTransition)
	wantErr(t, r.RecordOutcome(t.Context(), failed.Failed(x402.ReasonExactNonceUsed, "", &payment.Evidence{Kind: payment.EvidenceConsumed})), payment.ErrTransition)
}

func TestSendingIsRecordedOnceAndStampedEachTime(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	id, other := r.claim(t, 1).ID, r.claim(t, 2).ID
	tx := r.sign(t, lane, id)
	r.sign(t, lane, other)
	must(t, r.MarkBroadcast(t.Context(), tx.Lane, []int64{tx.ID}))
	r.wantState(t, id, payment.StateBroadcast)
	r.wantState(t, other, payment.StateSigned)
	must(t, r.MarkBroadcast(t.Context(), tx.Lane, []int64{tx.ID}))
	if times := one[int](t, r.conn, "SELECT count(*) FROM attempts WHERE last_send_at IS NOT NULL"); times != 1 {
		t.Errorf("%d attempts are stamped", times)
	}
	// What is decided stays decided, though its bytes go out once more.
	p := r.payment(t, id)
	r.include(t, tx, receipt(tx, 3, true), p.Paid(payment.EvidenceReceipt, receipt(tx, 3, true)))
	must(t, r.MarkBroadcast(t.Context(), tx.Lane, []int64{tx.ID}))
	r.wantState(t, id, payment.StateIncluded)
	must(t, r.MarkBroadcast(t.Context(), lane, nil))
}

// settledBy claims, signs and includes a payment in a block.
func (r record) settledBy(t *testing.T, n int, lane payment.Lane, block byte) payment.ID {
	t.Helper()
	id := r.claim(t, n).ID
	tx := r.sign(t, lane, id)
	must(t, r.MarkBroadcast(t.Context(), tx.Lane, []int64{tx.ID}))
	p, rc := r.payment(t, id), receipt(tx, block, true)
	r.include(t, tx, rc, p.Paid(payment.EvidenceReceipt, rc))
	return id
}

func head(block byte) chain.Head {
	return chain.Head{Number: uint64(block), Hash: chain.Hash{0: 0xb0, 1: block}}
}

func TestBlocksAreWatchedUntilTheyAreFinal(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	low := r.settledBy(t, 1, lane, 5)
	r.settledBy(t, 2, lane, 20)
	r.settledBy(t, 3, lane, 90)
	foreign := r.claim(t, 4)
	rc := &chain.Receipt{TxHash: chain.Hash{9}, BlockHash: head(91).Hash, BlockNumber: 91, Succeeded: true}
	must(t, r.RecordOutcome(t.Context(), foreign.Paid(payment.EvidenceOtherTransaction, rc)))
	watched := func(from, until uint64, most int) []chain.Head {
		heads, err := r.WatchedBlocks(t.Context(), network, from, until, most)
		must(t, err)
		return heads
	}
	for _, c := range []struct {
		name        string
		from, until uint64
		most        int
		want        []chain.Head
	}{
		{"up to the final one", 0, 5, 9, []chain.Head{head(5)}},
		{"the recent ones", 20, math.MaxUint64, 9, []chain.Head{head(20), head(90), head(91)}},
		{"all, once", 0, math.MaxUint64, 9, []chain.Head{head(5), head(20), head(90), head(91)}},
		{"the lowest", 0, math.MaxUint64, 2, []chain.Head{head(5), head(20)}},
		{"none", 92, math.MaxUint64, 9, nil},
	} {
		if diff := cmp.Diff(c.want, watched(c.from, c.until, c.most), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	must(t, r.RecordFinal(t.Context(), network, []chain.Head{head(5)}))
	r.wantState(t, low, payment.StateFinal)
	if got := watched(0, 5, 9); len(got) != 0 {
		t.Errorf("a final block is watched: %v", got)
	}
	if events := r.events(t); events[len(events)-1] != "payment.finalized" || len(events) != 5 {
		t.Errorf("events %v", events)
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM transactions WHERE state = 'final'"); n != 1 {
		t.Errorf("%d transactions are final", n)
	}
	// Final is for good: neither a reorganisation nor a second word changes it.
	must(t, r.RecordReorg(t.Context(), network, head(5)))
	must(t, r.RecordFinal(t.Context(), network, []chain.Head{head(5)}))
	r.wantState(t, low, payment.StateFinal)
	if events := r.events(t); len(events) != 5 {
		t.Errorf("events %v", events)
	}
}

func TestManyBlocksAreFinalTogether(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	first, second, other, gone := r.settledBy(t, 1, lane, 5), r.settledBy(t, 2, lane, 6), r.settledBy(t, 3, lane, 7), r.settledBy(t, 4, lane, 8)
	foreign := r.claim(t, 5)
	rc := &chain.Receipt{TxHash: chain.Hash{9}, BlockHash: head(6).Hash, BlockNumber: 6, Succeeded: true}
	must(t, r.RecordOutcome(t.Context(), foreign.Paid(payment.EvidenceOtherTransaction, rc)))
	blocks := []chain.Head{head(5), head(6), {Number: 8, Hash: chain.Hash{1}}} // another block than the one it is in
	// Replicas do the same at the same time.
	var replicas errgroup.Group
	for range 4 {
		replicas.Go(func() error { return r.RecordFinal(t.Context(), network, blocks) })
	}
	must(t, replicas.Wait())
	for _, id := range []payment.ID{first, second, foreign.ID} {
		r.wantState(t, id, payment.StateFinal)
	}
	for _, id := range []payment.ID{other, gone} {
		r.wantState(t, id, payment.StateIncluded)
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM outbox WHERE type = 'payment.finalized'"); n != 3 {
		t.Errorf("%d events", n)
	}
}

func TestAReorganisedBlockGivesItsPaymentsBack(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	ours, below := r.settledBy(t, 1, lane, 7), r.settledBy(t, 2, lane, 6)
	foreign := r.claim(t, 3)
	rc := &chain.Receipt{TxHash: chain.Hash{9}, BlockHash: head(7).Hash, BlockNumber: 7, Succeeded: true}
	must(t, r.RecordOutcome(t.Context(), foreign.Paid(payment.EvidenceOtherTransaction, rc)))
	_, told, err := r.Collect(t.Context(), ours, newCall(), chain.Hash{}, 7)
	if err != nil || !told {
		t.Fatalf("%t, %v", told, err)
	}

	must(t, r.RecordReorg(t.Context(), network, chain.Head{Number: 7, Hash: chain.Hash{1}})) // another block of that height
	must(t, r.RecordReorg(t.Context(), "eip155:1", head(7)))                                 // another chain's
	r.wantState(t, ours, payment.StateIncluded)
	must(t, r.RecordReorg(t.Context(), network, head(7)))
	p := r.wantState(t, ours, payment.StateBroadcast)
	if p.Evidence != nil || p.BlockNumber != 0 || !p.BlockHash.IsZero() || p.TransactionID == 0 || p.TxHash.IsZero() {
		t.Errorf("given back: %+v", p)
	}
	if p.AnsweredAt.IsZero() {
		t.Error("that success was told is forgotten (I2)")
	}
	if q := r.wantState(t, foreign.ID, payment.StateQueued); q.TransactionID != 0 || !q.TxHash.IsZero() || q.Evidence != nil {
		t.Errorf("given back: %+v", q)
	}
	r.wantState(t, below, payment.StateIncluded)
	if events := r.events(t); !cmp.Equal(events[3:], []string{"payment.reorged", "payment.reorged"}) {
		t.Errorf("events %v", events)
	}
	list := r.opened(t, lane)
	if len(list) != 1 || list[0].Transaction.State != payment.TxBroadcast || len(list[0].Payments) != 1 {
		t.Fatalf("open again: %+v", list)
	}
	// The same bytes are mined again.
	tx := list[0].Transaction
	again := receipt(tx, 8, true)
	r.include(t, tx, again, p.Paid(payment.EvidenceReceipt, again))
	if p := r.wantState(t, ours, payment.StateIncluded); p.BlockNumber != 8 {
		t.Errorf("in block %d", p.BlockNumber)
	}
	if _, told, err := r.Collect(t.Context(), ours, newCall(), chain.Hash{}, 8); err != nil || told {
		t.Errorf("success is told a second time: %t, %v", told, err)
	}
}

func TestOnlyWhatWasNeverSignedIsWithdrawn(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	withdraw := func(id payment.ID) error {
		return r.Withdraw(t.Context(), id, x402.ReasonUnexpectedSettle, "no wallet")
	}
	free, signed := r.claim(t, 1).ID, r.claim(t, 2).ID
	must(t, withdraw(free))
	p := r.wantState(t, free, payment.StateFailed)
	if p.Reason != x402.ReasonUnexpectedSettle || p.Message != "no wallet" || p.Evidence == nil || p.Evidence.Kind != payment.EvidenceNotSent || p.Sent() {
		t.Errorf("withdrawn: %+v", p)
	}
	wantErr(t, withdraw(free), payment.ErrTransition)
	r.sign(t, lane, signed)
	wantErr(t, withdraw(signed), payment.ErrTransition)
	q := r.payment(t, signed)
	must(t, r.RecordOutcome(t.Context(), q.Requeued()))
	wantErr(t, withdraw(signed), payment.ErrTransition)
	r.wantState(t, signed, payment.StateQueued)
	wantErr(t, withdraw("0198c0de-0000-7000-8000-000000000000"), payment.ErrTransition)
}
