package relayer

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// distant is a signer that does what a test says.
type distant struct {
	wallet
	mu    sync.Mutex
	err   error
	hangs bool
	asked []evm.Unsigned
}

func (*distant) Kind() string { return "remote" }

func (d *distant) Sign(ctx context.Context, u evm.Unsigned) (evm.Signed, error) {
	d.mu.Lock()
	d.asked = append(d.asked, u)
	err, hangs := d.err, d.hangs
	d.mu.Unlock()
	if hangs {
		<-ctx.Done()
		err = fmt.Errorf("post: %w", ctx.Err())
	}
	return evm.Signed{Raw: []byte{2}}, err
}

func (d *distant) set(err error, hangs bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.hangs = err, hangs
}

func (d *distant) times() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.asked)
}

// withSigner gives a chain one more lane, with money, that a distant signer signs for.
func withSigner(c *Chain) (*lane, *distant) {
	l := withLane(c)
	d := &distant{wallet: wallet{address: l.signer.Address()}}
	l.signer, l.balance = d, big.NewInt(1e18)
	return l, d
}

func signing(t *testing.T) (*Chain, *time.Time) {
	t.Helper()
	c, now := newChain(t, Config{SignTimeout: time.Hour, MaxFeePerGas: 100, MaxGas: 100_000, MaxInFlight: 2, StallAfter: time.Minute})
	c.see(chain.Head{Number: 1, Hash: chain.Hash{1}, BaseFee: 5})
	return c, now
}

func TestASignerThatFailsParksItsLaneOnly(t *testing.T) {
	t.Parallel()
	c, _ := signing(t)
	l, d := withSigner(c)
	if err := c.Ready(); err != nil {
		t.Fatal(err)
	}
	d.set(errors.New("connection refused"), false)
	if _, err := l.sign(t.Context(), evm.Unsigned{}); err == nil {
		t.Fatal("signed")
	}
	if got := c.idleLane(); got != nil {
		t.Error("a lane that can't sign is given work")
	}
	if err := c.Ready(); !errors.Is(err, chain.ErrNotReady) || !strings.Contains(err.Error(), "signer") {
		t.Errorf("%v", err)
	}
	if got := testutil.ToFloat64(c.Metrics.parked.WithLabelValues(l.labels()...)); got != 1 {
		t.Errorf("parked is %v", got)
	}
	if got := testutil.ToFloat64(c.Metrics.signFailures.WithLabelValues(string(network), "remote", "failed")); got != 1 {
		t.Errorf("%v failures", got)
	}
	other, _ := withSigner(c)
	if got := c.idleLane(); got != other {
		t.Error("the other lane is not given the work")
	}
	if err := c.Ready(); err != nil {
		t.Errorf("with another lane: %v", err)
	}
}

func TestAParkedLaneIsTriedByWhatCantBeMined(t *testing.T) {
	t.Parallel()
	c, now := signing(t)
	l, d := withSigner(c)
	d.set(errors.New("away"), false)
	_, _ = l.sign(t.Context(), evm.Unsigned{}) // it fails, which is what it is for
	try := func(want int) {
		t.Helper()
		before := d.times()
		c.trySigners(t.Context())
		c.judging.Wait()
		if got := d.times() - before; got != want {
			t.Errorf("asked %d times at %s", got, *now)
		}
	}
	try(0)
	for rest := firstRest; rest < 3*maxRest; rest *= 2 { // each failure doubles the rest, up to a minute
		*now = now.Add(min(rest, maxRest) - 1)
		try(0)
		*now = now.Add(1)
		try(1)
	}
	d.set(nil, false)
	*now = now.Add(maxRest)
	try(1)
	if probe := d.asked[len(d.asked)-1]; probe.WalletNonce != evm.Probe(l.signer.Address()).WalletNonce {
		t.Errorf("tried with %+v", probe)
	}
	if c.idleLane() != l || testutil.ToFloat64(c.Metrics.parked.WithLabelValues(l.labels()...)) != 0 {
		t.Error("it is parked for ever")
	}
	// A probe proves little: one that signs nothing else rests as long as before.
	d.set(errors.New("refused by a rule"), false)
	_, _ = l.sign(t.Context(), evm.Unsigned{})
	*now = now.Add(maxRest - 1)
	try(0)
	*now = now.Add(1)
	d.set(nil, false)
	try(1)
	if _, err := l.sign(t.Context(), evm.Unsigned{}); err != nil || l.fault.failures != 0 {
		t.Errorf("%d failures after a success, %v", l.fault.failures, err)
	}
}

