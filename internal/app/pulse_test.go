package app

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// heart is what a pulse is of: each answer waits until it is let go.
type heart struct {
	mu    sync.Mutex
	now   time.Time
	beats int
	asked chan struct{}
	let   chan error
}

func (h *heart) ping(ctx context.Context) error {
	h.mu.Lock()
	h.beats++
	h.mu.Unlock()
	h.asked <- struct{}{}
	select {
	case err := <-h.let:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *heart) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func TestAPulseIsSharedAndNotOld(t *testing.T) {
	t.Parallel()
	away := errors.New("away")
	h := &heart{now: time.Unix(1_800_000_000, 0), asked: make(chan struct{}, 100), let: make(chan error, 100)}
	p := newPulse(h.ping, h.clock)
	wants := func(want error, beats int) {
		t.Helper()
		if err := p.check(t.Context()); !errors.Is(err, want) || h.beats != beats {
			t.Errorf("%v after %d questions, want %v after %d", err, h.beats, want, beats)
		}
	}
	// A caller who leaves takes nobody's answer along.
	ctx, leave := context.WithCancel(t.Context())
	var leaver, callers sync.WaitGroup
	leaver.Go(func() {
		if err := p.check(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("who left was told %v", err)
		}
	})
	<-h.asked
	for range 10 {
		callers.Go(func() {
			if err := p.check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	leave()
	leaver.Wait()
	h.let <- nil
	callers.Wait()
	wants(nil, 1)
	h.now = h.now.Add(pulseAge - 1)
	wants(nil, 1)
	h.now = h.now.Add(1)
	h.let <- away
	wants(away, 2)
	wants(away, 2)
	h.now = h.now.Add(pulseAge)
	h.let <- nil
	wants(nil, 3)
}
