package test

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"facilitator/internal/devnet"
)

// traceCollector takes OTLP over HTTP.
type traceCollector struct {
	url string

	mu      sync.Mutex
	spans   []*tracepb.Span
	bodies  []byte
	headers http.Header
}

func newTraceCollector(t *testing.T) *traceCollector {
	t.Helper()
	c := &traceCollector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.headers, c.bodies = r.Header.Clone(), append(c.bodies, body...)
		for _, resource := range request.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				c.spans = append(c.spans, scope.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	c.url = server.URL + "/v1/traces"
	return c
}

// path is the names from the root of a span's trace down to it.
func (c *traceCollector) path(s *tracepb.Span) string {
	names := []string{s.GetName()}
	for len(s.GetParentSpanId()) > 0 {
		i := slices.IndexFunc(c.spans, func(p *tracepb.Span) bool { return string(p.GetSpanId()) == string(s.GetParentSpanId()) })
		if i < 0 {
			return "? > " + strings.Join(names, " > ")
		}
		s = c.spans[i]
		names = append([]string{s.GetName()}, names...)
	}
	return strings.Join(names, " > ")
}

// TestTheTraceOfASettlement: one request, what it passed through, the node and
// the database it asked, its lane and its block; and no secret (I10).
func TestTheTraceOfASettlement(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	payer := payers(t, c, 1)[0]
	told := newTraceCollector(t)
	node := newOutageNode(t, c)
	const key = "the-nodes-key"
	s := setup{
		chain: c, rpcURL: node.url + "/" + key,
		overlay: fmt.Sprintf("tracing: {endpoint: '%s', headers: 'x-key=the-collectors-key', sample_per_million: 1000000}", told.url),
	}.start(t)
	hash := wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer)), "traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"))
	node.follow(outageRefuse)
	if r := s.post(t, "/verify", request(t, c, sale(t, payer))); r.status != http.StatusServiceUnavailable {
		t.Errorf("/verify without a node: %d %s", r.status, r.text)
	}
	node.heal()
	s.stop()

	told.mu.Lock()
	defer told.mu.Unlock()
	var paths []string
	var settled string // the trace of the settlement
	for _, span := range told.spans {
		if span.GetName() == "/settle" {
			settled = hex.EncodeToString(span.GetTraceId())
			if len(span.GetLinks()) != 1 || settled == "0123456789abcdef0123456789abcdef" {
				t.Errorf("the caller's trace: %d links, trace %s", len(span.GetLinks()), settled)
			}
		}
	}
	for _, span := range told.spans {
		if hex.EncodeToString(span.GetTraceId()) != settled {
			continue
		}
		paths = append(paths, told.path(span))
		if start, end := span.GetStartTimeUnixNano(), span.GetEndTimeUnixNano(); start == 0 || end < start {
			t.Errorf("%s lasts from %d to %d", told.path(span), start, end)
		}
	}
	for _, want := range []string{
		"/settle", "/settle > policy", "/settle > record", "/settle > chain", "/settle > chain > node rpc_url", "/settle > claim", "/settle > wait",
		"/settle > lane", "/settle > lane > inclusion",
	} {
		if !slices.Contains(paths, want) {
			t.Errorf("no span %s; there are\n%s", want, strings.Join(paths, "\n"))
		}
	}
	for _, phase := range []string{"record", "claim"} {
		if !slices.ContainsFunc(paths, func(path string) bool {
			return strings.Count(path, " > ") >= 2 && strings.HasPrefix(path, "/settle > "+phase+" > ")
		}) {
			t.Errorf("no SQL in %s; there are\n%s", phase, strings.Join(paths, "\n"))
		}
	}
	// Loops begin no trace.
	for _, span := range told.spans {
		if path := told.path(span); !strings.HasPrefix(path, "/settle") && !strings.HasPrefix(path, "/verify") {
			t.Errorf("a span of no request: %s", path)
		}
	}
	if !strings.Contains(string(told.bodies), hash) {
		t.Errorf("no span tells %s", hash)
	}
	for _, secret := range []string{key, "the-collectors-key", s.databaseURL, strings.TrimPrefix(node.url, "http://"), s.lanes[0].Hex()} {
		if strings.Contains(string(told.bodies), secret) {
			t.Errorf("spans hold %q", secret)
		}
	}
	if told.headers.Get("X-Key") != "the-collectors-key" {
		t.Errorf("headers sent: %v", told.headers)
	}
}