func TestWhyALaneCantSign(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		label, reason string
		err           error
		hangs         bool
	}{
		{"failed", "fails", errors.New("throttled"), false},
		{"wrong", "no signature", fmt.Errorf("%w: changed", evm.ErrSignature), false},
		{"late", "in time", nil, true},
	} {
		c, _ := signing(t)
		c.Config.SignTimeout = time.Millisecond
		l, d := withSigner(c)
		d.set(row.err, row.hangs)
		_, err := l.sign(t.Context(), evm.Unsigned{})
		if err == nil || !strings.Contains(l.fault.reason, row.reason) {
			t.Errorf("%s: %q, %v", row.label, l.fault.reason, err)
		}
		if got := testutil.ToFloat64(c.Metrics.signFailures.WithLabelValues(string(network), "remote", row.label)); got != 1 {
			t.Errorf("%s: %v failures", row.label, got)
		}
	}
}

func TestWhoLeavesBlamesNoSigner(t *testing.T) {
	t.Parallel()
	c, _ := signing(t)
	l, d := withSigner(c)
	d.set(nil, true)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, err := l.sign(ctx, evm.Unsigned{}); !errors.Is(err, context.Canceled) || !l.signs() {
		t.Errorf("%v, and the signer is blamed: %q", err, l.fault.reason)
	}
}

func TestFailuresAtTheSameTimeCountOnce(t *testing.T) {
	t.Parallel()
	c, _ := signing(t)
	l, d := withSigner(c)
	d.set(errors.New("throttled"), false)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() { _, _ = l.sign(t.Context(), evm.Unsigned{}) })
	}
	all.Wait()
	if l.fault.failures != 1 || l.fault.until.Sub(c.Now()) != firstRest {
		t.Errorf("%d failures, %s of rest", l.fault.failures, l.fault.until.Sub(c.Now()))
	}
}

func TestTheRecordSaysThatALaneCantSign(t *testing.T) {
	t.Parallel()
	c, _ := signing(t)
	record := &parkRecord{}
	c.Store = record
	l, d := withSigner(c)
	d.set(errors.New("away"), false)
	_, _ = l.sign(t.Context(), evm.Unsigned{})
	l.noted = ""
	for range 2 { // once is enough
		if err := l.park(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.fault.reason = ""
	if err := l.park(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(record.reasons, "|"); got != "its signer fails|" {
		t.Errorf("recorded %q", got)
	}
}

type parkRecord struct {
	Store
	reasons []string
}

func (r *parkRecord) ParkLane(_ context.Context, _ payment.Lane, reason string) error {
	r.reasons = append(r.reasons, reason)
	return nil
}

// TestASlowSignerHoldsNoOtherLaneUp: a payment that arrives while one lane's signer
// hangs is taken by another lane long before that signer's time is up.
func TestASlowSignerHoldsNoOtherLaneUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := signing(t)
		c.Now = time.Now
		c.see(chain.Head{Number: 2, Hash: chain.Hash{2}, BaseFee: 5})
		c.Config.SignTimeout, c.Config.MaxBatch, c.Config.MaxTxGas, c.Config.GasPerPayment = 10*time.Second, 10, 1e7, 1e5
		queue := &takes{taken: make(chan payment.Lane, 10)}
		c.Store, c.Node = queue, queue
		slow, d := withSigner(c)
		quick, _ := withSigner(c)
		d.set(nil, true)
		quick.working = true // until the slow one has the first payment
		ctx, stop := context.WithCancel(t.Context())
		var loop sync.WaitGroup
		loop.Go(func() { c.dispatch(ctx) })
		began := time.Now()
		if got := <-queue.taken; got.ID != slow.row.ID {
			t.Fatalf("lane %d took the first", got.ID)
		}
		quick.mu.Lock()
		quick.working = false
		quick.mu.Unlock()
		c.Wake()
		if got := <-queue.taken; got.ID != quick.row.ID {
			t.Errorf("lane %d took the second", got.ID)
		}
		if waited := time.Since(began); waited > 2*laneHead { // by the bubble's clock
			t.Errorf("it waited for %s", waited)
		}
		stop()
		loop.Wait()
	})
}

