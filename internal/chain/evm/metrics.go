package evm

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/metrics"
)

// Metrics of all nodes, which stand in them by name. Nil counts nothing.
type Metrics struct {
	requests, hedges *prometheus.CounterVec
	heads, ups       *prometheus.GaugeVec
	seconds          *prometheus.HistogramVec
}

// What came of an HTTP request to a node.
const (
	requestOK          = "ok"
	requestRateLimited = "rate_limited"
	requestRefused     = "refused"
	requestError       = "error"
	requestFailed      = "failed"
	requestGivenUp     = "given_up"
)

func requestOutcomes() []string {
	return []string{requestOK, requestRateLimited, requestRefused, requestError, requestFailed, requestGivenUp}
}

// requestOutcome of an HTTP status.
func requestOutcome(status int) string {
	switch {
	case status < http.StatusMultipleChoices:
		return requestOK
	case status == http.StatusTooManyRequests:
		return requestRateLimited
	case status < http.StatusInternalServerError:
		return requestRefused
	default:
		return requestError
	}
}

// NewMetrics registers the nodes' metrics.
func NewMetrics(r *metrics.Registry) *Metrics {
	node := []metrics.Label{
		metrics.Network(),
		metrics.Configured("node", "name of a node: rpc_url, read_from_<n> or the name given there, send_to_<n>"),
	}
	return &Metrics{
		requests: r.Counter(metrics.About{
			Name: "rpc_requests_total", Unit: "requests",
			Help:   "HTTP requests to nodes: ok, rate_limited (429), refused (3xx and 4xx), error (5xx), failed without a status, given_up where another node was faster or nobody waited any more.",
			Labels: append(node[:2:2], metrics.One("outcome", requestOutcomes()...)),
		}),
		seconds: r.Histogram(metrics.About{
			Name: "rpc_request_seconds", Unit: "seconds", Help: "Time that a node took to begin its answer, failures included.", Labels: node,
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		hedges: r.Counter(metrics.About{
			Name: "rpc_hedges_total", Unit: "times", Help: "Times another node was asked as well, because this one was slow.", Labels: node,
		}),
		heads: r.Gauge(metrics.About{
			Name: "node_head_block", Unit: "block number", Help: "Height that a node of several last told.", Labels: node,
		}),
		ups: r.Gauge(metrics.About{
			Name: "node_up", Help: "1 where a node that is read from answers, serves the right chain and is not behind.", Labels: node,
		}),
	}
}

// of makes the series of one node.
func (m *Metrics) of(network, node string) *nodeMetrics {
	if m == nil {
		return nil
	}
	n := &nodeMetrics{
		requests: make(map[string]prometheus.Counter), seconds: m.seconds.WithLabelValues(network, node),
		hedges: m.hedges.WithLabelValues(network, node),
		head:   func() prometheus.Gauge { return m.heads.WithLabelValues(network, node) },
		is:     func() prometheus.Gauge { return m.ups.WithLabelValues(network, node) },
	}
	for _, outcome := range requestOutcomes() {
		n.requests[outcome] = m.requests.WithLabelValues(network, node, outcome)
	}
	return n
}

// nodeMetrics are the series of one node; nil counts nothing. Gauges are made
// with their first value: a node that was not asked yet is neither up nor down.
type nodeMetrics struct {
	requests map[string]prometheus.Counter
	seconds  prometheus.Observer
	hedges   prometheus.Counter
	head, is func() prometheus.Gauge
}

func (m *nodeMetrics) count(outcome string, took time.Duration) {
	if m != nil {
		m.requests[outcome].Inc()
		m.seconds.Observe(took.Seconds())
	}
}

func (m *nodeMetrics) hedged() {
	if m != nil {
		m.hedges.Inc()
	}
}

func (m *nodeMetrics) at(height uint64) {
	if m != nil {
		m.head().Set(float64(height))
	}
}

func (m *nodeMetrics) up(is bool) {
	if m == nil {
		return
	}
	up := 0.0
	if is {
		up = 1
	}
	m.is().Set(up)
}
