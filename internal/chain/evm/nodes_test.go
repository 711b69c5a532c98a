package evm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"facilitator/internal/chain"
	"facilitator/internal/metrics"
)

// peer is one node of several.
type peer struct {
	url    string
	asked  atomic.Int64
	height atomic.Uint64
	chain  atomic.Uint64
	// answer, where it is set, is given in the place of all others.
	answer atomic.Pointer[http.HandlerFunc]
}

const testChain = 8453

// newPeer is a node at a height, whose balance of everybody is its number.
func newPeer(t *testing.T, number int, height uint64) *peer {
	t.Helper()
	p := new(peer)
	p.height.Store(height)
	p.chain.Store(testChain)
	rpc := node(func(method string, params []json.RawMessage) (any, *nodeError) {
		switch method {
		case "eth_blockNumber":
			return hexUint(p.height.Load()), nil
		case "eth_chainId":
			return hexUint(p.chain.Load()), nil
		case "eth_getBlockByNumber":
			if string(params[0]) == `"latest"` {
				return map[string]any{"number": hexUint(p.height.Load()), "hash": word32("aa"), "timestamp": "0x1"}, nil
			}
			return nil, nil
		case "eth_call":
			return hexUint256(number), nil
		}
		return nil, &nodeError{Code: -32601, Message: "no such method"}
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		if h := p.answer.Load(); h != nil {
			(*h)(w, r)
			return
		}
		rpc.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	p.url = credentialed(s.URL)
	return p
}

func hexUint(n uint64) string { return "0x" + strings.TrimLeft(hexUint256(int(n))[2:], "0") }

func hexUint256(n int) string {
	w := intWord(n)
	return hexText(w[:])
}

// breaks has a node answer otherwise; nil heals it.
func (p *peer) breaks(h http.HandlerFunc) {
	if h == nil {
		p.answer.Store(nil)
		return
	}
	p.answer.Store(&h)
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// clock is turned by the test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) turn(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// several is a client of these nodes, whose blocks may be 2 behind.
func several(t *testing.T, peers ...*peer) (*Client, *clock) {
	t.Helper()
	clock := &clock{now: time.Unix(1_800_000_000, 0)}
	nodes := make([]Node, len(peers))
	for i, p := range peers {
		nodes[i] = Node{Name: string(rune('a' + i)), URL: p.url}
	}
	c, err := DialAll(t.Context(), nodes, Options{
		Timeout: patience, Network: "eip155:8453", ChainID: testChain, MaxLag: 2, Now: clock.Now,
		Metrics: NewMetrics(metrics.New(prometheus.NewRegistry())),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, clock
}

// who is the number of the node that answers; 0 if none does.
func who(t *testing.T, c *Client) int {
	t.Helper()
	out, err := c.Call(t.Context(), Message{})
	discreet(t, err)
	if err != nil {
		if !errors.Is(err, chain.ErrUnavailable) {
			t.Errorf("not of the third kind: %v", err)
		}
		return 0
	}
	n, ok := smallWord(out)
	if !ok {
		t.Errorf("answer %x", out)
	}
	return n
}

func TestTheNextNodeAnswersForOneThatFails(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"500":      status(http.StatusInternalServerError),
		"HTML":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"nothing":  func(http.ResponseWriter, *http.Request) {},
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"no answer to one of the questions": node(func(method string, _ []json.RawMessage) (any, *nodeError) {
			if method == "eth_call" {
				return nil, &nodeError{Code: -32005, Message: "limit exceeded"}
			}
			return "0xa", nil
		}).ServeHTTP,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := newPeer(t, 1, 10), newPeer(t, 2, 10)
			c, _ := several(t, first, second)
			if got := who(t, c); got != 1 {
				t.Errorf("answered by %d, not by the first", got)
			}
			first.breaks(h)
			if got := who(t, c); got != 2 {
				t.Errorf("answered by %d, not by the second", got)
			}
			second.breaks(h)
			if got := who(t, c); got != 0 {
				t.Errorf("answered by %d", got)
			}
			first.breaks(nil)
			if got := who(t, c); got != 1 {
				t.Errorf("answered by %d after it healed", got)
			}
		})
	}
}

// TestANodeThatFailedIsNotAskedFirst for a while, which grows.
func TestANodeThatFailedIsNotAskedFirst(t *testing.T) {
	t.Parallel()
	first, second := newPeer(t, 1, 10), newPeer(t, 2, 10)
	c, clock := several(t, first, second)
	first.breaks(status(http.StatusBadGateway))
	who(t, c)
	before := first.asked.Load()
	who(t, c)
	if first.asked.Load() != before {
		t.Error("a node that just failed is asked first")
	}
	first.breaks(nil)
	clock.turn(firstAvoid)
	if got := who(t, c); got != 1 {
		t.Errorf("answered by %d after a while", got)
	}
}

func TestANodeIsLeftAloneForAsLongAsItAsks(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		header []string
		rest   time.Duration
	}{
		{"seconds", []string{"Retry-After", "7"}, 7 * time.Second},
		{"a date", []string{"Retry-After", time.Unix(1_800_000_009, 0).UTC().Format(http.TimeFormat)}, 9 * time.Second},
		{"too long", []string{"Retry-After", "3600"}, maxRest},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			only := newPeer(t, 1, 10)
			clock := &clock{now: time.Unix(1_800_000_000, 0)}
			c, err := DialAll(t.Context(), []Node{{Name: "a", URL: only.url}}, Options{Timeout: patience, Now: clock.Now})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			only.breaks(status(http.StatusTooManyRequests, row.header...))
			if who(t, c) != 0 {
				t.Fatal("it answered")
			}
			only.breaks(nil)
			asked := only.asked.Load()
			clock.turn(row.rest - 1)
			if who(t, c) != 0 || only.asked.Load() != asked {
				t.Error("it was asked while it rests")
			}
			clock.turn(1)
			if who(t, c) != 1 {
				t.Error("it is not asked after that")
			}
		})
	}
}

