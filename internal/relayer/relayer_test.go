package relayer

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/chain"
	"facilitator/internal/metrics"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

const network = x402.Network("eip155:8453")

// newChain is a chain at rest, with a clock that the test turns.
func newChain(t *testing.T, cfg Config) (*Chain, *time.Time) {
	t.Helper()
	now := time.Unix(1_800_000_000, 0)
	cfg.Network = network
	c := New(Deps{
		Config: cfg, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
		Metrics: NewMetrics(metrics.New(prometheus.NewRegistry())),
		Moved:   func(...payment.ID) {}, Ended: func(*payment.Payment, payment.Outcome) {}, Crash: func(string) {},
	})
	c.fault = nil
	return c, &now
}

// wallet is a signer that signs nothing.
type wallet struct {
	Signer
	address chain.Address
}

func (w wallet) Address() chain.Address { return w.address }

func (wallet) Kind() string { return "local" }

// withLane gives a chain one more lane, leased and with these transactions open.
func withLane(c *Chain, txs ...*openTx) *lane {
	id := int64(len(c.lanes) + 1)
	l := newLane(c, wallet{address: chain.Address{19: byte(id)}}, payment.RoleRelayer)
	l.row = payment.Lane{ID: id, Network: network, Address: l.signer.Address()}
	l.epoch, l.until, l.settled = 1, c.Now().Add(time.Hour), true
	for _, tx := range txs {
		l.open[tx.Transaction.ID] = tx
	}
	l.count()
	c.lanes = append(c.lanes, l)
	return l
}

// pending is a transaction that waits for a block, with a payment.
func pending(id int64, hashes ...chain.Hash) *openTx {
	tx := &openTx{Carried: payment.Carried{
		Transaction: payment.Transaction{ID: id, WalletNonce: uint64(id), State: payment.TxSigned},
		Payments:    []payment.Payment{{ID: "p", Terms: payment.Terms{Scheme: "exact"}, State: payment.StateSigned, TransactionID: id, Tries: 1}},
	}}
	for _, hash := range hashes {
		tx.Transaction.Attempts = append(tx.Transaction.Attempts, payment.Attempt{Hash: hash})
	}
	return tx
}

// ledger is a record that takes everything.
type ledger struct {
	Store
	inclusions []payment.Inclusion
	outcomes   []payment.Outcome
}

func (l *ledger) RecordInclusions(_ context.Context, _ payment.Lane, ins []payment.Inclusion) error {
	l.inclusions = append(l.inclusions, ins...)
	return nil
}

func (l *ledger) RecordOutcome(_ context.Context, o payment.Outcome) error {
	l.outcomes = append(l.outcomes, o)
	return nil
}

// paying is a scheme by which every receipt pays.
type paying struct{ scheme.Scheme }

func (paying) Proves(payment.Terms, *chain.Receipt) bool { return true }

func TestALowerHeadIsBelievedOnlyIfItLasts(t *testing.T) {
	t.Parallel()
	c, now := newChain(t, Config{})
	c.see(chain.Head{Number: 100})
	c.see(chain.Head{Number: 90})
	if got := c.Head().Number; got != 100 {
		t.Fatalf("a lagging node moved the head to %d", got)
	}
	*now = now.Add(staleHead + time.Second)
	c.see(chain.Head{Number: 91})
	if got := c.Head().Number; got != 91 {
		t.Fatalf("the head stayed at %d", got)
	}
}

func TestAHeadTellsWhetherTheChainMovesAndIsUsed(t *testing.T) {
	t.Parallel()
	c, now := newChain(t, Config{})
	start := *now
	step := func(h chain.Head) (moved, busy time.Duration) {
		*now = now.Add(time.Second)
		c.see(h)
		return c.view.moved.Sub(start), c.view.busy.Sub(start)
	}
	never := time.Time{}.Sub(start)
	for i, row := range []struct {
		head        chain.Head
		moved, busy time.Duration
	}{
		{chain.Head{Number: 1, Hash: chain.Hash{1}, GasLimit: 1000, GasUsed: 0}, 1 * time.Second, never},
		{chain.Head{Number: 1, Hash: chain.Hash{1}, GasLimit: 1000, GasUsed: 0}, 1 * time.Second, never},  // the same block
		{chain.Head{Number: 2, Hash: chain.Hash{2}, GasLimit: 1000, GasUsed: 10}, 3 * time.Second, never}, // what the system itself does
		{chain.Head{Number: 3, Hash: chain.Hash{3}, GasLimit: 1000, GasUsed: 11}, 4 * time.Second, 4 * time.Second},
		{chain.Head{Number: 3, Hash: chain.Hash{4}, GasLimit: 1000, GasUsed: 0}, 5 * time.Second, 4 * time.Second}, // another one of that height
		{chain.Head{Number: 2, Hash: chain.Hash{5}, GasLimit: 1000, GasUsed: 999}, 5 * time.Second, 4 * time.Second},
	} {
		if moved, busy := step(row.head); moved != row.moved || busy != row.busy {
			t.Errorf("head %d: moved after %s, busy after %s; want %s and %s", i, moved, busy, row.moved, row.busy)
		}
	}
}

