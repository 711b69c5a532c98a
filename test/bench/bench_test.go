package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPercentilesAreOfAllSamples(t *testing.T) {
	t.Parallel()
	var hundred []time.Duration
	for i := 1; i <= 100; i++ {
		hundred = append(hundred, time.Duration(i))
	}
	for _, row := range []struct {
		samples []time.Duration
		p       int
		want    time.Duration
	}{
		{nil, 50, 0},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred[:3], 50, 2},
		{hundred[:3], 99, 3},
		{hundred[:1], 1, 1},
	} {
		if got := percentile(row.samples, row.p); got != row.want {
			t.Errorf("percentile %d of %d samples: %d, want %d", row.p, len(row.samples), got, row.want)
		}
	}
}

func TestAllIsNeverSaidOfLess(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"100 %": share(20_000, 20_000), "99.9 %": share(19_999, 20_000), "0.0 %": share(0, 0), "1.3 %": share(7, 512),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestOverlayMergesMapsAndReplacesTheRest(t *testing.T) {
	t.Parallel()
	base := map[string]any{"a": map[string]any{"x": 1, "y": 2}, "b": []any{1, 2}, "c": 3}
	merge(base, map[string]any{"a": map[string]any{"y": 4}, "b": []any{5}, "d": map[string]any{"z": 6}})
	want := map[string]any{"a": map[string]any{"x": 1, "y": 4}, "b": []any{5}, "c": 3, "d": map[string]any{"z": 6}}
	if diff := cmp.Diff(want, base); diff != "" {
		t.Error(diff)
	}
}

func TestProxyCountsRequestsHoweverTheyArrive(t *testing.T) {
	t.Parallel()
	request := func(body string) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s", len(body), body)
	}
	text := request(`{"method":"a"}`) + request(`[{"method":"b"},{"method":"c"}]`) + request("") + request(`{"method":"d"}`)
	for _, size := range []int{1, 2, 7, 40, len(text)} {
		p := new(proxy)
		var out bytes.Buffer
		if err := p.count(&out, &slowly{text, size}); err == nil || out.String() != text {
			t.Errorf("%d bytes at a time: %v, copied %q", size, err, out.String())
		}
		if requests, calls := p.requests.Load(), p.calls.Load(); requests != 4 || calls != 4 {
			t.Errorf("%d bytes at a time: %d requests and %d calls, want 4 and 4", size, requests, calls)
		}
	}
}

// slowly reads a text so many bytes at a time.
type slowly struct {
	text string
	size int
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.text == "" {
		return 0, os.ErrClosed
	}
	n := copy(p, s.text[:min(s.size, len(s.text))])
	s.text = s.text[n:]
	return n, nil
}

// TestDocumentHasAPlaceForEveryTable has every scenario's table put into the
// document, and everything else left as it is.
func TestDocumentHasAPlaceForEveryTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "benchmarks.md")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	const machine = "Measured on a machine."
	var r report
	for suite, names := range map[string][]string{
		"settle": {"load", "cost", "idle", "queue", "replicas", "peer"},
		"verify": {"load", "cost", "lone", "peer", "refused", "memory"},
	} {
		r = report{suite: suite, machine: machine}
		for _, name := range names {
			r.add(name, name, []string{"figure", "value"}, name, "1")
		}
		for range 2 { // the second time over the first's
			if err := r.update(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	updated, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(updated), machine); n != 12 {
		t.Errorf("%d tables were put into the document, want 12", n)
	}
	if strip(string(updated)) != strip(string(text)) {
		t.Error("something beside the tables was changed")
	}
	r.add("other", "other", []string{"figure"}, "1")
	if err := r.update(file); err == nil {
		t.Error("a table without a place was left out silently")
	}
}

// strip removes what stands between markers.
func strip(document string) string {
	var kept strings.Builder
	for {
		head, rest, found := strings.Cut(document, ": begin -->")
		kept.WriteString(head)
		if !found {
			return kept.String()
		}
		_, document, _ = strings.Cut(rest, ": end -->")
	}
}