func TestANodeThatLagsDoesNotAnswer(t *testing.T) {
	t.Parallel()
	first, second := newPeer(t, 1, 10), newPeer(t, 2, 12)
	c, clock := several(t, first, second)
	c.probe(t.Context(), c.nodes[1], slog.New(slog.DiscardHandler), map[*endpoint]string{})
	if got := who(t, c); got != 1 {
		t.Errorf("answered by %d: two blocks are no lag", got)
	}
	second.height.Store(13)
	c.probe(t.Context(), c.nodes[1], slog.New(slog.DiscardHandler), map[*endpoint]string{})
	if got := who(t, c); got != 2 {
		t.Errorf("answered by %d, and the first lags", got)
	}
	// A header says where its node stands as well.
	if h, err := c.Head(t.Context()); err != nil || h.Number != 13 {
		t.Errorf("head %d, %v", h.Number, err)
	}
	// The other is gone: what lags is no answer while the height is fresh.
	second.breaks(status(http.StatusBadGateway))
	if got := who(t, c); got != 0 {
		t.Errorf("answered by %d, behind what was seen", got)
	}
	clock.turn(staleHead)
	if got := who(t, c); got != 1 {
		t.Errorf("answered by %d after the other's height is old", got)
	}
	// The chain was rolled back everywhere: the lower height is the truth.
	second.breaks(nil)
	second.height.Store(9)
	c.probe(t.Context(), c.nodes[1], slog.New(slog.DiscardHandler), map[*endpoint]string{})
	first.height.Store(9)
	if got := who(t, c); got != 1 {
		t.Errorf("answered by %d after a rollback", got)
	}
}

func TestANodeOfAnotherChainIsNeverUsed(t *testing.T) {
	t.Parallel()
	first, second := newPeer(t, 1, 1000), newPeer(t, 2, 10)
	first.chain.Store(1)
	c, _ := several(t, first, second)
	for range 2 {
		if got := who(t, c); got != 2 {
			t.Errorf("answered by %d", got)
		}
	}
	if n := first.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestASlowNodeIsNotWaitedForAlone: the next one is asked as well, and the answer
// that comes first counts.
func TestASlowNodeIsNotWaitedForAlone(t *testing.T) {
	t.Parallel()
	first, second := newPeer(t, 1, 10), newPeer(t, 2, 10)
	c, _ := several(t, first, second)
	if who(t, c) != 1 {
		t.Fatal("the first does not answer")
	}
	for range 64 {
		c.nodes[0].did(time.Millisecond, false) // it is known to be quick
	}
	let := make(chan struct{})
	t.Cleanup(sync.OnceFunc(func() { close(let) }))
	first.breaks(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or it does not notice that its client leaves
		select {
		case <-let:
		case <-r.Context().Done():
		}
	})
	if got := who(t, c); got != 2 {
		t.Errorf("answered by %d", got)
	}
	if n := testutil.ToFloat64(c.opts.Metrics.hedges.WithLabelValues("eip155:8453", "a")); n != 1 {
		t.Errorf("%v hedges are counted", n)
	}
	c.nodes[0].mu.Lock()
	defer c.nodes[0].mu.Unlock()
	if c.nodes[0].failures != 0 {
		t.Error("that another was faster counts as a failure")
	}
}

