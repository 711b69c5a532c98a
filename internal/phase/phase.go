// Package phase times what a request passes through.
package phase

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"facilitator/internal/metrics"
)

// Phase is one stretch of a request's life.
type Phase int

// The phases, in the order in which a request passes them.
const (
	Decode Phase = iota
	Policy
	Record
	Screen
	Chain
	Hook
	Claim
	Wait
	Answer
	count
)

// String names a phase in metrics.
func (p Phase) String() string {
	return [count]string{"decode", "policy", "record", "screen", "chain", "hook", "claim", "wait", "answer"}[p]
}

// Metrics of the routes that judge payments. The series of each are made once, so
// that a request makes none.
type Metrics struct {
	now    func() time.Time
	routes map[string]*[count]prometheus.Observer
}

// NewMetrics registers the phases of routes.
func NewMetrics(r *metrics.Registry, now func() time.Time, routes ...string) *Metrics {
	names := make([]string, count)
	for p := range count {
		names[p] = p.String()
	}
	seconds := r.Histogram(metrics.About{
		Name: "request_phase_seconds", Unit: "seconds",
		Help: "Time that requests spend in each phase: decode (read the body), policy (checks without I/O), record (look at our record), " +
			"screen (rates, breaker, lists, oracle), chain (simulate), hook (ask the screening hook), claim (queue bound and commit), wait (for a lane and the chain), answer (write).",
		Labels:  []metrics.Label{metrics.One("route", routes...), metrics.One("phase", names...)},
		Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30},
	})
	m := &Metrics{now: now, routes: make(map[string]*[count]prometheus.Observer)}
	for _, route := range routes {
		var phases [count]prometheus.Observer
		for p := range count {
			phases[p] = seconds.WithLabelValues(route, p.String())
		}
		m.routes[route] = &phases
	}
	return m
}

// Clock times one request, which one goroutine works at a time. A nil clock times
// nothing.
type Clock struct {
	now    func() time.Time
	last   time.Time
	phases *[count]prometheus.Observer
}

// Start begins to time a request of a route; nil where its phases are not told.
func (m *Metrics) Start(route string, at time.Time) *Clock {
	phases := m.routes[route]
	if phases == nil {
		return nil
	}
	return &Clock{now: m.now, last: at, phases: phases}
}

// Ends says that a phase has ended, which began where the one before did end.
func (c *Clock) Ends(p Phase) {
	if c == nil {
		return
	}
	now := c.now()
	c.phases[p].Observe(now.Sub(c.last).Seconds())
	c.last = now
}

type key struct{}

// With puts a clock beside a request.
func With(ctx context.Context, c *Clock) context.Context {
	if c == nil {
		return ctx
	}
	return context.WithValue(ctx, key{}, c)
}

// Ends says that a phase of the request of ctx has ended, if it is timed.
func Ends(ctx context.Context, p Phase) {
	c, _ := ctx.Value(key{}).(*Clock)
	c.Ends(p)
}

// Run runs f as a phase of the request of ctx: timed, and with a span of its own
// where the request is traced.
func Run(ctx context.Context, p Phase, f func(context.Context)) {
	defer Ends(ctx, p)
	if request := trace.SpanFromContext(ctx); request.IsRecording() {
		var span trace.Span
		ctx, span = request.TracerProvider().Tracer("facilitator").Start(ctx, p.String())
		defer span.End()
	}
	f(ctx)
}
