package evm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

func TestDeedsAreReadFromTheAnswer(t *testing.T) {
	t.Parallel()
	w := func(n int) Call3Result { word := intWord(n); return Call3Result{Success: true, Data: word[:]} }
	done, failed := Call3Result{Success: true, Data: []byte{}}, Call3Result{Data: []byte{}}
	for name, row := range map[string]struct {
		results []Call3Result
		want    Deed
	}{
		"a transfer":                    {[]Call3Result{w(0), w(5), done, w(7), w(1)}, Deed{Told: true, Done: true, Used: true, Before: x402.NewUint256(5), After: x402.NewUint256(7)}},
		"it was used before":            {[]Call3Result{w(1), w(5), done, w(5), w(1)}, Deed{Told: true, Done: true, UsedBefore: true, Used: true, Before: x402.NewUint256(5), After: x402.NewUint256(5)}},
		"it fails in company":           {[]Call3Result{w(0), w(5), failed, w(5), w(0)}, Deed{Told: true, Before: x402.NewUint256(5), After: x402.NewUint256(5)}},
		"no balance":                    {[]Call3Result{w(0), failed, done, failed, w(1)}, Deed{Done: true, Used: true}},
		"a state that is no bool":       {[]Call3Result{w(0), w(5), done, w(7), w(2)}, Deed{Done: true, Before: x402.NewUint256(5), After: x402.NewUint256(7)}},
		"not as many results as asked":  {[]Call3Result{w(0), w(5), done, w(7)}, Deed{}},
		"a balance of fewer than bytes": {[]Call3Result{w(0), done, done, done, w(1)}, Deed{Done: true, Used: true}},
	} {
		got, err := deedOf(nil, aggregate3Result(row.results))
		if err != nil || got == nil {
			t.Errorf("%s: %v, %v", name, got, err)
			continue
		}
		if diff := cmp.Diff(row.want, *got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got, err := deedOf(nil, nil); got != nil || err != nil {
		t.Errorf("without Multicall3: %v, %v", got, err)
	}
	if got, err := deedOf(&RevertError{}, nil); err != nil || got == nil || got.Told {
		t.Errorf("the whole call reverts: %v, %v", got, err)
	}
	if got, err := deedOf(chain.ErrUnavailable, nil); got != nil || !errors.Is(err, chain.ErrUnavailable) {
		t.Errorf("the node can't tell: %v, %v", got, err)
	}
}

func TestForgivingAllowsEveryFailure(t *testing.T) {
	t.Parallel()
	calls := []Call3{{Target: chain.Address{1}, Data: []byte{1, 2, 3}}, {Target: chain.Address{2}, AllowFailure: true, Data: bytes.Repeat([]byte{9}, 40)}, {Target: chain.Address{3}}}
	strict := Aggregate3Data(calls)
	before := bytes.Clone(strict)
	for i := range calls {
		calls[i].AllowFailure = true
	}
	got, ok := Forgiving(strict)
	if !ok || !bytes.Equal(got, Aggregate3Data(calls)) || !bytes.Equal(strict, before) {
		t.Errorf("%v: %x", ok, got)
	}
}

// FuzzForgiving: whatever the bytes, no panic, and nothing but their length stays
// that was not asked for.
func FuzzForgiving(f *testing.F) {
	f.Add([]byte{})
	f.Add(Aggregate3Data(nil))
	f.Add(Aggregate3Data([]Call3{{Target: chain.Address{1}, Data: []byte{1, 2, 3}}, {Data: make([]byte, 33)}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, ok := Forgiving(data); ok && len(got) != len(data) {
			t.Errorf("%d bytes of %d", len(got), len(data))
		}
	})
}
