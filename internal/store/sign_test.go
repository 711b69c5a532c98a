package store_test

import (
	"errors"
	"slices"
	"testing"

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
	ids := make([]payment.ID, payments)
	for i := range ids {
		ids[i] = r.claim(t, i).ID
	}
	var errs [signers]error
	together(signers, func(i int) {
		// Pairs of payments, each signer from another place on.
		var orders []payment.Order
		for k := 0; k < payments; k += 2 {
			at := (k + 14*i) % payments
			orders = append(orders, order(lane, ids[at], ids[at+1]))
		}
		for range 3 {
			_, err := replicas[i%2].Sign(t.Context(), lane, maxOpen, orders)
			errs[i] = errors.Join(errs[i], err)
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
	signed, err := r.Sign(t.Context(), lane, manyOpen, []payment.Order{
		order(lane, good),
		{Payments: []payment.ID{bad}, Sign: func(uint64) (payment.Attempt, error) { return payment.Attempt{}, locked }},
	})
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

func TestAnOrderThatCameTooLateTakesNoNonce(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	taken, free, withdrawn := r.claim(t, 1).ID, r.claim(t, 2).ID, r.claim(t, 3).ID
	r.sign(t, lane, taken)
	must(t, r.Withdraw(t.Context(), withdrawn, x402.ReasonUnexpectedSettle, "no wallet"))
	called := 0
	counted := func(o payment.Order) payment.Order {
		sign := o.Sign
		o.Sign = func(n uint64) (payment.Attempt, error) { called++; return sign(n) }
		return o
	}
	signed, err := r.Sign(t.Context(), lane, manyOpen, []payment.Order{
		counted(order(lane, taken)), counted(order(lane, withdrawn)), counted(order(lane, taken, free)),
		counted(order(lane, "0198c0de-0000-7000-8000-000000000000")), counted(order(lane, free)), counted(order(lane, free)),
	})
	if err != nil || len(signed) != 1 || signed[0].Transaction.WalletNonce != 1 || called != 1 {
		t.Errorf("signed %+v, asked the signer %d times: %v", signed, called, err)
	}
	r.wantState(t, free, payment.StateSigned)
	r.wantState(t, withdrawn, payment.StateFailed)
}

func TestAFullLaneSignsNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane, other := r.lane(t, 1, 0), r.lane(t, 2, 0)
	ids := []payment.ID{r.claim(t, 1).ID, r.claim(t, 2).ID, r.claim(t, 3).ID}
	first := r.sign(t, lane, ids[0])
	signed, err := r.Sign(t.Context(), lane, 1, []payment.Order{order(lane, ids[1])})
	if err != nil || len(signed) != 0 {
		t.Errorf("signed %v, %v", signed, err)
	}
	// Another lane is not full, nor is this one once its transaction is mined.
	if signed, err := r.Sign(t.Context(), other, 1, []payment.Order{order(other, ids[1])}); err != nil || len(signed) != 1 {
		t.Errorf("another lane signed %v, %v", signed, err)
	}
	must(t, r.RecordInclusion(t.Context(), payment.Inclusion{Transaction: first.ID, Receipt: receipt(first, 1, false)}))
	if signed, err := r.Sign(t.Context(), lane, 1, []payment.Order{order(lane, ids[2])}); err != nil || len(signed) != 1 {
		t.Errorf("with room again signed %v, %v", signed, err)
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
		if again := r.lane(t, 1, step.seen); again != lane {
			t.Errorf("the same wallet is lane %+v and %+v", lane, again)
		}
		if n := next(); n != step.want {
			t.Errorf("the chain counts %d: next wallet nonce %d, want %d", step.seen, n, step.want)
		}
	}
	if tx := r.sign(t, lane, r.claim(t, 1).ID); tx.WalletNonce != 9 || next() != 10 {
		t.Errorf("signed wallet nonce %d, next is %d", tx.WalletNonce, next())
	}
	if elsewhere, err := r.EnsureLane(t.Context(), "eip155:1", lane.Address, 0); err != nil || elsewhere.ID == lane.ID {
		t.Errorf("the same wallet on another network is the same lane: %v", err)
	}
}

func TestOpenTransactionsHoldAllThatSendingNeeds(t *testing.T) {
	t.Parallel()
	r := open(t)
	second, first := r.lane(t, 2, 0), r.lane(t, 1, 40)
	a, b, c := r.claim(t, 1).ID, r.claim(t, 2).ID, r.claim(t, 3).ID
	r.sign(t, first, a, b)
	sent := r.sign(t, second, c)
	must(t, r.MarkBroadcast(t.Context(), []int64{sent.ID}))
	list, err := r.OpenTransactions(t.Context(), network)
	must(t, err)
	want := []payment.Carried{
		{
			Transaction: payment.Transaction{Lane: second, WalletNonce: 0, State: payment.TxBroadcast, Attempts: []payment.Attempt{attempt(second, 0)}},
			Payments:    []payment.Payment{r.payment(t, c)},
		},
		{
			Transaction: payment.Transaction{Lane: first, WalletNonce: 40, State: payment.TxSigned, Attempts: []payment.Attempt{attempt(first, 40)}},
			Payments:    []payment.Payment{r.payment(t, a), r.payment(t, b)},
		},
	}
	ignore := []cmp.Option{cmpopts.IgnoreFields(payment.Transaction{}, "ID"), cmpopts.IgnoreFields(payment.Attempt{}, "ID", "SignedAt", "LastSendAt")}
	if diff := cmp.Diff(want, list, ignore...); diff != "" {
		t.Errorf("open transactions (-want +got):\n%s", diff)
	}
	for i, c := range list {
		at := c.Transaction.Attempts[0]
		if at.SignedAt.IsZero() || at.LastSendAt.IsZero() != (i == 1) {
			t.Errorf("signed at %v, sent at %v", at.SignedAt, at.LastSendAt)
		}
		for _, p := range c.Payments {
			if p.TransactionID != c.Transaction.ID || p.TxHash != at.Hash || p.Tries != 1 {
				t.Errorf("payment in transaction %d with hash %s after %d tries", p.TransactionID, p.TxHash, p.Tries)
			}
		}
	}
	if list, err := r.OpenTransactions(t.Context(), "eip155:1"); err != nil || len(list) != 0 {
		t.Errorf("on another network: %v, %v", list, err)
	}
	if list, err := r.PaymentsByTransaction(t.Context(), network, attempt(first, 40).Hash); err != nil || len(list) != 2 {
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
			carried, failed = r.Sign(t.Context(), lane, manyOpen, []payment.Order{order(lane, id)})
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
	same := func(uint64) (payment.Attempt, error) { return attempt(lane, 0), nil }
	_, err := r.Sign(t.Context(), lane, manyOpen, []payment.Order{
		{Payments: []payment.ID{r.claim(t, 1).ID}, Sign: same}, {Payments: []payment.ID{r.claim(t, 2).ID}, Sign: same},
	})
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
