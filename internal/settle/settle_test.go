package settle_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

func wantSuccess(t *testing.T, a answer, replayed bool) {
	t.Helper()
	if a.err != nil || !a.Success || a.Replayed != replayed || a.Reason != "" || a.TxHash != txHash || a.Payer != payer {
		t.Errorf("want success (replayed: %t), got %+v, %v", replayed, a.Answer, a.err)
	}
}

func wantReason(t *testing.T, a answer, reason x402.Reason) {
	t.Helper()
	if a.err != nil || a.Success || a.Reason != reason || a.PaymentID != "the-id" || a.Payer != payer {
		t.Errorf("want %s, got %+v, %v", reason, a.Answer, a.err)
	}
}

func TestAPaymentIsClaimedAndItsSuccessIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		call := b.later(t.Context(), "")
		synctest.Wait()
		if b.relayer.wakes != 1 || b.record.p.ClaimedAtBlock != 41 || b.record.p.Version != x402.V2 || b.record.p.Resource != "https://api.example.com/" {
			t.Errorf("%d wakes, claimed %+v", b.relayer.wakes, b.record.p)
		}
		for _, step := range []func(*payment.Payment){signed, signed} {
			b.move(step)
			synctest.Wait()
			if len(call) != 0 {
				t.Fatal("answered before it is settled")
			}
		}
		b.move(included)
		wantSuccess(t, <-call, false)
	})
}

// TestEndsThatAreToldAreLearned, whichever replica's wallet settled the payment: a
// success once, and what is not over not at all.
func TestEndsThatAreToldAreLearned(t *testing.T) {
	t.Parallel()
	for want, move := range map[payment.State]func(*payment.Payment){payment.StateIncluded: included, payment.StateFailed: failed} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.move(signed)
			synctest.Wait()
			if len(b.told) != 0 {
				t.Errorf("learned %q of what is under way", b.told)
			}
			b.record.set(move) // by another replica
			<-call
			if !slices.Equal(b.told, []payment.State{want}) {
				t.Errorf("learned %q, want %s", b.told, want)
			}
		})
	}
}

func TestSuccessWaitsForItsDepth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.relayer.settledUpTo("", inBlock-1)
		call := b.later(t.Context(), "")
		synctest.Wait()
		b.move(included)
		synctest.Wait()
		if len(call) != 0 || b.record.answered() {
			t.Fatal("answered before it is deep enough")
		}
		b.relayer.settledUpTo("", inBlock)
		b.board.Moved("the-id")
		wantSuccess(t, <-call, false)
	})
}

