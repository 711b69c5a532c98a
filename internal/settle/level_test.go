package settle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

func TestSubmittedIsAnsweredAsSoonAsItIsSigned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		start := time.Now()
		call := b.later(t.Context(), "", "submitted")
		synctest.Wait()
		b.board.Moved("the-id")
		synctest.Wait()
		if len(call) != 0 {
			t.Fatal("answered before there is a hash")
		}
		b.move(signed)
		a := <-call
		if wantReason(t, a, x402.ReasonSettlementPending); a.TxHash != txHash || time.Since(start) != 0 {
			t.Errorf("after %v: %+v", time.Since(start), a.Answer)
		}
		if n := b.record.count("PaymentByID") + b.record.count("Collect"); n != 0 {
			t.Errorf("the record is asked %d times beside the board", n)
		}
		b.move(included)
		wantSuccess(t, b.now(t, ""), false)
	})
}

// TestSubmittedNeverHearsSuccess is I2 for callers that do not wait for a block.
func TestSubmittedNeverHearsSuccess(t *testing.T) {
	t.Parallel()
	for state, move := range map[string]func(*payment.Payment){
		"signed": signed, "included": included, "final": final,
		"broadcast": func(p *payment.Payment) { signed(p); p.State = payment.StateBroadcast },
	} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.record.p = &payment.Payment{ID: "the-id", Terms: sale()}
				b.record.set(move)
				for _, key := range []string{"", "order-1", ""} {
					if a := b.now(t, key, "submitted"); b.record.answered() {
						t.Errorf("the answer is taken: %+v", a.Answer)
					} else if wantReason(t, a, x402.ReasonSettlementPending); a.TxHash != txHash {
						t.Errorf("hash %s", a.TxHash)
					}
				}
				b.record.set(included)
				wantSuccess(t, b.now(t, "order-1"), false)
				wantReason(t, b.now(t, "order-1", "submitted"), x402.ReasonSettlementPending)
				wantReason(t, b.now(t, "", "submitted"), x402.ReasonDuplicateSettlement)
				wantSuccess(t, b.now(t, "order-1"), true)
			})
		})
	}

	t.Run("but a failure", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			call := b.later(t.Context(), "", "submitted")
			synctest.Wait()
			b.move(failed)
			if a := <-call; a.Message != "used by somebody else" {
				t.Errorf("message %q", a.Message)
			} else {
				wantReason(t, a, x402.ReasonExactNonceUsed)
			}
		})
	})

	t.Run("and what nobody signed is taken back", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			if a := b.now(t, "", "submitted"); !errors.Is(a.err, payment.ErrNotSent) {
				t.Errorf("%+v, %v", a.Answer, a.err)
			}
		})
	})

	t.Run("and what a lane signs in the last moment is pending with its hash", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.record.before = func(method string) {
				if method == "Withdraw" {
					b.record.set(signed)
				}
			}
			if a := b.now(t, "", "submitted"); a.TxHash != txHash {
				t.Errorf("%+v, %v", a.Answer, a.err)
			} else {
				wantReason(t, a, x402.ReasonSettlementPending)
			}
		})
	})
}

func TestEachLevelWaitsForItsOwnDepth(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"", "mined", "3", "safe", "finalized"} {
		t.Run("level "+level, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				for _, l := range []string{"", "mined", "3", "safe", "finalized"} {
					b.relayer.settledUpTo(l, inBlock) // others are reached
				}
				b.relayer.settledUpTo(level, inBlock-1)
				call := b.later(t.Context(), "", level)
				synctest.Wait()
				for _, move := range []func(*payment.Payment){signed, included} {
					b.move(move)
					synctest.Wait()
				}
				if len(call) != 0 || b.record.count("Collect") != 0 {
					t.Fatalf("%d answers, collected %d times before it is deep enough", len(call), b.record.count("Collect"))
				}
				if level != "finalized" {
					b.relayer.settledUpTo(level, inBlock)
					b.board.Moved("the-id")
				} else {
					b.move(final)
				}
				wantSuccess(t, <-call, false)
				if b.record.count("Collect") != 1 || b.record.count("PaymentByID") != 0 || b.record.count("PaymentByKey") != 1 {
					t.Errorf("asked the record: %v", b.record.calls)
				}
			})
		})
	}
}

func TestADeeperLevelIsCollectedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.relayer.settledUpTo("safe", inBlock-1)
		start := time.Now()
		call := b.later(t.Context(), "", "finalized")
		synctest.Wait()
		b.move(included)
		a := <-call
		if wantReason(t, a, x402.ReasonSettlementPending); a.TxHash != txHash || time.Since(start) != wait || b.record.answered() {
			t.Errorf("after %v, answered %t: %+v", time.Since(start), b.record.answered(), a.Answer)
		}
		wantReason(t, b.now(t, "", "safe"), x402.ReasonSettlementPending)
		wantSuccess(t, b.now(t, "", "mined"), false)
		for _, level := range []string{"mined", "safe", "finalized"} {
			start := time.Now()
			if wantReason(t, b.now(t, "", level), x402.ReasonDuplicateSettlement); time.Since(start) != 0 {
				t.Errorf("%s: waited %v for what was told before", level, time.Since(start))
			}
		}
	})
}

func TestAReplayWaitsForItsLevelToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		call := b.later(t.Context(), "order-1", "mined")
		synctest.Wait()
		b.move(included)
		wantSuccess(t, <-call, false)
		again := b.later(t.Context(), "order-1", "finalized")
		synctest.Wait()
		if len(again) != 0 {
			t.Fatal("told final before it is")
		}
		b.move(final)
		wantSuccess(t, <-again, true)
	})
}

func TestWhoWaitsDeeperLearnsInTheEndThatItWasTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		deep, shallow := b.later(t.Context(), "", "finalized"), b.later(t.Context(), "", "mined")
		synctest.Wait()
		b.move(included)
		wantSuccess(t, <-shallow, false)
		wantReason(t, <-deep, x402.ReasonDuplicateSettlement)
	})
}

func TestAnAnswerTakenInDoubtIsTheCallsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		call := b.later(t.Context(), "")
		synctest.Wait()
		b.record.set(func(*payment.Payment) { b.record.lost = true })
		b.move(included)
		wantSuccess(t, <-call, false)
		if n := b.record.count("Collect"); n != 2 {
			t.Errorf("asked %d times", n)
		}
		wantReason(t, b.now(t, ""), x402.ReasonDuplicateSettlement)
	})
}

// TestABlockThatVanishesBeforeItIsToldIsNotTold is a reorganisation between the
// board's look and the call's own.
func TestABlockThatVanishesBeforeItIsToldIsNotTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		vanish := true
		b.record.before = func(method string) {
			if method == "Collect" && vanish {
				vanish = false
				b.record.set(func(p *payment.Payment) { p.State, p.BlockNumber = payment.StateBroadcast, 0 })
			}
		}
		call := b.later(t.Context(), "")
		synctest.Wait()
		b.move(included)
		synctest.Wait()
		if len(call) != 0 || b.record.answered() {
			t.Fatal("answered")
		}
		b.move(included)
		wantSuccess(t, <-call, false)
	})
}

func TestAFreshClaimIsNotReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ctx, hangUp := context.WithCancel(t.Context())
		call := b.later(ctx, "")
		synctest.Wait()
		if b.record.count("PaymentByKey") != 1 || b.record.count("ClaimPayment") != 1 || b.record.count("Collect")+b.record.count("PaymentByID")+b.record.count("Standings") != 0 {
			t.Errorf("asked the record: %v", b.record.calls)
		}
		hangUp()
		<-call
	})
}
