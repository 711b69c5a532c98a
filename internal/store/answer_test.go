package store_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// TestOfManyCallsExactlyOneMayTellSuccess is I2.
func TestOfManyCallsExactlyOneMayTellSuccess(t *testing.T) {
	t.Parallel()
	r := open(t)
	replicas := []*store.Store{r.Store, openStore(t, r.url)}
	id := r.settledBy(t, 1, r.lane(t, 1, 0), 7)
	var may [32]bool
	var errs [32]error
	together(len(may), func(i int) { _, may[i], errs[i] = replicas[i%2].Collect(t.Context(), id, newCall(), chain.Hash{}, 7) })
	tellers := 0
	for i := range may {
		must(t, errs[i])
		if may[i] {
			tellers++
		}
	}
	if tellers != 1 {
		t.Errorf("%d calls may tell success", tellers)
	}
	if p := r.payment(t, id); p.AnsweredAt.IsZero() || !p.AnsweredKey.IsZero() {
		t.Errorf("answered at %v with key %s", p.AnsweredAt, p.AnsweredKey)
	}
}

func TestTheCallThatMayTellSuccessKeepsTheRightUntilItGivesItBack(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.settledBy(t, 1, r.lane(t, 1, 0), 7)
	first, second, key := newCall(), newCall(), chain.Hash{5}
	take := func(call string, key chain.Hash) bool {
		t.Helper()
		p, ok, err := r.Collect(t.Context(), id, call, key, 7)
		must(t, err)
		if diff := cmp.Diff(r.payment(t, id), p); diff != "" {
			t.Errorf("collected (-record +returned):\n%s", diff)
		}
		return ok
	}
	for range 2 {
		if !take(first, key) {
			t.Error("the call that took the right does not have it")
		}
	}
	if take(second, key) {
		t.Error("a second call has it too")
	}
	p := r.payment(t, id)
	if p.AnsweredKey != key {
		t.Errorf("told with key %s", p.AnsweredKey)
	}
	must(t, r.ReturnAnswer(t.Context(), id, second)) // not its own to give back
	if take(second, key) {
		t.Error("who does not have the right gave it back")
	}
	must(t, r.ReturnAnswer(t.Context(), id, first))
	if p := r.payment(t, id); !p.AnsweredAt.IsZero() || !p.AnsweredKey.IsZero() {
		t.Errorf("given back, but answered at %v with key %s", p.AnsweredAt, p.AnsweredKey)
	}
	if !take(second, chain.Hash{}) || take(first, key) {
		t.Error("after it was given back, not the next call but the first one has it")
	}
}

func TestNobodyMayTellSuccessOfWhatIsNotSettled(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	queued, signed, failed := r.claim(t, 1).ID, r.claim(t, 2).ID, r.claim(t, 3).ID
	r.sign(t, lane, signed)
	must(t, r.Withdraw(t.Context(), failed, x402.ReasonUnexpectedSettle, ""))
	for _, id := range []payment.ID{queued, signed, failed} {
		p, ok, err := r.Collect(t.Context(), id, newCall(), chain.Hash{}, math.MaxUint64)
		if ok || err != nil || !cmp.Equal(p, r.payment(t, id)) {
			t.Errorf("%t, %v, %+v", ok, err, p)
		}
	}
	for _, id := range []payment.ID{"0198c0de-0000-7000-8000-000000000000", "42", ""} {
		_, ok, err := r.Collect(t.Context(), id, newCall(), chain.Hash{}, math.MaxUint64)
		if ok {
			t.Errorf("%q: there is no such payment", id)
		}
		wantErr(t, err, payment.ErrNotFound)
	}
}

func TestSuccessIsNotToldOfABlockThatIsNotDeepEnough(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.settledBy(t, 1, r.lane(t, 1, 0), 7)
	for _, upTo := range []uint64{0, 6} {
		if p, ok, err := r.Collect(t.Context(), id, newCall(), chain.Hash{}, upTo); ok || err != nil || p.State != payment.StateIncluded {
			t.Errorf("up to block %d: %t, %v, %s", upTo, ok, err, p.State)
		}
	}
	for _, upTo := range []uint64{7, math.MaxInt64, math.MaxUint64} {
		call := newCall()
		if _, ok, err := r.Collect(t.Context(), id, call, chain.Hash{}, upTo); !ok || err != nil {
			t.Errorf("up to block %d: %t, %v", upTo, ok, err)
		}
		must(t, r.ReturnAnswer(t.Context(), id, call))
	}
	must(t, r.RecordFinal(t.Context(), network, []chain.Head{head(7)}))
	if p, ok, err := r.Collect(t.Context(), id, newCall(), chain.Hash{}, 0); !ok || err != nil || p.State != payment.StateFinal {
		t.Errorf("a final payment: %t, %v, %s", ok, err, p.State)
	}
}
