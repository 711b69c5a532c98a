package evm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/chain"
)

const (
	// staleHead is how long a height that a node told counts against the others.
	staleHead = 10 * time.Second
	// leastHedge and mostHedge bound how long one node is waited for before the
	// next is asked as well.
	leastHedge, mostHedge = 20 * time.Millisecond, time.Second
	// probeEvery is how often each node of several is asked for its height.
	probeEvery = 2 * time.Second
)

// errNotAsked is of a query that was not sent.
var errNotAsked = errors.New("not asked")

// errLags says that a node is behind the others.
var errLags = fmt.Errorf("%w: it is behind the other nodes", chain.ErrUnavailable)

// attempt is one node's answer to a question, in queries of its own: several may
// be asked at a time.
type attempt struct {
	node *endpoint
	qs   []*query
	err  error
}

// askAny asks the nodes in turn until one can tell: the next one when a node
// fails, lags, or leaves a part untold, and besides it when a node takes longer
// than it mostly does. The first full answer counts; without one, the first that
// told something.
func (c *Client) askAny(ctx context.Context, qs []*query) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	order := c.order()
	answers := make(chan attempt, len(order))
	asked, open := 0, 0
	ask := func() {
		n := order[asked]
		asked, open = asked+1, open+1
		go func() { answers <- c.attempt(ctx, n, qs) }()
	}
	ask()
	hedge := time.NewTimer(order[0].usually())
	defer hedge.Stop()
	var best *attempt
	for open > 0 {
		select {
		case a := <-answers:
			open--
			if a.complete() {
				return a.give(qs)
			}
			if best == nil || best.err != nil && a.err == nil {
				best = &a
			}
			if asked < len(order) && ctx.Err() == nil {
				ask()
			}
		case <-hedge.C:
			if asked < len(order) {
				order[0].metrics.hedged()
				ask()
			}
		}
	}
	return best.give(qs)
}

// order is who is asked: the nodes as configured, those that are well first, then
// those that lag, then those that rest; never one of another chain.
func (c *Client) order() []*endpoint {
	highest := c.highest()
	rank := func(n *endpoint) int {
		n.mu.Lock()
		defer n.mu.Unlock()
		switch {
		case n.foreign:
			return 3
		case n.restUntil.After(n.now()), n.avoidUntil.After(n.now()):
			return 2
		case !n.headAt.IsZero() && n.head+c.opts.MaxLag < highest:
			return 1
		}
		return 0 // nothing is known against it
	}
	ranks := make(map[*endpoint]int, len(c.nodes))
	for _, n := range c.nodes {
		ranks[n] = rank(n)
	}
	order := slices.Clone(c.nodes)
	slices.SortStableFunc(order, func(a, b *endpoint) int { return ranks[a] - ranks[b] })
	if right := slices.IndexFunc(order, func(n *endpoint) bool { return ranks[n] == 3 }); right > 0 {
		order = order[:right]
	}
	return order
}

// highest is the head of the node that is furthest, as far as was told lately.
func (c *Client) highest() uint64 {
	highest := uint64(0)
	for _, n := range c.nodes {
		n.mu.Lock()
		if n.now().Sub(n.headAt) < staleHead && !n.foreign {
			highest = max(highest, n.head)
		}
		n.mu.Unlock()
	}
	return highest
}

