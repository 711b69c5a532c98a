// Package tracing sends OpenTelemetry traces of requests: what a request passes
// through, the calls to nodes and the database made for it, and what the lane did
// with its payment.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"facilitator/internal/redact"
)

// Options of a Tracer.
type Options struct {
	// Endpoint is the collector's URL; none traces nothing.
	Endpoint string
	// Headers sent to it, "name=value" separated by commas.
	Headers string
	// PerMillion requests are traced.
	PerMillion      int
	Version         string
	Replica         string
	Log             *slog.Logger
	ShutdownTimeout time.Duration
}

// Tracer makes and sends spans. Nil makes none, and costs nothing.
type Tracer struct {
	provider *sdktrace.TracerProvider
	http     *http.Transport
	timeout  time.Duration
}

// New prepares a tracer; nil without an endpoint. It does not connect.
func New(ctx context.Context, o Options) (*Tracer, error) {
	if o.Endpoint == "" {
		return nil, nil //nolint:nilnil // nil is a tracer
	}
	headers, err := ParseHeaders(o.Headers)
	if err != nil {
		return nil, err
	}
	t := &Tracer{http: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 2}, timeout: o.ShutdownTimeout}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(o.Endpoint), otlptracehttp.WithHeaders(headers),
		otlptracehttp.WithHTTPClient(&http.Client{Transport: t.http, Timeout: 10 * time.Second}))
	if err != nil {
		return nil, errors.New("exporter can't be made")
	}
	var secrets []string
	for _, value := range headers {
		secrets = append(secrets, append(strings.Fields(value), value)...) // of "Bearer x" also x alone
	}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&telling{SpanExporter: exporter, log: o.Log, secrets: redact.Of(o.Endpoint, secrets...)}),
		sdktrace.WithSampler(sdktrace.ParentBased(requests{of: sdktrace.TraceIDRatioBased(float64(o.PerMillion) / 1e6)})),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "facilitator"), attribute.String("service.version", o.Version), attribute.String("service.instance.id", o.Replica),
		)),
	)
	return t, nil
}

// ParseHeaders reads "name=value,name=value". Its error does not quote them.
func ParseHeaders(text string) (map[string]string, error) {
	headers := make(map[string]string)
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, errors.New("must be name=value, separated by commas")
		}
		headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return headers, nil
}

// Close sends what is left, within the timeout.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.timeout)
	defer cancel()
	defer t.http.CloseIdleConnections()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("shut tracing down: %w", err)
	}
	return nil
}

// Provider makes spans for what instruments itself; nil without a tracer.
func (t *Tracer) Provider() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.provider
}

// Server traces requests. A caller's own trace is linked to and never taken over:
// callers don't decide what is traced.
func (t *Tracer) Server(next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	return http.HandlerFunc(func(raw http.ResponseWriter, r *http.Request) {
		inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(faithful{ResponseWriter: w, raw: raw}, r)
		})
		otelhttp.NewHandler(inner, "request", otelhttp.WithTracerProvider(t.provider), otelhttp.WithMeterProvider(metricnoop.NewMeterProvider()),
			otelhttp.WithPropagators(propagation.TraceContext{}), otelhttp.WithPublicEndpointFn(func(*http.Request) bool { return true }),
			otelhttp.WithFilter(traced)).ServeHTTP(raw, r)
	})
}

// traced leaves out what orchestrators and Prometheus ask all the time.
func traced(r *http.Request) bool {
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		if strings.HasSuffix(r.URL.Path, path) {
			return false
		}
	}
	return true
}

// faithful tells whether an answer reached the kernel, which the instrumented
// writer forgets, and lets deadlines through.
type faithful struct {
	http.ResponseWriter
	raw http.ResponseWriter
}

func (f faithful) FlushError() error { return http.NewResponseController(f.raw).Flush() }

func (f faithful) Unwrap() http.ResponseWriter { return f.raw }

// requests has nothing but requests begin a trace: loops ask nodes and the
// database all day.
type requests struct{ of sdktrace.Sampler }

func (s requests) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Kind != trace.SpanKindServer {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop}
	}
	return s.of.ShouldSample(p)
}

func (s requests) Description() string { return "requests of " + s.of.Description() }

// telling logs what was not exported. The exporter's error has the collector's answer,
// which may repeat what it was asked with.
type telling struct {
	sdktrace.SpanExporter
	log     *slog.Logger
	secrets redact.Secrets
}

func (e *telling) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := e.SpanExporter.ExportSpans(ctx, spans); err != nil {
		e.log.WarnContext(ctx, "traces were not taken by the collector", slog.Int("spans", len(spans)), slog.String("error", e.secrets.Text(err.Error())))
	}
	return nil
}
