package app

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// pulseAge is how old an answer of the database's may be that is told again.
const pulseAge = 500 * time.Millisecond

// pulse says whether the database answers. Whoever asks shares answers with others,
// so that no number of callers makes more than a few questions a second.
type pulse struct {
	ping func(context.Context) error
	now  func() time.Time

	flight singleflight.Group
	mu     sync.Mutex
	at     time.Time // of err; zero before the first answer
	err    error
}

func newPulse(ping func(context.Context) error, now func() time.Time) *pulse {
	return &pulse{ping: ping, now: now}
}

// check is the database's answer, or why the caller did not wait for it.
func (p *pulse) check(ctx context.Context) error {
	if fresh, err := p.last(); fresh {
		return err
	}
	answer := p.flight.DoChan("", func() (any, error) {
		if fresh, err := p.last(); fresh { // somebody else asked meanwhile
			return nil, err
		}
		return nil, p.ask(context.WithoutCancel(ctx)) // it is for others too
	})
	select {
	case a := <-answer:
		return a.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *pulse) ask(ctx context.Context) error {
	err := p.ping(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.err = p.now(), err
	return err
}

// last is the newest answer, if it is fresh enough.
func (p *pulse) last() (fresh bool, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.at.IsZero() && p.now().Sub(p.at) < pulseAge, p.err
}
