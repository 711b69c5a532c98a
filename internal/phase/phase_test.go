package phase

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"facilitator/internal/metrics"
)

// histograms are count and sum by phase.
func histograms(t *testing.T, r prometheus.Gatherer) map[string]*dto.Histogram {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]*dto.Histogram)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			found[m.GetLabel()[0].GetValue()+m.GetLabel()[1].GetValue()] = m.GetHistogram()
		}
	}
	return found
}

func TestAPhaseLastsFromTheEndOfTheOneBefore(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	r := prometheus.NewRegistry()
	m := NewMetrics(metrics.New(r), func() time.Time { return now }, "/verify", "/settle")
	ctx := With(t.Context(), m.Start("/settle", now))
	for _, p := range []Phase{Decode, Policy, Record, Policy} {
		now = now.Add(time.Second)
		Ends(ctx, p)
	}
	Ends(context.Background(), Chain) // of no request
	Ends(With(t.Context(), m.Start("/livez", now)), Chain)
	seen := histograms(t, r)
	for name, want := range map[string]uint64{"decode/settle": 1, "policy/settle": 2, "record/settle": 1, "chain/settle": 0, "decode/verify": 0} {
		if h := seen[name]; h.GetSampleCount() != want || h.GetSampleSum() != float64(want) {
			t.Errorf("%s: %d in %v s, want %d", name, h.GetSampleCount(), h.GetSampleSum(), want)
		}
	}
}

// BenchmarkPhases is what the phases of one /verify cost it.
func BenchmarkPhases(b *testing.B) {
	m := NewMetrics(metrics.New(prometheus.NewRegistry()), time.Now, "/verify")
	b.ReportAllocs()
	for b.Loop() {
		ctx := With(b.Context(), m.Start("/verify", time.Now()))
		for _, p := range []Phase{Decode, Policy, Record, Chain, Answer} {
			Ends(ctx, p)
		}
	}
}
