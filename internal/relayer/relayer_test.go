package relayer

import (
	"errors"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
)

// newChain is a chain at rest, with a clock that the test turns.
func newChain(t *testing.T, cfg Config) (*Chain, *time.Time) {
	t.Helper()
	now := time.Unix(1_800_000_000, 0)
	c := New(Deps{
		Config: cfg, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
		Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	c.fault = nil
	return c, &now
}

func TestFeesHaveHeadRoomWithinTheCaps(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name         string
		base, tip    uint64
		feeCap, most uint64 // configured: fee per gas, tip
		want         chain.Fees
	}{
		{"twice the base fee and the tip", 100, 7, 1000, 50, chain.Fees{FeeCap: 207, TipCap: 7}},
		{"the node's tip is capped", 100, 70, 1000, 50, chain.Fees{FeeCap: 250, TipCap: 50}},
		{"the fee is capped", 600, 7, 1000, 50, chain.Fees{FeeCap: 1000, TipCap: 7}},
		{"the tip is never above the fee", 0, 500, 40, 50, chain.Fees{FeeCap: 40, TipCap: 40}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, _ := newChain(t, Config{MaxFeePerGas: row.feeCap, MaxTip: row.most})
			c.tip = row.tip
			c.see(chain.Head{Number: 1, BaseFee: row.base})
			if got := c.fees(); got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
}

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

func TestSuccessAtADepthNeedsALookAtThatLength(t *testing.T) {
	t.Parallel()
	c, _ := newChain(t, Config{Confirmations: 3})
	c.see(chain.Head{Number: 50}) // under which nobody looked for a block
	for _, row := range []struct {
		checked uint64
		level   payment.Level
		want    uint64
	}{
		{0, payment.Level{}, 0},
		{1, payment.Level{}, 0},
		{2, payment.Level{}, 0},
		{12, payment.Level{}, 10},
		{12, payment.Blocks(5), 8},
		{12, payment.Blocks(13), 0},
		{12, payment.Blocks(9999), 0},
		{12, payment.Blocks(1), math.MaxInt64},
		{12, level(t, "safe"), 0},
		{12, level(t, "finalized"), 0},
		{12, level(t, "submitted"), 0},
	} {
		c.checked = row.checked
		if got := c.SettledUpTo(row.level); got != row.want {
			t.Errorf("looked under %d: %q is settled up to %d, want %d", row.checked, row.level, got, row.want)
		}
	}
	if got := c.DefaultLevel().String(); got != "3" {
		t.Errorf("default level %s", got)
	}
}

func level(t *testing.T, text string) payment.Level {
	t.Helper()
	l, err := payment.ParseLevel(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestReadyTellsWhyNot(t *testing.T) {
	t.Parallel()
	c, now := newChain(t, Config{MaxFeePerGas: 100, MaxQueued: 10})
	c.see(chain.Head{Number: 1, BaseFee: 5})
	for _, row := range []struct {
		name  string
		spoil func()
	}{
		{"no lane has gas", func() {}},
		{"the base fee is above the cap", func() { c.see(chain.Head{Number: 2, BaseFee: 100}) }},
		{"the queue is full", func() { c.queued = 10 }},
		{"the node is silent", func() { *now = now.Add(staleHead + time.Second) }},
		{"the node is of another chain", func() { c.fault = ErrWrongChain }},
	} {
		row.spoil()
		if err := c.Ready(); !errors.Is(err, chain.ErrNotReady) {
			t.Errorf("%s: %v", row.name, err)
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
	if !d.due("b", now) || d.waiting(now) != 1 {
		t.Error("others wait too")
	}
	for range 20 {
		d.add("a", now)
	}
	if !d.due("a", now.Add(maxDeferral)) {
		t.Error("deferred for longer than the most")
	}
	if d.waiting(now.Add(maxDeferral+forgetDeferral+1)) != 0 || len(d) != 0 {
		t.Error("never forgotten")
	}
}

func TestAReceiptOfAnyAttemptCounts(t *testing.T) {
	t.Parallel()
	first, second := chain.Hash{1}, chain.Hash{2}
	carried := payment.Carried{Transaction: payment.Transaction{Attempts: []payment.Attempt{{Hash: first}, {Hash: second}}}}
	mined := &chain.Receipt{TxHash: first}
	if r, unknown := lookup(carried, map[chain.Hash]evm.Lookup{first: {Receipt: mined}, second: {Unknown: true}}); r != mined || unknown {
		t.Errorf("the older attempt's receipt was not seen: %+v %t", r, unknown)
	}
	if r, unknown := lookup(carried, map[chain.Hash]evm.Lookup{first: {}, second: {Unknown: true}}); r != nil || !unknown {
		t.Error("a doubtful attempt was taken for unmined: its bytes would be sent again")
	}
}
