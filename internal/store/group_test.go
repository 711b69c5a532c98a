package store_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
)

// await returns once a condition that others bring about holds.
func await(holds func() bool) {
	for !holds() {
		runtime.Gosched()
	}
}

// awaitBlocked returns once n statements wait for a lock.
func (r record) awaitBlocked(t *testing.T, n int) {
	t.Helper()
	await(func() bool {
		return n == one[int](t, r.conn, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
	})
}

// lock holds payments until the returned function is called.
func (r record) lock(t *testing.T, ids ...payment.ID) (release func()) {
	t.Helper()
	tx, err := connect(t, r.url).Begin(t.Context())
	must(t, err)
	for _, id := range ids {
		_, err := tx.Exec(t.Context(), "SELECT FROM payments WHERE id = $1::text::uuid FOR UPDATE", string(id))
		must(t, err)
	}
	return func() {
		t.Helper()
		must(t, tx.Rollback(t.Context()))
	}
}

// jammed keeps every transaction that writes may join busy until release is
// called, and lets n writes wait for the next. end waits for them.
func (r record) jammed(t *testing.T, n int, write func(i int)) (release, end func()) {
	t.Helper()
	lane := r.lane(t, 0xfe, 0)
	stuck := []payment.ID{r.settledBy(t, 10_001, lane, 200), r.settledBy(t, 10_002, lane, 201)}
	unlock := r.lock(t, stuck...)
	var writers sync.WaitGroup
	for i, id := range stuck {
		writers.Go(func() { _, _, _ = r.Collect(t.Context(), id, newCall(), chain.Hash{}, 201) })
		r.awaitBlocked(t, i+1)
	}
	for i := range n {
		writers.Go(func() { write(i) })
		await(func() bool { return r.WaitingWrites() == i+1 }) // they wait in this order
	}
	return unlock, writers.Wait
}

func TestClaimsThatWaitShareACommit(t *testing.T) {
	t.Parallel()
	const callers, sales = 60, 20
	r := open(t)
	var (
		claimed [callers]payment.Payment
		fresh   [callers]bool
		errs    [callers]error
	)
	release, end := r.jammed(t, callers, func(i int) {
		claimed[i], fresh[i], errs[i] = r.ClaimPayment(t.Context(), sale(i%sales), nil)
	})
	before := r.Stats()
	release()
	end()
	winners := make(map[payment.ID]int)
	for i := range callers {
		must(t, errs[i])
		if fresh[i] {
			winners[claimed[i].ID]++
		}
		if diff := cmp.Diff(claimed[i%sales], claimed[i]); diff != "" {
			t.Errorf("two callers were given two payments:\n%s", diff)
		}
		if claimed[i].Terms.Key != sale(i%sales).Terms.Key {
			t.Errorf("caller %d was given another's payment", i)
		}
	}
	for id, n := range winners {
		if n != 1 {
			t.Errorf("%d callers were first for %s", n, id)
		}
	}
	// Those that jammed the way commit once each.
	after := r.Stats()
	if commits := after.Commits - before.Commits; len(winners) != sales || commits != 3 {
		t.Errorf("%d payments in %d commits", len(winners), commits-2)
	}
	if reads := after.Reads - before.Reads; reads == 0 || reads > callers-sales {
		t.Errorf("%d reads for %d callers that were told of another's payment", reads, callers-sales)
	}
}

func TestAnswersThatAreCollectedTogetherAreToldOnceEach(t *testing.T) {
	t.Parallel()
	const callers, sales = 48, 12
	r := open(t)
	lane := r.lane(t, 1, 0)
	var ids []payment.ID
	for n := range sales {
		ids = append(ids, r.settledBy(t, n, lane, byte(n+1)))
	}
	var first [callers]bool
	var errs [callers]error
	release, end := r.jammed(t, callers, func(i int) {
		id := ids[(sales-1)-i%sales] // not in the order in which they are locked
		p, ok, err := r.Collect(t.Context(), id, newCall(), chain.Hash{}, 100)
		if first[i], errs[i] = ok, err; p.ID != id || p.AnsweredAt.IsZero() {
			errs[i] = errors.Join(err, errors.New("another payment, or not as it is now"))
		}
	})
	before := r.Stats().Commits
	release()
	end()
	told := make(map[int]int)
	for i := range callers {
		must(t, errs[i])
		if first[i] {
			told[i%sales]++
		}
	}
	for i := range sales {
		if told[i] != 1 {
			t.Errorf("payment %d: %d calls may tell success", i, told[i])
		}
	}
	if commits := r.Stats().Commits - before; commits != 3 {
		t.Errorf("%d answers were taken in %d commits", sales, commits-2)
	}
}

func TestOnePoisonedWriteSpoilsNoOther(t *testing.T) {
	t.Parallel()
	r := open(t)
	const callers = 20
	poison := map[int]func(*payment.Payment){
		3:  func(p *payment.Payment) { p.Resource = "a\x00b" },
		7:  func(p *payment.Payment) { p.Resource = strings.Repeat("a", 5000) },
		11: func(p *payment.Payment) { p.Version = 3 },
	}
	var claimed [callers]payment.Payment
	var fresh [callers]bool
	var errs [callers]error
	release, end := r.jammed(t, callers, func(i int) {
		p := sale(i)
		if spoil := poison[i]; spoil != nil {
			spoil(&p)
		}
		claimed[i], fresh[i], errs[i] = r.ClaimPayment(t.Context(), p, nil)
	})
	release()
	end()
	for i := range callers {
		switch {
		case poison[i] == nil && (errs[i] != nil || !fresh[i] || claimed[i].Terms.Key != sale(i).Terms.Key):
			t.Errorf("claim %d: fresh %t, %v", i, fresh[i], errs[i])
		case poison[i] != nil && (errs[i] == nil || fresh[i] || errors.Is(errs[i], payment.ErrUnavailable)):
			t.Errorf("poisoned claim %d: fresh %t, %v", i, fresh[i], errs[i])
		}
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM payments WHERE state = 'queued'"); n != callers-len(poison) {
		t.Errorf("%d rows", n)
	}
}

func TestAnOutageFailsAllThatWaitTogether(t *testing.T) {
	t.Parallel()
	r := open(t)
	const callers = 10
	var fresh [callers]bool
	var errs [callers]error
	held := r.settledBy(t, 100, r.lane(t, 1, 0), 7)
	release, end := r.jammed(t, callers+1, func(i int) {
		if i == callers { // it holds up the others' transaction, which has claimed already
			_, _, _ = r.Collect(t.Context(), held, newCall(), chain.Hash{}, 7)
			return
		}
		_, fresh[i], errs[i] = r.ClaimPayment(t.Context(), sale(i), nil)
	})
	unlock := r.lock(t, held)
	release()
	r.awaitBlocked(t, 1)
	await(func() bool { return r.WaitingWrites() == 0 })
	one[int](t, r.conn, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'facilitator'`)
	end()
	unlock()
	for i := range callers {
		if fresh[i] {
			t.Errorf("claim %d: its transaction was cut off", i)
		}
		wantErr(t, errs[i], payment.ErrUnavailable)
	}
	if n := one[int](t, r.conn, "SELECT count(*) FROM payments WHERE state = 'queued'"); n != 0 {
		t.Errorf("%d rows", n)
	}
	await(func() bool { _, err := r.CountQueued(t.Context(), network); return err == nil }) // connections are made anew
	for i := range callers {
		r.claim(t, i)
	}
}

// TestADeadlockSpoilsNoWrite has somebody lock the payments of one group in
// another order.
func TestADeadlockSpoilsNoWrite(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	ids := []payment.ID{r.settledBy(t, 1, lane, 1), r.settledBy(t, 2, lane, 2)} // ids grow
	var first [2]bool
	var errs [2]error
	release, end := r.jammed(t, 2, func(i int) {
		_, first[i], errs[i] = r.Collect(t.Context(), ids[i], newCall(), chain.Hash{}, 9)
	})
	other := connect(t, r.url)
	for _, sql := range []string{"SET deadlock_timeout = '5s'", "BEGIN"} { // the group notices it first
		_, err := other.Exec(t.Context(), sql)
		must(t, err)
	}
	lock := func(ctx context.Context, conn *pgx.Conn, id payment.ID) error {
		_, err := conn.Exec(ctx, "SELECT FROM payments WHERE id = $1::text::uuid FOR UPDATE", string(id))
		return err
	}
	must(t, lock(t.Context(), other, ids[1]))
	release()
	r.awaitBlocked(t, 1)                        // the group has the first payment and waits for the second
	_ = lock(t.Context(), other, ids[0])        // and now each waits for the other
	_, err := other.Exec(t.Context(), "COMMIT") // whichever of the two was ended
	must(t, err)
	end()
	for i := range ids {
		if errs[i] != nil || !first[i] {
			t.Errorf("payment %d: %t, %v", i, first[i], errs[i])
		}
	}
}

func TestWhatReachesTheDatabaseIsCounted(t *testing.T) {
	t.Parallel()
	r := open(t)
	count := func(what string, commits, reads uint64, do func()) {
		t.Helper()
		before := r.Stats()
		do()
		after := r.Stats()
		if c, n := after.Commits-before.Commits, after.Reads-before.Reads; c != commits || n != reads {
			t.Errorf("%s: %d commits and %d reads, want %d and %d", what, c, n, commits, reads)
		}
	}
	var id payment.ID
	count("a claim", 1, 0, func() { id = r.claim(t, 1).ID })
	count("a claim of what is taken", 0, 1, func() { _, _, _ = r.ClaimPayment(t.Context(), sale(1), nil) })
	count("a look at a key", 0, 1, func() { _, _ = r.PaymentByKey(t.Context(), sale(1).Terms.Key) })
	count("collecting what is not settled", 0, 1, func() { _, _, _ = r.Collect(t.Context(), id, newCall(), chain.Hash{}, 9) })
	count("where payments are", 0, 1, func() { _, _ = r.Standings(t.Context(), []payment.ID{id}) })
	count("taking back", 1, 0, func() { must(t, r.Withdraw(t.Context(), id, "reason", "")) })
	count("taking back in vain", 0, 0, func() { _ = r.Withdraw(t.Context(), id, "reason", "") })
	settled := r.settledBy(t, 2, r.lane(t, 1, 0), 7)
	count("collecting", 1, 0, func() { _, _, _ = r.Collect(t.Context(), settled, newCall(), chain.Hash{}, 9) })
}
