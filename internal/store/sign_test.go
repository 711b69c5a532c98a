package store_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// TestConcurrentSigningGivesContiguousWalletNonces is I4, with two replicas
// that sign for the same lane and all want the same payments.
func TestConcurrentSigningGivesContiguousWalletNonces(t *testing.T) {
	t.Parallel()
	r := open(t)
	replicas := []*store.Store{r.Store, openStore(t, r.url)}
	const payments, signers, maxOpen, floor = 120, 16, 50, 7
	lane := r.lane(t, 1, floor)
	for i := range payments {
		r.claim(t, i)
	}
	pairs := func(ps []payment.Payment) (orders []payment.Order) {
		for pair := range slices.Chunk(ps, 2) {
			if len(pair) == 2 { // the last may be alone, where others have the rest
				orders = append(orders, order(lane, pair...))
			}
		}
		return orders
	}
	var errs [signers]error
	together(signers, func(i int) {
		for errs[i] == nil { // until the lane is full
			var prepared []payment.Order
			signed, err := replicas[i%2].Take(t.Context(), lane, payment.Work{
				Most: 6, MaxOpen: maxOpen, Timeout: time.Minute,
				Prepare: func(_ context.Context, ps []payment.Payment) ([]payment.Order, error) {
					prepared = pairs(ps)
					return prepared, nil
				},
			})
			if errs[i] = err; len(signed) < len(prepared) {
				return
			}
		}
	})
	must(t, errors.Join(errs[:]...))
	nonces := column[int64](t, r.conn, "SELECT wallet_nonce FROM transactions ORDER BY wallet_nonce")
	if len(nonces) != maxOpen {
		t.Errorf("%d transactions are open, the cap is %d", len(nonces), maxOpen)
	}
	for i, n := range nonces {
		if n != int64(floor+i) {
			t.Fatalf("wallet nonces have a gap or a twin: %v", nonces)
		}
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM payments WHERE state = 'signed' AND tries = 1"); n != 2*len(nonces) {
		t.Errorf("%d payments in %d transactions of two", n, len(nonces))
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM payments WHERE state = 'queued' AND tries = 0 AND transaction_id IS NULL"); n != payments-2*len(nonces) {
		t.Errorf("%d payments are left", n)
	}
	if alone := one[int](t, r.conn, "SELECT count(*) FROM (SELECT transaction_id FROM payments WHERE transaction_id IS NOT NULL GROUP BY 1 HAVING count(*) <> 2) AS x"); alone != 0 {
		t.Errorf("%d transactions do not carry two payments", alone)
	}
	if next, err := r.NextWalletNonce(t.Context(), lane); next != floor+maxOpen || err != nil {
		t.Errorf("next wallet nonce %d, %v", next, err)
	}
}

func TestAFailingSignerWritesNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	good, bad := r.claim(t, 1).ID, r.claim(t, 2).ID
	locked := errors.New("key store is locked")
	signed, err := r.Take(t.Context(), lane, work(manyOpen, func(_ context.Context, ps []payment.Payment) ([]payment.Order, error) {
		broken := func(context.Context, uint64) (payment.Attempt, error) { return payment.Attempt{}, locked }
		return []payment.Order{{Payments: ps[:1], Sign: broken}, order(lane, ps[1])}, nil
	}))
	wantErr(t, err, locked)
	if signed != nil || errors.Is(err, payment.ErrUnavailable) {
		t.Errorf("signed %v, and the error blames the record: %v", signed, err)
	}
	for table, want := range map[string]int{"transactions": 0, "attempts": 0, "payments": 2} {
		if n := one[int](t, r.conn, "SELECT count(*) FROM "+table); n != want {
			t.Errorf("%d rows in %s", n, table)
		}
	}
	for _, id := range []payment.ID{good, bad} {
		if p := r.wantState(t, id, payment.StateQueued); p.Sent() {
			t.Error("it counts as sent")
		}
	}
	if tx := r.sign(t, lane, good); tx.WalletNonce != 0 {
		t.Errorf("the failure took wallet nonce 0: the next one is %d", tx.WalletNonce)
	}
}

