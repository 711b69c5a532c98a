package store_test

import (
	"context"
	"errors"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

func TestOfManyReplicasExactlyOneHoldsALane(t *testing.T) {
	t.Parallel()
	r := open(t)
	replicas := []*store.Store{r.Store, openStore(t, r.url)}
	lane := r.wallet(t, 1, 0)
	for round := range int64(3) {
		var got [16]payment.Lane
		var holds [16]bool
		var errs [16]error
		together(len(got), func(i int) {
			got[i], holds[i], errs[i] = replicas[i%2].AcquireLane(t.Context(), lane, uuid.NewString(), time.Hour)
		})
		must(t, errors.Join(errs[:]...))
		holders := 0
		for i := range got {
			if holds[i] {
				holders++
				if got[i].Epoch != round+1 || got[i].ID != lane.ID || got[i].Address != lane.Address {
					t.Errorf("round %d gave %+v", round, got[i])
				}
			}
		}
		if holders != 1 {
			t.Fatalf("%d replicas hold one lane", holders)
		}
		r.expire(t, lane)
	}
}

func TestALeaseEndsByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.wallet(t, 1, 0)
	acquire := func(ttl time.Duration) (payment.Lane, bool) {
		t.Helper()
		got, ok, err := r.AcquireLane(t.Context(), lane, uuid.NewString(), ttl)
		must(t, err)
		return got, ok
	}
	renewed := func(lanes ...payment.Lane) []int64 {
		t.Helper()
		ids, err := r.RenewLanes(t.Context(), lanes, time.Hour)
		must(t, err)
		return ids
	}
	first, ok := acquire(time.Minute)
	if !ok {
		t.Fatal("a free lane was not to be had")
	}
	left := func() float64 {
		return one[float64](t, r.conn, "SELECT extract(epoch FROM lease_until - now())::float8 FROM lanes")
	}
	if s := left(); s < 30 || s > 60 {
		t.Errorf("a lease of a minute ends in %v s", s)
	}
	if ids := renewed(first); !slices.Equal(ids, []int64{lane.ID}) || left() < 3000 {
		t.Errorf("renewed %v, it ends in %v s", ids, left())
	}
	if _, ok := acquire(time.Minute); ok {
		t.Error("a lane that is held was acquired")
	}

	// It ran out, but nobody came: it is still the holder's.
	r.expire(t, lane)
	if ids := renewed(first); len(ids) != 1 || left() < 3000 {
		t.Errorf("renewed %v after it ran out and nobody came", ids)
	}

	r.expire(t, lane)
	second, ok := acquire(time.Minute)
	if !ok || second.Epoch <= first.Epoch {
		t.Fatalf("a lease that ran out: acquired %t, epoch %d after %d", ok, second.Epoch, first.Epoch)
	}
	if ids := renewed(first); len(ids) != 0 {
		t.Errorf("a lease that passed on was renewed: %v", ids)
	}
	must(t, r.ReleaseLanes(t.Context(), []payment.Lane{first})) // not its own to give back
	if _, ok := acquire(time.Minute); ok {
		t.Error("who lost the lease gave it back")
	}

	must(t, r.ReleaseLanes(t.Context(), []payment.Lane{second}))
	if ids := renewed(second); len(ids) != 0 {
		t.Errorf("a lease that was given back was renewed: %v", ids)
	}
	if third, ok := acquire(time.Minute); !ok || third.Epoch <= second.Epoch {
		t.Errorf("a lane that was given back: acquired %t, epoch %d after %d", ok, third.Epoch, second.Epoch)
	}
}

func TestSomeLeasesAreRenewedAndOthersLost(t *testing.T) {
	t.Parallel()
	r := open(t)
	kept, lost := r.lane(t, 1, 0), r.lane(t, 2, 0)
	r.expire(t, lost)
	r.acquire(t, lost)
	ids, err := r.RenewLanes(t.Context(), []payment.Lane{kept, lost}, time.Hour)
	if err != nil || !slices.Equal(ids, []int64{kept.ID}) {
		t.Errorf("renewed %v of %d and %d: %v", ids, kept.ID, lost.ID, err)
	}
	if ids, err := r.RenewLanes(t.Context(), nil, time.Hour); err != nil || len(ids) != 0 {
		t.Errorf("of no lane renewed %v, %v", ids, err)
	}
}

