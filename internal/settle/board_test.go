package settle_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"facilitator/internal/payment"
	"facilitator/internal/settle"
)

func woken(w *settle.Watch) bool {
	synctest.Wait()
	select {
	case <-w.Woken():
		return true
	default:
		return false
	}
}

func always(payment.Standing) bool { return true }

func TestTheBoardWakesWhoWaitsAndForgetsWhoStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.record.p = &payment.Payment{ID: "a", State: payment.StateQueued}
		one, two, other := b.board.Watch("a", always), b.board.Watch("a", always), b.board.Watch("b", always)
		never := b.board.Watch("a", func(payment.Standing) bool { return false })
		if _, known := one.Standing(); known {
			t.Error("nobody looked yet")
		}
		b.board.Moved("a")
		b.board.Moved("a", "b", "c")
		b.board.Moved()
		if !woken(one) || !woken(two) || woken(other) || woken(never) {
			t.Error("not exactly those are woken who wait for it and can be told something")
		}
		if woken(one) {
			t.Error("woken twice")
		}
		for _, w := range []*settle.Watch{one, two, never} {
			if s, known := w.Standing(); !known || s.State != payment.StateQueued {
				t.Errorf("stands at %+v, %t", s, known)
			}
		}
		one.Stop()
		one.Stop()
		b.board.Moved("a")
		if woken(one) || !woken(two) {
			t.Error("not exactly who still waits is woken")
		}
		two.Stop()
		never.Stop()
		asked := b.record.count("Standings")
		b.board.Moved("a")
		if woken(two) || b.record.count("Standings") != asked {
			t.Error("who stopped is looked at")
		}
	})
}

func TestManyPaymentsThatMoveAreOneQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for _, id := range []payment.ID{"a", "b", "c"} {
			b.board.Watch(id, always)
		}
		asking, goOn := make(chan struct{}), make(chan struct{})
		b.record.before = func(string) { asking <- struct{}{}; <-goOn }
		b.board.Moved("a")
		<-asking
		b.board.Moved("b")
		b.board.Moved("c", "b")
		goOn <- struct{}{}
		<-asking
		goOn <- struct{}{}
		synctest.Wait()
		if n := b.record.count("Standings"); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestTheBoardFindsWhatAnotherProcessMoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		tick := func() { time.Sleep(time.Second); synctest.Wait() } // of the bubble's time
		tick()
		if n := b.record.count("Standings"); n != 0 {
			t.Errorf("nobody waits, but the record is asked %d times", n)
		}
		b.record.p = &payment.Payment{ID: "the-id", State: payment.StateQueued}
		var upTo atomic.Uint64
		upTo.Store(inBlock - 1)
		w := b.board.Watch("the-id", func(p payment.Standing) bool { return p.SettledUpTo(upTo.Load()) })
		for _, move := range []func(*payment.Payment){func(*payment.Payment) {}, signed, included} {
			b.record.set(move)
			tick()
			if woken(w) {
				t.Error("woken though there is nothing to tell")
			}
		}
		upTo.Add(1) // its depth grows without a new state
		tick()
		if !woken(w) {
			t.Error("not woken when it is deep enough")
		}
		b.record.setOutage(true)
		tick()
		if woken(w) {
			t.Error("woken without a look")
		}
		b.record.setOutage(false)
		tick()
		if !woken(w) {
			t.Error("not woken after the record was silent")
		}
		w.Stop()
		asked := b.record.count("Standings")
		tick()
		if b.record.count("Standings") != asked {
			t.Error("nobody waits any more, but the record is asked")
		}
	})
}

func TestAMoveThatCouldNotBeLookedAtIsNotForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.record.p = &payment.Payment{ID: "the-id", State: payment.StateQueued}
		b.record.setOutage(true)
		w := b.board.Watch("the-id", always)
		b.board.Moved("the-id")
		synctest.Wait()
		b.record.setOutage(false)
		time.Sleep(time.Second) // of the bubble's time
		if !woken(w) {
			t.Error("not woken")
		}
	})
}

func TestACallerLearnsOfASettlementByAnotherProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		call := b.later(t.Context(), "")
		synctest.Wait()
		b.record.set(included) // nobody posts it here
		wantSuccess(t, <-call, false)
	})
}