func TestAtTheEndOfTheWait(t *testing.T) {
	t.Parallel()
	t.Run("what is signed is pending, with its hash, and is collected once", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			start := time.Now()
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.move(signed)
			a := <-call
			if wantReason(t, a, x402.ReasonSettlementPending); a.TxHash != txHash || time.Since(start) != wait {
				t.Errorf("after %v: %+v", time.Since(start), a.Answer)
			}
			b.move(included)
			wantSuccess(t, b.now(t, ""), false)
			wantReason(t, b.now(t, ""), x402.ReasonDuplicateSettlement)
		})
	})

	t.Run("what is mined but not deep enough is pending", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.relayer.settledUpTo("", inBlock-1)
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.move(included)
			wantReason(t, <-call, x402.ReasonSettlementPending)
			if b.record.answered() {
				t.Error("the answer is taken")
			}
		})
	})

	t.Run("what somebody else's transaction settled, but not deep enough, is pending", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.relayer.settledUpTo("", inBlock-1)
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.move(func(p *payment.Payment) { p.State, p.TxHash, p.BlockNumber = payment.StateIncluded, txHash, inBlock })
			wantReason(t, <-call, x402.ReasonSettlementPending)
		})
	})

	t.Run("what nobody signed is taken back and may be tried again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			a := b.now(t, "")
			if !errors.Is(a.err, payment.ErrNotSent) || a.Success || a.PaymentID != "the-id" {
				t.Errorf("%+v, %v", a.Answer, a.err)
			}
			if b.record.p.State != payment.StateFailed || b.record.p.Evidence.Kind != payment.EvidenceNotSent {
				t.Errorf("left as %+v", b.record.p)
			}
			call := b.later(t.Context(), "")
			synctest.Wait()
			if b.relayer.wakes != 2 {
				t.Errorf("%d wakes", b.relayer.wakes)
			}
			b.move(included)
			wantSuccess(t, <-call, false)
		})
	})

	t.Run("what a lane signs in the last moment is pending", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.record.before = func(method string) {
				if method == "Withdraw" {
					b.record.set(signed)
				}
			}
			wantReason(t, b.now(t, ""), x402.ReasonSettlementPending)
		})
	})

	t.Run("what failed in the last moment has failed", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.record.before = func(method string) {
				if method == "Withdraw" {
					b.record.set(failed)
				}
			}
			wantReason(t, b.now(t, ""), x402.ReasonExactNonceUsed)
		})
	})

	t.Run("of two that wait for the same unsigned payment none is told that it is pending", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			for _, call := range []<-chan answer{b.later(t.Context(), ""), b.replica(t).later(t.Context(), "")} {
				if a := <-call; a.Success || a.Reason == x402.ReasonSettlementPending || a.err == nil && a.Reason == "" {
					t.Errorf("%+v, %v", a.Answer, a.err)
				}
			}
		})
	})

	t.Run("a payment queued again after it was signed is pending", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.move(signed)
			b.move(func(p *payment.Payment) { p.State = payment.StateQueued })
			wantReason(t, <-call, x402.ReasonSettlementPending)
			if b.record.count("Withdraw") != 0 {
				t.Error("it is taken back although its authorization left the service")
			}
		})
	})
}

func TestWhoHangsUpTakesNoAnswer(t *testing.T) {
	t.Parallel()
	t.Run("while the payment is under way", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			ctx, hangUp := context.WithCancel(t.Context())
			call := b.later(ctx, "")
			synctest.Wait()
			b.move(signed)
			synctest.Wait()
			hangUp()
			if a := <-call; !errors.Is(a.err, context.Canceled) || a.Success || a.PaymentID != "the-id" {
				t.Errorf("%+v, %v", a.Answer, a.err)
			}
			if b.record.p.State != payment.StateSigned {
				t.Errorf("the payment is %s", b.record.p.State)
			}
			b.move(included)
			wantSuccess(t, b.now(t, ""), false)
		})
	})

	t.Run("while the payment waits for a lane", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			ctx, hangUp := context.WithCancel(t.Context())
			call := b.later(ctx, "")
			synctest.Wait()
			hangUp()
			<-call
			if b.record.p.State != payment.StateQueued || b.record.count("Withdraw") != 0 {
				t.Error("work ended with the caller's waiting")
			}
		})
	})

	t.Run("while it is judged", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			ctx, hangUp := context.WithCancel(t.Context())
			b.verifier.judge = func(context.Context) error { hangUp(); return nil }
			if a := <-b.later(ctx, ""); a.err == nil || a.Success {
				t.Errorf("%+v, %v", a.Answer, a.err)
			}
			if b.record.p != nil {
				t.Error("claimed for nobody")
			}
		})
	})

	t.Run("in the moment it is taken: it is given back", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			ctx, hangUp := context.WithCancel(t.Context())
			b.record.before = func(method string) {
				if method == "Collect" {
					hangUp()
				}
			}
			call := b.later(ctx, "")
			synctest.Wait()
			b.move(included)
			if a := <-call; a.Success || !errors.Is(a.err, context.Canceled) {
				t.Errorf("%+v, %v", a.Answer, a.err)
			}
			b.record.before = nil
			wantSuccess(t, b.now(t, ""), false)
		})
	})
}

