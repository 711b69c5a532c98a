package store_test

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// exposure looks in mode reserve unless it is told another one.
func (r record) exposure(t *testing.T, p payment.Payment, mode ...payment.ExposureMode) payment.Exposure {
	t.Helper()
	e, err := r.Exposure(t.Context(), p.Terms, append(mode, payment.ExposureReserve)[0])
	must(t, err)
	return e
}

// wantPromised compares what the payer of p promised to others.
func (r record) wantPromised(t *testing.T, p payment.Payment, amount uint64, payments, reserved int) {
	t.Helper()
	want := payment.Promised{Amount: x402.NewUint256(amount), Payments: payments, Reserved: reserved}
	got := r.exposure(t, p).Promised
	got.Some = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("promised (-want +got):\n%s", diff)
	}
}

// room guards what may follow up to so much that was ever promised.
func room(most int64) *payment.Guard { return &payment.Guard{Most: big.NewInt(most)} }

// of is sale(n) over another amount.
func of(n int, amount uint64) payment.Payment {
	p := sale(n)
	p.Terms.Amount = x402.NewUint256(amount)
	return p
}

func (r record) reserve(t *testing.T, p payment.Payment, g *payment.Guard) {
	t.Helper()
	must(t, r.Reserve(t.Context(), p.Terms, g, time.Hour))
}

func TestWhatIsPromisedIsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	r.wantPromised(t, sale(1), 0, 0, 0)
	queued := r.claim(t, 1)
	for name, change := range map[string]func(*payment.Payment){
		"payer":   func(p *payment.Payment) { p.Terms.Key.Payer[0] = 1 },
		"token":   func(p *payment.Payment) { p.Terms.Asset[0], p.Terms.Key.Contract[0] = 1, 1 },
		"network": func(p *payment.Payment) { p.Terms.Key.Network = "eip155:84532" },
	} {
		other := sale(77)
		change(&other)
		if _, fresh, err := r.ClaimPayment(t.Context(), other, nil); err != nil || !fresh {
			t.Fatalf("another %s: fresh %t, %v", name, fresh, err)
		}
		r.wantPromised(t, other, 0, 0, 0)
	}
	r.wantPromised(t, sale(2), 10000, 1, 0)
	r.wantPromised(t, sale(1), 0, 0, 0) // its own does not count
	signed := r.claim(t, 2)
	r.sign(t, lane, signed.ID)
	broadcast := r.claim(t, 3)
	tx := r.sign(t, lane, broadcast.ID)
	must(t, r.MarkBroadcast(t.Context(), lane, []int64{tx.ID}))
	r.wantState(t, broadcast.ID, payment.StateBroadcast)
	r.wantPromised(t, sale(9), 30000, 3, 0)
	some := r.exposure(t, sale(9)).Promised.Some
	if len(some) != 3 || some[2] != (payment.Promise{Nonce: queued.Terms.Key.Nonce, Amount: queued.Terms.Amount}) {
		t.Errorf("%+v, want three, the queued one last", some)
	}

	settled := r.settledBy(t, 4, lane, 7)
	r.wantPromised(t, sale(9), 30000, 3, 0)
	must(t, r.Withdraw(t.Context(), queued.ID, x402.ReasonUnexpectedSettle, "no wallet"))
	r.wantPromised(t, sale(9), 20000, 2, 0)
	must(t, r.RecordReorg(t.Context(), network, head(7)))
	r.wantState(t, settled, payment.StateBroadcast)
	r.wantPromised(t, sale(9), 30000, 3, 0)

	e := r.exposure(t, sale(4), payment.ExposureInFlight)
	if e.Known == nil || e.Known.ID != settled || e.Promised.Payments != 2 || e.Mark == nil {
		t.Errorf("of a known one: %+v", e)
	}
	off := r.exposure(t, sale(4), payment.ExposureOff)
	if off.Known == nil || off.Known.ID != settled || !off.Promised.IsZero() || off.Mark != nil {
		t.Errorf("in mode off: %+v", off)
	}
	if off := r.exposure(t, sale(9), payment.ExposureOff); off.Known != nil || off.Mark != nil {
		t.Errorf("in mode off, of an unknown one: %+v", off)
	}
}