func TestSuccessAtADepthNeedsALookAtThatLength(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name          string
		level         string
		confirmations uint64
		checked, safe uint64
		want          uint64
	}{
		{"mined is at once", "mined", 3, 0, 0, math.MaxInt64},
		{"so is a default of one", "", 1, 0, 0, math.MaxInt64},
		{"nobody looked yet", "", 3, 0, 0, 0},
		{"a default of three", "", 3, 12, 0, 10},
		{"the caller's word wins", "5", 3, 12, 0, 8},
		{"the chain is shorter", "10", 1, 8, 0, 0},
		{"safe", "safe", 1, 12, 9, 9},
		{"safe, as far as was looked", "safe", 1, 7, 9, 7},
		{"finalized is told by the payment's state", "finalized", 1, 12, 9, 0},
		{"submitted is never success", "submitted", 1, 12, 9, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, now := newChain(t, Config{Confirmations: row.confirmations})
			c.see(chain.Head{Number: 50})
			c.checked, c.safe = row.checked, row.safe
			level, err := payment.ParseLevel(row.level)
			if err != nil {
				t.Fatal(err)
			}
			got := c.SettledUpTo(level)
			if got != row.want {
				t.Errorf("settled up to block %d, want %d", got, row.want)
			}
			// Who waits for depth has the blocks looked at more often, for a while.
			if wanted := c.wantsDepth(*now); wanted != (row.want != math.MaxInt64) {
				t.Errorf("depth is wanted: %t", wanted)
			}
			if *now = now.Add(healthInterval); c.wantsDepth(*now) {
				t.Error("depth is wanted for ever")
			}
		})
	}
}

func TestReadyTellsWhyNot(t *testing.T) {
	t.Parallel()
	rich := big.NewInt(1e18)
	for _, row := range []struct {
		why   string // empty: ready
		spoil func(c *Chain, l *lane, now *time.Time)
	}{
		{"", func(*Chain, *lane, *time.Time) {}},
		{"", func(_ *Chain, l *lane, _ *time.Time) { l.epoch = 0 }}, // another replica's lane settles too
		{"no relayer wallet has enough gas", func(_ *Chain, l *lane, _ *time.Time) { l.balance = big.NewInt(1) }},
		{"no relayer wallet has enough gas", func(_ *Chain, l *lane, _ *time.Time) { l.balance = nil }},
		{"the chain's base fee is above the configured cap", func(c *Chain, _ *lane, _ *time.Time) { c.see(chain.Head{Number: 2, BaseFee: 100}) }},
		{"the day's gas budget is spent", func(c *Chain, _ *lane, _ *time.Time) { c.spent = big.NewInt(1e9) }},
		{"the day's gas budget is spent", func(_ *Chain, l *lane, _ *time.Time) { // by what is open
			tx := pending(1, chain.Hash{1})
			tx.Transaction.Attempts[0].GasLimit, tx.Transaction.Attempts[0].Fees.FeeCap = 1e7, 100
			l.open[1] = tx
		}},
		{"the chain makes no blocks", func(c *Chain, l *lane, now *time.Time) {
			tx := pending(1, chain.Hash{1})
			tx.signedAt = *now
			l.open[1] = tx
			*now = now.Add(time.Minute)
			c.see(c.Head()) // the node answers, with the same block
		}},
		{"", func(c *Chain, _ *lane, now *time.Time) { // nothing of ours waits: an idle chain
			*now = now.Add(time.Minute)
			c.see(c.Head())
		}},
		{"the chain's node has not answered for a while", func(_ *Chain, _ *lane, now *time.Time) { *now = now.Add(staleHead + time.Second) }},
		{"the node is not of this chain, or contracts are missing", func(c *Chain, _ *lane, _ *time.Time) { c.fault = ErrWrongChain }},
		{"the record can't be reached", func(c *Chain, _ *lane, _ *time.Time) { c.fault = payment.ErrUnavailable }},
		{"the chain's node can't be reached", func(c *Chain, _ *lane, _ *time.Time) { c.fault = errors.New("secret detail") }},
	} {
		c, now := newChain(t, Config{MaxFeePerGas: 100, MaxGas: 100_000, MaxSpendPerDay: 1e9, StallAfter: time.Minute})
		c.see(chain.Head{Number: 1, Hash: chain.Hash{1}, BaseFee: 5})
		l := withLane(c)
		l.balance = rich
		row.spoil(c, l, now)
		l.count()
		err := c.Ready()
		switch {
		case row.why == "" && err != nil, row.why != "" && !errors.Is(err, chain.ErrNotReady):
			t.Errorf("%q: %v", row.why, err)
		case row.why != "" && !strings.HasSuffix(err.Error(), " on "+string(network)+": "+row.why):
			t.Errorf("%q does not say %q", err, row.why)
		}
	}
}