func TestAParkedLaneSaysWhy(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	said := func() string { return one[string](t, r.conn, "SELECT coalesce(parked, 'takes work') FROM lanes") }
	must(t, r.ParkLane(t.Context(), lane, "too poor"))
	if said() != "too poor" {
		t.Errorf("it %s", said())
	}
	must(t, r.ParkLane(t.Context(), lane, strings.Repeat("x", 300)))
	if len(said()) != 200 {
		t.Errorf("a long reason is %d characters", len(said()))
	}
	r.expire(t, lane)
	r.acquire(t, lane)
	must(t, r.ParkLane(t.Context(), lane, "of no concern any more"))
	if len(said()) != 200 {
		t.Errorf("who lost the lane parked it: it %s", said())
	}
	lane.Epoch++
	must(t, r.ParkLane(t.Context(), lane, ""))
	if said() != "takes work" {
		t.Errorf("it %s", said())
	}
}

// laneWrites are the writes of a lane that has one open transaction.
func (r record) laneWrites(lane payment.Lane, open payment.Transaction, outcome payment.Outcome) map[string]func(context.Context) error {
	drop := func(_ any, err error) error { return err }
	return map[string]func(context.Context) error{
		"Take":          func(ctx context.Context) error { return drop(r.Take(ctx, lane, work(manyOpen, alone(lane)))) },
		"AddAttempt":    func(ctx context.Context) error { return drop(r.AddAttempt(ctx, lane, open.ID, bumper(lane, 1))) },
		"SignTopUp":     func(ctx context.Context) error { return drop(r.SignTopUp(ctx, lane, topUp(lane, 1, 100))) },
		"MarkBroadcast": func(ctx context.Context) error { return r.MarkBroadcast(ctx, lane, []int64{open.ID}) },
		"RecordInclusions": func(ctx context.Context) error {
			return r.RecordInclusions(ctx, lane, []payment.Inclusion{{
				Transaction: open.ID, Receipt: receipt(open, 7, true), Outcomes: []payment.Outcome{outcome},
			}})
		},
		"RecordReplaced": func(ctx context.Context) error {
			return r.RecordReplaced(ctx, lane, open.ID)
		},
	}
}

// TestALaneThatWasLostWritesNothing: the epoch fences a replica that has not
// noticed that another one has the lane.
func TestALaneThatWasLostWritesNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	id := r.claim(t, 1).ID
	tx := r.sign(t, lane, id)
	r.claim(t, 2) // something to take
	p := r.payment(t, id)
	paid := p.Paid(payment.EvidenceReceipt, receipt(tx, 7, true))
	r.expire(t, lane)
	owner := r.acquire(t, lane)
	before := r.dump(t)
	for name, write := range r.laneWrites(lane, tx, paid) {
		if err := write(t.Context()); !errors.Is(err, payment.ErrFenced) {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(before, r.dump(t)); diff != "" {
			t.Errorf("%s wrote (-before +after):\n%s", name, diff)
		}
	}
	// The same writes of the lane's holder.
	writes := r.laneWrites(owner, tx, paid)
	for _, name := range []string{"Take", "AddAttempt", "MarkBroadcast", "RecordInclusions"} {
		must(t, writes[name](t.Context()))
	}
	if r.wantState(t, id, payment.StateIncluded); len(r.opened(t, owner)) != 1 {
		t.Errorf("open: %+v", r.opened(t, owner))
	}
}

func TestALaneThatWasGivenBackSignsNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	id := r.claim(t, 1).ID
	tx := r.sign(t, lane, id)
	r.claim(t, 2)
	p := r.payment(t, id)
	must(t, r.ReleaseLanes(t.Context(), []payment.Lane{lane}))
	before := r.dump(t)
	for _, name := range []string{"Take", "AddAttempt", "SignTopUp"} {
		err := r.laneWrites(lane, tx, p.Requeued())[name](t.Context())
		if !errors.Is(err, payment.ErrFenced) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if diff := cmp.Diff(before, r.dump(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// TestALaneThatIsLostWhileItPreparesSignsNothing: the lease passes on between
// the taking and the signing.
func TestALaneThatIsLostWhileItPreparesSignsNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	id := r.claim(t, 1).ID
	pass := func() {
		r.expire(t, lane)
		r.acquire(t, lane)
	}
	signed, err := r.Take(t.Context(), lane, work(manyOpen, func(ctx context.Context, ps []payment.Payment) ([]payment.Order, error) {
		pass()
		return alone(lane)(ctx, ps)
	}))
	wantErr(t, err, payment.ErrFenced)
	if p := r.wantState(t, id, payment.StateQueued); p.Sent() || len(signed) != 0 {
		t.Errorf("signed %+v, payment %+v", signed, p)
	}
}

// TestTwoReplicasNeverTakeTheSamePayment: each holds what it has taken while the
// other one takes.
func TestTwoReplicasNeverTakeTheSamePayment(t *testing.T) {
	t.Parallel()
	r := open(t)
	replicas := []*store.Store{r.Store, openStore(t, r.url)}
	lanes := []payment.Lane{r.lane(t, 1, 0), r.lane(t, 2, 0)}
	const payments = 8
	for n := range payments {
		r.claim(t, n)
	}
	entered := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var seen [2][]payment.ID
	var errs [2]error
	together(2, func(i int) {
		_, errs[i] = replicas[i].Take(ctx, lanes[i], payment.Work{
			Most: payments/2 + 1, MaxOpen: manyOpen, Timeout: time.Minute,
			Prepare: func(ctx context.Context, ps []payment.Payment) ([]payment.Order, error) {
				for _, p := range ps {
					seen[i] = append(seen[i], p.ID)
				}
				close(entered[i])
				select {
				case <-entered[1-i]:
				case <-ctx.Done():
					return nil, errors.New("the other replica waits for our payments")
				}
				return alone(lanes[i])(ctx, ps)
			},
		})
	})
	must(t, errors.Join(errs[:]...))
	for _, id := range seen[0] {
		if slices.Contains(seen[1], id) {
			t.Errorf("both took %s", id)
		}
	}
	if n := len(seen[0]) + len(seen[1]); n != payments {
		t.Errorf("took %d and %d of %d payments", len(seen[0]), len(seen[1]), payments)
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM payments WHERE state = 'signed' AND tries = 1"); n != payments {
		t.Errorf("%d payments are signed", n)
	}
}

// TestAProcessThatDiesWhileItPreparesLeavesThePaymentsQueued: its connection
// breaks, and another replica has its payments at once.
func TestAProcessThatDiesWhileItPreparesLeavesThePaymentsQueued(t *testing.T) {
	t.Parallel()
	r := open(t)
	u, err := url.Parse(r.url)
	must(t, err)
	query := u.Query()
	query.Set("application_name", "dying")
	u.RawQuery = query.Encode()
	dying := openStore(t, u.String())
	lane, other := r.lane(t, 1, 0), r.lane(t, 2, 0)
	id := r.claim(t, 1).ID
	kill := func() {
		const ends = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE application_name = 'dying' AND datname = current_database()"
		if one[int](t, r.conn, ends) == 0 {
			t.Error("its connection was not found")
		}
	}
	signed, err := dying.Take(t.Context(), lane, work(manyOpen, func(ctx context.Context, ps []payment.Payment) ([]payment.Order, error) {
		kill()
		return alone(lane)(ctx, ps)
	}))
	wantErr(t, err, payment.ErrUnavailable)
	if p := r.wantState(t, id, payment.StateQueued); p.Sent() || len(signed) != 0 {
		t.Errorf("signed %+v, payment %+v", signed, p)
	}
	r.sign(t, other, id)
}

func TestAWalletNonceThatNeverWasARowIsFilled(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	first := r.sign(t, lane, r.claim(t, 1).ID)
	_, err := r.EnsureLane(t.Context(), network, lane.Address, payment.RoleRelayer, 3) // somebody else used 1 and 2
	must(t, err)
	above := r.sign(t, lane, r.claim(t, 2).ID)
	if first.WalletNonce != 0 || above.WalletNonce != 3 {
		t.Fatalf("signed at %d and %d", first.WalletNonce, above.WalletNonce)
	}
	for _, taken := range []uint64{0, 3, 4} { // by a row, and by the next transaction
		before := r.dump(t)
		_, err := r.FillNonce(t.Context(), lane, taken, signer(lane))
		wantErr(t, err, payment.ErrTransition)
		if diff := cmp.Diff(before, r.dump(t)); diff != "" {
			t.Errorf("wallet nonce %d (-before +after):\n%s", taken, diff)
		}
	}
	filled, err := r.FillNonce(t.Context(), lane, 1, signer(lane))
	must(t, err)
	if tx := filled.Transaction; tx.WalletNonce != 1 || tx.State != payment.TxSigned || tx.ID == 0 || len(filled.Payments) != 0 || tx.Newest().Hash != attempt(lane, 1).Hash {
		t.Errorf("filled by %+v", filled)
	}
	if open := r.opened(t, lane); len(open) != 3 || open[1].Transaction.ID != filled.Transaction.ID {
		t.Errorf("open: %+v", open)
	}
	if next := r.sign(t, lane, r.claim(t, 3).ID); next.WalletNonce != 4 {
		t.Errorf("then signed at %d", next.WalletNonce)
	}
	// Not by a replica that has lost the lane.
	lost := lane
	lost.Epoch--
	_, err = r.FillNonce(t.Context(), lost, 2, signer(lane))
	wantErr(t, err, payment.ErrFenced)
}

// topUp asks for money for somebody.
func topUp(lane payment.Lane, wei, limit int64) payment.TopUp {
	return payment.TopUp{To: chain.Address{19: 1}, Wei: big.NewInt(wei), DayLimit: big.NewInt(limit), Sign: signer(lane)}
}

func TestATreasurySendsOneAtATimeAndNoMoreThanTheDayAllows(t *testing.T) {
	t.Parallel()
	r := open(t)
	wallet, err := r.EnsureLane(t.Context(), network, chain.Address{0: 9}, payment.RoleTreasury, 3)
	must(t, err)
	lane := r.acquire(t, wallet)
	if role := one[string](t, r.conn, "SELECT role FROM lanes"); role != "treasury" {
		t.Errorf("role %s", role)
	}
	first, err := r.SignTopUp(t.Context(), lane, topUp(lane, 60, 100))
	must(t, err)
	if tx := first.Transaction; tx.WalletNonce != 3 || len(first.Payments) != 0 || tx.State != payment.TxSigned || tx.ID == 0 {
		t.Errorf("signed %+v", first)
	}
	list := r.opened(t, lane)
	if len(list) != 1 || list[0].Transaction.ID != first.Transaction.ID || list[0].Transaction.Newest().Hash != attempt(lane, 3).Hash {
		t.Errorf("open: %+v", list)
	}
	refused := func(what string, wei, limit int64) {
		t.Helper()
		before := r.dump(t)
		o := topUp(lane, wei, limit)
		o.Sign = func(context.Context, uint64) (payment.Attempt, error) {
			t.Errorf("%s was signed", what)
			return payment.Attempt{}, errors.New("not to be signed")
		}
		_, err := r.SignTopUp(t.Context(), lane, o)
		wantErr(t, err, payment.ErrTransition)
		if diff := cmp.Diff(before, r.dump(t)); diff != "" {
			t.Errorf("%s (-before +after):\n%s", what, diff)
		}
	}
	refused("a second one while the first is open", 1, 1000)
	r.include(t, first.Transaction, receipt(first.Transaction, 7, true))
	refused("more than the rest of the day", 41, 100)
	second, err := r.SignTopUp(t.Context(), lane, topUp(lane, 40, 100))
	must(t, err)
	if second.Transaction.WalletNonce != 4 {
		t.Errorf("wallet nonce %d after 3", second.Transaction.WalletNonce)
	}
	r.include(t, second.Transaction, receipt(second.Transaction, 8, true))
	refused("anything after that", 1, 100)
	// Yesterday's count no more.
	_, err = r.conn.Exec(t.Context(), `UPDATE transactions SET created_at = date_trunc('day', now() AT TIME ZONE 'utc') AT TIME ZONE 'utc' - interval '1 second' WHERE wallet_nonce = 3`)
	must(t, err)
	if _, err := r.SignTopUp(t.Context(), lane, topUp(lane, 60, 100)); err != nil {
		t.Errorf("on the next day: %v", err)
	}
}

func TestSpendingIsCountedOnceForEachTransaction(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane, other := r.lane(t, 1, 0), r.lane(t, 2, 0)
	spent := func(n x402.Network, want int64) {
		t.Helper()
		wei, err := r.SpentToday(t.Context(), n)
		must(t, err)
		if wei.Int64() != want {
			t.Errorf("spent %v wei on %s, want %d", wei, n, want)
		}
	}
	spent(network, 0)
	first, second, third := r.sign(t, lane, r.claim(t, 1).ID), r.sign(t, lane, r.claim(t, 2).ID), r.sign(t, other, r.claim(t, 3).ID)
	both := []payment.Inclusion{
		{Transaction: first.ID, Receipt: &chain.Receipt{TxHash: chain.Hash{1}, BlockNumber: 7, GasUsed: 100, EffectiveGasPrice: 3, L1Fee: 5}},
		{Transaction: second.ID, Receipt: &chain.Receipt{TxHash: chain.Hash{2}, BlockNumber: 7, GasUsed: 10, EffectiveGasPrice: 3}},
	}
	for range 2 { // recorded twice, counted once
		must(t, r.RecordInclusions(t.Context(), lane, both))
		spent(network, 335)
	}
	r.include(t, third, &chain.Receipt{TxHash: chain.Hash{3}, BlockNumber: 8, GasUsed: 1, EffectiveGasPrice: 1})
	spent(network, 336)
	spent("eip155:1", 0)
	_, err := r.conn.Exec(t.Context(), "UPDATE spending SET day = day - 1")
	must(t, err)
	spent(network, 0)
}