// takes is a queue with one payment for each lane that asks, and a node on which
// it can be made.
type takes struct {
	Store
	Node
	taken chan payment.Lane
}

func (q *takes) Take(ctx context.Context, row payment.Lane, w payment.Work) ([]payment.Carried, error) {
	orders, err := w.Prepare(ctx, []payment.Payment{{ID: payment.ID(row.Address.String())}})
	if err != nil {
		return nil, err
	}
	q.taken <- row
	_, err = orders[0].Sign(ctx, 0)
	return nil, err
}

func (*takes) EstimateGas(context.Context, evm.Message) (uint64, error) { return 50_000, nil }

// TestNothingOfValueIsAskedOfAParkedSigner: no raised fee, no filled nonce, no
// top-up; all of them with a signer that is well.
func TestNothingOfValueIsAskedOfAParkedSigner(t *testing.T) {
	t.Parallel()
	local, err := evm.NewKeySigner(strings.Repeat("11", 32), 8453)
	if err != nil {
		t.Fatal(err)
	}
	sent, err := local.Sign(t.Context(), evm.Unsigned{Fees: chain.Fees{FeeCap: 2}})
	if err != nil {
		t.Fatal(err)
	}
	for fault, want := range map[string]string{"": "raise fill top-up", "it fails": ""} {
		c, now := signing(t)
		asks := &askRecord{}
		c.Store = asks
		c.Config.Treasury = Treasury{Below: 2e18, UpTo: 3e18, MaxPerDay: 9e18}
		l, _ := withSigner(c)
		tx := pending(1, sent.Hash)
		tx.signedAt = *now
		tx.Transaction.Attempts[0].Raw, tx.Transaction.Attempts[0].Fees = sent.Raw, chain.Fees{FeeCap: 2}
		tx.Payments[0].Terms.ValidBefore = x402.NewUint256(1 << 40)
		c.treasury, _ = withSigner(c)
		c.lanes = c.lanes[:1]
		c.treasury.role = payment.RoleTreasury
		c.treasury.balance = new(big.Int).Mul(big.NewInt(1e18), big.NewInt(9))
		*now = now.Add(time.Second)
		l.readAt = *now
		c.see(chain.Head{Number: 2, Hash: chain.Hash{2}, BaseFee: 5})
		l.fault.reason, c.treasury.fault.reason = fault, fault
		if err := errors.Join(l.raise(t.Context(), l.row, tx), l.fill(t.Context(), l.row, 3), c.topUp(t.Context())); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(asks.asked, " "); got != want {
			t.Errorf("with fault %q asked for %q, want %q", fault, got, want)
		}
	}
}

// askRecord notes what is to be signed, and says that it was in vain.
type askRecord struct {
	Store
	asked []string
}

func (r *askRecord) AddAttempt(context.Context, payment.Lane, int64, func(context.Context, uint64) (payment.Attempt, error)) (payment.Attempt, error) {
	r.asked = append(r.asked, "raise")
	return payment.Attempt{}, payment.ErrTransition
}

func (r *askRecord) FillNonce(context.Context, payment.Lane, uint64, func(context.Context, uint64) (payment.Attempt, error)) (payment.Carried, error) {
	r.asked = append(r.asked, "fill")
	return payment.Carried{}, payment.ErrTransition
}

func (r *askRecord) SignTopUp(context.Context, payment.Lane, payment.TopUp) (payment.Carried, error) {
	r.asked = append(r.asked, "top-up")
	return payment.Carried{}, payment.ErrTransition
}
