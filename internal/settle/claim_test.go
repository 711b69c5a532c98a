package settle_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

func TestARequestThatIsNoRepeatIsRefusedInEveryState(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(*payment.Terms){
		"another payee":     func(p *payment.Terms) { p.PayTo = chain.Address{9} },
		"another amount":    func(p *payment.Terms) { p.Amount = x402.NewUint256(1) },
		"another signature": func(p *payment.Terms) { p.SignatureHash = chain.Hash{9} },
	} {
		for state, move := range map[string]func(*payment.Payment){
			"queued": func(*payment.Payment) {}, "signed": signed, "included": included, "failed": failed,
			"final": final,
		} {
			t.Run(what+" while it is "+state, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t)
					b.record.p = &payment.Payment{ID: "the-id", Terms: sale(), State: payment.StateQueued}
					b.record.set(move)
					before := *b.record.p
					change(&b.verifier.terms)
					wantReason(t, b.now(t, ""), x402.ReasonDuplicateSettlement)
					b.verifier.check = x402.Reject(x402.ReasonExactSignature, "not signed by the payer")
					if r, ok := x402.AsRejection(b.now(t, "").err); !ok || r.Reason != x402.ReasonExactSignature {
						t.Error("what is wrong with the request itself is not told")
					}
					if b.record.answered() || b.record.p.State != before.State || b.relayer.wakes != 0 || b.record.count("ClaimPayment") != 0 {
						t.Errorf("it changed the payment: %+v", b.record.p)
					}
				})
			})
		}
	}
}

// TestAnotherClientIsToldNothingOfAPayment but that its authorization is taken. What
// was claimed without a key is collected with one.
func TestAnotherClientIsToldNothingOfAPayment(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		claimed, caller string
		collects        bool
	}{{"a", "a", true}, {"a", "b", false}, {"a", "", false}, {"", "a", true}, {"", "", true}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.record.p = &payment.Payment{ID: "the-id", Terms: sale(), Client: row.claimed}
			b.record.set(included)
			b.client = row.caller
			got := b.now(t, "")
			if row.collects {
				wantSuccess(t, got, false)
				return
			}
			if got.err != nil || got.Success || got.Reason != x402.ReasonDuplicateSettlement {
				t.Errorf("%q is told %+v of %q's payment, %v", row.caller, got.Answer, row.claimed, got.err)
			}
			b.verifier.check = x402.Reject(x402.ReasonExactSignature, "not signed by the payer")
			for _, got := range []answer{got, b.now(t, "")} {
				if got.PaymentID != "" || !got.TxHash.IsZero() {
					t.Errorf("%q learns of %q's payment: %+v", row.caller, row.claimed, got.Answer)
				}
			}
		})
	}
}

// TestOnlyWhatIsGoodIsAdmitted: nobody's budget is taken by garbage, nor by a
// payment that is there already.
func TestOnlyWhatIsGoodIsAdmitted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		admitted, full := 0, error(nil)
		b.admit = func() error { admitted++; return full }
		b.verifier.judge = func(context.Context) error { return x402.Reject(x402.ReasonExactSignature, "bad") }
		if a := b.now(t, ""); a.err == nil || admitted != 0 {
			t.Errorf("a bad one: %v, %d admitted", a.err, admitted)
		}
		b.verifier.judge = nil
		full = errors.New("no more today")
		if a := b.now(t, ""); !errors.Is(a.err, full) || b.record.count("ClaimPayment") != 0 {
			t.Errorf("beyond the budget: %v", a.err)
		}
		full = nil
		call := b.later(t.Context(), "")
		synctest.Wait()
		b.move(included)
		wantSuccess(t, <-call, false)
		b.now(t, "")
		if admitted != 2 {
			t.Errorf("%d admitted, want the two that were good", admitted)
		}
	})
}

func TestAFailureIsToldToEveryCallerAsOftenAsAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		call := b.later(t.Context(), "")
		synctest.Wait()
		b.move(failed)
		for _, a := range []answer{<-call, b.now(t, ""), b.now(t, "order-1")} {
			if wantReason(t, a, x402.ReasonExactNonceUsed); a.Message != "used by somebody else" {
				t.Errorf("message %q", a.Message)
			}
		}
		if b.record.count("ClaimPayment") != 1 {
			t.Error("a payment that was sent is claimed again")
		}
	})
}

