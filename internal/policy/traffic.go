package policy

import (
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
)

// TrafficConfig bounds what one payer, or the payers of one payee, may ask for.
// Zeros bound nothing.
type TrafficConfig struct {
	// PerPayer and PerPayee payments in an Interval, at most.
	PerPayer, PerPayee int64
	Interval           time.Duration
	// PayerFailures and PayeeFailures are the settles that may fail, though they
	// were found good, if they are Percent of all: then nothing more is taken for
	// RefuseFor. From half as many on, one payment is taken every SlowTo. What
	// happened counts half when HalfLife has passed.
	PayerFailures, PayeeFailures int64
	Percent                      int64
	HalfLife, RefuseFor, SlowTo  time.Duration
}

// side is a payer or a payee.
type side struct {
	payee   bool
	address chain.Address
}

func (s side) role() string {
	if s.payee {
		return "payee"
	}
	return "payer"
}

// ticket is one payment with the signature it was found good with: who only names
// another's payment can't have it counted as failed.
type ticket struct {
	key       payment.Key
	signature chain.Hash
}

// throttle is why and how long a payment is to wait.
type throttle struct {
	check string // of checks
	role  string
	wait  time.Duration
}

func (w *throttle) message() string {
	if w.check == checkRate {
		return "too many payments of this " + w.role + " in a short time"
	}
	return fmt.Sprintf("too many payments of this %s failed lately", w.role)
}

// traffic remembers the latest payers, payees and payments. Of those that it
// forgot it knows nothing against.
type traffic struct {
	cfg TrafficConfig
	now func() time.Time

	mu      sync.Mutex
	conduct *simplelru.LRU[side, conduct]
	// good payments were taken, and those that are over have been counted.
	good, over *simplelru.LRU[ticket, struct{}]
}

// conduct of one side.
type conduct struct {
	// full is when all that was taken has run off at the rate that is allowed.
	full time.Time
	// slow and open are until when the breaker takes no new payment, and none.
	slow, open time.Time
	// failed of all settles, in parts of a settle, as of a time.
	failed, all int64
	as          time.Time
}

// parts of one settle, so that old ones count for less and less.
const parts = 1 << 10

func newTraffic(cfg TrafficConfig, now func() time.Time) *traffic {
	return &traffic{cfg: cfg, now: now, conduct: newLRU[side, conduct](), good: newLRU[ticket, struct{}](), over: newLRU[ticket, struct{}]()}
}

func (t *traffic) metered() bool { return t.cfg.PerPayer > 0 || t.cfg.PerPayee > 0 }
func (t *traffic) breaks() bool  { return t.cfg.PayerFailures > 0 || t.cfg.PayeeFailures > 0 }
func (t *traffic) off() bool     { return !t.metered() && !t.breaks() }

func sidesOf(p payment.Terms) [2]side {
	return [2]side{{false, p.Key.Payer}, {true, p.PayTo}}
}

func ticketOf(p payment.Terms) ticket { return ticket{p.Key, p.SignatureHash} }

// limits of one side.
func (t *traffic) limits(s side) (rate, failures int64) {
	if s.payee {
		return t.cfg.PerPayee, t.cfg.PayeeFailures
	}
	return t.cfg.PerPayer, t.cfg.PayerFailures
}

// passes says whether a payment may be looked at; nil if so. It counts nothing:
// what is not good yet takes nothing from those it names.
func (t *traffic) passes(p payment.Terms) *throttle {
	if t.off() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.check(p, t.good.Contains(ticketOf(p)))
}

// check looks at both sides. What was found good before has had its turn, but is
// not taken from whom the breaker refuses.
func (t *traffic) check(p payment.Terms, before bool) *throttle {
	now := t.now()
	for _, s := range sidesOf(p) {
		c, known := t.conduct.Get(s)
		if !known {
			continue
		}
		rate, _ := t.limits(s)
		switch {
		case c.open.After(now):
			return &throttle{checkOpen, s.role(), c.open.Sub(now)}
		case before:
		case c.slow.After(now):
			return &throttle{checkSlowed, s.role(), c.slow.Sub(now)}
		case rate > 0:
			// Room for one more: full, one turn later, is within an interval from now.
			if wait := c.full.Sub(now) - (t.cfg.Interval - t.turn(rate)); wait > 0 {
				return &throttle{checkRate, s.role(), wait}
			}
		}
	}
	return nil
}

// turn is the time that one payment takes up.
func (t *traffic) turn(rate int64) time.Duration { return t.cfg.Interval / time.Duration(rate) }

// take counts a payment that was found good, once.
func (t *traffic) take(p payment.Terms) *throttle {
	if t.off() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, before := t.good.Get(ticketOf(p)); before {
		return nil
	}
	if why := t.check(p, false); why != nil {
		return why
	}
	now := t.now()
	for _, s := range sidesOf(p) {
		rate, failures := t.limits(s)
		if rate == 0 && failures == 0 {
			continue
		}
		c, _ := t.conduct.Get(s)
		if rate > 0 {
			if c.full.Before(now) {
				c.full = now
			}
			c.full = c.full.Add(t.turn(rate))
		}
		if t.decay(&c, now); t.exceeds(c, (failures+1)/2) {
			c.slow = now.Add(t.cfg.SlowTo)
		}
		t.conduct.Add(s, c)
	}
	t.good.Add(ticketOf(p), struct{}{})
	return nil
}

// taken says whether take counted a payment.
func (t *traffic) taken(p payment.Terms) bool {
	if !t.breaks() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.good.Contains(ticketOf(p))
}

// refused counts the failure of a payment that take counted, once, and returns
// the sides that are refused from now on.
func (t *traffic) refused(p payment.Terms) []side {
	if !t.breaks() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.good.Remove(ticketOf(p)) {
		return nil
	}
	return t.count(p, false)
}

// ended counts a settle that came to its end, once: whoever signed it tells, and
// whoever waited for it.
func (t *traffic) ended(p payment.Terms, paid bool) []side {
	if !t.breaks() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.good.Remove(ticketOf(p))
	if t.over.Contains(ticketOf(p)) {
		return nil
	}
	t.over.Add(ticketOf(p), struct{}{})
	return t.count(p, paid)
}

func (t *traffic) count(p payment.Terms, paid bool) []side {
	now := t.now()
	var opened []side
	for _, s := range sidesOf(p) {
		_, failures := t.limits(s)
		if failures == 0 {
			continue
		}
		c, _ := t.conduct.Get(s)
		t.decay(&c, now)
		c.all += parts
		if !paid {
			c.failed += parts
			if !c.open.After(now) && t.exceeds(c, failures) {
				c.open = now.Add(t.cfg.RefuseFor)
				opened = append(opened, s)
			}
		}
		t.conduct.Add(s, c)
	}
	return opened
}

// exceeds says whether so many settles failed, and so large a part of all.
func (t *traffic) exceeds(c conduct, failures int64) bool {
	return failures > 0 && c.failed >= failures*parts && c.failed*100 >= c.all*t.cfg.Percent
}

// maxHalvings leave nothing of any count.
const maxHalvings = 62

// decay halves what is counted for each half life that has passed whole.
func (t *traffic) decay(c *conduct, now time.Time) {
	if !t.breaks() {
		return
	}
	if c.as.IsZero() {
		c.as = now
	}
	halvings := int64(now.Sub(c.as) / t.cfg.HalfLife)
	if halvings <= 0 {
		return
	}
	c.as = now.Add(-(now.Sub(c.as) % t.cfg.HalfLife))
	c.failed >>= min(halvings, maxHalvings)
	c.all >>= min(halvings, maxHalvings)
}
