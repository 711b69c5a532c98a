package evm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/chain"
)

// TestCallersShareATrip: what comes while trips are under way goes together,
// and each gets its own verdict.
func TestCallersShareATrip(t *testing.T) {
	t.Parallel()
	const n = maxShares + maxShared + 3
	entered, proceed := make(chan struct{}, n), make(chan struct{})
	answer := node(func(method string, params []json.RawMessage) (any, *nodeError) {
		if method == "eth_blockNumber" {
			return "0x2a", nil
		}
		var call struct{ Input string }
		if err := json.Unmarshal(params[0], &call); err != nil {
			t.Error(err)
		}
		if strings.HasSuffix(call.Input, "7") {
			return nil, &nodeError{Code: 3, Message: "execution reverted"}
		}
		return call.Input, nil
	})
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-proceed
		answer.ServeHTTP(w, r)
	}))
	s := NewSimulator(client)
	var callers, queued sync.WaitGroup
	queued.Add(n)
	call := func(i int) {
		callers.Go(func() {
			data := []byte{1, byte(i)}
			got, err := s.Simulate(Waiting(t.Context(), sync.OnceFunc(queued.Done)), Simulation{Message: Message{Data: data}})
			if err != nil || got.OK == (i%16 == 7) || got.AtLeast != 42 || got.Counted {
				t.Errorf("%d: %+v, %v", i, got, err)
			}
		})
	}
	for i := range maxShares {
		call(i)
		<-entered
	}
	for i := maxShares; i < n; i++ {
		call(i)
	}
	queued.Wait()
	close(proceed)
	callers.Wait()
	// How many a trip takes is up to the scheduler. At most crowdShares are under
	// way, and whoever waits when they end fits into one more.
	if trips := maxShares + len(entered); trips > crowdShares+1 {
		t.Errorf("%d callers took %d trips", n, trips)
	}
}