// TestWhatIsSignedBeforeAFailureIsKept: a signer that manages few at a time gets
// somewhere, and leaves no gap (I4).
func TestWhatIsSignedBeforeAFailureIsKept(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 5)
	for i := range 4 {
		r.claim(t, i)
	}
	var ids []payment.ID
	signed, err := r.Take(t.Context(), lane, work(manyOpen, func(_ context.Context, ps []payment.Payment) (orders []payment.Order, _ error) {
		for i := range ps {
			ids = append(ids, ps[i].ID)
			orders = append(orders, order(lane, ps[i]))
		}
		orders[2].Sign = func(context.Context, uint64) (payment.Attempt, error) {
			return payment.Attempt{}, errors.New("throttled")
		}
		return orders, nil
	}))
	must(t, err)
	if len(signed) != 2 || signed[0].Transaction.WalletNonce != 5 || signed[1].Transaction.WalletNonce != 6 {
		t.Fatalf("signed %+v", signed)
	}
	for i, id := range ids {
		want := payment.StateSigned
		if i >= 2 {
			want = payment.StateQueued
		}
		r.wantState(t, id, want)
	}
	if tx := r.sign(t, lane, ids[2]); tx.WalletNonce != 7 {
		t.Errorf("the next one has wallet nonce %d", tx.WalletNonce)
	}
}

func TestSignaturesAreMadeAtTheSameTime(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	r.claim(t, 1)
	r.claim(t, 2)
	var both sync.WaitGroup
	both.Add(2)
	signed, err := r.Take(t.Context(), lane, work(manyOpen, func(_ context.Context, ps []payment.Payment) (orders []payment.Order, _ error) {
		for i := range ps {
			o := order(lane, ps[i])
			sign := o.Sign
			o.Sign = func(ctx context.Context, walletNonce uint64) (payment.Attempt, error) {
				both.Done()
				both.Wait() // one by one they would wait for ever
				return sign(ctx, walletNonce)
			}
			orders = append(orders, o)
		}
		return orders, nil
	}))
	must(t, err)
	if len(signed) != 2 {
		t.Errorf("%d transactions", len(signed))
	}
}

func TestAFailingPreparationWritesNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	id := r.claim(t, 1).ID
	silent := errors.New("the node is silent")
	before := r.dump(t)
	_, err := r.Take(t.Context(), lane, work(manyOpen, func(context.Context, []payment.Payment) ([]payment.Order, error) {
		return nil, silent
	}))
	wantErr(t, err, silent)
	if diff := cmp.Diff(before, r.dump(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	r.sign(t, lane, id)
}

// TestOnlyWhatIsQueuedIsSigned: orders for anything but what was taken are
// refused whole.
func TestOnlyWhatIsQueuedIsSigned(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	taken, withdrawn := r.claim(t, 1).ID, r.claim(t, 2).ID
	r.sign(t, lane, taken)
	must(t, r.Withdraw(t.Context(), withdrawn, x402.ReasonUnexpectedSettle, "no wallet"))
	free := r.claim(t, 3).ID
	stranger := payment.Payment{ID: "0198c0de-0000-7000-8000-000000000000"}
	before := r.dump(t)
	for name, late := range map[string]payment.Payment{"signed": r.payment(t, taken), "withdrawn": r.payment(t, withdrawn), "none of ours": stranger} {
		_, err := r.Take(t.Context(), lane, work(manyOpen, func(_ context.Context, ps []payment.Payment) ([]payment.Order, error) {
			if len(ps) != 1 || ps[0].ID != free {
				t.Errorf("took %+v, want the queued payment", ps)
			}
			return []payment.Order{order(lane, ps[0], late)}, nil
		}))
		if !errors.Is(err, payment.ErrTransition) {
			t.Errorf("an order with a payment that is %s: %v", name, err)
		}
	}
	if diff := cmp.Diff(before, r.dump(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if tx := r.sign(t, lane, free); tx.WalletNonce != 1 {
		t.Errorf("the refused orders took wallet nonces: the next is %d", tx.WalletNonce)
	}
}

func TestTheOldestPaymentsAreTakenFirst(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	var ids []payment.ID
	for n := range 5 {
		ids = append(ids, r.claim(t, n).ID)
	}
	var seen []payment.ID
	look := func(most int, except ...payment.ID) []payment.ID {
		t.Helper()
		seen = nil
		_, err := r.Take(t.Context(), lane, payment.Work{
			Most: most, MaxOpen: manyOpen, Except: except, Timeout: time.Minute,
			Prepare: func(_ context.Context, ps []payment.Payment) ([]payment.Order, error) {
				for _, p := range ps {
					seen = append(seen, p.ID)
				}
				return nil, nil
			},
		})
		must(t, err)
		return seen
	}
	if got := look(3); !slices.Equal(got, ids[:3]) {
		t.Errorf("took %v of %v", got, ids)
	}
	if got := look(3, ids[0], ids[2]); !slices.Equal(got, []payment.ID{ids[1], ids[3], ids[4]}) {
		t.Errorf("took %v of %v without the first and the third", got, ids)
	}
	elsewhere := sale(9)
	elsewhere.Terms.Key.Network = "eip155:1"
	if _, _, err := r.ClaimPayment(t.Context(), elsewhere, nil); err != nil {
		t.Fatal(err)
	}
	r.sign(t, lane, ids[1])
	if got := look(9); !slices.Equal(got, append(ids[:1:1], ids[2:]...)) {
		t.Errorf("took %v of %v after the second was signed", got, ids)
	}
	if n, err := r.CountQueued(t.Context(), network); n != 4 || err != nil {
		t.Errorf("counted %d, %v", n, err)
	}
}

func TestAFullLaneSignsNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane, other := r.lane(t, 1, 0), r.lane(t, 2, 0)
	ids := []payment.ID{r.claim(t, 1).ID, r.claim(t, 2).ID, r.claim(t, 3).ID}
	first := r.sign(t, lane, ids[0])
	take := func(lane payment.Lane, maxOpen int) []payment.Carried {
		t.Helper()
		signed, err := r.Take(t.Context(), lane, work(maxOpen, alone(lane)))
		must(t, err)
		return signed
	}
	if signed := take(lane, 1); len(signed) != 0 {
		t.Errorf("signed %v", signed)
	}
	// Another lane is not full, but holds no more than it may.
	if signed := take(other, 1); len(signed) != 1 || signed[0].Payments[0].ID != ids[1] {
		t.Errorf("another lane signed %+v", signed)
	}
	r.wantState(t, ids[2], payment.StateQueued)
	// Nor is this one full once its transaction is mined.
	r.include(t, first, receipt(first, 1, false))
	if signed := take(lane, 1); len(signed) != 1 {
		t.Errorf("with room again signed %v", signed)
	}
}

func TestALaneNeverSignsBelowWhatItsWalletUsed(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 5)
	next := func() uint64 {
		n, err := r.NextWalletNonce(t.Context(), lane)
		must(t, err)
		return n
	}
	if n := next(); n != 5 {
		t.Errorf("first wallet nonce %d", n)
	}
	for _, step := range []struct{ seen, want uint64 }{{3, 5}, {5, 5}, {9, 9}, {0, 9}} {
		if again := r.wallet(t, 1, step.seen); again.ID != lane.ID {
			t.Errorf("the same wallet is lane %+v and %+v", lane, again)
		}
		if n := next(); n != step.want {
			t.Errorf("the chain counts %d: next wallet nonce %d, want %d", step.seen, n, step.want)
		}
	}
	if tx := r.sign(t, lane, r.claim(t, 1).ID); tx.WalletNonce != 9 || next() != 10 {
		t.Errorf("signed wallet nonce %d, next is %d", tx.WalletNonce, next())
	}
	if elsewhere, err := r.EnsureLane(t.Context(), "eip155:1", lane.Address, payment.RoleRelayer, 0); err != nil || elsewhere.ID == lane.ID {
		t.Errorf("the same wallet on another network is the same lane: %v", err)
	}
}

func TestOpenTransactionsHoldAllThatSendingNeeds(t *testing.T) {
	t.Parallel()
	r := open(t)
	other, lane := r.lane(t, 2, 0), r.lane(t, 1, 40)
	a, b, c, d := r.claim(t, 1).ID, r.claim(t, 2).ID, r.claim(t, 3).ID, r.claim(t, 4).ID
	sent := r.sign(t, lane, c)
	r.sign(t, lane, a, b)
	r.sign(t, other, d)
	must(t, r.MarkBroadcast(t.Context(), lane, []int64{sent.ID}))
	list := r.opened(t, lane)
	want := []payment.Carried{
		{
			Transaction: payment.Transaction{Lane: lane, WalletNonce: 40, State: payment.TxBroadcast, Attempts: []payment.Attempt{attempt(lane, 40)}},
			Payments:    []payment.Payment{r.payment(t, c)},
		},
		{
			Transaction: payment.Transaction{Lane: lane, WalletNonce: 41, State: payment.TxSigned, Attempts: []payment.Attempt{attempt(lane, 41)}},
			Payments:    []payment.Payment{r.payment(t, a), r.payment(t, b)},
		},
	}
	ignore := []cmp.Option{cmpopts.IgnoreFields(payment.Transaction{}, "ID", "CreatedAt"), cmpopts.IgnoreFields(payment.Attempt{}, "ID", "SignedAt", "LastSendAt")}
	if diff := cmp.Diff(want, list, ignore...); diff != "" {
		t.Errorf("open transactions (-want +got):\n%s", diff)
	}
	for i, c := range list {
		at := c.Transaction.Attempts[0]
		if at.SignedAt.IsZero() || at.LastSendAt.IsZero() != (i == 1) || c.Transaction.CreatedAt.IsZero() {
			t.Errorf("signed at %v, sent at %v", at.SignedAt, at.LastSendAt)
		}
		for _, p := range c.Payments {
			if p.TransactionID != c.Transaction.ID || p.TxHash != at.Hash || p.Tries != 1 {
				t.Errorf("payment in transaction %d with hash %s after %d tries", p.TransactionID, p.TxHash, p.Tries)
			}
		}
	}
	if list := r.opened(t, other); len(list) != 1 || len(list[0].Payments) != 1 || list[0].Payments[0].ID != d {
		t.Errorf("another lane's: %+v", list)
	}
	if list, err := r.PaymentsByTransaction(t.Context(), network, attempt(lane, 41).Hash); err != nil || len(list) != 2 {
		t.Errorf("%d payments by their hash, %v", len(list), err)
	}
}

// TestAPaymentIsEitherWithdrawnOrSigned: who is told "nothing was sent" must
// never find the payment sent.
func TestAPaymentIsEitherWithdrawnOrSigned(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	const races = 40
	withdrawn, signed := 0, 0
	for n := range races {
		id := r.claim(t, n).ID
		var taken error
		var carried []payment.Carried
		var failed error
		together(2, func(i int) {
			if i == 0 {
				taken = r.Withdraw(t.Context(), id, x402.ReasonUnexpectedSettle, "no wallet")
				return
			}
			carried, failed = r.Take(t.Context(), lane, work(manyOpen, alone(lane)))
		})
		must(t, failed)
		p := r.payment(t, id)
		switch {
		case taken == nil && len(carried) == 0 && p.State == payment.StateFailed && !p.Sent():
			withdrawn++
		case errors.Is(taken, payment.ErrTransition) && len(carried) == 1 && p.State == payment.StateSigned && p.Sent():
			signed++
		default:
			t.Fatalf("withdrawn: %v, carried by %d, payment is %s after %d tries", taken, len(carried), p.State, p.Tries)
		}
	}
	nonces := column[int64](t, r.conn, "SELECT wallet_nonce FROM transactions ORDER BY 1")
	if len(nonces) != signed || !slices.IsSorted(nonces) || len(nonces) > 0 && nonces[len(nonces)-1] != int64(len(nonces)-1) {
		t.Errorf("%d signed, wallet nonces %v", signed, nonces)
	}
	t.Logf("%d withdrawn, %d signed", withdrawn, signed)
}

func TestAHashIsOfOneTransactionOnly(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	r.claim(t, 1)
	r.claim(t, 2)
	_, err := r.Take(t.Context(), lane, work(manyOpen, func(_ context.Context, ps []payment.Payment) ([]payment.Order, error) {
		same := func(context.Context, uint64) (payment.Attempt, error) { return attempt(lane, 0), nil }
		return []payment.Order{{Payments: ps[:1], Sign: same}, {Payments: ps[1:], Sign: same}}, nil
	}))
	if err == nil || errors.Is(err, payment.ErrUnavailable) {
		t.Errorf("a broken constraint is reported as %v", err)
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM attempts"); n != 0 {
		t.Errorf("%d attempts", n)
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM transactions"); n != 0 {
		t.Errorf("%d transactions", n)
	}
}
