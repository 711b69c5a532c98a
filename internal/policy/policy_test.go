package policy_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/policy"
	"facilitator/internal/x402"
)

func TestNobodyPaysThemselvesUnlessTheyMay(t *testing.T) {
	t.Parallel()
	b := newBench(t, policy.Config{})
	wantReason(t, b.pass(t, deal(to(payer))), x402.ReasonSelfSend)
	if err := b.pass(t, deal(nil)); err != nil {
		t.Error(err)
	}
	if n := b.sample(t, "policy_refusals_total", "check=self_send"); n != 1 {
		t.Errorf("counted %v times", n)
	}
	if err := newBench(t, policy.Config{AllowSelfSend: true}).pass(t, deal(to(payer))); err != nil {
		t.Error(err)
	}
}

func TestAnOracleIsAskedOnceAboutEverybody(t *testing.T) {
	t.Parallel()
	o := &asked{bad: map[chain.Address]bool{bad: true}}
	b := newBench(t, policy.Config{Oracles: map[x402.Network]policy.Oracle{network: o}, OracleTTL: time.Minute})
	for range 2 {
		if err := b.pass(t, deal(nil), factory); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([][]chain.Address{{payer, payee, asset, factory}}, o.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	// Only who is not known yet is asked about.
	for role, c := range map[string]struct {
		terms     payment.Terms
		contracts []chain.Address
	}{
		"payer": {terms: deal(by(bad))}, "payee": {terms: deal(to(bad))},
		"asset": {terms: deal(func(t *payment.Terms) { t.Asset = bad })}, "factory": {deal(nil), []chain.Address{bad}},
	} {
		err := b.pass(t, c.terms, c.contracts...)
		wantReason(t, err, x402.ReasonKYTRisk)
		if strings.Contains(err.Error(), "oracle") || strings.Contains(err.Error(), "sanction") {
			t.Errorf("%s: the message tells who has it: %v", role, err)
		}
	}
	if diff := cmp.Diff([]chain.Address{bad}, o.calls[1]); diff != "" || len(o.calls) != 2 {
		t.Errorf("%d calls; the second (-want +got):\n%s", len(o.calls), diff)
	}
	if n := b.sample(t, "screening_hits_total", "kind=oracle"); n != 4 {
		t.Errorf("%v hits", n)
	}
	if text := b.log.String(); !strings.Contains(text, `"address":"`+bad.String()+`"`) || !strings.Contains(text, `"source":"oracle_eip155:8453"`) {
		t.Errorf("hits are not in the log: %s", text)
	}
	// Another network is not this oracle's.
	if err := b.pass(t, deal(func(t *payment.Terms) { t.Key.Network, t.PayTo = "eip155:1", bad })); err != nil {
		t.Error(err)
	}
}

// TestAnOraclesHitCountsWhateverElseItCouldNotTell, and nothing else of such an
// answer does.
func TestAnOraclesHitCountsWhateverElseItCouldNotTell(t *testing.T) {
	t.Parallel()
	o := &asked{bad: map[chain.Address]bool{bad: true}, partly: chain.ErrUnavailable}
	b := newBench(t, policy.Config{Oracles: map[x402.Network]policy.Oracle{network: o}, OracleTTL: time.Minute})
	wantReason(t, b.pass(t, deal(to(bad))), x402.ReasonKYTRisk)
	if err := b.pass(t, deal(nil)); !errors.Is(err, payment.ErrUnscreened) {
		t.Errorf("with nobody on it: %v", err)
	}
	if n := b.sample(t, "screening_failures_total", "kind=oracle"); n != 2 {
		t.Errorf("%v failures", n)
	}
	// Who is on it is known, who is not is asked about again.
	calls := len(o.calls)
	wantReason(t, b.pass(t, deal(to(bad))), x402.ReasonKYTRisk)
	o.partly = nil
	if err := b.pass(t, deal(nil)); err != nil || len(o.calls) != calls+1 || len(o.calls[calls]) != 3 {
		t.Errorf("%v after %d calls, of which the last was %v", err, len(o.calls), o.calls[len(o.calls)-1])
	}
}

func TestAnswersAreKeptForTheirTime(t *testing.T) {
	t.Parallel()
	o := &asked{}
	b := newBench(t, policy.Config{Oracles: map[x402.Network]policy.Oracle{network: o}, OracleTTL: time.Minute})
	ask := func() error { return b.pass(t, deal(nil)) }
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	o.bad = map[chain.Address]bool{payer: true}
	b.turn(time.Minute - 1)
	if err := ask(); err != nil {
		t.Errorf("within the time: %v", err)
	}
	if age := b.sample(t, "screening_age_seconds", "kind=oracle"); age < 59 || age > 60 {
		t.Errorf("age %v", age)
	}
	b.turn(1)
	wantReason(t, ask(), x402.ReasonKYTRisk)
	if age := b.sample(t, "screening_age_seconds", "kind=oracle"); age != 0 {
		t.Errorf("age %v after an answer", age)
	}
}

func TestASilentSourceJudgesNobody(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		o := &asked{err: chain.ErrUnavailable}
		b := newBench(t, policy.Config{FailOpen: open, Oracles: map[x402.Network]policy.Oracle{network: o}, OracleTTL: time.Minute})
		err := b.pass(t, deal(nil))
		if _, judged := x402.AsRejection(err); judged || open != (err == nil) || !open && !errors.Is(err, payment.ErrUnscreened) {
			t.Errorf("fail_open %v: %v", open, err)
		}
		if n := b.sample(t, "screening_failures_total", "source=oracle_eip155:8453"); n != 1 {
			t.Errorf("%v failures", n)
		}
		if n := b.sample(t, "screening_skipped_total", ""); (n == 1) != open {
			t.Errorf("fail_open %v: skipped %v times", open, n)
		}
		if got := b.Problems(); len(got) != 1 || got[0] != "screening by oracle_eip155:8453 fails" {
			t.Errorf("problems %q", got)
		}
		// It is asked again at once: silence is not kept.
		o.err = nil
		if err := b.pass(t, deal(nil)); err != nil || len(b.Problems()) != 0 {
			t.Errorf("after it answers: %v, %q", err, b.Problems())
		}
	}
}

func TestACallerWhoLeavesSaysNothingAboutASource(t *testing.T) {
	t.Parallel()
	o := &asked{err: chain.ErrUnavailable}
	b := newBench(t, policy.Config{Oracles: map[x402.Network]policy.Oracle{network: o}, OracleTTL: time.Minute, FailOpen: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(b.Pass(ctx, deal(nil), nil), b.Ask(ctx, deal(nil), nil)); !errors.Is(err, payment.ErrUnscreened) {
		t.Errorf("%v: what nobody waits for must not go on", err)
	}
	if len(b.Problems()) != 0 {
		t.Errorf("problems %q", b.Problems())
	}
}
