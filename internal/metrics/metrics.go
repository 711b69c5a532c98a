// Package metrics makes the service's metrics and remembers what each is, so that
// the reference in docs/ is told by the same lines that register them.
package metrics

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Label is a dimension of a metric.
type Label struct {
	Name string
	// Values are all that it may have. Where there are none it is told by the
	// configuration, which Of says; never by a request.
	Values []string
	Of     string
}

// One is a label whose values are closed.
func One[T ~string](name string, values ...T) Label {
	l := Label{Name: name}
	for _, v := range values {
		l.Values = append(l.Values, string(v))
	}
	return l
}

// Configured is a label whose values the configuration tells.
func Configured(name, of string) Label { return Label{Name: name, Of: of} }

// Network is the label of a chain.
func Network() Label { return Configured("network", "CAIP-2 name of a configured chain") }

// Metric is what the reference tells of one.
type Metric struct {
	Name, Type, Unit, Help string
	Labels                 []Label
}

// About is what a caller says of a metric. The unit is empty for a plain number.
type About struct {
	Name, Unit, Help string
	Labels           []Label
	// Buckets of a histogram.
	Buckets []float64
}

// Registry makes metrics.
type Registry struct {
	prometheus.Registerer
	made []Metric
}

// New makes metrics in r.
func New(r prometheus.Registerer) *Registry { return &Registry{Registerer: r} }

const namespace = "facilitator"

func (r *Registry) add(kind string, a *About, c prometheus.Collector) {
	r.MustRegister(c)
	r.made = append(r.made, Metric{Name: namespace + "_" + a.Name, Type: kind, Unit: a.Unit, Help: a.Help, Labels: a.Labels})
}

func (a *About) labels() []string {
	names := make([]string, len(a.Labels))
	for i, l := range a.Labels {
		names[i] = l.Name
	}
	return names
}

// Counter makes a counter. Where all its labels are closed, its series begin at 0
// rather than with the first event: what a rate is of must have been there before.
func (r *Registry) Counter(a About) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: a.Name, Help: a.Help}, a.labels())
	r.add("counter", &a, c)
	for _, values := range series(a.Labels) {
		c.WithLabelValues(values...)
	}
	return c
}

// series are the label values of all that there can be; none where the configuration
// tells some.
func series(labels []Label) [][]string {
	all := [][]string{nil}
	for _, l := range labels {
		var longer [][]string
		for _, values := range all {
			for _, v := range l.Values {
				longer = append(longer, append(slices.Clone(values), v))
			}
		}
		all = longer
	}
	return all
}

// Gauge makes a gauge.
func (r *Registry) Gauge(a About) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: a.Name, Help: a.Help}, a.labels())
	r.add("gauge", &a, g)
	return g
}

// Histogram makes a histogram.
func (r *Registry) Histogram(a About) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: a.Name, Help: a.Help, Buckets: a.Buckets}, a.labels())
	r.add("histogram", &a, h)
	return h
}

// Told is called with the value of one series, in the order of the labels.
type Told func(value float64, labels ...string)

// GaugeFunc makes a gauge whose series are told when they are asked for: an age
// is as old as it is, whether or not anything still runs that would update it.
func (r *Registry) GaugeFunc(a About, tell func(Told)) {
	r.ask("gauge", a, prometheus.GaugeValue, tell)
}

// CounterFunc makes a counter that somebody else keeps.
func (r *Registry) CounterFunc(a About, tell func(Told)) {
	r.ask("counter", a, prometheus.CounterValue, tell)
}

func (r *Registry) ask(kind string, a About, as prometheus.ValueType, tell func(Told)) {
	name := prometheus.BuildFQName(namespace, "", a.Name)
	r.add(kind, &a, &asked{desc: prometheus.NewDesc(name, a.Help, a.labels(), nil), as: as, tell: tell})
}

// asked is a collector that asks.
type asked struct {
	desc *prometheus.Desc
	as   prometheus.ValueType
	tell func(Told)
}

func (c *asked) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *asked) Collect(ch chan<- prometheus.Metric) {
	c.tell(func(value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.desc, c.as, value, labels...)
	})
}

// All are the metrics made, by name.
func (r *Registry) All() []Metric {
	all := slices.Clone(r.made)
	slices.SortFunc(all, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
	return all
}
