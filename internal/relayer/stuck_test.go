package relayer

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

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
			c.view.tip = row.tip
			c.see(chain.Head{Number: 1, BaseFee: row.base})
			if got := c.fees(); got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
}

func TestAReplacementPaysAnEighthMoreOfBothWithinTheCaps(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		last      chain.Fees
		base, tip uint64 // what the chain says now
		want      chain.Fees
		ok        bool
	}{
		{"the chain asks for less", chain.Fees{FeeCap: 800, TipCap: 80}, 10, 8, chain.Fees{FeeCap: 901, TipCap: 91}, true},
		{"the chain asks for more", chain.Fees{FeeCap: 800, TipCap: 80}, 4000, 200, chain.Fees{FeeCap: 8200, TipCap: 200}, true},
		{"it asks for a higher fee only", chain.Fees{FeeCap: 800, TipCap: 80}, 4000, 8, chain.Fees{FeeCap: 8008, TipCap: 91}, true},
		{"small numbers round up", chain.Fees{FeeCap: 7, TipCap: 7}, 0, 0, chain.Fees{FeeCap: 8, TipCap: 8}, true},
		{"there was no tip", chain.Fees{FeeCap: 800, TipCap: 0}, 0, 0, chain.Fees{FeeCap: 901, TipCap: 1}, true},
		{"the tip is never above the fee", chain.Fees{FeeCap: 10, TipCap: 10}, 0, 900, chain.Fees{FeeCap: 900, TipCap: 900}, true},
		{"up to the fee's cap", chain.Fees{FeeCap: 8888, TipCap: 80}, 0, 0, chain.Fees{FeeCap: 10_000, TipCap: 91}, true},
		{"beyond the fee's cap", chain.Fees{FeeCap: 8889, TipCap: 80}, 0, 0, chain.Fees{}, false},
		{"up to the tip's cap", chain.Fees{FeeCap: 2000, TipCap: 888}, 0, 0, chain.Fees{FeeCap: 2251, TipCap: 1000}, true},
		{"beyond the tip's cap, which is for new transactions", chain.Fees{FeeCap: 2000, TipCap: 889}, 0, 0, chain.Fees{FeeCap: 2251, TipCap: 1001}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, _ := newChain(t, Config{MaxFeePerGas: 10_000, MaxTip: 1000})
			c.view.tip = row.tip
			c.see(chain.Head{Number: 1, BaseFee: row.base})
			got, ok := c.bumped(row.last)
			if ok != row.ok || ok && got != row.want {
				t.Errorf("got %+v %t, want %+v %t", got, ok, row.want, row.ok)
			}
			if got.FeeCap*8 < row.last.FeeCap*9 || got.TipCap*8 < row.last.TipCap*9 {
				t.Errorf("%+v is less than an eighth above %+v", got, row.last)
			}
		})
	}
}

func TestAChainWithoutTipsCanStillBeOutbid(t *testing.T) {
	t.Parallel()
	c, _ := newChain(t, Config{MaxFeePerGas: 10_000, MaxTip: 0})
	if got, ok := c.bumped(chain.Fees{FeeCap: 800}); !ok || got != (chain.Fees{FeeCap: 901, TipCap: 1}) {
		t.Errorf("got %+v %t", got, ok)
	}
}

func TestFeesAreRaisedOnlyWhereThatCanHelp(t *testing.T) {
	t.Parallel()
	const stall = time.Minute
	block := func(n byte, base, used uint64) chain.Head {
		return chain.Head{Number: uint64(n), Hash: chain.Hash{n}, BaseFee: base, GasUsed: used, GasLimit: 1000}
	}
	for _, row := range []struct {
		name   string
		heads  []chain.Head  // seen one second apart after it was signed
		before []chain.Head  // seen before
		later  time.Duration // looked at that much later
		want   bool
	}{
		{"no block since", nil, []chain.Head{block(1, 10, 500)}, time.Second, false},
		{"the same block again", []chain.Head{block(1, 10, 500)}, []chain.Head{block(1, 10, 500)}, time.Second, false},
		{"blocks are empty and the fee suffices", []chain.Head{block(2, 100, 0), block(3, 100, 10)}, []chain.Head{block(1, 10, 500)}, time.Second, false},
		{"blocks are empty, but it is priced out", []chain.Head{block(2, 101, 0)}, nil, time.Second, true},
		{"others are included", []chain.Head{block(2, 10, 11)}, nil, time.Second, true},
		{"others were included since", []chain.Head{block(2, 10, 11), block(3, 10, 0)}, nil, time.Second, true},
		{"it is priced out, but no block since", nil, []chain.Head{block(1, 101, 500)}, time.Second, false},
		{"the chain stands still by now", []chain.Head{block(2, 101, 500)}, nil, stall, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, now := newChain(t, Config{StallAfter: stall})
			l := withLane(c)
			for _, h := range row.before {
				c.see(h)
			}
			since := *now
			for _, h := range row.heads {
				*now = now.Add(time.Second)
				c.see(h)
			}
			*now = now.Add(row.later)
			got := c.includes(t.Context(), l, payment.Attempt{Fees: chain.Fees{FeeCap: 100}}, since)
			if got != row.want {
				t.Errorf("may help: %t", got)
			}
			if frozen := counted(t, c.Metrics.frozen); (frozen == 1) == got {
				t.Errorf("counted as frozen %v times", frozen)
			}
		})
	}
}

