package client

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// shareEvery is how often replicas tell each other what they let through. For so
// long each lets through what all may.
const shareEvery = time.Second

// Usage is what replicas share by way of the record.
type Usage interface {
	// ShareUsage records how many requests of each client a replica has let through
	// since it started, and returns how many the others have.
	ShareUsage(ctx context.Context, replica string, used map[string]uint64) (others map[string]uint64, _ error)
	// ClientSpending is what the gas of clients' payments has cost since midnight
	// UTC, in wei.
	ClientSpending(ctx context.Context, clients []string) (map[string]*big.Int, error)
}

// Limits hold every client to its rate and its gas, over all replicas: what one
// lets through leaves the buckets of the others a second later.
type Limits struct {
	usage   Usage
	replica string
	now     func() time.Time
	log     *slog.Logger

	mu      sync.Mutex
	buckets map[string]*bucket
	spent   map[string]*big.Int
	budgets map[string]bool
}

// bucket of one client.
type bucket struct {
	limiter *rate.Limiter
	// used is what this replica let through, others what the others had by the last
	// word from them.
	used, others uint64
	told         bool
}

// NewLimits limits for one replica.
func NewLimits(usage Usage, replica string, now func() time.Time, log *slog.Logger) *Limits {
	return &Limits{usage: usage, replica: replica, now: now, log: log, buckets: make(map[string]*bucket), spent: make(map[string]*big.Int), budgets: make(map[string]bool)}
}

// Take lets one request of a client through, or says in a *Denial when there is
// room for it.
func (l *Limits) Take(c *Client) error {
	if c.Rate == 0 {
		return nil
	}
	burst := c.Burst
	if burst == 0 {
		burst = c.Rate
	}
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[c.ID]
	if b == nil {
		b = &bucket{limiter: rate.NewLimiter(rate.Limit(c.Rate), burst)}
		l.buckets[c.ID] = b
	}
	if b.limiter.Limit() != rate.Limit(c.Rate) || b.limiter.Burst() != burst { // it was changed
		b.limiter.SetLimitAt(now, rate.Limit(c.Rate))
		b.limiter.SetBurstAt(now, burst)
	}
	r := b.limiter.ReserveN(now, 1)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return &Denial{Check: CheckRate, Text: fmt.Sprintf("more than %d requests a second", c.Rate), After: wait}
	}
	b.used++
	return nil
}

// Afford says in a *Denial that a client's payments have cost all the gas of the
// day that they may. What is not mined yet is not known to have cost anything.
func (l *Limits) Afford(c *Client) error {
	if c.GasPerDay == nil || c.GasPerDay.Sign() == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.budgets[c.ID] = true
	if spent := l.spent[c.ID]; spent == nil || spent.Cmp(c.GasPerDay) < 0 {
		return nil
	}
	now := l.now().UTC()
	return &Denial{
		Check: CheckGas, Text: "this client's payments have cost all the gas that they may today (UTC)",
		After: now.Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now),
	}
}

// Run shares until ctx ends.
func (l *Limits) Run(ctx context.Context) {
	tick := time.NewTicker(shareEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := l.Share(ctx)
		if failed := err != nil && ctx.Err() == nil; failed != failing {
			failing = failed
			if failed {
				l.log.WarnContext(ctx, "clients' usage can't be shared, each replica limits by itself", slog.Any("error", err))
			}
		}
	}
}

// Share tells the others what was let through here, and takes off what they did.
// Where no client has a limit it does nothing.
func (l *Limits) Share(ctx context.Context) error {
	l.mu.Lock()
	used := make(map[string]uint64, len(l.buckets))
	for id, b := range l.buckets {
		used[id] = b.used
	}
	budgets := make([]string, 0, len(l.budgets))
	for id := range maps.Keys(l.budgets) {
		budgets = append(budgets, id)
	}
	l.mu.Unlock()
	if len(used) > 0 {
		others, err := l.usage.ShareUsage(ctx, l.replica, used)
		if err != nil {
			return err
		}
		l.subtract(others)
	}
	if len(budgets) > 0 {
		spent, err := l.usage.ClientSpending(ctx, budgets)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.spent = spent
		l.mu.Unlock()
	}
	return nil
}

func (l *Limits) subtract(others map[string]uint64) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, n := range others {
		b := l.buckets[id]
		if b == nil {
			continue
		}
		// The first word is of all times; and less than before means that one is gone.
		if b.told && n > b.others {
			b.limiter.ReserveN(now, int(min(n-b.others, uint64(b.limiter.Burst())))) //nolint:gosec // G115: a burst, never negative
		}
		b.others, b.told = n, true
	}
}