// TestSuccessIsToldOnce is I2.
func TestSuccessIsToldOnce(t *testing.T) {
	t.Parallel()
	t.Run("to one of many that wait, here and in another process", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			other := b.replica(t)
			var calls []<-chan answer
			for range 5 {
				calls = append(calls, b.later(t.Context(), ""), other.later(t.Context(), ""))
			}
			synctest.Wait()
			b.move(included)
			other.board.Moved("the-id")
			successes := 0
			for _, call := range calls {
				a := <-call
				if a.Success {
					successes++
					continue
				}
				wantReason(t, a, x402.ReasonDuplicateSettlement)
			}
			if successes != 1 || b.relayer.wakes+other.relayer.wakes != 1 {
				t.Errorf("%d successes, %d wakes", successes, b.relayer.wakes+other.relayer.wakes)
			}
		})
	})

	t.Run("and replayed to who brings the key it was told with", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			call := b.later(t.Context(), "order-1")
			synctest.Wait()
			b.move(included)
			wantSuccess(t, <-call, false)
			for _, c := range []struct {
				key      string
				replayed bool
			}{{"order-1", true}, {"", false}, {"order-2", false}, {"order-1", true}, {"order-1 ", false}} {
				if a := b.now(t, c.key); c.replayed {
					wantSuccess(t, a, true)
				} else {
					wantReason(t, a, x402.ReasonDuplicateSettlement)
				}
			}
		})
	})

	t.Run("without a key it is replayed to nobody", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.move(included)
			wantSuccess(t, <-call, false)
			wantReason(t, b.now(t, ""), x402.ReasonDuplicateSettlement)
			wantReason(t, b.now(t, "order-1"), x402.ReasonDuplicateSettlement)
		})
	})

	t.Run("again, if it could not be delivered", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			call := b.later(t.Context(), "order-1")
			synctest.Wait()
			b.move(included)
			first := <-call
			wantSuccess(t, first, false)
			replay, refused := b.now(t, "order-1"), b.now(t, "")
			for _, a := range []answer{replay, refused} { // not theirs to give back
				if err := b.Undelivered(t.Context(), a.Answer); err != nil || !b.record.answered() {
					t.Errorf("%v, answered: %t", err, b.record.answered())
				}
			}
			ctx, hangUp := context.WithCancel(t.Context())
			hangUp()
			if err := b.Undelivered(ctx, first.Answer); err != nil || b.record.answered() {
				t.Errorf("%v, answered: %t", err, b.record.answered())
			}
			wantSuccess(t, b.now(t, ""), false)
		})
	})
}

func TestAnOutageOfTheRecordWhileWaiting(t *testing.T) {
	t.Parallel()
	t.Run("is sat out", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.record.setOutage(true)
			b.move(included)
			time.Sleep(wait / 2) // of the bubble's time
			if len(call) != 0 {
				t.Fatal("given up")
			}
			b.record.setOutage(false)
			wantSuccess(t, <-call, false)
		})
	})

	t.Run("that begins as the answer is taken is sat out", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.record.before = func(method string) { b.record.setOutage(method == "Collect" && b.record.count("Collect") < 5) }
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.move(included)
			wantSuccess(t, <-call, false)
			if n := b.record.count("Collect"); n < 5 {
				t.Errorf("asked %d times", n)
			}
		})
	})

	t.Run("to the end is told, and the claim stands", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			start := time.Now()
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.record.setOutage(true)
			b.board.Moved("the-id")
			a := <-call
			if !errors.Is(a.err, payment.ErrUnavailable) || a.Success || a.PaymentID != "the-id" || time.Since(start) != wait {
				t.Errorf("after %v: %+v, %v", time.Since(start), a.Answer, a.err)
			}
			b.record.setOutage(false)
			b.record.set(included)
			wantSuccess(t, b.now(t, ""), false)
		})
	})

	t.Run("of a signed payment is pending in the end", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			call := b.later(t.Context(), "")
			synctest.Wait()
			b.move(signed)
			synctest.Wait()
			b.record.setOutage(true)
			b.board.Moved("the-id")
			wantReason(t, <-call, x402.ReasonSettlementPending)
		})
	})
}