func TestMoreThanThereAreNumbersIsTheLargest(t *testing.T) {
	t.Parallel()
	r := open(t)
	all := x402.Uint256{}
	for i := range all {
		all[i] = 0xff
	}
	for n := range 2 {
		p := sale(n)
		p.Terms.Amount = all
		if _, fresh, err := r.ClaimPayment(t.Context(), p, nil); err != nil || !fresh {
			t.Fatal(fresh, err)
		}
	}
	if e := r.exposure(t, sale(9)); e.Promised.Amount != all || e.Promised.Payments != 2 {
		t.Errorf("%+v", e.Promised)
	}
}

// TestLooksShareARoundTrip with each its own answer.
func TestLooksShareARoundTrip(t *testing.T) {
	t.Parallel()
	r := open(t)
	const sales = 40
	for n := range sales {
		r.claim(t, n)
	}
	before := r.Stats()
	var got [2 * sales]payment.Exposure
	together(len(got), func(i int) {
		var err error
		if got[i], err = r.Exposure(t.Context(), sale(i).Terms, payment.ExposureInFlight); err != nil {
			t.Error(err)
		}
	})
	for i, e := range got {
		known := i < sales
		want := sales
		if known {
			want--
		}
		if (e.Known != nil) != known || e.Promised.Payments != want || known && e.Known.Terms.Key != sale(i).Terms.Key {
			t.Errorf("%d: known %t, %+v", i, e.Known != nil, e.Promised)
		}
	}
	after := r.Stats()
	if reads := after.Reads - before.Reads; reads == 0 || reads > sales || after.Commits != before.Commits {
		t.Errorf("%d looks took %d reads and %d commits", len(got), reads, after.Commits-before.Commits)
	}
}

func TestAClaimPassesWhileItsGuardHolds(t *testing.T) {
	t.Parallel()
	r := open(t)
	claim := func(p payment.Payment, g *payment.Guard) error {
		t.Helper()
		got, fresh, err := r.ClaimPayment(t.Context(), p, g)
		if (err == nil) != fresh || fresh != (got.ID != "") {
			t.Errorf("fresh %t, %+v, %v", fresh, got, err)
		}
		return err
	}
	must(t, claim(of(1, 100), room(0)))
	wantErr(t, claim(of(2, 50), room(99)), payment.ErrCrowded)
	must(t, claim(of(2, 50), room(100)))
	// A payment that is over has been promised all the same: the balance that the
	// guard is of may be from before.
	p, err := r.PaymentByKey(t.Context(), sale(1).Terms.Key)
	must(t, err)
	must(t, r.Withdraw(t.Context(), p.ID, x402.ReasonUnexpectedSettle, "no wallet"))
	wantErr(t, claim(of(3, 1), room(149)), payment.ErrCrowded)
	if mark := r.exposure(t, sale(3)).Mark; mark.Int64() != 150 {
		t.Errorf("mark %s, want 150", mark)
	}
	// Another payer, and the same payer with another token, have their own.
	for _, change := range []func(*payment.Payment){
		func(p *payment.Payment) { p.Terms.Key.Payer[0] = 1 },
		func(p *payment.Payment) { p.Terms.Asset[0], p.Terms.Key.Contract[0] = 1, 1 },
	} {
		other := of(4, 7)
		change(&other)
		must(t, claim(other, room(0)))
	}
	// One that failed unsent is claimed again under the same rule.
	wantErr(t, claim(of(1, 100), room(149)), payment.ErrCrowded)
	if again := r.payment(t, p.ID); again.State != payment.StateFailed {
		t.Errorf("it is %s", again.State)
	}
	must(t, claim(of(1, 100), room(150)))
	if mark := r.exposure(t, sale(3)).Mark; mark.Int64() != 250 {
		t.Errorf("mark %s, want 250", mark)
	}
	// A repeat is told of the first, whatever its guard says.
	if got, fresh, err := r.ClaimPayment(t.Context(), of(1, 100), room(0)); err != nil || fresh || got.ID != p.ID {
		t.Errorf("a repeat: fresh %t, %v", fresh, err)
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM payments"); n != 4 {
		t.Errorf("%d payments", n)
	}
}

