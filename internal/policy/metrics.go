package policy

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/metrics"
)

// Metrics of the gate. Sources stand in them by their configured name.
type Metrics struct {
	hits, failures   *prometheus.CounterVec
	unrecorded       *prometheus.CounterVec
	refusals, opened *prometheus.CounterVec
	addresses        *prometheus.GaugeVec
	unscreened       prometheus.Counter

	mu      sync.Mutex
	sources []*source
}

// Checks beside screening.
const (
	checkSelfSend = "self_send"
	checkRate     = "rate"
	checkSlowed   = "breaker_slowed"
	checkOpen     = "breaker_open"
)

// NewMetrics registers the gate's metrics.
func NewMetrics(r *metrics.Registry, now func() time.Time) *Metrics {
	source := metrics.Configured("source", "name of a list, hook, or oracle_ and a network")
	kind := metrics.One("kind", string(FormatPlain), string(FormatOFAC), "oracle", "hook")
	m := &Metrics{
		hits: r.Counter(metrics.About{
			Name: "screening_hits_total", Unit: "payments", Help: "Payments refused because a source of screening has somebody they deal with.",
			Labels: []metrics.Label{source, kind},
		}),
		failures: r.Counter(metrics.About{
			Name: "screening_failures_total", Unit: "times", Help: "Times a source of screening could not tell, or a list could not be read.",
			Labels: []metrics.Label{source, kind},
		}),
		unrecorded: r.Counter(metrics.About{
			Name: "screening_hits_unrecorded_total", Unit: "payments",
			Help: "Refusals by screening that the record has not as they were: rest (counted without saying who it was: too many others on that day), " +
				"database (not recorded at all). The log has every one.",
			Labels: []metrics.Label{metrics.One("cause", causeRest, causeDatabase)},
		}),
		refusals: r.Counter(metrics.About{
			Name: "policy_refusals_total", Unit: "payments", Help: "Payments refused for another policy than screening.",
			Labels: []metrics.Label{metrics.One("check", checkSelfSend, checkRate, checkSlowed, checkOpen)},
		}),
		opened: r.Counter(metrics.About{
			Name: "policy_breaker_opened_total", Unit: "times", Help: "Times a payer or payee began to be refused because too many settles failed.",
			Labels: []metrics.Label{metrics.One("role", "payer", "payee")},
		}),
		addresses: r.Gauge(metrics.About{
			Name: "screening_list_addresses", Unit: "addresses", Help: "Addresses on a list as it was last read.", Labels: []metrics.Label{source},
		}),
		unscreened: r.Counter(metrics.About{
			Name: "screening_skipped_total", Unit: "times", Help: "Times a payment went on although a source could not tell, because of fail_open.",
		}).WithLabelValues(),
	}
	r.GaugeFunc(metrics.About{
		Name: "screening_age_seconds", Unit: "seconds",
		Help:   "Age of what a source of screening says: since a list's file was written, since an oracle or hook last answered.",
		Labels: []metrics.Label{source, kind},
	}, func(tell metrics.Told) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, s := range m.sources {
			tell(now().Sub(time.Unix(0, s.toldAt.Load())).Seconds(), s.name, s.kind)
		}
	})
	return m
}

// watch tells the age of what a source says, from now on where it has said
// nothing. Its counters begin at 0.
func (m *Metrics) watch(s *source, now time.Time) {
	m.hits.WithLabelValues(s.name, s.kind)
	m.failures.WithLabelValues(s.name, s.kind)
	s.toldAt.Store(now.UnixNano())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sources = append(m.sources, s)
}
