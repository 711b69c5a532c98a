package settle

import (
	"context"
	"fmt"
	"math"
	"sync"

	"facilitator/internal/chain"
	"facilitator/internal/coalesce"
	"facilitator/internal/x402"
)

// recountAfter is how many payments of this process join a queue before it is
// counted again for those of others.
const recountAfter = 256

// queue bounds how many payments of a network wait to be signed. Between two
// counts it adds what this process claims, and never what leaves: so it is
// counted again before anybody is refused.
type queue struct {
	network x402.Network
	most    int
	recount *coalesce.Group[struct{}, struct{}]

	mu      sync.Mutex
	known   bool // it was counted once
	counted int
	joined  int // since it was counted
	joining int // claims under way
}

func newQueue(n x402.Network, most int, count func(context.Context, x402.Network) (int, error)) *queue {
	q := &queue{network: n, most: most}
	q.recount = coalesce.New(math.MaxInt, 1, func(ctx context.Context, callers []struct{}) []coalesce.Result[struct{}] {
		q.mu.Lock()
		before := q.joined
		q.mu.Unlock()
		counted, err := count(ctx, n)
		if err == nil {
			q.mu.Lock()
			// Who joined before is counted; who joined meanwhile may be counted twice.
			q.known, q.counted, q.joined = true, counted, q.joined-before
			q.mu.Unlock()
		}
		results := make([]coalesce.Result[struct{}], len(callers))
		for i := range results {
			results[i].Err = err
		}
		return results
	})
	return q
}

// join takes a place in the queue, or says that there is none. The caller tells
// done whether its payment came to stand in it.
func (q *queue) join(ctx context.Context) (done func(queued bool), _ error) {
	if !q.take(recountAfter) {
		if _, err := q.recount.Do(ctx, struct{}{}); err != nil {
			return nil, err
		}
		if !q.take(math.MaxInt) {
			return nil, fmt.Errorf("%w on %s: too many payments are queued", chain.ErrNotReady, q.network)
		}
	}
	return q.done, nil
}

func (q *queue) take(untilRecount int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.known || q.joined+q.joining >= untilRecount || q.counted+q.joined+q.joining >= q.most {
		return false
	}
	q.joining++
	return true
}

func (q *queue) done(queued bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.joining--
	if queued {
		q.joined++
	}
}