// TestConcurrentClaimsPromiseNoMoreThanThereIs: all were judged on the same state,
// at two replicas, and of each payer three fit.
func TestConcurrentClaimsPromiseNoMoreThanThereIs(t *testing.T) {
	t.Parallel()
	r := open(t)
	replicas := []*store.Store{r.Store, openStore(t, r.url)}
	const payers, each = 4, 16
	var fresh [payers * each]bool
	var errs [payers * each]error
	together(len(fresh), func(i int) {
		p := of(i, 10)
		p.Terms.Key.Payer[0] = byte(i % payers)
		_, fresh[i], errs[i] = replicas[i/payers%2].ClaimPayment(t.Context(), p, room(20)) // 30 less its own
	})
	for i, err := range errs {
		if !fresh[i] && !errors.Is(err, payment.ErrCrowded) {
			t.Errorf("claim %d: %v", i, err)
		}
	}
	for payer := range payers {
		p := sale(99)
		p.Terms.Key.Payer[0] = byte(payer)
		if e := r.exposure(t, p); e.Promised.Payments > 3 || e.Promised.Payments == 0 || e.Promised.Amount.String() != e.Mark.String() {
			t.Errorf("payer %d: %+v, mark %s", payer, e.Promised, e.Mark)
		}
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM payments"); n != payers*3 {
		t.Errorf("%d payments, want %d", n, payers*3)
	}
}

// TestClaimsOfOnePayerThatShareACommit count each other.
func TestClaimsOfOnePayerThatShareACommit(t *testing.T) {
	t.Parallel()
	r := open(t)
	const callers = 20
	var fresh [callers]bool
	var errs [callers]error
	release, end := r.jammed(t, callers, func(i int) {
		_, fresh[i], errs[i] = r.ClaimPayment(t.Context(), of(i, 10), room(40))
	})
	before := r.Stats().Commits
	release()
	end()
	winners := 0
	for i := range callers {
		if fresh[i] {
			winners++
		} else {
			wantErr(t, errs[i], payment.ErrCrowded)
		}
	}
	if commits := r.Stats().Commits - before; winners != 5 || commits != 3 {
		t.Errorf("%d claims passed in %d commits", winners, commits-2)
	}
}

func TestReservationsCountUntilTheyAreClaimedOrOver(t *testing.T) {
	t.Parallel()
	r := open(t)
	r.reserve(t, of(1, 100), room(0))
	r.wantPromised(t, sale(2), 100, 0, 1)
	if some := r.exposure(t, sale(2)).Promised.Some; len(some) != 1 || some[0].Nonce != sale(1).Terms.Key.Nonce || some[0].Amount != x402.NewUint256(100) {
		t.Errorf("%+v", some)
	}
	r.wantPromised(t, sale(1), 0, 0, 0)
	if e := r.exposure(t, sale(2), payment.ExposureInFlight); !e.Promised.IsZero() || e.Promised.Reserved != 0 {
		t.Errorf("in mode in_flight: %+v", e.Promised)
	}
	wantErr(t, r.Reserve(t.Context(), of(2, 50).Terms, room(99), time.Hour), payment.ErrCrowded)
	r.reserve(t, of(2, 50), room(100))
	r.wantPromised(t, sale(3), 150, 0, 2)

	// It is verified again: one row, until later.
	until := func() time.Time {
		return one[time.Time](t, r.conn, "SELECT until FROM reservations WHERE amount = 100")
	}
	first := until()
	must(t, r.Reserve(t.Context(), of(1, 100).Terms, room(150), 2*time.Hour))
	if !until().After(first.Add(59 * time.Minute)) {
		t.Errorf("reserved until %v, then %v", first, until())
	}
	r.wantPromised(t, sale(3), 150, 0, 2)

	claimed, fresh, err := r.ClaimPayment(t.Context(), of(1, 100), room(1000))
	if err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	r.wantPromised(t, sale(3), 150, 1, 1)
	// Whoever verified it just before the claim is too late.
	wantErr(t, r.Reserve(t.Context(), of(1, 100).Terms, room(10000), time.Hour), payment.ErrCrowded)
	r.wantPromised(t, sale(3), 150, 1, 1)
	must(t, r.Withdraw(t.Context(), claimed.ID, x402.ReasonUnexpectedSettle, "no wallet"))
	r.wantPromised(t, sale(3), 50, 0, 1)
	r.reserve(t, of(1, 100), room(10000)) // nothing was sent: it may be verified again
	r.wantPromised(t, sale(3), 150, 0, 2)
	if _, fresh, err := r.ClaimPayment(t.Context(), of(1, 100), room(10000)); err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	r.wantPromised(t, sale(3), 150, 1, 1)

	_, err = r.conn.Exec(t.Context(), "UPDATE reservations SET until = now()")
	must(t, err)
	r.wantPromised(t, sale(3), 100, 1, 0)
}