func TestACallerWhoLeavesEndsTheQuestion(t *testing.T) {
	t.Parallel()
	first, second := newPeer(t, 1, 10), newPeer(t, 2, 10)
	c, _ := several(t, first, second)
	ctx, cancel := context.WithCancel(t.Context())
	first.breaks(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
	})
	if _, err := c.Call(ctx, Message{}); !errors.Is(err, chain.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if n := second.asked.Load(); n != 0 {
		t.Errorf("the second was asked %d times for nobody", n)
	}
}

// TestAVerdictOfOneNodeIsFinal: a revert is an answer, not a failure.
func TestAVerdictOfOneNodeIsFinal(t *testing.T) {
	t.Parallel()
	first, second := newPeer(t, 1, 10), newPeer(t, 2, 10)
	first.breaks(node(func(method string, _ []json.RawMessage) (any, *nodeError) {
		switch method {
		case "eth_call":
			return nil, &nodeError{Code: 3, Message: "execution reverted"}
		case "eth_blockNumber":
			return "0xa", nil
		case "eth_chainId":
			return hexUint(testChain), nil
		}
		return nil, &nodeError{Code: -32601, Message: "no such method"}
	}).ServeHTTP)
	c, _ := several(t, first, second)
	if _, err := c.Call(t.Context(), Message{}); err == nil || second.asked.Load() != 0 {
		t.Errorf("%v; the second was asked %d times", err, second.asked.Load())
	} else if _, judged := IsRevert(err); !judged {
		t.Errorf("%v", err)
	}
	results, _, err := c.CallsAndCode(t.Context(), chain.Address{1}, Message{}, Message{})
	if err == nil { // the first has no eth_getCode: the second is asked
		t.Errorf("%+v", results)
	}
}

func TestNodesAreToldByTheirNames(t *testing.T) {
	t.Parallel()
	first, second := newPeer(t, 1, 10), newPeer(t, 2, 10)
	c, _ := several(t, first, second)
	first.breaks(status(http.StatusBadGateway))
	var text lockedText
	log := slog.New(slog.NewTextHandler(&text, nil))
	ctx, cancel := context.WithCancel(t.Context())
	told := make(map[*endpoint]string)
	for _, n := range c.nodes {
		c.probe(ctx, n, log, told)
	}
	first.breaks(nil)
	for _, n := range c.nodes {
		c.probe(ctx, n, log, told)
	}
	cancel()
	c.Watch(ctx, log) // ends at once
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "not used for now") || !strings.Contains(lines[0], "node=a") || !strings.Contains(lines[1], "well again") {
		t.Errorf("log:\n%s", text.String())
	}
	discreet(t, errors.New(text.String()))
	if up := testutil.ToFloat64(c.opts.Metrics.ups.WithLabelValues("eip155:8453", "a")); up != 1 {
		t.Errorf("up is %v", up)
	}
	if n := testutil.ToFloat64(c.opts.Metrics.requests.WithLabelValues("eip155:8453", "a", "error")); n != 1 {
		t.Errorf("%v requests with 502", n)
	}
}

type lockedText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (t *lockedText) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *lockedText) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

func TestHowLongANodeMostlyTakes(t *testing.T) {
	t.Parallel()
	var d durations
	for i := range 19 {
		d.add(time.Duration(i))
	}
	if _, known := d.p95(); known {
		t.Error("told from too few")
	}
	for i := range 200 {
		d.add(time.Duration(i))
	}
	// The last 64 are 136 to 199.
	if p95, known := d.p95(); !known || p95 != 136+60 {
		t.Errorf("%v, %t", p95, known)
	}
}

// TestEveryQuestionGoesToTheNextNode, whatever it asks and however the first fails.
func TestEveryQuestionGoesToTheNextNode(t *testing.T) {
	t.Parallel()
	first, second := newPeer(t, 1, 10), newPeer(t, 2, 10)
	first.breaks(status(http.StatusServiceUnavailable))
	c, _ := several(t, first, second)
	for _, q := range everyQuestion(c) {
		if strings.HasPrefix(q.name, "Send") {
			continue // goes to all nodes by other means
		}
		before := second.asked.Load()
		_ = q.do(t.Context()) // this node has no such methods, mostly
		if second.asked.Load() == before {
			t.Errorf("%s was not asked of the second", q.name)
		}
	}
}
