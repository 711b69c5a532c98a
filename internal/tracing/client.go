package tracing

import (
	"context"
	"net/http"
	"net/url"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Client traces requests to a node, which stands in spans by name: its URL often
// holds a key (I10), and so may what scrub makes of an error. Nodes are not told
// of our traces. Without a provider it is next.
func Client(provider trace.TracerProvider, next http.RoundTripper, name string, scrub func(error) error) http.RoundTripper {
	if provider == nil {
		return next
	}
	return masked{name: name, traced: otelhttp.NewTransport(
		unmasked{next: next, scrub: scrub}, otelhttp.WithTracerProvider(provider), otelhttp.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelhttp.WithPropagators(propagation.NewCompositeTextMapPropagator()),
		otelhttp.WithSpanNameFormatter(func(string, *http.Request) string { return "node " + name }),
	)}
}

type realURL struct{}

// masked gives requests a URL that tells nothing but the node's name.
type masked struct {
	name   string
	traced http.RoundTripper
}

func (m masked) RoundTrip(r *http.Request) (*http.Response, error) {
	masked := r.Clone(context.WithValue(r.Context(), realURL{}, target{url: r.URL, host: r.Host}))
	masked.URL, masked.Host = &url.URL{Scheme: "node", Host: m.name}, m.name
	return m.traced.RoundTrip(masked) //nolint:wrapcheck // the transport's own
}

// target is where a request goes.
type target struct {
	url  *url.URL
	host string
}

// unmasked gives requests their URL back.
type unmasked struct {
	next  http.RoundTripper
	scrub func(error) error
}

func (u unmasked) RoundTrip(r *http.Request) (*http.Response, error) {
	to, _ := r.Context().Value(realURL{}).(target)
	r = r.Clone(r.Context())
	r.URL, r.Host = to.url, to.host
	response, err := u.next.RoundTrip(r)
	if err != nil {
		return nil, scrubbed{error: u.scrub(err), cause: err}
	}
	return response, nil
}

// scrubbed is an error that shows no URL.
type scrubbed struct {
	error
	cause error
}

func (s scrubbed) Unwrap() error { return s.cause }
