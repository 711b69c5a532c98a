package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// ClientSpending is what the payments of clients cost, for each one that is asked
	// for.
	ClientSpending(ctx context.Context, clients []string) (map[string]Spending, error)
}

// Spending is what a client's payments cost.
type Spending struct {
	// Day is the midnight (UTC) that Today counts from.
	Day time.Time
	// Today is what the gas of its payments has cost since then, in wei.
	Today *big.Int
	// Open payments are claimed, and what they cost is not known yet.
	Open int
	// Each is what one is expected to cost, in wei: the average of the last day that
	// has any, of its own or else of everybody's. It is nil before anything was mined.
	Each *big.Int
}

// unpriced is how many payments of a client with a budget may be open before it is
// known what one costs.
const unpriced = 64

// Limits hold every client to its rate and its gas, over all replicas: what one
// lets through leaves the buckets of the others a second later.
type Limits struct {
	usage   Usage
	replica string
	now     func() time.Time
	log     *slog.Logger

	mu      sync.Mutex
	buckets map[string]*bucket
	budgets map[string]*budget
}

// bucket of one client.
type bucket struct {
	limiter *rate.Limiter
	// used is what this replica let through, others what the others had by the last
	// word from them.
	used, others uint64
	told         bool
}

// budget of one client's gas.
type budget struct {
	spending Spending
	// recent payments were let through since the spending was last asked for, and
	// earlier ones in the round before: they may be claimed since, or not yet. So each
	// counts twice for a while, rather than not at all.
	recent, earlier int
}

// NewLimits limits for one replica.
func NewLimits(usage Usage, replica string, now func() time.Time, log *slog.Logger) *Limits {
	return &Limits{usage: usage, replica: replica, now: now, log: log, buckets: make(map[string]*bucket), budgets: make(map[string]*budget)}
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

// Afford lets one more payment of a client cost gas, or says in a *Denial that its
// payments may cost no more today. What is not mined yet counts with what a payment
// is expected to cost.
func (l *Limits) Afford(c *Client) error {
	if c.GasPerDay == nil || c.GasPerDay.Sign() == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.budgets[c.ID]
	if b == nil {
		b = &budget{}
		l.budgets[c.ID] = b
	}
	now := l.now().UTC()
	midnight := now.Truncate(24 * time.Hour)
	left := new(big.Int).Set(c.GasPerDay)
	if b.spending.Today != nil && !b.spending.Day.Before(midnight) { // else it is another day's
		left.Sub(left, b.spending.Today)
	}
	open := b.spending.Open + b.recent + b.earlier
	switch each := b.spending.Each; {
	case left.Sign() <= 0:
		return &Denial{
			Check: CheckGas, Text: "this client's payments have cost all the gas that they may today (UTC)",
			After: midnight.Add(24 * time.Hour).Sub(now),
		}
	case each == nil && open >= unpriced, each != nil && left.Cmp(new(big.Int).Mul(each, big.NewInt(int64(open+1)))) < 0:
		d := &Denial{Check: CheckGas, Text: "this client's payments under way take all the gas that is left of today (UTC)", After: shareEvery}
		if open == 0 {
			d.Text, d.After = "what is left of this client's gas of today (UTC) does not pay for another payment", midnight.Add(24*time.Hour).Sub(now)
		}
		return d
	}
	b.recent++
	return nil
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

// Share tells the others what was let through here, takes off what they did, and
// reads what budgets have left. Where no client has a limit it does nothing.
func (l *Limits) Share(ctx context.Context) error {
	return errors.Join(l.shareUsage(ctx), l.readSpending(ctx))
}

func (l *Limits) shareUsage(ctx context.Context) error {
	l.mu.Lock()
	used := make(map[string]uint64, len(l.buckets))
	for id, b := range l.buckets {
		used[id] = b.used
	}
	l.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	others, err := l.usage.ShareUsage(ctx, l.replica, used)
	if err == nil {
		l.subtract(others)
	}
	return err
}

func (l *Limits) readSpending(ctx context.Context) error {
	l.mu.Lock()
	ids, recent := make([]string, 0, len(l.budgets)), make(map[string]int, len(l.budgets))
	for id, b := range l.budgets {
		ids, recent[id] = append(ids, id), b.recent
	}
	l.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	spending, err := l.usage.ClientSpending(ctx, ids)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, n := range recent {
		b := l.budgets[id]
		b.spending, b.earlier, b.recent = spending[id], n, b.recent-n
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
