package relayer

import (
	"time"

	"facilitator/internal/payment"
)

const (
	// firstDeferral doubles each time, up to maxDeferral.
	firstDeferral = time.Second
	maxDeferral   = time.Minute
	// maxDeferrals is after how many a payment that was never signed is taken
	// back: about a minute.
	maxDeferrals = 6
	// forgetDeferral is how long the count of one outlives its last deferral.
	forgetDeferral = 10 * time.Minute
)

// deferrals are payments the chain could not tell about. They are left alone
// for a while so that they don't stand in the way of those behind them.
type deferrals map[payment.ID]deferral

type deferral struct {
	until time.Time
	times int
	// refused is the height of the chain when the payment was first refused by a node
	// that had just said that it would succeed; 0 if it never was.
	refused uint64
}

// due says whether a payment may be looked at.
func (d deferrals) due(id payment.ID, now time.Time) bool { return !now.Before(d[id].until) }

// waiting lists the payments that may not be looked at yet, and forgets those
// that have been at rest for long.
func (d deferrals) waiting(now time.Time) []payment.ID {
	var ids []payment.ID
	for id, one := range d {
		switch {
		case now.Before(one.until):
			ids = append(ids, id)
		case now.Sub(one.until) > forgetDeferral:
			delete(d, id)
		}
	}
	return ids
}

// refuse notes such a refusal, and says whether one was noted two blocks ago or
// earlier.
func (d deferrals) refuse(id payment.ID, now time.Time, height uint64) bool {
	one := d[id]
	if one.refused == 0 {
		one.refused = height
	}
	if one.until.Before(now) {
		one.until = now
	}
	d[id] = one
	return height >= one.refused+2
}

// add defers a payment once more and returns how often it has been.
func (d deferrals) add(id payment.ID, now time.Time) int {
	one := d[id]
	one.until = now.Add(min(firstDeferral<<min(one.times, 10), maxDeferral))
	one.times++
	d[id] = one
	return one.times
}