func TestDeferralsGrowAndPass(t *testing.T) {
	t.Parallel()
	d, now := make(deferrals), time.Unix(1_800_000_000, 0)
	for times, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		if got := d.add("a", now); got != times+1 {
			t.Errorf("counted %d, want %d", got, times+1)
		}
		if d.due("a", now.Add(want-1)) || !d.due("a", now.Add(want)) {
			t.Errorf("not due after just %s", want)
		}
	}
	if !d.due("b", now) || !slices.Equal(d.waiting(now), []payment.ID{"a"}) {
		t.Error("others wait too")
	}
	for range 20 {
		d.add("a", now)
	}
	if d.due("a", now.Add(maxDeferral-1)) || !d.due("a", now.Add(maxDeferral)) {
		t.Error("not deferred for just the most")
	}
	if ids := d.waiting(now.Add(maxDeferral)); len(ids) != 0 || len(d) != 1 {
		t.Error("its count was forgotten at once")
	}
	if len(d.waiting(now.Add(maxDeferral+forgetDeferral+1))) != 0 || len(d) != 0 {
		t.Error("never forgotten")
	}
}

func TestARefusalCountsTwoBlocksLater(t *testing.T) {
	t.Parallel()
	d, now := make(deferrals), time.Unix(1_800_000_000, 0)
	for _, row := range []struct {
		height uint64
		want   bool
	}{{7, false}, {7, false}, {8, false}, {9, true}, {12, true}} {
		if got := d.refuse("a", now, row.height); got != row.want {
			t.Errorf("at block %d: %v, want %v", row.height, got, row.want)
		}
		d.waiting(now.Add(time.Second)) // forgets nothing that is fresh
		d.add("a", now)
	}
	if d.refuse("b", now, 12) {
		t.Error("another's refusal counts for it")
	}
}

func TestOnlyALaneThatMayWorkIsGivenWork(t *testing.T) {
	t.Parallel()
	rich := big.NewInt(1e18)
	for _, row := range []struct {
		name  string
		spoil func(c *Chain, l *lane, now *time.Time)
		idle  bool
	}{
		{"it may", func(*Chain, *lane, *time.Time) {}, true},
		{"another replica has it", func(_ *Chain, l *lane, _ *time.Time) { l.epoch = 0 }, false},
		{"its lease ran out by our clock", func(_ *Chain, l *lane, now *time.Time) { l.until = *now }, false},
		{"its past is not gone through", func(_ *Chain, l *lane, _ *time.Time) { l.settled = false }, false},
		{"it works", func(_ *Chain, l *lane, _ *time.Time) { l.working = true }, false},
		{"it failed just now", func(_ *Chain, l *lane, now *time.Time) { l.restsUntil = now.Add(1) }, false},
		{"it failed a while ago", func(_ *Chain, l *lane, now *time.Time) { l.restsUntil = *now }, true},
		{"it is full", func(_ *Chain, l *lane, _ *time.Time) { l.open[1], l.open[2] = pending(1), pending(2) }, false},
		{"what it signed is mined", func(_ *Chain, l *lane, _ *time.Time) {
			l.open[1], l.open[2] = pending(1), pending(2)
			l.open[1].receipt = &chain.Receipt{}
			l.open[2].Transaction.State = payment.TxReplaced
		}, true},
		{"its signer failed", func(_ *Chain, l *lane, _ *time.Time) { l.fault.reason = "it fails" }, false},
		{"it is poor", func(_ *Chain, l *lane, _ *time.Time) { l.balance = big.NewInt(1) }, false},
		{"gas is too dear", func(c *Chain, _ *lane, _ *time.Time) { c.view.head.BaseFee = 100 }, false},
		{"the budget is spent", func(c *Chain, _ *lane, _ *time.Time) { c.spent = big.NewInt(1e18) }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, now := newChain(t, Config{MaxFeePerGas: 100, MaxGas: 100_000, MaxInFlight: 2, MaxSpendPerDay: 1e18, StallAfter: time.Minute})
			c.see(chain.Head{Number: 1, Hash: chain.Hash{1}, BaseFee: 5})
			l := withLane(c)
			l.balance = rich
			row.spoil(c, l, now)
			for id, tx := range l.open {
				tx.Transaction.Attempts = []payment.Attempt{{Hash: chain.Hash{byte(id)}}}
				tx.signedAt = *now
			}
			l.count()
			if got := c.idleLane() == l; got != row.idle {
				t.Errorf("it is given work: %t", got)
			}
		})
	}
}

func TestTheLaneWithMostRoomWorksFirst(t *testing.T) {
	t.Parallel()
	c, _ := newChain(t, Config{MaxFeePerGas: 100, MaxInFlight: 4, StallAfter: time.Minute})
	c.see(chain.Head{Number: 1, Hash: chain.Hash{1}, BaseFee: 5})
	withLane(c, pending(1, chain.Hash{1}), pending(2, chain.Hash{2})).balance = big.NewInt(1e18)
	roomy := withLane(c, pending(3, chain.Hash{3}))
	roomy.balance = big.NewInt(1e18)
	withLane(c, pending(4, chain.Hash{4}), pending(5, chain.Hash{5})).balance = big.NewInt(1e18)
	if got := c.idleLane(); got != roomy {
		t.Errorf("got %+v", got)
	}
}
