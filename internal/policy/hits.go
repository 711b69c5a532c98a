package policy

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
)

// Record keeps whom screening refused; *store.Store is one.
type Record interface {
	// AddHits adds to what is recorded, all of it or nothing.
	AddHits(ctx context.Context, hits []payment.Hits) error
}

const (
	// writeEvery is how often hits are recorded: what a process that is killed has
	// not recorded, and how many transactions a flood makes.
	writeEvery = 5 * time.Second
	// maxNamed of one source are told apart on a day. Whoever asks for payments to
	// ever more addresses, or from them, makes no more rows than that; and does not
	// use up the rows of another source.
	maxNamed = 4096
)

// Why a hit is not recorded as it was.
const (
	causeRest     = "rest"
	causeDatabase = "database"
)

// hits are counted in memory, and recorded apart from requests.
type hits struct {
	record  Record
	now     func() time.Time
	log     *slog.Logger
	metrics *Metrics

	mu sync.Mutex
	// held are those of today, and what is not recorded yet: Count is of that.
	held map[payment.HitKey]*payment.Hits
	// named counts held by source, those beyond aside.
	named map[string]int

	// writing is held while they are recorded.
	writing sync.Mutex
	failing bool
}

func newHits(r Record, now func() time.Time, log *slog.Logger, m *Metrics) *hits {
	return &hits{record: r, now: now, log: log, metrics: m, held: make(map[payment.HitKey]*payment.Hits), named: make(map[string]int)}
}

// add counts one. It waits for nobody.
func (h *hits) add(ctx context.Context, t payment.Terms, s *source, v verdict) {
	now := h.now()
	key := payment.HitKey{Day: day(now), Network: t.Key.Network, Source: s.name, Role: v.hit.role, Address: v.hit.address}
	h.mu.Lock()
	defer h.mu.Unlock()
	counted := h.held[key]
	if counted == nil {
		counted = h.hold(key)
	}
	if counted.Count == 0 {
		counted.FirstAt = now
	}
	counted.Count++
	counted.Kind, counted.LastAt, counted.Reason, counted.Client = s.kind, now, v.detail, payment.ClientOf(ctx)
	counted.Payer, counted.PayTo, counted.Asset, counted.Nonce, counted.Amount = t.Key.Payer, t.PayTo, t.Asset, t.Key.Nonce, t.Amount
}

// hold makes room for one who is not counted yet, if there is some, else finds the
// count of all others.
func (h *hits) hold(key payment.HitKey) *payment.Hits {
	if h.named[key.Source] < maxNamed {
		h.named[key.Source]++
	} else {
		h.metrics.unrecorded.WithLabelValues(causeRest).Inc()
		key.Address, key.Rest = chain.Address{}, true
	}
	if h.held[key] == nil {
		h.held[key] = &payment.Hits{HitKey: key}
	}
	return h.held[key]
}

// run records until ctx ends, and what is left then.
func (h *hits) run(ctx context.Context) {
	// Not cut off in the middle: nobody would know whether it was recorded.
	write := context.WithoutCancel(ctx)
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.write(write)
		case <-ctx.Done():
			h.write(write)
			h.giveUp(write)
			return
		}
	}
}

// write records what was counted. What the database does not take now is counted
// on, and tried again. Where the answer to a commit is lost, hits count twice.
func (h *hits) write(ctx context.Context) {
	h.writing.Lock()
	defer h.writing.Unlock()
	batch := h.take()
	if len(batch) > 0 {
		h.settle(ctx, batch, h.record.AddHits(ctx, batch))
	}
	h.forget()
}

// settle does with a batch what became of it.
func (h *hits) settle(ctx context.Context, batch []payment.Hits, err error) {
	switch {
	case err == nil:
		if h.failing {
			h.log.InfoContext(ctx, "screening hits are recorded again")
		}
		h.failing = false
	case errors.Is(err, payment.ErrUnavailable):
		h.putBack(batch)
		if !h.failing {
			h.log.WarnContext(ctx, "screening hits can't be recorded now: they are kept, and tried again", slog.Any("error", err))
		}
		h.failing = true
	default: // it will not be taken another time either
		h.lost(ctx, batch, err)
	}
}

func (h *hits) lost(ctx context.Context, batch []payment.Hits, err error) {
	n := int64(0)
	for i := range batch {
		n += batch[i].Count
	}
	h.metrics.unrecorded.WithLabelValues(causeDatabase).Add(float64(n))
	h.log.ErrorContext(ctx, "screening hits are not recorded: this log alone has them", slog.Int64("hits", n), slog.Any("error", err))
}

// giveUp tells what a process that ends could not record.
func (h *hits) giveUp(ctx context.Context) {
	if batch := h.take(); len(batch) > 0 {
		h.lost(ctx, batch, errors.New("the process ends"))
	}
}

// take hands out all that is not recorded.
func (h *hits) take() (batch []payment.Hits) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, counted := range h.held {
		if counted.Count > 0 {
			batch = append(batch, *counted)
			counted.Count = 0
		}
	}
	return batch
}

// putBack counts what was handed out. Nothing was dropped since.
func (h *hits) putBack(batch []payment.Hits) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range batch {
		counted := h.held[batch[i].HitKey]
		counted.Count += batch[i].Count
		counted.FirstAt = batch[i].FirstAt
	}
}

// forget drops what is recorded of other days.
func (h *hits) forget() {
	today := day(h.now())
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, counted := range h.held {
		if counted.Count > 0 || key.Day == today {
			continue
		}
		delete(h.held, key)
		if !key.Rest {
			h.named[key.Source]--
		}
	}
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
