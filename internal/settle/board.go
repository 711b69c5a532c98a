package settle

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"facilitator/internal/payment"
)

// Board is where callers wait for payments. The relayer of this process posts
// to it; what another replica settles is found by one query for all that are
// waited for.
type Board struct {
	store Store
	every time.Duration
	log   *slog.Logger

	mu      sync.Mutex
	waiting map[payment.ID]map[chan struct{}]bool
}

// NewBoard asks the record every so often.
func NewBoard(store Store, every time.Duration, log *slog.Logger) *Board {
	return &Board{store: store, every: every, log: log, waiting: make(map[payment.ID]map[chan struct{}]bool)}
}

// Watch returns a channel that receives whenever the payment may have moved.
func (b *Board) Watch(id payment.ID) (moved <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting[id] == nil {
		b.waiting[id] = make(map[chan struct{}]bool)
	}
	b.waiting[id][ch] = true
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.waiting[id], ch)
		if len(b.waiting[id]) == 0 {
			delete(b.waiting, id)
		}
	}
}

// Moved wakes who waits for these payments.
func (b *Board) Moved(ids ...payment.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		for ch := range b.waiting[id] {
			select {
			case ch <- struct{}{}:
			default: // it is awake already
			}
		}
	}
}

// Run asks the record until ctx ends.
func (b *Board) Run(ctx context.Context) error {
	tick := time.NewTicker(b.every)
	defer tick.Stop()
	seen := make(map[payment.ID]payment.State)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		ids := b.ids()
		if len(ids) == 0 {
			clear(seen)
			continue
		}
		states, err := b.store.States(ctx, ids)
		if err != nil {
			b.log.WarnContext(ctx, "waiting callers: record not read", slog.Any("error", err))
			continue
		}
		for id, state := range states {
			// Included is posted every time: depth grows without a new state.
			if seen[id] != state || state == payment.StateIncluded {
				b.Moved(id)
			}
		}
		seen = states
	}
}

func (b *Board) ids() []payment.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := make([]payment.ID, 0, len(b.waiting))
	for id := range b.waiting {
		ids = append(ids, id)
	}
	return ids
}
