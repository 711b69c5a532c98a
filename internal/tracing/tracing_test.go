package tracing

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recording is a tracer whose spans are kept.
func recording(t *testing.T) (*Tracer, *tracetest.SpanRecorder) {
	t.Helper()
	kept := tracetest.NewSpanRecorder()
	return &Tracer{provider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(kept),
		sdktrace.WithSampler(sdktrace.ParentBased(requests{of: sdktrace.AlwaysSample()})))}, kept
}

func TestOffIsNothing(t *testing.T) {
	t.Parallel()
	off, err := New(t.Context(), Options{})
	if err != nil || off != nil || off.Provider() != nil || off.Claims() != nil || off.Close(t.Context()) != nil {
		t.Fatalf("%v %v", off, err)
	}
	off.Claims().Note(t.Context(), "a")
	off.Claims().Settled(t.Context(), "a", Mined{})
	off.Claims().Forget("a")
	mux := http.NewServeMux()
	if off.Server(mux) != http.Handler(mux) {
		t.Error("a handler is wrapped")
	}
	transport := &http.Transport{}
	if Client(off.Provider(), transport, "node", nil) != http.RoundTripper(transport) {
		t.Error("a transport is wrapped")
	}
}

// unheard is a client that is gone.
type unheard struct{ *httptest.ResponseRecorder }

var errGone = errors.New("the client is gone")

func (unheard) FlushError() error { return errGone }

// TestATracedAnswerTellsThatItReachedNobody: the right to tell success is given
// back by that (I2).
func TestATracedAnswerTellsThatItReachedNobody(t *testing.T) {
	t.Parallel()
	tracer, kept := recording(t)
	var flushed error
	h := tracer.Server(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		flushed = http.NewResponseController(w).Flush()
	}))
	for _, path := range []string{"/settle", "/x402/livez"} {
		h.ServeHTTP(unheard{httptest.NewRecorder()}, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, http.NoBody))
		if !errors.Is(flushed, errGone) {
			t.Errorf("%s: flush says %v", path, flushed)
		}
	}
	if spans := kept.Ended(); len(spans) != 1 {
		t.Errorf("%d spans, want that of /settle", len(spans))
	}
}

// TestANodesURLStaysOutOfItsSpans: it has a key in it, also where it fails (I10).
func TestANodesURLStaysOutOfItsSpans(t *testing.T) {
	t.Parallel()
	tracer, kept := recording(t)
	ctx, request := tracer.provider.Tracer("").Start(t.Context(), "request", trace.WithSpanKind(trace.SpanKindServer))
	var asked *url.URL
	failing := roundTripper(func(r *http.Request) (*http.Response, error) {
		asked = r.URL
		if len(r.Header["Traceparent"]) > 0 {
			t.Error("a node is told of our trace")
		}
		return nil, &url.Error{Op: "Post", URL: r.URL.String(), Err: os.ErrDeadlineExceeded}
	})
	client := Client(tracer.Provider(), failing, "second", func(error) error { return errors.New("node unavailable") })
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://the-key.example/the-key", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.RoundTrip(r)
	if err == nil {
		_ = response.Body.Close()
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || asked.String() != "https://the-key.example/the-key" {
		t.Errorf("asked %v, told %v", asked, err)
	}
	request.End()
	var all bytes.Buffer
	for _, span := range kept.Ended() {
		all.WriteString(span.Name() + span.Status().Description)
		for _, a := range span.Attributes() {
			all.WriteString(" " + string(a.Key) + "=" + a.Value.String())
		}
		for _, e := range span.Events() {
			for _, a := range e.Attributes {
				all.WriteString(" " + a.Value.String())
			}
		}
	}
	if len(kept.Ended()) != 2 || !strings.Contains(all.String(), "node second") || strings.Contains(all.String(), "the-key") {
		t.Errorf("%d spans: %s", len(kept.Ended()), all.String())
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestACollectorThatIsAwayIsTold: in the log, without the headers, and it holds up
// nobody.
func TestACollectorThatIsAwayIsTold(t *testing.T) {
	t.Parallel()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer refusing.Close()
	var log bytes.Buffer
	tracer, err := New(t.Context(), Options{
		Endpoint: refusing.URL, Headers: "a=the-key", PerMillion: 1_000_000, Log: slog.New(slog.NewTextHandler(&log, nil)), ShutdownTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.Provider().Tracer("").Start(context.WithoutCancel(t.Context()), "request", trace.WithSpanKind(trace.SpanKindServer))
	span.End()
	if err := tracer.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if text := log.String(); !strings.Contains(text, "traces were not taken") || strings.Contains(text, "the-key") {
		t.Errorf("log: %q", text)
	}
}

// TestACollectorThatRepeatsItsHeadersIsNotQuoted (I10): the exporter's error has what
// the collector answers.
func TestACollectorThatRepeatsItsHeadersIsNotQuoted(t *testing.T) {
	t.Parallel()
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no luck with "+r.URL.String()+", "+r.Header.Get("X-Key")+", "+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), http.StatusBadRequest)
	}))
	defer collector.Close()
	var out bytes.Buffer
	tracer, err := New(t.Context(), Options{
		Endpoint: collector.URL + "/ingest-5f0c77e1/v1/traces", Headers: "X-Key=key-93ab7c1f,Authorization=Bearer token-2b8d4410", PerMillion: 1e6,
		Log: slog.New(slog.NewTextHandler(&out, nil)), ShutdownTimeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.Provider().Tracer("test").Start(t.Context(), "request", trace.WithSpanKind(trace.SpanKindServer))
	span.End()
	if err := tracer.Close(t.Context()); err != nil {
		t.Error(err)
	}
	text := out.String()
	if !strings.Contains(text, "no luck with") {
		t.Errorf("the answer is not told: %s", text)
	}
	for _, secret := range []string{"ingest-5f0c77e1", "key-93ab7c1f", "token-2b8d4410"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is told: %s", secret, text)
		}
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	headers, err := ParseHeaders("authorization=Bearer a=b, x = y ,")
	if err != nil || len(headers) != 2 || headers["authorization"] != "Bearer a=b" || headers["x"] != "y" {
		t.Errorf("%v %v", headers, err)
	}
	if _, err := ParseHeaders("the-key"); err == nil || strings.Contains(err.Error(), "the-key") {
		t.Errorf("error %v", err)
	}
}
