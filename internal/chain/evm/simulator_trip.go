package evm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/coalesce"
)

var (
	// errAggregate says that an aggregated call told nothing about its parts.
	errAggregate = errors.New("the aggregated call failed as a whole")
	// errNoAggregator is an errAggregate: nothing is there to be called.
	errNoAggregator = fmt.Errorf("%w: the chain has no Multicall3", errAggregate)
)

// trip is one round trip of simulations.
type trip struct {
	ms []Simulation
	qs []*query
	// top asks for the height; nil where it is asked for inside only.
	top    *query
	height hexutil.Uint64
	// inside: the first part of the aggregated call asks for the block's number, which
	// is there if told.
	inside, told bool
	number       uint64
	// together is the aggregated call, nil without one; calls are its parts, and at
	// is where in them a simulation's own begin.
	together *query
	answer   hexBytes
	calls    []Call3
	at       []int
	// outs and balances are of those that have calls of their own.
	outs, balances []hexBytes
	own, counted   []*query
	// sights are what was seen of those that are watched.
	sights  []hexBytes
	watched []*query
}

func newTrip(ms []Simulation, shared []bool, numbers int32) *trip {
	n := len(ms)
	t := &trip{
		ms: ms, at: make([]int, n), outs: make([]hexBytes, n), balances: make([]hexBytes, n),
		own: make([]*query, n), counted: make([]*query, n),
		sights: make([]hexBytes, n), watched: make([]*query, n),
	}
	t.qs = make([]*query, 0, n+3)
	t.inside = numbers != numbersOther && slices.Contains(shared, true)
	if numbers != numbersHeights || slices.Contains(shared, false) {
		t.top = &query{method: "eth_blockNumber", result: &t.height}
		t.qs = append(t.qs, t.top)
	}
	if t.inside {
		t.calls = append(t.calls, Call3{Target: Multicall3(), AllowFailure: true, Data: BlockNumberData()})
	}
	var frame Message
	for i := range ms {
		m := &ms[i]
		if shared[i] {
			frame.From, t.at[i] = m.From, len(t.calls)
			if !m.BalanceOf.IsZero() {
				t.calls = append(t.calls, Call3{Target: m.BalanceOf, AllowFailure: true, Data: BalanceOfData(m.Payer)})
			}
			t.calls = append(t.calls, Call3{Target: m.To, AllowFailure: true, Data: m.Data})
			continue
		}
		if !m.BalanceOf.IsZero() {
			view := Message{From: m.From, To: m.BalanceOf, Data: BalanceOfData(m.Payer), Gas: m.Gas}
			t.counted[i] = callQuery(view, &t.balances[i])
			t.qs = append(t.qs, t.counted[i])
		}
		t.own[i] = callQuery(m.Message, &t.outs[i])
		t.qs = append(t.qs, t.own[i])
		if m.Watched != nil {
			t.watched[i] = callQuery(m.Watched.message(m.Message), &t.sights[i])
			t.qs = append(t.qs, t.watched[i])
		}
	}
	if len(t.calls) > 0 {
		frame.To, frame.Data, frame.Gas = Multicall3(), Aggregate3Data(t.calls), sharedGas*uint64(len(t.calls)+1)
		t.together = callQuery(frame, &t.answer)
		if t.top == nil {
			t.together.inside = numberInside
		}
		t.qs = append(t.qs, t.together)
	}
	return t
}

// ask makes the round trip; the error is for all.
func (t *trip) ask(ctx context.Context, c *Client) error {
	err := c.ask(ctx, t.qs...)
	if t.top == nil && len(t.qs) == 1 { // its error is that of its only part
		return nil
	}
	if err == nil && t.top != nil {
		err = t.top.err
	}
	return notJudged(err)
}

// atLeast is the height that every call's state is at or above.
func (t *trip) atLeast() uint64 {
	if t.top != nil {
		return uint64(t.height)
	}
	return t.number
}

// numberInside is the block's number from the answer of an aggregated call that
// asks for it first.
func numberInside(answer []byte) (uint64, bool) {
	results, ok := DecodeAggregate3(answer)
	if !ok || len(results) == 0 || !results[0].Success {
		return 0, false
	}
	number, ok := DecodeUint256(results[0].Data)
	if !ok {
		return 0, false
	}
	return number.Uint64()
}

// aggregated are the results of all parts of the aggregated call.
func (t *trip) aggregated() ([]Call3Result, error) {
	if t.together == nil {
		return nil, nil
	}
	if _, reverted := IsRevert(t.together.err); reverted {
		return nil, errAggregate // one part has burned what the others needed
	}
	if t.together.err != nil {
		return nil, t.together.err
	}
	if len(t.answer) == 0 {
		return nil, errNoAggregator
	}
	results, ok := DecodeAggregate3(t.answer)
	if !ok || len(results) != len(t.calls) {
		return nil, errAggregate
	}
	if t.inside {
		t.number, t.told = numberInside(t.answer)
	}
	if t.top == nil && !t.told {
		return nil, errAggregate
	}
	return results, nil
}

func (t *trip) shared(results []Call3Result, i int, r *coalesce.Result[Simulated]) {
	at := t.at[i]
	if !t.ms[i].BalanceOf.IsZero() {
		if results[at].Success {
			r.Value.Balance, r.Value.Counted = DecodeUint256(results[at].Data)
		}
		at++
	}
	r.Value.OK = results[at].Success
}

func (t *trip) alone(i int, r *coalesce.Result[Simulated]) {
	if q := t.counted[i]; q != nil {
		if _, reverted := IsRevert(q.err); q.err != nil && !reverted {
			r.Err = q.err
			return
		}
		if q.err == nil {
			r.Value.Balance, r.Value.Counted = DecodeUint256(t.balances[i])
		}
	}
	if _, reverted := IsRevert(t.own[i].err); t.own[i].err != nil && !reverted {
		r.Err = t.own[i].err
		return
	}
	r.Value.OK = t.own[i].err == nil
	if q := t.watched[i]; q != nil && r.Value.OK {
		r.Value.Deed, r.Err = deedOf(q.err, t.sights[i])
	}
}