func TestATripThatFailsTellsNobodyAnything(t *testing.T) {
	t.Parallel()
	for name, height := range map[string]*nodeError{
		"no height":             {Code: -32005, Message: "limit exceeded"},
		"a height that reverts": {Code: 3, Message: "execution reverted"},
	} {
		client := serve(t, node(func(method string, _ []json.RawMessage) (any, *nodeError) {
			if method == "eth_blockNumber" {
				return nil, height
			}
			return "0x01", nil
		}))
		if got, err := NewSimulator(client).Simulate(t.Context(), Simulation{}); !errors.Is(err, chain.ErrUnavailable) || got.OK {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestACallerWhoLeavesIsNotKept(t *testing.T) {
	t.Parallel()
	client, asked, release := waiting(t)
	s := NewSimulator(client)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	done := make(chan error, 1)
	go func() {
		_, err := s.Simulate(ctx, Simulation{})
		done <- err
	}()
	<-asked
	cancel(gone)
	if err := <-done; !errors.Is(err, chain.ErrUnavailable) || !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
	release()
}

// TestTheHeightIsAskedBeforeTheCalls: it must be at most that of their state.
func TestTheHeightIsAskedBeforeTheCalls(t *testing.T) {
	t.Parallel()
	var asked []string
	client, trips := counted(t, func(method string, _ []json.RawMessage) (any, *nodeError) {
		asked = append(asked, method)
		if method == "eth_blockNumber" {
			return "0x1", nil
		}
		return "0x01", nil
	})
	for i, r := range NewSimulator(client).run(t.Context(), []Simulation{{}, {}}) {
		if r.Err != nil || r.Value.AtLeast != 1 || !r.Value.OK {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if got := fmt.Sprint(asked); got != "[eth_blockNumber eth_call eth_call]" || trips.Load() != 1 {
		t.Errorf("asked %s in %d trips", got, trips.Load())
	}
}

func TestNoTransferSharesAStateThatAnotherChanges(t *testing.T) {
	t.Parallel()
	pay := func(from, to byte) Simulation {
		return Simulation{Payer: chain.Address{from}, Payee: chain.Address{to}, Sharable: true}
	}
	apart := pay(9, 8)
	apart.Sharable = false
	for _, row := range []struct {
		name string
		ms   []Simulation
		want []bool
	}{
		{"different payers, one payee", []Simulation{pay(1, 7), pay(2, 7), pay(3, 7)}, []bool{true, true, true}},
		{"two of one payer", []Simulation{pay(1, 7), pay(1, 8), pay(2, 7)}, []bool{true, false, true}},
		{"what one is paid another spends", []Simulation{pay(1, 2), pay(2, 7), pay(3, 7)}, []bool{true, false, true}},
		{"what one spends another is paid", []Simulation{pay(2, 7), pay(1, 2), pay(3, 7)}, []bool{true, false, true}},
		{"to oneself", []Simulation{pay(1, 1), pay(2, 7)}, []bool{true, true}},
		{"foreign code", []Simulation{apart, pay(1, 7), pay(2, 7)}, []bool{false, true, true}},
		{"nobody to share with", []Simulation{apart, pay(1, 7)}, []bool{false, true}},
		{"none", nil, []bool{}},
	} {
		if got := sharing(row.ms); !slices.Equal(got, row.want) {
			t.Errorf("%s: shared %v, want %v", row.name, got, row.want)
		}
	}
}

// aggregator answers eth_calls: of Multicall3 by one function, of others by another.
func aggregator(together func(data []byte) (any, *nodeError), alone func(data string) (any, *nodeError)) node {
	return func(method string, params []json.RawMessage) (any, *nodeError) {
		if method == "eth_blockNumber" {
			return "0x2a", nil
		}
		var call struct{ To, Input string }
		if err := json.Unmarshal(params[0], &call); err != nil {
			return nil, &nodeError{Code: -32602, Message: err.Error()}
		}
		if strings.EqualFold(call.To, Multicall3().String()) {
			return together(common.FromHex(call.Input))
		}
		return alone(call.Input)
	}
}

// five is a balance as a node tells it.
func five() string {
	w := intWord(5)
	return hexText(w[:])
}

// three are sharable transfers of calldata 1 to 3, the second with the balance.
func three() []Simulation {
	ms := make([]Simulation, 3)
	for i := range ms {
		n := byte(i + 1)
		ms[i] = Simulation{Message: Message{To: chain.Address{19: 0xcc}, Data: []byte{n}}, Payer: chain.Address{n}, Payee: chain.Address{7}, Sharable: true}
	}
	ms[1].BalanceOf = ms[1].To
	return ms
}

func TestSharedTransfersAreOneCall(t *testing.T) {
	t.Parallel()
	client, trips := counted(t, aggregator(func(data []byte) (any, *nodeError) {
		if want := Aggregate3Data([]Call3{
			{Target: Multicall3(), AllowFailure: true, Data: BlockNumberData()},
			{Target: chain.Address{19: 0xcc}, AllowFailure: true, Data: []byte{1}},
			{Target: chain.Address{19: 0xcc}, AllowFailure: true, Data: BalanceOfData(chain.Address{2})},
			{Target: chain.Address{19: 0xcc}, AllowFailure: true, Data: []byte{2}},
			{Target: chain.Address{19: 0xcc}, AllowFailure: true, Data: []byte{3}},
		}); !bytes.Equal(data, want) {
			t.Errorf("called with %x, want %x", data, want)
		}
		number, balance := intWord(42), intWord(5)
		return hexText(aggregate3Result([]Call3Result{{Success: true, Data: number[:]}, {Success: true}, {Success: true, Data: balance[:]}, {}, {Success: true}})), nil
	}, func(string) (any, *nodeError) {
		t.Error("one was called by itself")
		return nil, &nodeError{Code: 3}
	}))
	got := NewSimulator(client).run(t.Context(), three())
	for i, ok := range []bool{true, false, true} {
		if got[i].Err != nil || got[i].Value.OK != ok || got[i].Value.AtLeast != 42 {
			t.Errorf("%d: %+v", i, got[i])
		}
	}
	if v := got[1].Value; !v.Counted || v.Balance.String() != "5" || got[0].Value.Counted {
		t.Errorf("balances %+v", got)
	}
	if trips.Load() != 1 {
		t.Errorf("%d trips", trips.Load())
	}
}

// TestOneThatSpoilsAllCostsASecondTrip: the others have their own verdicts.
func TestOneThatSpoilsAllCostsASecondTrip(t *testing.T) {
	t.Parallel()
	alone := func(data string) (any, *nodeError) {
		switch {
		case strings.HasPrefix(data, "0x70a08231"):
			return five(), nil
		case data == "0x01":
			return nil, &nodeError{Code: -32000, Message: "out of gas"}
		default:
			return "0x", nil
		}
	}
	for name, together := range map[string]func([]byte) (any, *nodeError){
		"out of gas":               func([]byte) (any, *nodeError) { return nil, &nodeError{Code: -32000, Message: "out of gas"} },
		"no Multicall3":            func([]byte) (any, *nodeError) { return "0x", nil },
		"something else":           func([]byte) (any, *nodeError) { return word32("01"), nil },
		"fewer results than asked": func([]byte) (any, *nodeError) { return hexText(aggregate3Result([]Call3Result{{Success: true}})), nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, trips := counted(t, aggregator(together, alone))
			s := NewSimulator(client)
			for range 2 {
				got := s.run(t.Context(), three())
				for i, ok := range []bool{false, true, true} {
					if got[i].Err != nil || got[i].Value.OK != ok || got[i].Value.AtLeast != 42 {
						t.Errorf("%d: %+v", i, got[i])
					}
				}
				if v := got[1].Value; !v.Counted || v.Balance.String() != "5" {
					t.Errorf("balance %+v", v)
				}
			}
			want := int64(4)
			if name == "no Multicall3" { // asked for once
				want = 3
			}
			if trips.Load() != want {
				t.Errorf("%d trips, want %d", trips.Load(), want)
			}
		})
	}
}

func TestANodeThatCantTellOfAllTellsOfNone(t *testing.T) {
	t.Parallel()
	client := serve(t, aggregator(
		func([]byte) (any, *nodeError) { return nil, &nodeError{Code: -32005, Message: "limit exceeded"} },
		func(string) (any, *nodeError) { return "0x", nil },
	))
	ms := append(three(), Simulation{Message: Message{Data: []byte{4}}, BalanceOf: chain.Address{1}})
	for i, r := range NewSimulator(client).run(t.Context(), ms) {
		if told := r.Err == nil; told != (i == 3) || r.Err != nil && !errors.Is(r.Err, chain.ErrUnavailable) {
			t.Errorf("%d: %+v", i, r)
		}
	}
}

func TestMoreThanABatchIsAskedInParts(t *testing.T) {
	t.Parallel()
	client, trips := counted(t, aggregator(nil, func(data string) (any, *nodeError) {
		if strings.HasPrefix(data, "0x70a08231") {
			return five(), nil
		}
		return "0x", nil
	}))
	ms := make([]Simulation, maxShared)
	for i := range ms {
		ms[i].BalanceOf = chain.Address{1}
	}
	for i, r := range NewSimulator(client).run(t.Context(), ms) {
		if r.Err != nil || !r.Value.OK || !r.Value.Counted {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if trips.Load() != 2 {
		t.Errorf("%d trips", trips.Load())
	}
}
