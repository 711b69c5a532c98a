package settle_test

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// crowd is a record of many payments that nobody signs.
type crowd struct {
	record
	queued map[payment.Key]bool
	others int // of another process
	counts int
}

func (c *crowd) PaymentByKey(context.Context, payment.Key) (payment.Payment, error) {
	return payment.Payment{}, payment.ErrNotFound
}

func (c *crowd) ClaimPayment(_ context.Context, p payment.Payment, _ *payment.Guard) (payment.Payment, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := !c.queued[p.Terms.Key]
	c.queued[p.Terms.Key] = true
	p.ID, p.State = payment.ID(p.Terms.Key.Nonce.String()), payment.StateQueued
	return p, fresh, nil
}

func (c *crowd) CountQueued(context.Context, x402.Network) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts++
	if c.outage {
		return 0, payment.ErrUnavailable
	}
	return len(c.queued) + c.others, nil
}

func (c *crowd) Withdraw(context.Context, payment.ID, x402.Reason, string) error { return nil }

func (c *crowd) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queued)
}

// sales makes each request another sale.
type sales struct {
	verifier
	mu sync.Mutex
	n  uint64
}

func (s *sales) Parse(*x402.Request) (scheme.Payment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	terms := sale()
	binary.BigEndian.PutUint64(terms.Key.Nonce[:], s.n)
	return parsed{terms}, nil
}

// flood sends so many payments at once and counts those that were refused
// because the queue is full. Everybody else waits until the end.
func flood(t *testing.T, b *bench, calls int) (refused int, end func()) {
	t.Helper()
	ctx, hangUp := context.WithCancel(t.Context())
	var mu sync.Mutex
	var callers sync.WaitGroup
	for range calls {
		callers.Go(func() {
			if _, err := b.Settle(ctx, &x402.Request{Version: x402.V2}, payment.Wishes{}); errors.Is(err, chain.ErrNotReady) {
				mu.Lock()
				defer mu.Unlock()
				refused++
			}
		})
	}
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()
	return refused, func() { hangUp(); callers.Wait() }
}

func crowded(t *testing.T, most int) (*bench, *crowd) {
	t.Helper()
	c := &crowd{queued: make(map[payment.Key]bool)}
	b := newBench(t)
	b.Verifier, b.Store, b.MaxQueued = &sales{verifier: verifier{record: c}}, c, most
	return b, c
}

func TestTheQueueIsBoundedUnderAFlood(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1, 50, 1000} {
		synctest.Test(t, func(t *testing.T) {
			b, c := crowded(t, most)
			const calls = 2048
			refused, end := flood(t, b, calls)
			defer end()
			if c.size() != most || refused != calls-most {
				t.Errorf("bound %d: %d queued, %d refused", most, c.size(), refused)
			}
		})
	}
}

func TestWhatLeftTheQueueMakesRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, c := crowded(t, 50)
		_, end := flood(t, b, 60)
		defer end()
		c.mu.Lock()
		clear(c.queued) // signed, all of them
		c.mu.Unlock()
		refused, endAgain := flood(t, b, 60)
		defer endAgain()
		if c.size() != 50 || refused != 10 {
			t.Errorf("%d queued, %d refused", c.size(), refused)
		}
	})
}

func TestTheQueueOfOthersIsCountedNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, c := crowded(t, 5000)
		_, end := flood(t, b, 1)
		defer end()
		c.mu.Lock()
		c.others, c.counts = 5000, 0
		c.mu.Unlock()
		refused, endAgain := flood(t, b, 1000)
		defer endAgain()
		if c.size() > 2*256 || refused == 0 { // and those under way as it is counted
			t.Errorf("the queue is full of another process's payments, but %d joined", c.size())
		}
		if c.counts == 0 || c.counts > 1000 {
			t.Errorf("counted %d times", c.counts)
		}
	})
}

func TestAQueueThatCanNotBeCountedIsNotJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, c := crowded(t, 50)
		c.outage = true
		if a := b.now(t, ""); !errors.Is(a.err, payment.ErrUnavailable) || c.size() != 0 {
			t.Errorf("%d queued, %v", c.size(), a.err)
		}
	})
}
