package evm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"facilitator/internal/chain"
	"facilitator/internal/tracing"
)

// endpoint is one node of a chain, and what is known of how it does.
type endpoint struct {
	name string
	rpc  *rpc.Client
	http *http.Client
	// transport holds the connections.
	transport *http.Transport
	scrub     scrubber
	timeout   time.Duration
	now       func() time.Time
	metrics   *nodeMetrics

	mu sync.Mutex
	// head is the height it last told, at headAt.
	head   uint64
	headAt time.Time
	// restUntil is when it may be asked again, by its own word; avoidUntil is until
	// when others are preferred, after failures in a row.
	restUntil, avoidUntil time.Time
	failures              int
	// checked: it was asked which chain it serves. foreign: it is another one.
	checked, foreign bool
	took             durations
}

const (
	// maxRest bounds how long a node is left alone, whatever it asks for.
	maxRest = 30 * time.Second
	// firstAvoid after a failure; it doubles with each one that follows, up to
	// maxAvoid: it may be well again.
	firstAvoid, maxAvoid = 250 * time.Millisecond, 5 * time.Second
)

func newEndpoint(ctx context.Context, cfg Node, o Options) (*endpoint, error) {
	n := &endpoint{
		name: cfg.Name, timeout: o.Timeout, now: o.Now, scrub: newScrubber(cfg.URL), metrics: o.Metrics.of(o.Network, cfg.Name),
	}
	n.transport = &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: o.Timeout, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns:        256,
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	n.http = &http.Client{Transport: tracing.Client(o.Tracer, &courteous{node: n, next: n.transport}, cfg.Name, n.scrub.unavailable)}
	var err error
	if n.rpc, err = rpc.DialOptions(ctx, cfg.URL, rpc.WithHTTPClient(n.http)); err != nil {
		return nil, errors.New("rpc url is not usable") // err holds pieces of it
	}
	return n, nil
}

func (n *endpoint) close() {
	n.rpc.Close()
	n.transport.CloseIdleConnections()
}

// courteous counts what a node answers, and leaves it alone for as long as it
// asks for with Retry-After.
type courteous struct {
	node *endpoint
	next http.RoundTripper
}

func (c *courteous) RoundTrip(r *http.Request) (*http.Response, error) {
	begun := c.node.now()
	response, err := c.next.RoundTrip(r)
	outcome := requestFailed
	if err == nil {
		outcome = requestOutcome(response.StatusCode)
		if response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusServiceUnavailable {
			c.node.rest(retryAfter(response.Header.Get("Retry-After"), c.node.now()))
		}
	} else if r.Context().Err() != nil {
		outcome = requestGivenUp
	}
	c.node.metrics.count(outcome, c.node.now().Sub(begun))
	return response, err //nolint:wrapcheck // the transport's own
}

// retryAfter reads the header in both of its forms; 0 without one.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 16); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// rest leaves the node alone for a while.
func (n *endpoint) rest(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if until := n.now().Add(min(d, maxRest)); until.After(n.restUntil) {
		n.restUntil = until
	}
}

// ask sends one query, or several as one JSON-RPC batch: one round trip. The
// error is non-nil only if the whole trip failed; single outcomes are in q.err.
func (n *endpoint) ask(ctx context.Context, qs []*query) error {
	if wait := n.resting(); wait > 0 {
		err := fmt.Errorf("%w: it asked to be left alone for another %s", chain.ErrUnavailable, wait.Round(time.Second))
		for _, q := range qs {
			q.err = err
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	if len(qs) == 1 {
		qs[0].err = n.scrub.classify(n.rpc.CallContext(ctx, qs[0].result, qs[0].method, qs[0].args...))
		return qs[0].err
	}
	batch := make([]rpc.BatchElem, len(qs))
	for i, q := range qs {
		batch[i] = rpc.BatchElem{Method: q.method, Args: q.args, Result: q.result}
	}
	if err := n.rpc.BatchCallContext(ctx, batch); err != nil {
		return n.scrub.unavailable(err)
	}
	for i, q := range qs {
		q.err = n.scrub.classify(batch[i].Error)
	}
	return nil
}

// resting is how long the node is still to be left alone.
func (n *endpoint) resting() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.restUntil.Sub(n.now())
}

// did notes how an attempt went, of which the node itself is the cause.
func (n *endpoint) did(took time.Duration, failed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !failed {
		n.failures, n.avoidUntil = 0, time.Time{}
		n.took.add(took)
		return
	}
	n.failures++
	n.avoidUntil = n.now().Add(min(firstAvoid<<min(n.failures-1, 5), maxAvoid))
}

// heights are what answers tell of the node's head, the lowest of them; false
// where they tell nothing.
func heights(qs []*query) (uint64, bool) {
	lowest, told := uint64(0), false
	for _, q := range qs {
		height, is := q.height()
		if is && (!told || height < lowest) {
			lowest, told = height, true
		}
	}
	return lowest, told
}

// height is the node's head, where the query asked for it and was answered.
func (q *query) height() (uint64, bool) {
	if q.err != nil {
		return 0, false
	}
	switch r := q.result.(type) {
	case *hexutil.Uint64:
		return uint64(*r), q.method == "eth_blockNumber"
	case **header:
		if *r != nil && q.asksHeight() {
			return uint64((*r).Number), true
		}
	case *hexBytes:
		if q.inside != nil {
			return q.inside(*r)
		}
	}
	return 0, false
}

// asksHeight says whether an answer tells the node's head.
func (q *query) asksHeight() bool {
	return q.inside != nil || q.method == "eth_blockNumber" || q.method == "eth_getBlockByNumber" && q.args[0] == "latest"
}

// sees notes a height that the node told.
func (n *endpoint) sees(height uint64) {
	n.mu.Lock()
	n.head, n.headAt = height, n.now()
	n.mu.Unlock()
	n.metrics.at(height)
}
