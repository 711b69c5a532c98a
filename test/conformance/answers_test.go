package conformance

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"facilitator/internal/x402"
)

// row is one question, asked in both wire versions.
type row struct {
	// name is what is peculiar about the payment. The table of differences uses it.
	name string
	// want is what we answer.
	want string
	// wantV1 is what we answer in version 1, and settle what /settle answers, if
	// that is another.
	wantV1, settle string
	// calls are the ones to make; all of them by default.
	calls []string
	// strict asks ours with one known asset, a least amount of it, and no factories.
	strict bool
	// hasty asks the ones that do not wait long for a block, and read the chain by
	// way of the node that can be cut.
	hasty bool
	// alone keeps other rows away, since this one changes the chain for all.
	alone bool
	// make makes the request.
	make func(d *desk) body
	// around, if given, asks, with something done to the chain before and undone
	// after.
	around func(d *desk, b body, ask func() string) string
}

// question names what was asked.
type question struct {
	row, version, call string
}

func (q question) String() string { return fmt.Sprintf("%s, v%s, %s", q.row, q.version, q.call) }

// answers are what both said, and the texts of it.
type answers struct {
	ours, official         string
	oursText, officialText string
}

// wanted is what we should answer.
func (r row) wanted(q question) string {
	want := r.want
	if q.version == "1" && r.wantV1 != "" {
		want = r.wantV1
	}
	if q.call != callVerify && r.settle != "" {
		want = r.settle
	}
	return want
}

func TestAnswers(t *testing.T) { //nolint:tparallel // the second group waits for the first
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a chain, a database and facilitators")
	}
	listed, err := readListed("../../docs/divergences.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := slices.Concat(payments(), wallets(), tokens(), requests(), settlements())
	known := map[string]bool{}
	for _, r := range rows {
		if known[r.name] {
			t.Errorf("two rows are called %q", r.name)
		}
		known[r.name] = true
	}
	for q := range listed.differences {
		if !known[q.row] {
			t.Errorf("docs/divergences.md: no row is called %q", q.row)
		}
	}
	s := newSite(t)
	var mu sync.Mutex
	seen := map[question]answers{}
	run := func(t *testing.T, r row) {
		t.Helper()
		for q, a := range r.ask(t, s) {
			compare(t, r, q, a, listed)
			mu.Lock()
			seen[q] = a
			mu.Unlock()
		}
	}
	t.Run("together", func(t *testing.T) {
		for _, r := range rows {
			if !r.alone {
				t.Run(r.name, func(t *testing.T) {
					t.Parallel()
					run(t, r)
				})
			}
		}
	})
	t.Run("alone", func(t *testing.T) {
		for _, r := range rows {
			if r.alone {
				t.Run(r.name, func(t *testing.T) { run(t, r) })
			}
		}
	})
	asked := map[string]bool{}
	for q := range seen {
		asked[q.row] = true
	}
	if len(asked) < len(rows) {
		return // somebody chose some of the rows
	}
	for q := range listed.differences {
		if _, ok := seen[q]; !ok {
			t.Errorf("docs/divergences.md lists %v, which is not asked", q)
		}
	}
	complete(t, seen, listed)
}

// ask asks both facilitators, in both versions and by every call.
func (r row) ask(t *testing.T, s *site) map[question]answers {
	t.Helper()
	calls := r.calls
	if calls == nil {
		calls = []string{callVerify, callSettle, callSimulated}
	}
	ours, official := s.ours, s.peer
	if r.strict || r.hasty {
		ours = s.strict
	}
	if r.hasty {
		official = s.hasty
	}
	out := map[question]answers{}
	for _, version := range []int{x402.V1, x402.V2} {
		for _, call := range calls {
			q := question{r.name, fmt.Sprint(version), call}
			peer := official
			if call == callSimulated {
				peer = s.simulating
			}
			var a answers
			if call == callSimulated { // ours knows no such thing
				before := out[question{q.row, q.version, callSettle}]
				a.ours, a.oursText = before.ours, before.oursText
			} else {
				a.ours, a.oursText = r.askOne(t, s, ours, q, version)
			}
			a.official, a.officialText = r.askOne(t, s, peer, q, version)
			out[q] = a
		}
	}
	return out
}

func (r row) askOne(t *testing.T, s *site, f *facilitator, q question, version int) (word, text string) {
	t.Helper()
	d := &desk{T: t, site: s, facilitator: f, version: version, call: q.call}
	b := r.make(d)
	ask := func() string {
		var err error
		if word, text, err = f.answer(t.Context(), q.call, b); err != nil {
			t.Fatalf("%v: %v", q, err)
		}
		return word
	}
	if r.around != nil {
		return r.around(d, b, ask), text
	}
	return ask(), text
}

// compare fails the test where our answer is not the wanted one, and where the
// official one differs from ours in another way than is listed.
func compare(t *testing.T, r row, q question, a answers, listed *listed) {
	t.Helper()
	if want := r.wanted(q); a.ours != want {
		t.Errorf("%v: we answer %q, want %q\n%s", q, a.ours, want, a.oursText)
	}
	difference, ok := listed.differences[q]
	switch {
	case a.ours == a.official && ok:
		t.Errorf("%v: docs/divergences.md line %d lists a difference that is none: both answer %q", q, difference.line, a.ours)
	case a.ours != a.official && !ok:
		t.Errorf("%v: not in docs/divergences.md:\n| %s | %s | %s | %s | %s | why |\nours:     %sofficial: %s",
			q, q.row, q.version, q.call, cell(a.ours), cell(a.official), a.oursText, a.officialText)
	case ok && (difference.ours != a.ours || difference.official != a.official):
		t.Errorf("%v: docs/divergences.md line %d has %q and %q, the answers are %q and %q\nours:     %sofficial: %s",
			q, difference.line, difference.ours, difference.official, a.ours, a.official, a.oursText, a.officialText)
	}
}

func cell(word string) string {
	if word == rawText {
		return word
	}
	return "`" + strings.TrimSpace(word) + "`"
}
