package evm

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"facilitator/internal/chain"
)

// sendNode is a node that says this of each transaction, by its hex; nothing is
// acceptance.
func sendNode(says map[string]string) node {
	return func(_ string, params []json.RawMessage) (any, *nodeError) {
		if text, ok := says[strings.Trim(string(params[0]), `"`)]; ok {
			return nil, &nodeError{Code: -32000, Message: text}
		}
		return word32("ab"), nil
	}
}

func outcomes(sent []Sent) []SendOutcome {
	out := make([]SendOutcome, len(sent))
	for i, s := range sent {
		out[i] = s.Outcome
	}
	return out
}

func TestManyTransactionsGoInOneTripInTheirOrder(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	says := sendNode(map[string]string{"0x02": "already known", "0x03": "nonce too low", "0x04": "txpool is full"})
	client, trips := counted(t, func(method string, params []json.RawMessage) (any, *nodeError) {
		mu.Lock()
		asked = append(asked, string(params[0]))
		mu.Unlock()
		return says(method, params)
	})
	sent := client.SendMany(t.Context(), [][]byte{{1}, {2}, {3}, {4}})
	want := []SendOutcome{SendAccepted, SendAlreadyKnown, SendNonceTooLow, SendUnavailable}
	if diff := cmp.Diff(want, outcomes(sent)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i, s := range sent {
		if s.Outcome.pooled() != (s.Err == nil) || s.Doubtful != (i == 3) {
			t.Errorf("%d: %+v", i, s)
		}
	}
	if want := []string{`"0x01"`, `"0x02"`, `"0x03"`, `"0x04"`}; !slices.Equal(asked, want) || trips.Load() != 1 {
		t.Errorf("sent %s in %d trips", asked, trips.Load())
	}
}

func TestNothingToSendIsNotSent(t *testing.T) {
	t.Parallel()
	client, trips := counted(t, sendNode(nil))
	senders := NewSenders(client)
	if sent := client.SendMany(t.Context(), nil); len(sent) != 0 {
		t.Errorf("%v", sent)
	}
	if sent := senders.SendMany(t.Context(), nil); len(sent) != 0 || trips.Load() != 0 {
		t.Errorf("%v in %d trips", sent, trips.Load())
	}
}

func TestOneTransactionIsAPlainCall(t *testing.T) {
	t.Parallel()
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q nodeRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Errorf("a batch: %v", err)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": q.ID, "result": word32("ab")})
	}))
	if sent := client.SendMany(t.Context(), [][]byte{{1}}); len(sent) != 1 || sent[0] != (Sent{Outcome: SendAccepted}) {
		t.Errorf("%+v", sent)
	}
}

func TestBatchesOfTransactionsAreBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		n, size int
		trips   int64
	}{
		"as many as go together": {maxBatch, 1, 1},
		"one more":               {maxBatch + 1, 1, 2},
		"large ones":             {4, maxSendBytes/2 + 1, 4},
		"one that is too large":  {1, maxSendBytes + 1, 1},
	} {
		client, trips := counted(t, sendNode(nil))
		raws := make([][]byte, c.n)
		for i := range raws {
			raws[i] = make([]byte, c.size)
		}
		sent := client.SendMany(t.Context(), raws)
		if len(sent) != c.n || slices.ContainsFunc(sent, func(s Sent) bool { return s.Outcome != SendAccepted }) || trips.Load() != c.trips {
			t.Errorf("%s: %d of %d in %d trips", name, len(sent), c.n, trips.Load())
		}
	}
}

func TestWhatFollowsAFailedTripIsNotSent(t *testing.T) {
	t.Parallel()
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusTooManyRequests) }))
	sent := client.SendMany(t.Context(), make([][]byte, 2*maxBatch))
	if len(sent) != 2*maxBatch {
		t.Fatalf("%d answers", len(sent))
	}
	for _, s := range sent {
		if s.Outcome != SendUnavailable || !s.Doubtful || !errors.Is(s.Err, chain.ErrUnavailable) {
			t.Errorf("%+v", s)
		}
		discreet(t, s.Err)
	}
}

