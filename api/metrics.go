package api

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/client"
	"facilitator/internal/metrics"
	"facilitator/internal/phase"
	"facilitator/internal/x402"
)

// Routes that metrics tell apart; "none" stands for what is no route. The first
// two judge payments.
const (
	routeVerify      = "/verify"
	routeSettle      = "/settle"
	routeSupported   = "/supported"
	routeSettlements = "/settlements"
	routeSettlement  = "/settlements/{id}"
	routeWhoami      = "/whoami"
	routeLivez       = "/livez"
	routeReadyz      = "/readyz"
	routeNone        = "none"
)

// verdictOK is success in the metrics; where nothing was judged a status stands.
const verdictOK = "ok"

// statusOther stands in the metrics for a status that is not listed.
const statusOther = "other"

// statuses that metrics tell apart.
func statuses() []string {
	var all []string
	for _, status := range []int{
		http.StatusOK, http.StatusNotModified, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
		http.StatusMethodNotAllowed, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusTooManyRequests,
		statusClientGone, http.StatusInternalServerError, http.StatusServiceUnavailable,
	} {
		all = append(all, strconv.Itoa(status))
	}
	return append(all, statusOther)
}

// verdicts of answers that metrics tell apart.
func verdicts() []string {
	all := []string{verdictOK}
	for _, reason := range x402.Reasons() {
		all = append(all, string(reason))
	}
	return append(all, statuses()...)
}

// Metrics of the edge. Their series are made once: a request looks them up.
type Metrics struct {
	phases *phase.Metrics
	// requests and answers by route, and by status and verdict.
	requests, answers map[string]map[string]prometheus.Counter
	seconds           map[string]prometheus.Observer
	// denials by the check that failed.
	denials map[string]prometheus.Counter
	// judging are the requests under way that judge payments.
	judging map[string]prometheus.Gauge
}

// NewMetrics registers the metrics of the edge.
func NewMetrics(r *metrics.Registry, now func() time.Time) *Metrics {
	judges := []string{routeVerify, routeSettle}
	routes := append(slices.Clone(judges), routeSupported, routeSettlements, routeSettlement, routeWhoami, routeLivez, routeReadyz, routeNone)
	requests := r.Counter(metrics.About{
		Name: "http_requests_total", Unit: "requests", Help: "HTTP requests by route and status; none is no route of ours, 499 a caller that hung up.",
		Labels: []metrics.Label{metrics.One("route", routes...), metrics.One("status", statuses()...)},
	})
	seconds := r.Histogram(metrics.About{
		Name: "http_request_duration_seconds", Unit: "seconds", Help: "Time to answer HTTP requests.",
		Labels:  []metrics.Label{metrics.One("route", routes...)},
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30},
	})
	answers := r.Counter(metrics.About{
		Name: "answers_total", Unit: "answers", Help: "Answers of verify and settle by reason; ok is success, a status stands where nothing was judged.",
		Labels: []metrics.Label{metrics.One("route", judges...), metrics.One("reason", verdicts()...)},
	})
	judging := r.Gauge(metrics.About{
		Name: "http_requests_in_flight", Unit: "requests", Help: "Requests that are being worked on.",
		Labels: []metrics.Label{metrics.One("route", judges...)},
	})
	denials := r.Counter(metrics.About{
		Name: "denials_total", Unit: "calls", Help: "Calls that were not let through, by the check that failed.",
		Labels: []metrics.Label{metrics.One("check", client.Checks()...)},
	})
	m := &Metrics{
		denials:  make(map[string]prometheus.Counter),
		phases:   phase.NewMetrics(r, now, judges...),
		requests: make(map[string]map[string]prometheus.Counter), answers: make(map[string]map[string]prometheus.Counter),
		seconds: make(map[string]prometheus.Observer), judging: make(map[string]prometheus.Gauge),
	}
	for _, check := range client.Checks() {
		m.denials[string(check)] = denials.WithLabelValues(string(check))
	}
	for _, route := range routes {
		m.seconds[route] = seconds.WithLabelValues(route)
		m.requests[route] = children(requests, route, statuses())
	}
	for _, route := range judges {
		m.answers[route] = children(answers, route, verdicts())
		m.judging[route] = judging.WithLabelValues(route)
	}
	return m
}

func children(of *prometheus.CounterVec, route string, values []string) map[string]prometheus.Counter {
	all := make(map[string]prometheus.Counter, len(values))
	for _, v := range values {
		all[v] = of.WithLabelValues(route, v)
	}
	return all
}

// begin counts a request that has come in.
func (m *Metrics) begin(route string, n float64) {
	if g := m.judging[route]; g != nil {
		g.Add(n)
	}
}

// answered counts a request that was answered.
func (m *Metrics) answered(route string, a *answer, took time.Duration) {
	m.seconds[route].Observe(took.Seconds())
	inc(m.requests[route], strconv.Itoa(a.status))
	if answers := m.answers[route]; answers != nil {
		inc(answers, a.verdict())
	}
}

func inc(of map[string]prometheus.Counter, value string) {
	c := of[value]
	if c == nil {
		c = of[statusOther]
	}
	c.Inc()
}
