package evm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

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
			got, atLeast, err := s.CallLatest(Watched(t.Context(), sync.OnceFunc(queued.Done)), Message{Data: data})
			if _, judged := IsRevert(err); i%16 == 7 {
				if !judged {
					t.Errorf("%d: %v", i, err)
				}
			} else if err != nil || string(got) != string(data) {
				t.Errorf("%d: %x, %v", i, got, err)
			}
			if atLeast != 42 {
				t.Errorf("%d: at least %d", i, atLeast)
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
	if trips := maxShares + len(entered); trips != maxShares+2 {
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
		if got, _, err := NewSimulator(client).CallLatest(t.Context(), Message{}); !errors.Is(err, chain.ErrUnavailable) || got != nil {
			t.Errorf("%s: %x, %v", name, got, err)
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
		_, _, err := s.CallLatest(ctx, Message{})
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
	for i, r := range client.callTogether(t.Context(), []Message{{}, {}}) {
		if r.Err != nil || r.Value.atLeast != 1 {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if got := fmt.Sprint(asked); got != "[eth_blockNumber eth_call eth_call]" || trips.Load() != 1 {
		t.Errorf("asked %s in %d trips", got, trips.Load())
	}
}