// counted is the sum of a counter.
func counted(t *testing.T, counter *prometheus.CounterVec) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(counter)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			sum += metric.GetCounter().GetValue()
		}
	}
	return sum
}

func TestATransactionIsOverWhenAllItsPaymentsAre(t *testing.T) {
	t.Parallel()
	until := func(seconds ...uint64) []*payment.Payment {
		var ps []*payment.Payment
		for _, s := range seconds {
			ps = append(ps, &payment.Payment{Terms: payment.Terms{ValidBefore: x402.NewUint256(s)}})
		}
		return ps
	}
	for _, row := range []struct {
		name string
		ps   []*payment.Payment
		want bool
	}{
		{"all are", until(99, 100), true},
		{"one is not", until(99, 101), false},
		{"none is", until(101), false},
	} {
		if got := allExpired(row.ps, 100); got != row.want {
			t.Errorf("%s: %t", row.name, got)
		}
	}
}

func TestAWalletNonceIsGivenUpOnlyAfterALookOfItsOwn(t *testing.T) {
	t.Parallel()
	c, now := newChain(t, Config{ResendInterval: 5 * time.Second})
	tx, above := pending(7, chain.Hash{7}), pending(8, chain.Hash{8})
	l := withLane(c, tx, above)
	gone := func() int { return len(l.passed([]*openTx{tx, above})) }
	l.nonce = 7 // the next one is its own
	if gone() != 0 || !tx.passedAt.IsZero() {
		t.Error("a transaction that is next was given up")
	}
	l.nonce = 8
	tx.looked = *now
	if gone() != 0 {
		t.Error("given up at the first sight")
	}
	if !tx.looked.IsZero() || !above.passedAt.IsZero() {
		t.Error("it is not asked about again, or the next one is")
	}
	step := func() time.Time { *now = now.Add(time.Second); return *now }
	tx.looked = step()
	if gone() != 0 {
		t.Error("given up though the nonce was not read again since the receipt was missed")
	}
	tx.looked = step()
	if gone() != 0 {
		t.Error("given up though the nonce was read before the receipt was missed")
	}
	l.readAt = step()
	if gone() != 0 || !tx.looked.IsZero() {
		t.Error("given up though its receipt was not asked for since the nonce was read again")
	}
	tx.looked = step()
	if gone() != 1 {
		t.Error("never given up")
	}
	l.nonce = 7 // the chain went back
	if gone() != 0 || !tx.passedAt.IsZero() {
		t.Error("given up though its wallet nonce is free again")
	}
	l.nonce = 8
	if gone() != 0 {
		t.Error("given up at the first sight after the chain went back")
	}
}

// TestATransactionThatPaidTheTipsCapCanStillBeOutbid: the node asks for the
// configured cap or more, and then the base fee jumps.
func TestATransactionThatPaidTheTipsCapCanStillBeOutbid(t *testing.T) {
	t.Parallel()
	c, _ := newChain(t, Config{MaxFeePerGas: 100_000, MaxTip: 1000})
	c.view.tip = 1000
	c.see(chain.Head{Number: 1, BaseFee: 100})
	first := c.fees()
	c.see(chain.Head{Number: 2, BaseFee: 2000})
	if fees, ok := c.bumped(first); !ok || fees.FeeCap < 2000 {
		t.Errorf("with %+v signed and a base fee of 2000: %+v, %t", first, fees, ok)
	}
}
