package evm

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// aggregate3Result is what Multicall3 returns.
func aggregate3Result(results []Call3Result) []byte {
	b := pack(0, intWord(32), intWord(len(results)))[4:]
	offset := 32 * len(results)
	for _, r := range results {
		w := intWord(offset)
		b = append(b, w[:]...)
		offset += 96 + (len(r.Data)+31)/32*32
	}
	for _, r := range results {
		ok, at := intWord(0), intWord(64)
		if r.Success {
			ok = intWord(1)
		}
		b = append(append(b, ok[:]...), at[:]...)
		b = appendBytes(b, r.Data)
	}
	return b
}

func TestWhatAggregate3ReturnsIsRead(t *testing.T) {
	t.Parallel()
	for _, want := range [][]Call3Result{
		{},
		{{Success: true, Data: []byte{}}},
		{{Data: []byte{1}}, {Success: true, Data: bytes.Repeat([]byte{2}, 32)}, {Data: bytes.Repeat([]byte{3}, 33)}},
		slices.Repeat([]Call3Result{{Success: true, Data: make([]byte, 64)}}, 200),
	} {
		b := aggregate3Result(want)
		got, ok := DecodeAggregate3(b)
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("%v (-want +got):\n%s", ok, diff)
		}
		for _, wrong := range [][]byte{b[:len(b)-1], b[:len(b)-32], append(slices.Clone(b), make([]byte, 32)...), append([]byte{0}, b...), b[1:]} {
			if got, ok := DecodeAggregate3(wrong); ok {
				t.Errorf("%x is read as %v", wrong, got)
			}
		}
	}
}

// TestNoWordOfAnAggregateMayDiffer changes each word that is no content.
func TestNoWordOfAnAggregateMayDiffer(t *testing.T) {
	t.Parallel()
	b := aggregate3Result([]Call3Result{{Success: true, Data: []byte{1}}, {Data: []byte{}}})
	for at := 0; at < len(b); at += 32 {
		if at == 32*7 { // content
			continue
		}
		for _, change := range []func(w []byte){
			func(w []byte) { w[0] = 1 },
			func(w []byte) { w[31] += 33 },
			func(w []byte) { copy(w, bytes.Repeat([]byte{0xff}, 32)) },
		} {
			wrong := slices.Clone(b)
			change(wrong[at : at+32])
			if got, ok := DecodeAggregate3(wrong); ok {
				t.Errorf("with word %d as %x: %v", at/32, wrong[at:at+32], got)
			}
		}
	}
}

// FuzzDecodeAggregate3: whatever the bytes, no panic, and what is read is all
// that there was.
func FuzzDecodeAggregate3(f *testing.F) {
	f.Add([]byte{})
	f.Add(aggregate3Result(nil))
	f.Add(aggregate3Result([]Call3Result{{Success: true, Data: []byte{1}}, {Data: make([]byte, 32)}}))
	f.Add(aggregate3Result([]Call3Result{{Data: bytes.Repeat([]byte{7}, 100)}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		results, ok := DecodeAggregate3(b)
		if !ok {
			return
		}
		again, ok := DecodeAggregate3(aggregate3Result(results))
		if diff := cmp.Diff(results, again); !ok || diff != "" || len(aggregate3Result(results)) != len(b) {
			t.Errorf("%x: %v\n%s", b, ok, diff)
		}
	})
}
