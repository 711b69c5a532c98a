package relayer

import (
	"bytes"
	"math/big"
	"testing"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
)

func TestOnlyPlainCallsOfKnownTokensShareATransaction(t *testing.T) {
	t.Parallel()
	known, other := chain.Address{1}, chain.Address{2}
	plain := payment.Payment{ID: "p", Terms: payment.Terms{Asset: known, Call: chain.Call{To: known}}}
	for _, row := range []struct {
		name   string
		change func(c *Chain, p *payment.Payment)
		want   bool
	}{
		{"a plain one", func(*Chain, *payment.Payment) {}, true},
		{"a token that is not listed", func(_ *Chain, p *payment.Payment) { p.Terms.Asset, p.Terms.Call.To = other, other }, false},
		{"a call of something else, which calls the token", func(_ *Chain, p *payment.Payment) { p.Terms.Call.To = other }, false},
		{"a call of a listed token that pays another one", func(_ *Chain, p *payment.Payment) { p.Terms.Asset = other }, false},
		{"one that a transaction did not settle", func(_ *Chain, p *payment.Payment) { p.Tries = 1 }, false},
		{"one that could not share before", func(c *Chain, _ *payment.Payment) { c.solo["p"] = true }, false},
		{"another one could not share", func(c *Chain, _ *payment.Payment) { c.solo["q"] = true }, true},
		{"no token is listed", func(c *Chain, _ *payment.Payment) { c.Config.BatchAssets = nil }, false},
	} {
		c, _ := newChain(t, Config{BatchAssets: []chain.Address{known}})
		p := plain
		row.change(c, &p)
		if got := c.mayShare(&p); got != row.want {
			t.Errorf("%s: %t", row.name, got)
		}
	}
}

func TestOnePaymentIsCalledItselfAndManyThroughTheAggregator(t *testing.T) {
	t.Parallel()
	aggregator, token := chain.Address{0xca}, chain.Address{1}
	c, _ := newChain(t, Config{Aggregator: aggregator, GasPerPayment: 100_000, MaxGas: 150_000})
	ps := make([]payment.Payment, 3)
	calls := make([]evm.Call3, len(ps))
	for i := range ps {
		ps[i].Terms.Call = chain.Call{To: token, Data: []byte{byte(i)}}
		calls[i] = evm.Call3{Target: token, AllowFailure: true, Data: []byte{byte(i)}}
	}
	call, gas := c.callOf(ps[:1])
	if call.To != token || !bytes.Equal(call.Data, []byte{0}) || gas != 150_000 { // the rule gives 160,000
		t.Errorf("one: %+v with gas %d", call, gas)
	}
	call, gas = c.callOf(ps)
	if call.To != aggregator || !bytes.Equal(call.Data, evm.Aggregate3Data(calls)) || gas != batchBase+300_000 {
		t.Errorf("three: to %s with gas %d", call.To, gas)
	}
}

func TestGasIsByRuleUntilReceiptsShowMore(t *testing.T) {
	t.Parallel()
	const rule = 100_000
	var g gasRule
	want := func(when string, direct, each uint64) {
		t.Helper()
		if got := g.direct(rule); got != direct {
			t.Errorf("%s: %d alone, want %d", when, got, direct)
		}
		if got := g.perPayment(rule); got != each {
			t.Errorf("%s: %d each, want %d", when, got, each)
		}
		if got := g.batch(rule, 4); got != batchBase+4*each {
			t.Errorf("%s: %d for four, want %d", when, got, batchBase+4*each)
		}
	}
	want("nothing is known", batchBase+rule, rule)
	g.learn(90_000, 1)
	g.learn(batchBase/2+4*50_000, 4)
	want("little was used", batchBase+rule, rule)
	g.learn(200_000, 1)
	want("much was used alone", 300_000, rule)
	g.learn(batchBase/2+2*150_000, 2)
	want("much was used in a batch", 300_000, 225_000)
	g.learn(90_000, 1)
	g.learn(batchBase/2+2*50_000, 2)
	if got := g.direct(rule); got < 299_000 || got >= 300_000 {
		t.Errorf("%d alone after one that used less", got)
	}
	for range 5000 {
		g.learn(90_000, 1)
		g.learn(batchBase/2+2*50_000, 2)
	}
	want("an outlier is forgotten", batchBase+rule, rule)
}

func TestABatchFitsItsTransactionItsBlockAndItsLanesBalance(t *testing.T) {
	t.Parallel()
	const price = 10 // per gas: twice the base fee
	gasMoney := func(gas uint64) *big.Int { return new(big.Int).SetUint64(gas * price) }
	for _, row := range []struct {
		name    string
		change  func(c *Chain)
		balance *big.Int
		want    int
	}{
		{"the configured most", func(*Chain) {}, gasMoney(1e12), 25},
		{"by a transaction's gas", func(c *Chain) { c.Config.MaxTxGas = batchBase + 999_999 }, gasMoney(1e12), 9},
		{"just two", func(c *Chain) { c.Config.MaxTxGas = batchBase + 200_000 }, gasMoney(1e12), 2},
		{"not two", func(c *Chain) { c.Config.MaxTxGas = batchBase + 199_999 }, gasMoney(1e12), 1},
		{"by a block's share", func(c *Chain) { c.view.head.GasLimit = 10_600_000 }, gasMoney(1e12), 10},
		{"the node tells no block gas", func(c *Chain) { c.view.head.GasLimit = 0 }, gasMoney(1e12), 25},
		{"by the balance", func(*Chain) {}, gasMoney(batchBase + 799_999), 7},
		{"a balance for one", func(*Chain) {}, gasMoney(150_000), 1},
		{"a balance beyond counting", func(*Chain) {}, new(big.Int).Lsh(big.NewInt(1), 200), 25},
		{"as receipts show", func(c *Chain) {
			c.Config.MaxTxGas = batchBase + 1_000_000
			c.gas.learn(batchBase/2+2*100_000, 2) // 150,000 each
		}, gasMoney(1e12), 6},
		{"by what is open", func(c *Chain) {
			tx := pending(1, chain.Hash{1})
			tx.Transaction.Attempts[0].GasLimit, tx.Transaction.Attempts[0].Fees.FeeCap = 1_000_000, price
			c.lanes[0].open[1] = tx
		}, gasMoney(1_000_000 + batchBase + 300_000), 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, _ := newChain(t, Config{
				MaxBatch: 25, MaxTxGas: 1 << 24, BlockShare: 10, GasPerPayment: 100_000, MaxGas: 100_000, MaxFeePerGas: 1000,
			})
			c.see(chain.Head{Number: 1, Hash: chain.Hash{1}, BaseFee: price / 2, GasLimit: 60_000_000})
			l := withLane(c)
			l.balance = row.balance
			row.change(c)
			l.count()
			if got := c.mostPayments(l); got != row.want {
				t.Errorf("%d payments, want %d", got, row.want)
			}
		})
	}
}
