package policy

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
)

// party is somebody a payment deals with.
type party struct {
	role    string
	address chain.Address
}

// partiesOf are payer, payee and every contract that is called, and with them
// whatever pays or is paid by way of these.
func partiesOf(t payment.Terms, contracts []chain.Address) []party {
	who := append(make([]party, 0, 4), party{"payer", t.Key.Payer}, party{"payee", t.PayTo}, party{"contract", t.Asset})
	for _, c := range contracts {
		who = append(who, party{"contract", c})
	}
	return who
}

// verdict is what a source says of a payment: somebody is on it, it could not
// tell, or nothing is against it.
type verdict struct {
	hit *party
	// detail of a hit, for the log.
	detail string
	err    error
}

// source is what all sources of screening have: a name, and how well they are.
type source struct {
	name, kind string
	log        *slog.Logger
	metrics    *Metrics
	// toldAt is of when the newest of what it says is, in Unix nanoseconds.
	toldAt  atomic.Int64
	failing atomic.Bool
}

// told notes that the source answered, with what was so at a time.
func (s *source) told(ctx context.Context, at time.Time) {
	s.toldAt.Store(at.UnixNano())
	if s.failing.CompareAndSwap(true, false) {
		s.log.InfoContext(ctx, "screening source answers again", slog.String("source", s.name))
	}
}

// failed notes that it did not. Only the first of several in a row is logged.
func (s *source) failed(ctx context.Context, err error) {
	s.metrics.failures.WithLabelValues(s.name, s.kind).Inc()
	if s.failing.CompareAndSwap(false, true) {
		s.log.WarnContext(ctx, "screening source fails", slog.String("source", s.name), slog.Any("error", err))
	}
}

// maxKept bounds what is kept of a source's answers, and of payers and payees.
const maxKept = 1 << 16

// cache keeps answers for a time, the latest used first.
type cache[K comparable, V any] struct {
	ttl time.Duration
	now func() time.Time

	mu  sync.Mutex
	lru *simplelru.LRU[K, kept[V]]
}

type kept[V any] struct {
	value V
	until time.Time
}

func newCache[K comparable, V any](ttl time.Duration, now func() time.Time) *cache[K, V] {
	return &cache[K, V]{ttl: ttl, now: now, lru: newLRU[K, kept[V]]()}
}

func newLRU[K comparable, V any]() *simplelru.LRU[K, V] {
	lru, err := simplelru.NewLRU[K, V](maxKept, nil)
	if err != nil {
		return nil // only of a size that is not positive
	}
	return lru
}

func (c *cache[K, V]) get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.lru.Get(key)
	if !ok || !c.now().Before(k.until) {
		return value, false
	}
	return k.value, true
}

func (c *cache[K, V]) put(key K, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Add(key, kept[V]{value, c.now().Add(c.ttl)})
}