func TestWhatIsNotJudgedGoodIsNotClaimed(t *testing.T) {
	t.Parallel()
	refused, silent := x402.Reject(x402.ReasonExactNonceUsed, "used"), errors.New("no answer")
	malformed := &x402.FieldError{Path: "paymentPayload", Problem: "missing"}
	for name, c := range map[string]struct {
		set  func(b *bench)
		want error
	}{
		"it can't be read":      {func(b *bench) { b.verifier.parse = malformed }, malformed},
		"it is refused":         {func(b *bench) { b.verifier.judge = func(context.Context) error { return refused } }, refused},
		"it can't be judged":    {func(b *bench) { b.verifier.judge = func(context.Context) error { return silent } }, silent},
		"no lane is ready":      {func(b *bench) { b.relayer.ready = silent }, silent},
		"the record is silent":  {func(b *bench) { b.record.outage = true }, payment.ErrUnavailable},
		"judging takes forever": {func(b *bench) { b.verifier.judge = func(ctx context.Context) error { <-ctx.Done(); return nil } }, payment.ErrNotSent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				c.set(b)
				start := time.Now()
				if a := b.now(t, ""); !errors.Is(a.err, c.want) || a.Success || a.PaymentID != "" {
					t.Errorf("%+v, %v", a.Answer, a.err)
				}
				if b.record.p != nil || b.relayer.wakes != 0 || time.Since(start) > wait {
					t.Errorf("claimed %+v, %d wakes, after %v", b.record.p, b.relayer.wakes, time.Since(start))
				}
			})
		})
	}
}

// TestAChainThatRefusesOurOwnSettlementIsNotBelieved: an identical call claims
// and settles while this one is judged.
func TestAChainThatRefusesOurOwnSettlementIsNotBelieved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.verifier.judge = func(context.Context) error {
			b.record.p = &payment.Payment{ID: "the-id", Terms: sale()}
			b.record.set(included)
			return x402.Reject(x402.ReasonExactNonceUsed, "used")
		}
		wantSuccess(t, b.now(t, ""), false)
	})
}

// TestAClaimThatComesTooLateIsJudgedAgain on what is promised now, and still takes its
// client's budget once.
func TestAClaimThatComesTooLateIsJudgedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		admitted := 0
		b.admit = func() error { admitted++; return nil }
		others := payment.Promised{Amount: x402.NewUint256(3000), Payments: 2}
		b.record.crowd = func(g *payment.Guard) bool {
			first := b.verifier.promised.IsZero()
			b.verifier.promised = others
			if g.Most.Int64() != 7 { // what was spare beyond what was promised
				t.Errorf("guard %s", g.Most)
			}
			return first
		}
		call := b.later(t.Context(), "")
		synctest.Wait()
		b.move(included)
		wantSuccess(t, <-call, false)
		if diff := cmp.Diff([]payment.Promised{{}, others}, b.verifier.judged); diff != "" {
			t.Errorf("judged on (-want +got):\n%s", diff)
		}
		if admitted != 1 {
			t.Errorf("admitted %d times, for one payment", admitted)
		}
	})
}

func TestACrowdEndsWithTheWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.record.crowd = func(*payment.Guard) bool { time.Sleep(time.Second); return true }
		start := time.Now()
		if a := b.now(t, ""); !errors.Is(a.err, payment.ErrNotSent) && !errors.Is(a.err, payment.ErrUnavailable) || a.PaymentID != "" {
			t.Errorf("%+v, %v", a.Answer, a.err)
		}
		if b.record.p != nil || b.relayer.wakes != 0 || time.Since(start) > wait+time.Second {
			t.Errorf("claimed %+v, after %v", b.record.p, time.Since(start))
		}
	})
}

// TestAClaimThatComesTooLateFindsItsOwnPayment: an identical call was faster.
func TestAClaimThatComesTooLateFindsItsOwnPayment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.record.crowd = func(*payment.Guard) bool {
			b.record.p = &payment.Payment{ID: "the-id", Terms: sale()}
			included(b.record.p)
			return true
		}
		wantSuccess(t, b.now(t, ""), false)
	})
}

func TestTheRecordIsGivenOnlyTextItCanHold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ url, want string }{
		"as it is":             {"https://api.example.com/é", "https://api.example.com/é"},
		"zero bytes":           {"a\x00b", "ab"},
		"not UTF-8":            {"a\xffb", "ab"},
		"too long":             {strings.Repeat("a", 3000), strings.Repeat("a", 2048)},
		"cut inside of a rune": {strings.Repeat("a", 2047) + "é", strings.Repeat("a", 2047)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = b.Settle(ctx, &x402.Request{Resource: c.url}, payment.Wishes{})
				}()
				synctest.Wait()
				if got := b.record.p.Resource; got != c.want {
					t.Errorf("recorded %.50q with %d bytes", got, len(got))
				}
				stop()
				<-done
			})
		})
	}
}

func TestAPanicIsTheCallersToRecover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.verifier.judge = func(context.Context) error { panic("in the middle of a judgement") }
		defer func() {
			if p := fmt.Sprint(recover()); !strings.Contains(p, "in the middle of a judgement") || !strings.Contains(p, "claim_test.go") {
				t.Errorf("recovered %q", p)
			}
		}()
		_, err := b.Settle(t.Context(), &x402.Request{}, payment.Wishes{})
		t.Errorf("no panic, but %v", err)
	})
}