// TestTheBestOfSeveralNodesCounts has one row per two opinions.
func TestTheBestOfSeveralNodesCounts(t *testing.T) {
	t.Parallel()
	const (
		accepted, known, low, under = "", "already known", "nonce too low", "replacement transaction underpriced"
		fee, funds, gap, revert     = "fee too low", "insufficient funds", "nonce too high", "execution reverted"
		invalid, unknown, full      = "exceeds block gas limit", "Internal error", "txpool is full"
	)
	texts := []string{accepted, known, low, under, fee, funds, gap, revert, invalid, unknown, full}
	ranked := []SendOutcome{
		SendAccepted, SendAlreadyKnown, SendNonceTooLow, SendUnderpriced, SendFeeTooLow, SendNoFunds,
		SendNonceGap, SendWouldRevert, SendInvalid, SendUnknown, SendUnavailable,
	}
	nodes := make([]*Client, len(texts))
	for i, text := range texts {
		says := map[string]string{"0x01": text}
		if text == accepted {
			says = nil
		}
		nodes[i], _ = counted(t, sendNode(says))
	}
	for i, one := range texts {
		for j, other := range texts {
			senders := NewSenders(nodes[i], nodes[j])
			got := senders.SendMany(t.Context(), [][]byte{{1}})[0]
			senders.Close()
			best := min(i, j)
			// A node that took it is believed at once, before a better one.
			if best <= 1 && !got.Outcome.pooled() || best > 1 && got.Outcome != ranked[best] {
				t.Errorf("%q and %q: %s", one, other, got.Outcome)
			}
			if (got.Err == nil) != (best <= 1) || got.Doubtful != (best > 1 && max(i, j) >= 9) {
				t.Errorf("%q and %q: %+v", one, other, got)
			}
		}
	}
}

func TestEachTransactionGetsItsOwnBest(t *testing.T) {
	t.Parallel()
	a, _ := counted(t, sendNode(map[string]string{"0x02": "txpool is full", "0x03": "txpool is full"}))
	b, _ := counted(t, sendNode(map[string]string{"0x01": "nonce too low", "0x03": "nonce too high"}))
	senders := NewSenders(a, b)
	defer senders.Close()
	want := []Sent{{Outcome: SendAccepted}, {Outcome: SendAccepted}, {Outcome: SendNonceGap, Doubtful: true}}
	if diff := cmp.Diff(want, senders.SendMany(t.Context(), [][]byte{{1}, {2}, {3}}), cmpopts.IgnoreFields(Sent{}, "Err")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// waiting is a node that answers when told to, and tells when it is asked.
func waiting(t *testing.T) (c *Client, asked <-chan struct{}, release func()) {
	t.Helper()
	entered, proceed := make(chan struct{}, 8), make(chan struct{})
	c = serve(t, node(func(string, []json.RawMessage) (any, *nodeError) {
		entered <- struct{}{}
		<-proceed
		return word32("ab"), nil
	}))
	release = sync.OnceFunc(func() { close(proceed) })
	t.Cleanup(release)
	return c, entered, release
}

// TestASlowNodeIsNotWaitedFor: and what it was sent still reaches it.
func TestASlowNodeIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	slow, asked, release := waiting(t)
	fast, _ := counted(t, sendNode(map[string]string{"0x02": "already known"}))
	down, _ := counted(t, sendNode(map[string]string{"0x01": "txpool is full"}))
	senders := NewSenders(slow, down, fast)
	ctx, cancel := context.WithCancel(t.Context())
	sent := senders.SendMany(ctx, [][]byte{{1}, {2}})
	if !slices.Equal(outcomes(sent), []SendOutcome{SendAccepted, SendAlreadyKnown}) && !slices.Equal(outcomes(sent), []SendOutcome{SendAccepted, SendAccepted}) {
		t.Errorf("%+v", sent)
	}
	cancel() // ends nothing
	<-asked
	release()
	senders.Close()
	if sent := senders.SendMany(t.Context(), [][]byte{{1}}); sent[0].Outcome != SendUnavailable || sent[0].Doubtful {
		t.Errorf("after the end: %+v", sent)
	}
}

func TestACallerThatLeavesEndsNoSend(t *testing.T) {
	t.Parallel()
	slow, asked, release := waiting(t)
	senders := NewSenders(slow)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan []Sent, 1)
	go func() { got <- senders.SendMany(ctx, [][]byte{{1}, {2}}) }()
	<-asked
	cancel()
	for _, s := range <-got {
		if s.Outcome != SendUnavailable || !s.Doubtful || !errors.Is(s.Err, chain.ErrUnavailable) {
			t.Errorf("%+v", s)
		}
	}
	release()
	senders.Close()
}

func TestNoNodesTakeNothing(t *testing.T) {
	t.Parallel()
	if sent := NewSenders().SendMany(t.Context(), [][]byte{{1}}); sent[0].Outcome != SendUnavailable || sent[0].Err == nil {
		t.Errorf("%+v", sent)
	}
}
