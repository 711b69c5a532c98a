package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/store"
)

// storeCounters tell what reached the database.
func storeCounters(stores ...*store.Store) []prometheus.Collector {
	counter := func(name, help string, of func(store.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "facilitator", Name: name, Help: help}, func() float64 {
			sum := uint64(0)
			for _, s := range stores {
				sum += of(s.Stats())
			}
			return float64(sum)
		})
	}
	return []prometheus.Collector{
		counter("store_commits_total", "Database transactions that wrote.", func(s store.Stats) uint64 { return s.Commits }),
		counter("store_reads_total", "Round trips to the database that only read.", func(s store.Stats) uint64 { return s.Reads }),
	}
}
