package evm

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"facilitator/internal/chain"
	"facilitator/internal/coalesce"
	"facilitator/internal/x402"
)

const (
	// maxShared bounds the simulations that share a round trip.
	maxShared = 64
	// maxShares is how many such round trips may be under way at a time, and
	// crowdShares how many where crowd simulations wait for each of them.
	maxShares, crowd, crowdShares = 4, 2, 16
	// sharedGas is what each call of an aggregated eth_call adds to its gas: several
	// times what a known token needs, and 16 million for a full one.
	sharedGas = 250_000
)

// Simulation is a transfer that is to be tried on the latest state.
type Simulation struct {
	Message
	// Payer and Payee are the accounts whose balances it moves.
	Payer, Payee chain.Address
	// Sharable: as far as is known no code runs in it but that of a token that
	// behaves, so it may run in one eth_call with others.
	Sharable bool
	// BalanceOf is a token of which Payer's balance is asked for as well, as it is
	// before the transfer; zero for none.
	BalanceOf chain.Address
	// Watched is the transfer that the call is to make, if it is to be looked at
	// what the call does; nil where its success is enough. It is not shared then.
	Watched *Watched
}

// Simulated is what a simulation showed.
type Simulated struct {
	// OK: it succeeds. If not, nothing is proven: it may have failed for the
	// company it had.
	OK bool
	// AtLeast is a height that the state asked is at or above.
	AtLeast uint64
	// Balance in atomic units, where it was asked for and Counted.
	Balance x402.Uint256
	Counted bool
	// Deed is what a call was seen to do that was watched and succeeds; nil on a
	// chain without Multicall3, where nobody can watch.
	Deed *Deed
}

// Simulator tries transfers of many callers together: while some round trips are
// under way, what comes waits and then shares one. Those that are sharable are
// one eth_call, by way of Multicall3; since the state carries over from one call
// in it to the next, none may move a balance that another spends. The others have
// a call each, with a state of their own. It is safe for concurrent use.
type Simulator struct {
	client  *Client
	group   *coalesce.Group[Simulation, Simulated]
	wallets *coalesce.Group[WalletQuestion, WalletAnswer]
	// apart is set once the chain turned out to have no Multicall3.
	apart atomic.Bool
	// numbers is what block.number is to this chain's code.
	numbers atomic.Int32
}

// What block.number is to code: the height on most chains, and the height of
// another chain on some, like Arbitrum. Which it is is learned.
const (
	numbersUnknown int32 = iota
	numbersHeights
	numbersOther
)

// strange is how far apart two heights that are told in one round trip never are.
const strange = 10_000

// NewSimulator asks by way of client.
func NewSimulator(client *Client) *Simulator {
	s := &Simulator{client: client}
	s.group = coalesce.New(maxShared, maxShares, s.run).Crowded(crowd, crowdShares)
	s.wallets = coalesce.New(maxShared/2, maxShares, client.walletsTogether).Crowded(crowd, crowdShares)
	return s
}

// Simulate tries one transfer, in company. The error is always of the third kind
// (I7); if ctx ends first it wraps its cause.
func (s *Simulator) Simulate(ctx context.Context, m Simulation) (Simulated, error) {
	out, err := s.group.Do(ctx, m)
	return out, unavailable(err)
}

// Wallet is Client.Wallet, in company.
func (s *Simulator) Wallet(ctx context.Context, q WalletQuestion) (WalletAnswer, error) {
	out, err := s.wallets.Do(ctx, q)
	return out, unavailable(err)
}

// unavailable makes an error of the third kind of a caller's own end.
func unavailable(err error) error {
	if err != nil && !errors.Is(err, chain.ErrUnavailable) {
		return fmt.Errorf("%w: %w", chain.ErrUnavailable, err)
	}
	return err
}

// run tries simulations in one round trip. Where the aggregated call told nothing
// about its parts, those take a second one, each by itself.
func (s *Simulator) run(ctx context.Context, ms []Simulation) []coalesce.Result[Simulated] {
	shared := make([]bool, len(ms))
	if !s.apart.Load() {
		shared = sharing(ms)
	}
	results, told := s.try(ctx, ms, shared)
	if told {
		return results
	}
	var again []Simulation
	var places []int
	for i := range ms {
		if shared[i] {
			again, places = append(again, ms[i]), append(places, i)
		}
	}
	alone, _ := s.try(ctx, again, make([]bool, len(again)))
	for k, i := range places {
		results[i] = alone[k]
	}
	return results
}

// sharing picks those that may run one after the other on one state.
func sharing(ms []Simulation) []bool {
	shared := make([]bool, len(ms))
	payers, payees := make(map[chain.Address]bool), make(map[chain.Address]bool)
	for i := range ms {
		m := &ms[i]
		if !m.Sharable || m.Watched != nil || payers[m.Payer] || payees[m.Payer] || payers[m.Payee] {
			continue
		}
		shared[i] = true
		payers[m.Payer], payees[m.Payee] = true, true
	}
	return shared
}

// try asks for the height as well: before the calls, so that it is at most that of
// every call's state, or inside of the aggregated call where that is all there is.
// told is false where the aggregated call failed as a whole.
func (s *Simulator) try(ctx context.Context, ms []Simulation, shared []bool) (results []coalesce.Result[Simulated], told bool) {
	t := newTrip(ms, shared, s.numbers.Load())
	if len(t.qs) > maxBatch {
		half := len(ms) / 2
		first, toldFirst := s.try(ctx, ms[:half], shared[:half])
		second, toldSecond := s.try(ctx, ms[half:], shared[half:])
		return append(first, second...), toldFirst && toldSecond
	}
	results = make([]coalesce.Result[Simulated], len(ms))
	if err := t.ask(ctx, s.client); err != nil {
		for i := range results {
			results[i].Err = err
		}
		return results, true
	}
	together, err := t.aggregated()
	if errors.Is(err, errNoAggregator) {
		s.apart.Store(true)
	}
	if err == nil && t.inside {
		s.learn(t)
	}
	told = true
	for i := range ms {
		r := &results[i]
		r.Value.AtLeast = t.atLeast()
		switch {
		case !shared[i]:
			t.alone(i, r)
		case err == nil:
			t.shared(together, i, r)
		case errors.Is(err, errAggregate):
			told = false
		default:
			r.Err = err
		}
	}
	return results, told
}

// learn compares what code sees as the block's number with the height that the
// node told before. That they are the same is shown by one trip in which no block
// came between; a node that counts from the next block never shows it.
func (s *Simulator) learn(t *trip) {
	if t.top == nil || s.numbers.Load() != numbersUnknown {
		return
	}
	height := uint64(t.height)
	switch apart := max(height, t.number) - min(height, t.number); {
	case !t.told || apart > strange:
		s.numbers.Store(numbersOther)
	case apart == 0:
		s.numbers.Store(numbersHeights)
	}
}
