package settle_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"facilitator/internal/payment"
)

func woken(ch <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestTheBoardWakesWhoWaitsAndForgetsWhoStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		one, stopOne := b.board.Watch("a")
		two, stopTwo := b.board.Watch("a")
		other, stopOther := b.board.Watch("b")
		defer stopOther()
		b.board.Moved("a")
		b.board.Moved("a", "c") // a second time before anybody looks: nobody is blocked, nothing is lost
		if !woken(one) || !woken(two) || woken(other) {
			t.Error("not exactly those who wait for it are woken")
		}
		if woken(one) {
			t.Error("woken twice")
		}
		stopOne()
		stopOne()
		b.board.Moved("a")
		if woken(one) || !woken(two) {
			t.Error("not exactly who still waits is woken")
		}
		stopTwo()
		b.board.Moved("a")
		if woken(two) {
			t.Error("who stopped is woken")
		}
	})
}

func TestTheBoardFindsWhatAnotherProcessMoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.board.Run(ctx) }()
		tick := func() { time.Sleep(time.Second); synctest.Wait() } // of the bubble's time

		tick()
		if n := b.record.count("States"); n != 0 {
			t.Errorf("nobody waits, but the record is asked %d times", n)
		}
		b.record.p = &payment.Payment{ID: "the-id", State: payment.StateQueued}
		moved, forget := b.board.Watch("the-id")
		tick()
		if !woken(moved) {
			t.Error("not woken by the first look")
		}
		tick()
		if woken(moved) {
			t.Error("woken though nothing moved")
		}
		b.record.set(signed)
		tick()
		if !woken(moved) {
			t.Error("not woken by a new state")
		}
		b.record.setOutage(true)
		tick()
		b.record.setOutage(false)
		b.record.set(included)
		for range 3 { // its depth grows without a new state
			tick()
			if !woken(moved) {
				t.Error("not woken while it grows deeper")
			}
		}
		forget()
		asked := b.record.count("States")
		tick()
		if b.record.count("States") != asked {
			t.Error("nobody waits any more, but the record is asked")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestACallerLearnsOfASettlementByAnotherProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.board.Run(ctx) }()
		call := b.later(t.Context(), "")
		synctest.Wait()
		b.record.set(included) // nobody posts it here
		wantSuccess(t, <-call, false)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
