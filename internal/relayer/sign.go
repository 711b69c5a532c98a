package relayer

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
)

const (
	// firstRest of a lane whose signer fails doubles each time, up to maxRest.
	firstRest = time.Second
	maxRest   = time.Minute
)

// signFault is a signer that does not sign. It is not asked for anything of value
// until it has signed a probe, so no payment waits on it twice.
type signFault struct {
	reason string // empty: it signs
	// until is when it is tried again; trying is set while it is.
	until  time.Time
	trying bool
	// failures since it last signed something of value.
	failures int
}

// sign makes the attempt that a transaction is sent by.
func (l *lane) sign(ctx context.Context, u evm.Unsigned) (payment.Attempt, error) {
	signed, err := l.ask(ctx, u)
	if err != nil {
		return payment.Attempt{}, err
	}
	l.mu.Lock()
	if l.fault.reason == "" {
		l.fault.failures = 0
	}
	l.mu.Unlock()
	return payment.Attempt{Hash: signed.Hash, Raw: signed.Raw, GasLimit: u.GasLimit, Fees: u.Fees}, nil
}

// Ways in which a signer fails.
const (
	signFailed = "failed"
	signLate   = "late"
	signWrong  = "wrong"
)

// ask gives the signer SignTimeout, and parks the lane where that does not do.
func (l *lane) ask(ctx context.Context, u evm.Unsigned) (evm.Signed, error) {
	c := l.chain
	bounded, cancel := context.WithTimeout(ctx, c.Config.SignTimeout)
	defer cancel()
	began := c.Now()
	signed, err := l.signer.Sign(bounded, u)
	c.Metrics.signing.WithLabelValues(string(c.Config.Network), l.signer.Kind()).Observe(c.Now().Sub(began).Seconds())
	if err != nil && ctx.Err() == nil { // else nobody waits for it any more, which is no fault of its
		l.signFailed(ctx, err, bounded.Err() != nil)
	}
	return signed, err
}

// signFailed parks the lane for a while. Of what is signed at the same time only
// the first failure counts.
func (l *lane) signFailed(ctx context.Context, err error, late bool) {
	c := l.chain
	label, reason := signFailed, "its signer fails"
	switch {
	case errors.Is(err, evm.ErrSignature):
		label, reason = signWrong, "its signer gives what is no signature of the wallet over what was asked"
	case late:
		label, reason = signLate, "its signer does not answer in time"
	}
	c.Metrics.signFailures.WithLabelValues(string(c.Config.Network), l.signer.Kind(), label).Inc()
	now := c.Now()
	l.mu.Lock()
	f := &l.fault
	known := f.reason != "" && now.Before(f.until)
	first := f.reason == ""
	if !known {
		f.reason, f.until = reason, now.Add(min(firstRest<<min(f.failures, 10), maxRest))
		f.failures++
	}
	rest := f.until.Sub(now)
	l.mu.Unlock()
	c.Metrics.parked.WithLabelValues(l.labels()...).Set(1)
	switch attrs := []any{l.attr(), slog.String("reason", reason), slog.Duration("rest", rest), slog.Any("error", err)}; {
	case known:
	case first:
		c.Log.ErrorContext(ctx, "lane is parked: look at its signer", attrs...)
	default:
		c.Log.WarnContext(ctx, "lane stays parked", attrs...)
	}
}

// signs says whether the signer may be asked for something of value.
func (l *lane) signs() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault.reason == ""
}

// trySigners tries those that failed and have rested, beside the loops.
func (c *Chain) trySigners(ctx context.Context) {
	for _, l := range c.wallets() {
		l.mu.Lock()
		due := l.fault.reason != "" && !l.fault.trying && !c.Now().Before(l.fault.until)
		if due {
			l.fault.trying = true
		}
		l.mu.Unlock()
		if due {
			c.judging.Go(func() { l.try(ctx) })
		}
	}
}

// try has a parked lane work again if its signer signs what can't be mined.
func (l *lane) try(ctx context.Context) {
	c := l.chain
	_, err := l.ask(ctx, evm.Probe(l.signer.Address()))
	l.mu.Lock()
	l.fault.trying = false
	if err == nil {
		l.fault.reason = ""
	}
	poor := l.parked != ""
	l.mu.Unlock()
	if err != nil {
		return
	}
	if !poor {
		c.Metrics.parked.WithLabelValues(l.labels()...).Set(0)
	}
	c.Log.InfoContext(ctx, "lane's signer signs again", l.attr())
	signal(c.room)
}
