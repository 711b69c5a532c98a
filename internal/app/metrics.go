package app

import (
	"io"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"facilitator/api"
	"facilitator/internal/chain/evm"
	"facilitator/internal/metrics"
	"facilitator/internal/policy"
	"facilitator/internal/relayer"
	"facilitator/internal/store"
)

// instruments are the metrics of every part. All that the service registers is
// made here, so that the reference knows of it.
type instruments struct {
	api     *api.Metrics
	relayer *relayer.Metrics
	nodes   *evm.Metrics
	policy  *policy.Metrics
}

// newInstruments registers them. The stores are asked only when metrics are
// gathered.
func newInstruments(r *metrics.Registry, version string, now func() time.Time, stores map[string]*store.Store) instruments {
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.Gauge(metrics.About{
		Name: "build_info", Help: "Always 1; the labels tell what runs.",
		Labels: []metrics.Label{metrics.Configured("version", "version of the binary"), metrics.Configured("go", "version of Go that built it")},
	}).WithLabelValues(version, runtime.Version()).Set(1)
	storeMetrics(r, stores)
	return instruments{api: api.NewMetrics(r, now), relayer: relayer.NewMetrics(r), nodes: evm.NewMetrics(r), policy: policy.NewMetrics(r, now)}
}

// The pools of database connections.
const (
	poolAPI     = "api"
	poolRelayer = "relayer"
)

// storeMetrics tell what reaches the database.
func storeMetrics(r *metrics.Registry, stores map[string]*store.Store) {
	pools := metrics.One("pool", poolAPI, poolRelayer)
	sum := func(name, unit, help string, of func(store.Stats) uint64) {
		r.CounterFunc(metrics.About{Name: name, Unit: unit, Help: help}, func(tell metrics.Told) {
			n := uint64(0)
			for _, s := range stores {
				n += of(s.Stats())
			}
			tell(float64(n))
		})
	}
	sum("store_commits_total", "transactions", "Database transactions that wrote.", func(s store.Stats) uint64 { return s.Commits })
	sum("store_reads_total", "round trips", "Round trips to the database that only read.", func(s store.Stats) uint64 { return s.Reads })
	each := func(tell metrics.Told, of func(store.Connections) float64) {
		for pool, s := range stores {
			tell(of(s.Connections()), pool)
		}
	}
	r.GaugeFunc(metrics.About{
		Name: "database_connections", Unit: "connections", Help: "Connections to the database by pool and state; max is how many there may be.",
		Labels: []metrics.Label{pools, metrics.One("state", "in_use", "idle", "max")},
	}, func(tell metrics.Told) {
		for pool, s := range stores {
			c := s.Connections()
			tell(float64(c.InUse), pool, "in_use")
			tell(float64(c.Idle), pool, "idle")
			tell(float64(c.Most), pool, "max")
		}
	})
	r.CounterFunc(metrics.About{
		Name: "database_acquires_total", Unit: "times", Help: "Times a connection was taken from a pool.", Labels: []metrics.Label{pools},
	}, func(tell metrics.Told) { each(tell, func(c store.Connections) float64 { return float64(c.Acquired) }) })
	r.CounterFunc(metrics.About{
		Name: "database_acquires_waited_total", Unit: "times", Help: "Times a connection had to be waited for: all were in use.", Labels: []metrics.Label{pools},
	}, func(tell metrics.Told) { each(tell, func(c store.Connections) float64 { return float64(c.Waited) }) })
	r.CounterFunc(metrics.About{
		Name: "database_acquire_wait_seconds_total", Unit: "seconds", Help: "Time spent waiting for a connection, by all who did.", Labels: []metrics.Label{pools},
	}, func(tell metrics.Told) {
		each(tell, func(c store.Connections) float64 { return c.Waiting.Seconds() })
	})
}

// MetricsMade makes all metrics of the service in r, for who asks what there is.
func MetricsMade(r prometheus.Registerer) *metrics.Registry {
	made := metrics.New(r)
	newInstruments(made, "", time.Now, nil) //nolint:forbidigo // nothing is ever timed
	return made
}

// MetricsReference prints what every metric is.
func MetricsReference(w io.Writer) error {
	return MetricsMade(prometheus.NewRegistry()).WriteReference(w)
}
