package policy_test

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/policy"
)

// good passes a payment and finds it good.
func (b *bench) good(t *testing.T, terms payment.Terms) error {
	t.Helper()
	return errors.Join(b.pass(t, terms), b.Take(terms))
}

func wantWait(t *testing.T, what string, err error, want time.Duration) {
	t.Helper()
	throttled, ok := errors.AsType[*payment.ThrottledError](err)
	if !ok || throttled.Wait != want {
		t.Errorf("%s: %v (%+v), want to wait %v", what, err, throttled, want)
	}
}

func wantGood(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func TestAPayerMayMakeSoManyPaymentsInAnInterval(t *testing.T) {
	t.Parallel()
	b := newBench(t, policy.Config{Traffic: policy.TrafficConfig{PerPayer: 3, Interval: time.Minute}})
	first := deal(nil)
	wantGood(t, "the first", b.good(t, first))
	wantGood(t, "the second", b.good(t, deal(nil)))
	wantGood(t, "the third", b.good(t, deal(nil)))
	wantWait(t, "the fourth", b.pass(t, deal(nil)), 20*time.Second)
	wantGood(t, "another payer's, to the same payee", b.good(t, deal(by(bad))))
	// One that was found good by /verify is not refused by /settle, nor counted again.
	wantGood(t, "the first again", b.good(t, first))
	b.turn(20 * time.Second)
	wantGood(t, "the fourth, later", b.good(t, deal(nil)))
	wantWait(t, "the fifth", b.pass(t, deal(nil)), 20*time.Second)
	b.turn(time.Hour)
	for range 3 {
		wantGood(t, "after a pause", b.good(t, deal(nil)))
	}
	wantWait(t, "a pause saves no more than an interval", b.pass(t, deal(nil)), 20*time.Second)
	if n := b.sample(t, "policy_refusals_total", "check=rate"); n != 3 {
		t.Errorf("counted %v times", n)
	}
}

func TestAPayeeMayBePaidSoManyTimesInAnInterval(t *testing.T) {
	t.Parallel()
	b := newBench(t, policy.Config{Traffic: policy.TrafficConfig{PerPayee: 1, Interval: time.Minute}})
	wantGood(t, "one", b.good(t, deal(nil)))
	wantWait(t, "two, of another payer", b.pass(t, deal(by(bad))), time.Minute)
	wantGood(t, "to another payee", b.good(t, deal(to(bad))))
	wantGood(t, "what the payee pays itself counts on the other side", b.good(t, deal(func(t *payment.Terms) { t.Key.Payer, t.PayTo = payee, asset })))
}

// TestWhatIsNotGoodTakesNobodysTurn: anybody can sign a payment to a payee, with
// no money behind it.
func TestWhatIsNotGoodTakesNobodysTurn(t *testing.T) {
	t.Parallel()
	b := newBench(t, policy.Config{Traffic: policy.TrafficConfig{PerPayer: 1, PerPayee: 1, Interval: time.Minute}})
	for range 100 {
		wantGood(t, "one that is never found good", b.pass(t, deal(nil)))
	}
	wantGood(t, "one that is", b.good(t, deal(nil)))
}

func TestOfManyAtTheSameMomentOnlySoManyAreTaken(t *testing.T) {
	t.Parallel()
	b := newBench(t, policy.Config{Traffic: policy.TrafficConfig{PerPayer: 5, Interval: time.Minute}})
	var all sync.WaitGroup
	var taken atomic.Int64
	for range 50 {
		terms := deal(nil)
		all.Go(func() {
			if b.Take(terms) == nil {
				taken.Add(1)
			}
		})
	}
	all.Wait()
	if taken.Load() != 5 {
		t.Errorf("%d were taken", taken.Load())
	}
}

var breaker = policy.TrafficConfig{
	PayerFailures: 4, Percent: 50, HalfLife: time.Hour, RefuseFor: 10 * time.Minute, SlowTo: 10 * time.Second,
}

// fails finds a payment good, and then not.
func (b *bench) fails(t *testing.T, terms payment.Terms) {
	t.Helper()
	wantGood(t, "before it fails", b.good(t, terms))
	if !b.Taken(terms) {
		t.Error("it is not known to be good")
	}
	b.Refused(terms)
}

func TestWhoseSettlesKeepFailingIsSlowedAndThenRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, policy.Config{Traffic: breaker})
	held := deal(nil)
	wantGood(t, "found good early", b.good(t, held))
	b.fails(t, deal(nil))
	b.fails(t, deal(nil))
	b.fails(t, deal(nil)) // the third is the first that is slowed
	wantWait(t, "from half of them on", b.pass(t, deal(nil)), 10*time.Second)
	wantGood(t, "what was found good before is not slowed", b.pass(t, held))
	wantGood(t, "another payer", b.pass(t, deal(by(bad))))
	b.turn(10 * time.Second)
	b.fails(t, deal(nil))
	wantWait(t, "after all of them", b.pass(t, deal(nil)), 10*time.Minute)
	wantWait(t, "and what was found good before", b.pass(t, held), 10*time.Minute)
	wantGood(t, "another payer of the same payee", b.pass(t, deal(by(bad))))
	if n := b.sample(t, "policy_breaker_opened_total", "role=payer"); n != 1 {
		t.Errorf("opened %v times", n)
	}

	b.turn(10 * time.Minute)
	wantGood(t, "one, to see whether it got better", b.good(t, deal(nil)))
	wantWait(t, "and no more at once", b.pass(t, deal(nil)), 10*time.Second)
	b.turn(3 * time.Hour)
	for range 5 {
		wantGood(t, "what is long past is forgotten", b.good(t, deal(nil)))
	}
}

func TestFailuresAmongManySuccessesBreakNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, policy.Config{Traffic: breaker})
	for range 20 {
		for _, paid := range []bool{true, true, false} {
			terms := deal(nil)
			wantGood(t, "it", b.good(t, terms))
			b.end(terms, paid)
		}
	}
}

// end has the relayer tell what became of a payment.
func (b *bench) end(terms payment.Terms, paid bool) {
	if paid {
		b.Ended(terms, payment.StateIncluded, &payment.Evidence{Kind: payment.EvidenceReceipt})
		return
	}
	b.Ended(terms, payment.StateFailed, &payment.Evidence{Kind: payment.EvidenceReverted})
}

// TestAnEndIsCountedOnce, whoever tells it: the wallet that settled the payment is
// of this replica, or of another, and callers repeat.
func TestAnEndIsCountedOnce(t *testing.T) {
	t.Parallel()
	cfg := breaker
	cfg.SlowTo = 0
	b := newBench(t, policy.Config{Traffic: cfg})
	failing := deal(nil)
	wantGood(t, "it", b.good(t, failing))
	for range 10 {
		b.end(failing, false)
	}
	wantGood(t, "after one failure that was told often", b.pass(t, deal(nil)))
	for range 2 { // 2 of 3 that were told of fail
		b.end(deal(nil), false)
	}
	paid := deal(nil)
	for range 10 {
		b.end(paid, true)
		b.Ended(paid, payment.StateFinal, nil)
	}
	b.end(deal(nil), false) // 4 of 5: successes that are told often weigh no more
	wantWait(t, "after four failures", b.pass(t, deal(nil)), 10*time.Minute)
}

func TestWhatFailsOnChainCountsForPayerAndPayee(t *testing.T) {
	t.Parallel()
	cfg := breaker
	cfg.PayerFailures, cfg.PayeeFailures = 1000, 2
	b := newBench(t, policy.Config{Traffic: cfg})
	for n := range byte(2) {
		terms := deal(by(chain.Address{n + 1}))
		wantGood(t, "it", b.Take(terms))
		b.end(terms, false)
		b.turn(10 * time.Second)
	}
	wantWait(t, "the payee", b.pass(t, deal(nil)), 10*time.Minute-10*time.Second)
	wantGood(t, "a payer, to another payee", b.pass(t, deal(func(t *payment.Terms) { t.Key.Payer, t.PayTo = chain.Address{1}, bad })))
}

// TestWhatIsNobodysFaultIsNotCounted: time that ran out, wallets of ours that had
// no room, and failures that anybody could make up for another.
func TestWhatIsNobodysFaultIsNotCounted(t *testing.T) {
	t.Parallel()
	cfg := breaker
	cfg.PayerFailures, cfg.PayeeFailures = 1, 1
	b := newBench(t, policy.Config{Traffic: cfg})
	terms := deal(nil)
	b.Ended(terms, payment.StateFailed, &payment.Evidence{Kind: payment.EvidenceExpired})
	b.Ended(terms, payment.StateFailed, &payment.Evidence{Kind: payment.EvidenceNotSent})
	b.Ended(terms, payment.StateFailed, nil)
	b.Ended(terms, payment.StateQueued, nil)
	b.Refused(terms) // never found good
	wantGood(t, "found good", b.Take(terms))
	forged := terms
	forged.SignatureHash = chain.Hash{0xff}
	if b.Taken(forged) {
		t.Error("another signature passes for the one that was found good")
	}
	b.Refused(forged)
	wantGood(t, "after all that", b.pass(t, deal(nil)))
	b.Refused(terms)
	if err := b.pass(t, deal(nil)); err == nil {
		t.Error("what was its fault is not counted")
	}
}

func TestOneFailureIsCountedOnce(t *testing.T) {
	t.Parallel()
	cfg := breaker
	cfg.PayerFailures, cfg.SlowTo = 3, 0
	b := newBench(t, policy.Config{Traffic: cfg})
	terms := deal(nil)
	b.fails(t, terms)
	for range 10 {
		b.Refused(terms)
	}
	wantGood(t, "after one failure that was asked about often", b.pass(t, deal(nil)))
}

// TestMemoryIsBounded: of more payers than are kept the latest count.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, policy.Config{Traffic: policy.TrafficConfig{PerPayer: 1, Interval: 24 * time.Hour}})
	const many = 1<<16 + 10
	of := func(n uint32) payment.Terms {
		return deal(func(t *payment.Terms) {
			binary.BigEndian.PutUint32(t.Key.Payer[:], n)
			binary.BigEndian.PutUint32(t.Key.Nonce[4:], n)
		})
	}
	for n := range uint32(many) {
		if err := b.Take(of(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.pass(t, of(many-1)); err == nil {
		t.Error("the latest is forgotten")
	}
	wantGood(t, "the first", b.pass(t, of(0)))
}
