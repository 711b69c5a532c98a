// Package coalesce makes one call of many: whatever waits while calls are under
// way goes into the next one. There is no timer, so a lone caller waits for
// nobody.
package coalesce

import (
	"context"
	"errors"
	"sync"
)

// Result is what one caller gets.
type Result[Out any] struct {
	Value Out
	Err   error
}

// ErrShort says that a run returned fewer results than it was given inputs.
var ErrShort = errors.New("coalesced call returned too few results")

// Group runs calls together. Its run must return one result for each input, in
// their order.
type Group[In, Out any] struct {
	run      func(ctx context.Context, ins []In) []Result[Out]
	most     int
	parallel int
	// crowd and crowded are those of Crowded; 0 without.
	crowd, crowded int

	mu      sync.Mutex
	waiting []*call[In, Out]
	running int
}

type call[In, Out any] struct {
	ctx  context.Context //nolint:containedctx // values of the caller's, such as its trace, for a call made on its behalf
	in   In
	done chan Result[Out]
}

// New returns a group whose runs take most inputs at most, with parallel of
// them under way at a time.
func New[In, Out any](most, parallel int, run func(context.Context, []In) []Result[Out]) *Group[In, Out] {
	return &Group[In, Out]{run: run, most: most, parallel: parallel}
}

// Crowded lets up to crowded runs be under way, where so many callers wait that
// one more is worth it: crowd of them for each run there is. With few slots only,
// many callers wait for one longer than a run takes; with many slots for all, the
// first to come takes one for itself and nothing is shared.
func (g *Group[In, Out]) Crowded(crowd, crowded int) *Group[In, Out] {
	g.crowd, g.crowded = crowd, crowded
	return g
}

// begins says whether those that wait are to have a run now.
func (g *Group[In, Out]) begins() bool {
	if len(g.waiting) == 0 {
		return false
	}
	return g.running < g.parallel || g.running < g.crowded && len(g.waiting) >= g.crowd*g.running
}

// Do returns the result for in. If ctx ends first, the error is its cause; what
// was begun goes on, since it is made for others too.
func (g *Group[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	if err := ctx.Err(); err != nil {
		return *new(Out), context.Cause(ctx)
	}
	c := &call[In, Out]{ctx: ctx, in: in, done: make(chan Result[Out], 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	if g.begins() {
		g.running++
		go g.work() //nolint:contextcheck // a run is of many callers and outlives each
	}
	g.mu.Unlock()
	select {
	case r := <-c.done:
		return r.Value, r.Err
	case <-ctx.Done():
		return *new(Out), context.Cause(ctx)
	}
}

// work makes runs until no more is to be begun.
func (g *Group[In, Out]) work() {
	for first := true; ; first = false {
		calls := g.take(!first)
		if len(calls) == 0 {
			return
		}
		ins := make([]In, len(calls))
		for i, c := range calls {
			ins[i] = c.in
		}
		// The values are the first caller's; the end is nobody's.
		results := g.run(context.WithoutCancel(calls[0].ctx), ins)
		for i, c := range calls {
			r := Result[Out]{Err: ErrShort}
			if i < len(results) {
				r = results[i]
			}
			c.done <- r
		}
	}
}

// take returns the oldest that wait and whose callers are still there. With none
// of them the worker is done, as is one that made a run if no other is to be begun.
func (g *Group[In, Out]) take(again bool) []*call[In, Out] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if again {
		g.running--
		if !g.begins() {
			return nil
		}
		g.running++
	}
	var calls []*call[In, Out]
	for len(g.waiting) > 0 && len(calls) < g.most {
		c := g.waiting[0]
		g.waiting[0] = nil
		g.waiting = g.waiting[1:]
		if c.ctx.Err() == nil {
			calls = append(calls, c)
		}
	}
	if len(calls) == 0 {
		g.running--
	}
	return calls
}

// Waiting counts the callers that no run has taken yet.
func (g *Group[In, Out]) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}
