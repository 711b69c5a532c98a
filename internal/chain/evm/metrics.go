package evm

import "github.com/prometheus/client_golang/prometheus"

// Metrics of all nodes, which stand in them by name. The zero value and nil count
// nothing.
type Metrics struct {
	requests, hedges *prometheus.CounterVec
	heads, ups       *prometheus.GaugeVec
}

// NewMetrics registers the nodes' metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	labels := []string{"network", "node"}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "facilitator", Name: "rpc_requests_total",
			Help: "HTTP requests to nodes, by status; failed without one, given_up where another node was faster or nobody waited any more.",
		}, append(labels, "outcome")),
		hedges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "facilitator", Name: "rpc_hedges_total", Help: "Times another node was asked as well, because this one was slow.",
		}, labels),
		heads: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "facilitator", Name: "node_head_block", Help: "Height that a node last told.",
		}, labels),
		ups: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "facilitator", Name: "node_up", Help: "1 where a node of several answers, serves the right chain and is not behind.",
		}, labels),
	}
	r.MustRegister(m.requests, m.hedges, m.heads, m.ups)
	return m
}

func (m *Metrics) count(labels []string, outcome string) {
	if m != nil {
		m.requests.WithLabelValues(labels[0], labels[1], outcome).Inc()
	}
}

func (m *Metrics) hedged(labels []string) {
	if m != nil {
		m.hedges.WithLabelValues(labels...).Inc()
	}
}

func (m *Metrics) at(labels []string, height uint64) {
	if m != nil {
		m.heads.WithLabelValues(labels...).Set(float64(height))
	}
}

func (m *Metrics) up(labels []string, is bool) {
	if m == nil {
		return
	}
	up := 0.0
	if is {
		up = 1
	}
	m.ups.WithLabelValues(labels...).Set(up)
}
