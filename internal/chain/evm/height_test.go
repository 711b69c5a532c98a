package evm

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/chain"
)

// numbered answers as a chain at a height, whose code sees number as the block's;
// every transfer succeeds. What is asked goes to asked.
func numbered(height, number *atomic.Uint64, asked *[]string) node {
	return func(method string, params []json.RawMessage) (any, *nodeError) {
		*asked = append(*asked, method)
		switch method {
		case "eth_blockNumber":
			return hexUint(height.Load()), nil
		case "eth_chainId":
			return hexUint(testChain), nil
		}
		var call struct{ To, Input string }
		if err := json.Unmarshal(params[0], &call); err != nil {
			return nil, &nodeError{Code: -32602, Message: err.Error()}
		}
		if !strings.EqualFold(call.To, Multicall3().String()) {
			return "0x", nil
		}
		n, _ := smallWord(common.FromHex(call.Input)[36:68])
		results := make([]Call3Result, n)
		for i := range results {
			results[i].Success = true
		}
		if strings.Contains(call.Input, "42cbb15c") {
			w := intWord(int(number.Load()))
			results[0].Data = w[:]
		}
		return hexText(aggregate3Result(results)), nil
	}
}

// sold are sharable transfers of two payers.
func sold() []Simulation {
	ms := make([]Simulation, 2)
	for i := range ms {
		ms[i] = Simulation{Message: Message{To: chain.Address{19: 0xcc}, Data: []byte{byte(i)}}, Payer: chain.Address{0: 1, 19: byte(i)}, Payee: chain.Address{7}, Sharable: true}
	}
	return ms
}

// TestTheHeightComesWithTheCall where what code sees as the block's number was
// once the height that the node tells; else both are asked for.
func TestTheHeightComesWithTheCall(t *testing.T) {
	t.Parallel()
	type trip struct{ height, number, atLeast uint64 }
	both, inside, outside := "eth_blockNumber eth_call", "eth_call", "eth_blockNumber eth_call"
	for _, row := range []struct {
		name  string
		trips []trip
		asked []string
	}{
		{"they are the same", []trip{{42, 42, 42}, {0, 43, 43}, {0, 44, 44}}, []string{both, inside, inside}},
		{"a block came between", []trip{{42, 43, 42}, {43, 43, 43}, {0, 44, 44}}, []string{both, both, inside}},
		{"the node counts from the next block", []trip{{42, 43, 42}, {43, 44, 43}, {44, 45, 44}}, []string{both, both, both}},
		{"they are another chain's", []trip{{300_000_000, 21_000_000, 300_000_000}, {21_000_000, 21_000_000, 21_000_000}}, []string{both, outside}},
		{"the other chain's are higher", []trip{{42, 21_000_000, 42}, {43, 43, 43}}, []string{both, outside}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var height, number atomic.Uint64
			var asked []string
			client, _ := counted(t, numbered(&height, &number, &asked))
			s := NewSimulator(client)
			for i, at := range row.trips {
				height.Store(at.height)
				number.Store(at.number)
				asked = nil
				for _, r := range s.run(t.Context(), sold()) {
					if r.Err != nil || !r.Value.OK || r.Value.AtLeast != at.atLeast {
						t.Errorf("trip %d: %+v", i, r)
					}
				}
				if got := strings.Join(asked, " "); got != row.asked[i] {
					t.Errorf("trip %d asked %s", i, got)
				}
			}
			// With one that has a call of its own, the height is that of both.
			height.Store(50)
			number.Store(51)
			mixed := append(sold(), Simulation{})
			for i, r := range s.run(t.Context(), mixed) {
				if r.Err != nil || r.Value.AtLeast != 50 {
					t.Errorf("mixed %d: %+v", i, r)
				}
			}
		})
	}
}

// TestWithoutAnAnswerTheHeightIsAskedFor: a Multicall3 that does not tell the
// number costs nothing but its call; one that stops telling it is not believed.
func TestWithoutAnAnswerTheHeightIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(r []Call3Result){
		"it fails":             func(r []Call3Result) { r[0].Success = false },
		"it answers nothing":   func(r []Call3Result) { r[0].Data = nil },
		"it answers too large": func(r []Call3Result) { r[0].Data = slices.Repeat([]byte{0xff}, 32) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var height, number atomic.Uint64
			var asked []string
			var refusing atomic.Bool
			honest := numbered(&height, &number, &asked)
			answer := func(method string, params []json.RawMessage) (any, *nodeError) {
				out, failed := honest(method, params)
				if text, ok := out.(string); ok && refusing.Load() && method == "eth_call" && len(text) > 2 {
					results, _ := DecodeAggregate3(common.FromHex(text))
					if len(results[0].Data) == 32 { // the number
						refuse(results)
					}
					return hexText(aggregate3Result(results)), nil
				}
				return out, failed
			}
			height.Store(42)
			number.Store(42)
			refusing.Store(true)
			client, trips := counted(t, answer)
			s := NewSimulator(client)
			for i := range 2 {
				for _, r := range s.run(t.Context(), sold()) {
					if r.Err != nil || !r.Value.OK || r.Value.AtLeast != 42 {
						t.Errorf("trip %d: %+v", i, r)
					}
				}
			}
			if got := trips.Load(); got != 2 || strings.Count(fmt.Sprint(asked), "eth_blockNumber") != 2 {
				t.Errorf("%d trips asked %v", got, asked)
			}
			// It told it, and now it doesn't: each is asked about by itself, and its height.
			refusing.Store(false)
			s = NewSimulator(client)
			s.run(t.Context(), sold())
			refusing.Store(true)
			asked = nil
			for _, r := range s.run(t.Context(), sold()) {
				if r.Err != nil || !r.Value.OK || r.Value.AtLeast != 42 {
					t.Errorf("after it had told: %+v", r)
				}
			}
			if got := fmt.Sprint(asked); got != "[eth_call eth_blockNumber eth_call eth_call]" {
				t.Errorf("asked %s", got)
			}
		})
	}
}

// TestANodeThatLagsDoesNotSimulate though nobody asked for its height but inside
// of the call.
func TestANodeThatLagsDoesNotSimulate(t *testing.T) {
	t.Parallel()
	var heights [2]atomic.Uint64
	peers := make([]*peer, 2)
	asked := make([][]string, 2)
	for i := range peers {
		heights[i].Store(45)
		s := httptest.NewServer(http.Handler(numbered(&heights[i], &heights[i], &asked[i])))
		t.Cleanup(s.Close)
		peers[i] = &peer{url: credentialed(s.URL)}
	}
	client, _ := several(t, peers...)
	s := NewSimulator(client)
	try := func() (atLeast uint64) {
		for _, r := range s.run(t.Context(), sold()) {
			if r.Err != nil || !r.Value.OK {
				t.Errorf("%+v", r)
			}
			atLeast = r.Value.AtLeast
		}
		return atLeast
	}
	try() // and learn
	client.probe(t.Context(), client.nodes[1], slog.New(slog.DiscardHandler), map[*endpoint]string{})
	heights[0].Store(42) // it is several behind one name, say
	asked[0], asked[1] = nil, nil
	if got := try(); got != 45 {
		t.Errorf("a state of %d: the first node's, that lags", got)
	}
	if got := fmt.Sprint(asked); got != "[[eth_call] [eth_call]]" {
		t.Errorf("asked %s", got)
	}
}
