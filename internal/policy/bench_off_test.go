package policy_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/metrics"
	"facilitator/internal/policy"
)

// BenchmarkOff is what the gate costs where nothing is configured.
func BenchmarkOff(b *testing.B) {
	g, err := policy.New(b.Context(), policy.Config{}, time.Now, slog.New(slog.DiscardHandler), policy.NewMetrics(metrics.New(prometheus.NewRegistry()), time.Now))
	if err != nil {
		b.Fatal(err)
	}
	terms := deal(nil)
	b.ReportAllocs()
	for b.Loop() {
		if g.Pass(b.Context(), terms, nil) != nil || g.Take(terms) != nil {
			b.Fatal("refused")
		}
	}
}