// attempt asks one node; for its height as well, before all else, so that every
// answer is known to be of that height or above; and which chain it serves where
// that is not known yet.
func (c *Client) attempt(ctx context.Context, n *endpoint, qs []*query) attempt {
	a := attempt{node: n, qs: make([]*query, len(qs), len(qs)+1)}
	for i, q := range qs {
		a.qs[i] = &query{method: q.method, args: q.args, inside: q.inside, result: reflect.New(reflect.TypeOf(q.result).Elem()).Interface()}
	}
	n.mu.Lock()
	checked, foreign := n.checked, n.foreign
	n.mu.Unlock()
	var height, id hexutil.Uint64
	top := &query{method: "eth_blockNumber", result: &height}
	which := &query{method: "eth_chainId", result: &id, err: errNotAsked}
	send := append(make([]*query, 0, len(qs)+2), top)
	if slices.ContainsFunc(a.qs, (*query).asksHeight) {
		send = send[:0]
	}
	send = append(send, a.qs...)
	if !checked && c.opts.ChainID != 0 {
		send = append(send, which)
	}
	begun := n.now()
	a.err = n.ask(ctx, send)
	if ctx.Err() != nil { // another was faster, or nobody waits any more
		return a
	}
	if a.err == nil && which.err == nil {
		foreign = uint64(id) != c.opts.ChainID
		n.mu.Lock()
		n.checked, n.foreign = true, foreign
		n.mu.Unlock()
	}
	if _, judged := IsRevert(a.err); judged { // of a question that is one call
		a.qs[0].err, a.err = a.err, nil
	}
	n.did(n.now().Sub(begun), a.err != nil)
	if foreign {
		a.err = fmt.Errorf("%w: node %s serves another chain", chain.ErrUnavailable, n.name)
		return a
	}
	if height, told := heights(send); told && a.err == nil {
		n.sees(height)
		if height+c.opts.MaxLag < c.highest() {
			a.err = errLags
		}
	}
	return a
}

// complete says whether the node could tell all of it.
func (a *attempt) complete() bool {
	return a.err == nil && !slices.ContainsFunc(a.qs, func(q *query) bool { return errors.Is(q.err, chain.ErrUnavailable) })
}

// give hands an answer to who asked.
func (a *attempt) give(qs []*query) error {
	for i, q := range qs {
		q.err = a.qs[i].err
		if a.err != nil {
			q.err = a.err
			continue
		}
		reflect.ValueOf(q.result).Elem().Set(reflect.ValueOf(a.qs[i].result).Elem())
	}
	if len(qs) == 1 {
		return qs[0].err
	}
	return a.err
}

// usually is how long the node takes for all but one of twenty questions.
func (n *endpoint) usually() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	p95, known := n.took.p95()
	if !known {
		return mostHedge
	}
	return min(max(p95, leastHedge), mostHedge)
}

// Watch keeps an eye on each node of several until ctx ends: its height, and
// which chain it serves. With one node there is nothing to choose.
func (c *Client) Watch(ctx context.Context, log *slog.Logger) {
	if len(c.nodes) < 2 {
		return
	}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	told := make(map[*endpoint]string)
	for {
		for _, n := range c.nodes {
			c.probe(ctx, n, log, told)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// probe asks one node, and logs when it fails or is well again.
func (c *Client) probe(ctx context.Context, n *endpoint, log *slog.Logger, told map[*endpoint]string) {
	var height hexutil.Uint64
	a := c.attempt(ctx, n, []*query{{method: "eth_blockNumber", result: &height}})
	if ctx.Err() != nil {
		return
	}
	state := ""
	if a.err != nil {
		state = a.err.Error()
	}
	n.metrics.up(state == "")
	switch before, known := told[n]; {
	case known && (before == "") == (state == ""):
	case state == "" && known:
		log.InfoContext(ctx, "node is well again", slog.String("node", n.name))
	case state != "":
		log.WarnContext(ctx, "node is not used for now", slog.String("node", n.name), slog.String("reason", state))
	}
	told[n] = state
}

// durations are the latest of them.
type durations struct {
	last [64]time.Duration
	n    int
}

func (d *durations) add(took time.Duration) {
	d.last[d.n%len(d.last)] = took
	d.n++
}

// p95 of what is there, once there is enough.
func (d *durations) p95() (time.Duration, bool) {
	n := min(d.n, len(d.last))
	if n < 20 {
		return 0, false
	}
	sorted := slices.Clone(d.last[:n])
	slices.Sort(sorted)
	return sorted[n*95/100], true
}
