package evm

import (
	"context"
	"fmt"
	"sync"

	"facilitator/internal/chain"
)

// Senders hands transactions to several nodes at once: one that is slow, down
// or forgetful does not keep them from the chain. It is safe for concurrent
// use.
type Senders struct {
	clients []*Client

	mu     sync.Mutex
	closed bool
	sends  sync.WaitGroup
}

// NewSenders sends by way of every client. It does not own them.
func NewSenders(clients ...*Client) *Senders { return &Senders{clients: clients} }

// SendMany hands signed transactions to all nodes, in their order, and returns
// the best that any node said of each, by the order of the outcomes: a node
// that took it beats one that did not, and what a node judged beats what
// another could not tell, of which Doubtful remains. It returns as soon as one
// node has taken all of them, when all nodes have answered, or when ctx ends,
// which ends no send: they go on within the clients' timeouts, and the bytes
// must not change.
func (s *Senders) SendMany(ctx context.Context, raws [][]byte) []Sent {
	best := make([]Sent, len(raws))
	for i := range best {
		best[i] = Sent{Outcome: SendUnavailable, Err: fmt.Errorf("%w: no node answered", chain.ErrUnavailable)}
	}
	if len(raws) == 0 {
		return best
	}
	answers, asked := s.ask(ctx, raws)
	for range asked {
		select {
		case sent := <-answers:
			if merge(best, sent) {
				return best
			}
		case <-ctx.Done():
			for i := range best {
				best[i].Doubtful = !best[i].Outcome.pooled()
			}
			return best
		}
	}
	return best
}

// ask begins the sends, of which each puts one answer into the channel.
func (s *Senders) ask(ctx context.Context, raws [][]byte) (<-chan []Sent, int) {
	answers := make(chan []Sent, len(s.clients))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return answers, 0
	}
	ctx = context.WithoutCancel(ctx)
	for _, c := range s.clients {
		s.sends.Go(func() { answers <- c.SendMany(ctx, raws) })
	}
	return answers, len(s.clients)
}

// merge puts what one node said into best, and says whether it took all.
func merge(best, sent []Sent) (all bool) {
	all = true
	for i, got := range sent {
		all = all && got.Outcome.pooled()
		doubtful := best[i].Doubtful || got.Doubtful
		if got.Outcome.rank() <= best[i].Outcome.rank() {
			best[i] = got
		}
		best[i].Doubtful = doubtful && !best[i].Outcome.pooled()
	}
	return all
}

// Close waits for the sends still under way; later ones are not made.
func (s *Senders) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.sends.Wait()
}