func TestReservationsThatAreOverAreRemovedInSmallPortions(t *testing.T) {
	t.Parallel()
	r := open(t)
	for n := range 7 {
		r.reserve(t, of(n, 1), room(100))
	}
	_, err := r.conn.Exec(t.Context(), "UPDATE reservations SET until = now() - interval '1 second'")
	must(t, err)
	for n, want := range []int{6, 5, 4, 4} {
		r.reserve(t, of(100+n, 1), room(100))
		if left := one[int](t, r.conn, "SELECT count(*) FROM reservations"); left != want {
			t.Errorf("%d rows after %d more, want %d", left, n+1, want)
		}
	}
}

// TestConcurrentReservationsPromiseNoMoreThanThereIs: the same payment verified
// many times is one of them.
func TestConcurrentReservationsPromiseNoMoreThanThereIs(t *testing.T) {
	t.Parallel()
	r := open(t)
	replicas := []*store.Store{r.Store, openStore(t, r.url)}
	const payments, each = 6, 8
	var errs [payments * each]error
	together(len(errs), func(i int) {
		errs[i] = replicas[i%2].Reserve(t.Context(), of(i%payments, 10).Terms, room(20), time.Hour)
	})
	made := map[int]bool{}
	for i, err := range errs {
		switch {
		case err == nil:
			made[i%payments] = true
		case !errors.Is(err, payment.ErrCrowded):
			t.Errorf("reservation %d: %v", i, err)
		}
	}
	e := r.exposure(t, sale(99))
	if len(made) != e.Promised.Reserved || len(made) == 0 || len(made) > 3 {
		t.Errorf("%d were told to be reserved, %+v", len(made), e.Promised)
	}
}

// TestAClaimAndAReservationOfOnePayerDoNotBothPass where one fits.
func TestAClaimAndAReservationOfOnePayerDoNotBothPass(t *testing.T) {
	t.Parallel()
	r := open(t)
	replicas := []*store.Store{r.Store, openStore(t, r.url)}
	for n := range 20 {
		p, q := of(2*n, 10), of(2*n+1, 10)
		p.Terms.Key.Payer, q.Terms.Key.Payer = chain.Address{1, byte(n)}, chain.Address{1, byte(n)}
		var errs [2]error
		together(2, func(i int) {
			if i == 0 {
				_, _, errs[0] = replicas[n%2].ClaimPayment(t.Context(), p, room(0))
				return
			}
			errs[1] = replicas[(n+1)%2].Reserve(t.Context(), q.Terms, room(0), time.Hour)
		})
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), payment.ErrCrowded) {
			t.Errorf("claim: %v; reservation: %v", errs[0], errs[1])
		}
	}
}

// TestAPromiseGoesByThoseThatAreCommittedFirst: it waits for another one of the
// payer that is under way, and then counts it.
func TestAPromiseGoesByThoseThatAreCommittedFirst(t *testing.T) {
	t.Parallel()
	for name, promise := range map[string]func(r record) error{
		"a claim": func(r record) error {
			_, _, err := r.ClaimPayment(t.Context(), of(2, 1), room(100))
			return err
		},
		"a claim of one that failed unsent": func(r record) error {
			_, _, err := r.ClaimPayment(t.Context(), of(1, 100), room(100))
			return err
		},
		"a reservation": func(r record) error { return r.Reserve(t.Context(), of(2, 1).Terms, room(100), time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			p, _, err := r.ClaimPayment(t.Context(), of(1, 100), room(0))
			must(t, err)
			must(t, r.Withdraw(t.Context(), p.ID, x402.ReasonUnexpectedSettle, "no wallet"))
			tx, err := connect(t, r.url).Begin(t.Context())
			must(t, err)
			_, err = tx.Exec(t.Context(), "SELECT FROM payers FOR NO KEY UPDATE")
			must(t, err)
			done := make(chan error, 1)
			go func() { done <- promise(r) }()
			r.awaitBlocked(t, 1)
			_, err = tx.Exec(t.Context(), "UPDATE payers SET promised = promised + 1")
			must(t, err)
			must(t, tx.Commit(t.Context()))
			wantErr(t, <-done, payment.ErrCrowded)
			r.wantPromised(t, sale(9), 0, 0, 0)
		})
	}
}
