package api_test

import (
	"context"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/google/go-cmp/cmp"

	"facilitator/api"
)

// description is api/openapi.yaml, read once.
var description = sync.OnceValues(func() (*openapi3.T, error) {
	return openapi3.NewLoader().LoadFromData([]byte(api.OpenAPI))
})

// described finds the operation of a request; nil where there is none.
func described(doc *openapi3.T, r *http.Request) (*routers.Route, map[string]string) {
	path, params := r.URL.Path, map[string]string{}
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	for doc.Paths.Value(path) == nil && path != "" { // http.path_prefix stands before it
		if id, ok := strings.CutPrefix(path, "/settlements/"); ok {
			path, params["id"] = "/settlements/{id}", id
			break
		}
		_, path, _ = strings.Cut(path[1:], "/")
		if path != "" {
			path = "/" + path
		}
	}
	item := doc.Paths.Value(path)
	if item == nil || item.GetOperation(r.Method) == nil {
		return nil, nil
	}
	return &routers.Route{Spec: doc, Path: path, PathItem: item, Method: r.Method, Operation: item.GetOperation(r.Method)}, params
}

// wantDescribed holds a request and its answer against the description. Every
// call that a test makes by way of call comes here.
func wantDescribed(t *testing.T, method, path, body string, header http.Header, got reply) {
	t.Helper()
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(context.WithoutCancel(t.Context()), method, path, strings.NewReader(body))
	r.Header = header.Clone()
	r.Header.Set("Content-Type", "application/json")
	route, params := described(doc, r)
	if route == nil || strings.Contains(got.text, "no such path") { // the prefix is missing
		if got.status != http.StatusNotFound && got.status != http.StatusMethodNotAllowed {
			t.Errorf("%s %s answers %d and is not described", method, path, got.status)
		}
		return
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true, SkipSettingDefaults: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}
	request := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options}
	// What was judged good must be of the form that is described; what was refused
	// need not be.
	if got.good() {
		if err := openapi3filter.ValidateRequest(r.Context(), request); err != nil {
			t.Errorf("%s %s was accepted, but by the description the request is wrong: %v\n%s", method, path, err, body)
		}
	}
	response := &openapi3filter.ResponseValidationInput{RequestValidationInput: request, Status: got.status, Header: got.header, Options: options}
	response.SetBodyBytes([]byte(got.text))
	if err := openapi3filter.ValidateResponse(r.Context(), response); err != nil {
		t.Errorf("%s %s: the answer is not as described: %v\n%d %s", method, path, err, got.status, got.text)
	}
}

// good says whether the answer is that of a request which nothing was wrong with.
func (r reply) good() bool {
	var verdict struct{ IsValid, Success *bool }
	if r.status != http.StatusOK || json.Unmarshal([]byte(r.text), &verdict) != nil {
		return false
	}
	return (verdict.IsValid == nil || *verdict.IsValid) && (verdict.Success == nil || *verdict.Success)
}

func TestTheDescriptionIsRight(t *testing.T) {
	t.Parallel()
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	// Every route that is described is there; call sees to the other direction.
	b := newBench()
	b.deps.Metrics = http.NotFoundHandler()
	h := b.handler()
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			r := httptest.NewRequestWithContext(t.Context(), method, strings.ReplaceAll(path, "{id}", "the-id"), strings.NewReader("{}"))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code == http.StatusMethodNotAllowed || strings.Contains(w.Body.String(), "no such path") {
				t.Errorf("%s %s is described and answers %d %s", method, path, w.Code, w.Body)
			}
		}
	}
}

// TestTheDescriptionCanSayNo: what holds everything against it would not notice a
// description that takes everything.
func TestTheDescriptionCanSayNo(t *testing.T) {
	t.Parallel()
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	id := http.Header{"X-Request-Id": {"a"}, "Content-Type": {"application/json"}}
	for name, row := range map[string]struct {
		method, path, body string
		status             int
		header             http.Header
		answer             string
	}{
		"an unknown reason":    {"POST", "/verify", fixture(t, "v2.json"), 200, id, `{"isValid":false,"invalidReason":"because"}`},
		"no verdict":           {"POST", "/verify", fixture(t, "v2.json"), 200, id, `{"payer":"0x"}`},
		"no request id":        {"POST", "/verify", fixture(t, "v2.json"), 200, http.Header{"Content-Type": id["Content-Type"]}, `{"isValid":true}`},
		"another status":       {"POST", "/settle", fixture(t, "v1.json"), 201, id, `{}`},
		"no transaction":       {"POST", "/settle", fixture(t, "v1.json"), 200, id, `{"success":true,"network":"base"}`},
		"no Retry-After":       {"POST", "/settle", fixture(t, "v1.json"), 503, id, `{"error":"x"}`},
		"a settlement of less": {"GET", "/settlements/a", "", 200, id, `{"id":"0198c0de-0000-7000-8000-000000000000"}`},
	} {
		r := httptest.NewRequestWithContext(t.Context(), row.method, row.path, strings.NewReader(row.body))
		route, params := described(doc, r)
		options := &openapi3filter.Options{IncludeResponseStatus: true}
		response := &openapi3filter.ResponseValidationInput{
			RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options},
			Status:                 row.status, Header: row.header, Options: options,
		}
		response.SetBodyBytes([]byte(row.answer))
		if openapi3filter.ValidateResponse(t.Context(), response) == nil {
			t.Errorf("%s passes", name)
		}
	}
	for name, body := range map[string]string{
		"no amount":     edit(t, fixture(t, "v2.json"), `"paymentRequirements":{"scheme":"exact","network":"eip155:84532","amount":"10000",`, `"paymentRequirements":{"scheme":"exact","network":"eip155:84532",`),
		"another field": `{"x402Version":3}`,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/verify", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		route, params := described(doc, r)
		if openapi3filter.ValidateRequest(t.Context(), &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}}) == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func TestTheDescriptionIsServed(t *testing.T) {
	t.Parallel()
	h := newBench().handler()
	first := call(t, h, http.MethodGet, "/openapi.yaml", "")
	if diff := cmp.Diff(api.OpenAPI, first.text); first.status != http.StatusOK || diff != "" || first.header.Get("Content-Type") != "application/yaml" {
		t.Fatalf("%d %s\n%s", first.status, first.header, diff)
	}
	tag := first.header.Get("ETag")
	for sent, status := range map[string]int{tag: 304, "W/" + tag: 304, `"other", ` + tag: 304, `"other"`: 200} {
		if r := call(t, h, http.MethodGet, "/openapi.yaml", "", "If-None-Match", sent); tag == "" || r.status != status || (r.text == "") != (status == 304) {
			t.Errorf("If-None-Match: %s: %d with %d bytes, want %d", sent, r.status, len(r.text), status)
		}
	}
}

// TestTheDescriptionHasEveryReason of the closed table, and no other.
func TestTheDescriptionHasEveryReason(t *testing.T) {
	t.Parallel()
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, v := range doc.Components.Schemas["Reason"].Value.Enum {
		if text, ok := v.(string); ok {
			said = append(said, text)
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "../internal/x402/reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var table []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for _, v := range spec.Values {
			if literal, ok := v.(*ast.BasicLit); ok {
				if text, err := strconv.Unquote(literal.Value); err == nil && text != "" {
					table = append(table, text)
				}
			}
		}
		return true
	})
	slices.Sort(said)
	slices.Sort(table)
	if diff := cmp.Diff(table, said); diff != "" || len(table) < 20 {
		t.Errorf("reasons (-table +description):\n%s", diff)
	}
}
