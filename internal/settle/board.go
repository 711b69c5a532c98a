package settle

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"facilitator/internal/payment"
)

// Board is where callers wait for payments. The relayer of this process posts
// which have moved; what another replica moves is found by looking every so
// often. One question to the record serves all that are looked at, and only
// those callers are woken that can be told something.
type Board struct {
	store Store
	every time.Duration
	log   *slog.Logger
	wake  chan struct{}

	mu      sync.Mutex
	waiting map[payment.ID]map[*Watch]bool
	// moved are the payments to look at before the next tick.
	moved map[payment.ID]bool
}

// NewBoard asks the record every so often.
func NewBoard(store Store, every time.Duration, log *slog.Logger) *Board {
	return &Board{
		store: store, every: every, log: log, wake: make(chan struct{}, 1),
		waiting: make(map[payment.ID]map[*Watch]bool), moved: make(map[payment.ID]bool),
	}
}

// Watch is one caller that waits for a payment.
type Watch struct {
	board *Board
	id    payment.ID
	// tells says whether there is something to tell about a payment that stands so.
	tells func(payment.Standing) bool
	woken chan struct{}

	mu    sync.Mutex
	seen  payment.Standing
	known bool // seen is set
}

// Watch wakes a caller whenever tells says so. It is called often, and must
// not block.
func (b *Board) Watch(id payment.ID, tells func(payment.Standing) bool) *Watch {
	w := &Watch{board: b, id: id, tells: tells, woken: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting[id] == nil {
		b.waiting[id] = make(map[*Watch]bool)
	}
	b.waiting[id][w] = true
	return w
}

// Woken receives when there may be something to tell.
func (w *Watch) Woken() <-chan struct{} { return w.woken }

// Standing is where the payment was when it was last looked at; false before.
func (w *Watch) Standing() (payment.Standing, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen, w.known
}

// Stop forgets the caller.
func (w *Watch) Stop() {
	b := w.board
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting[w.id], w)
	if len(b.waiting[w.id]) == 0 {
		delete(b.waiting, w.id)
	}
}

func (w *Watch) see(s payment.Standing) {
	w.mu.Lock()
	w.seen, w.known = s, true
	w.mu.Unlock()
	if w.tells(s) {
		signal(w.woken)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it is awake already
	}
}

// Moved has these payments looked at, if anybody waits for them. It costs
// nothing but a map's entries and never blocks.
func (b *Board) Moved(ids ...payment.ID) {
	b.mu.Lock()
	for _, id := range ids {
		if b.waiting[id] != nil {
			b.moved[id] = true
		}
	}
	look := len(b.moved) > 0
	b.mu.Unlock()
	if look {
		signal(b.wake)
	}
}

// Run looks until ctx ends.
func (b *Board) Run(ctx context.Context) error {
	tick := time.NewTicker(b.every)
	defer tick.Stop()
	silent := false
	for {
		all := false
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		case <-tick.C:
			all = true
		}
		ids := b.take(all)
		if len(ids) == 0 {
			continue
		}
		standings, err := b.store.Standings(ctx, ids)
		if err != nil && !silent && ctx.Err() == nil { // the next tick looks at all
			b.log.WarnContext(ctx, "waiting callers: record not read", slog.Any("error", err))
		}
		silent = err != nil
		for id, standing := range standings {
			for _, w := range b.watches(id) {
				w.see(standing)
			}
		}
	}
}

// mostAtOnce bounds the payments that are looked at in one tick.
const mostAtOnce = 256

// take returns whom to look at: what has moved, or all that is waited for.
func (b *Board) take(all bool) []payment.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []payment.ID
	if all {
		// A part at a time, in the order of the map, which is none: what this process
		// moves is posted, and the rest has time.
		for id := range b.waiting {
			if len(ids) == mostAtOnce {
				break
			}
			ids = append(ids, id)
		}
		for id := range b.moved {
			ids = append(ids, id)
		}
	} else {
		for id := range b.moved {
			ids = append(ids, id)
		}
	}
	clear(b.moved)
	return ids
}

func (b *Board) watches(id payment.ID) []*Watch {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*Watch, 0, len(b.waiting[id]))
	for w := range b.waiting[id] {
		list = append(list, w)
	}
	return list
}
