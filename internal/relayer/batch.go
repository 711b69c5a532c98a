package relayer

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
)

// maxTries bounds the transactions one payment may cost us (I8).
const maxTries = 3

// doubt is a queued payment for which no transaction could be prepared.
type doubt struct {
	payment payment.Payment
	// err is nil where the payment's own call would fail, or where it had its
	// tries: the chain is to be asked why.
	err error
	// reverts is what the call said as it would be sent, where it was asked for the
	// gas that this takes.
	reverts string
}

// prepare makes orders of the payments a lane has taken, for room transactions at
// most: those that may share a transaction share one, the others go alone.
// Everything is simulated on the latest state as it would be sent, sender and
// gas limit included, so what would fail costs nothing.
func (l *lane) prepare(ctx context.Context, ps []payment.Payment, room int) (orders []payment.Order, doubts []doubt) {
	var shared, alone []payment.Payment
	for _, p := range ps {
		switch {
		case p.Tries >= maxTries:
			doubts = append(doubts, doubt{payment: p})
		case l.chain.mayShare(&p):
			shared = append(shared, p)
		default:
			alone = append(alone, p)
		}
	}
	if len(shared) > 0 {
		together, apart, doubtful := l.prepareShared(ctx, shared)
		if together != nil {
			orders = append(orders, *together)
		}
		alone, doubts = append(alone, apart...), append(doubts, doubtful...)
	}
	// Those beyond the room stay queued.
	alone = alone[:max(0, min(len(alone), room-len(orders)))]
	made := make([]*payment.Order, len(alone))
	reverts := make([]string, len(alone))
	failed := make([]error, len(alone))
	var work sync.WaitGroup
	for i := range alone {
		work.Go(func() { made[i], reverts[i], failed[i] = l.prepareAlone(ctx, &alone[i]) })
	}
	work.Wait()
	for i, o := range made {
		if o == nil {
			doubts = append(doubts, doubt{payment: alone[i], err: failed[i], reverts: reverts[i]})
			continue
		}
		orders = append(orders, *o)
	}
	return orders, doubts
}

// mayShare says whether a payment's call may stand in a transaction with others:
// a token that is known to behave is called, by nobody's code but its own. That
// the payer has no code is asked when it is simulated. One that a transaction
// did not settle before goes alone.
func (c *Chain) mayShare(p *payment.Payment) bool {
	c.mu.Lock()
	solo := c.solo[p.ID]
	c.mu.Unlock()
	return !solo && p.Tries == 0 && p.Terms.Call.To == p.Terms.Asset && slices.Contains(c.Config.BatchAssets, p.Terms.Asset)
}

// prepareShared simulates payments together. Payers with code are told apart:
// their code runs in the transaction, and could burn what the others need.
func (l *lane) prepareShared(ctx context.Context, ps []payment.Payment) (order *payment.Order, apart []payment.Payment, doubts []doubt) {
	// A second look is needed where the first one ran foreign code.
	for range 2 {
		good, coded, bad, err := l.simulate(ctx, ps)
		if err != nil {
			for _, p := range ps {
				doubts = append(doubts, doubt{payment: p, err: err})
			}
			return nil, apart, doubts
		}
		apart = append(apart, coded...)
		if len(coded) > 0 {
			if ps = append(good, bad...); len(ps) == 0 {
				return nil, apart, doubts
			}
			continue
		}
		for _, p := range bad {
			doubts = append(doubts, doubt{payment: p})
		}
		if len(good) == 0 {
			return nil, apart, doubts
		}
		call, limit := l.chain.callOf(good)
		o := l.order(good, call, limit)
		return &o, apart, doubts
	}
	return nil, apart, doubts // their payers change too fast; they are taken again
}

// callOf is the transaction that carries payments, with its gas limit.
func (c *Chain) callOf(ps []payment.Payment) (chain.Call, uint64) {
	if len(ps) == 1 {
		return ps[0].Terms.Call, min(c.gas.direct(c.Config.GasPerPayment), c.Config.MaxGas)
	}
	calls := make([]evm.Call3, len(ps))
	for i := range ps {
		calls[i] = evm.Call3{Target: ps[i].Terms.Call.To, AllowFailure: true, Data: ps[i].Terms.Call.Data}
	}
	return chain.Call{To: c.Config.Aggregator, Data: evm.Aggregate3Data(calls)}, c.gas.batch(c.Config.GasPerPayment, len(ps))
}

// simulate runs what would be sent for payments, in one round trip, and tells
// those that succeed, those whose payers have code, and those that fail.
func (l *lane) simulate(ctx context.Context, ps []payment.Payment) (good, coded, bad []payment.Payment, _ error) {
	payers := make([]chain.Address, 0, len(ps))
	for i := range ps {
		if a := ps[i].Terms.Key.Payer; !slices.Contains(payers, a) {
			payers = append(payers, a)
		}
	}
	call, limit := l.chain.callOf(ps)
	seen, err := l.chain.Node.CallWithCode(ctx, evm.Message{From: l.signer.Address(), To: call.To, Data: call.Data, Gas: limit}, payers)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("simulate: %w", err)
	}
	succeeds := func(int) bool { return seen.CallErr == nil }
	if len(ps) > 1 && seen.CallErr == nil {
		results, ok := evm.DecodeAggregate3(seen.Data)
		if !ok || len(results) != len(ps) {
			return nil, nil, nil, fmt.Errorf("simulate: %w: the aggregator's answer is not of its form", chain.ErrUnavailable)
		}
		succeeds = func(i int) bool { return results[i].Success }
	}
	for i, p := range ps {
		switch {
		case seen.HasCode[p.Terms.Key.Payer]:
			coded = append(coded, p)
		case succeeds(i):
			good = append(good, p)
		default:
			bad = append(bad, p)
		}
	}
	return good, coded, bad, nil
}

// prepareAlone prepares a transaction of its own, for which the gas is estimated:
// foreign code may run in it. No order and no error says that the call would fail,
// and what it said.
func (l *lane) prepareAlone(ctx context.Context, p *payment.Payment) (_ *payment.Order, reverts string, _ error) {
	c, call := l.chain, p.Terms.Call
	gas, err := c.Node.EstimateGas(ctx, evm.Message{From: l.signer.Address(), To: call.To, Data: call.Data, Gas: c.Config.MaxGas})
	if revert, reverted := evm.IsRevert(err); reverted {
		return nil, revert.Message, nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("estimate: %w", err)
	}
	o := l.order([]payment.Payment{*p}, call, min(gas+gas*c.Config.GasMarginPercent/100, c.Config.MaxGas))
	return &o, "", nil
}

func (l *lane) order(ps []payment.Payment, call chain.Call, limit uint64) payment.Order {
	fees := l.chain.fees()
	return payment.Order{Payments: ps, Sign: func(ctx context.Context, walletNonce uint64) (payment.Attempt, error) {
		return l.sign(ctx, evm.Unsigned{Call: call, WalletNonce: walletNonce, GasLimit: limit, Fees: fees})
	}}
}
