package api_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"facilitator/api"
	"facilitator/api/apitest"
)

// described holds exchanges against api/openapi.yaml.
var described = apitest.New()

// wantDescribed holds a request and its answer against the description. Every
// call that a test makes by way of call comes here.
func wantDescribed(t *testing.T, method, path, body string, header http.Header, got reply) {
	t.Helper()
	err := described.Check(t.Context(), apitest.Exchange{
		Method: method, Path: path, Header: header, Body: body, Status: got.status, Answer: got.header, Text: got.text,
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTheDescriptionIsRight(t *testing.T) {
	t.Parallel()
	doc, err := apitest.Description()
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
			r := httptest.NewRequestWithContext(t.Context(), method, strings.ReplaceAll(path, "{id}", "0198c0de-0000-7000-8000-0000000000aa"), strings.NewReader("{}"))
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
	const id, noStore = "0198c0de-0000-7000-8000-000000000000", "no-store"
	header := func(more ...string) http.Header {
		h := http.Header{"X-Request-Id": {"a"}, "Content-Type": {"application/json"}, "Cache-Control": {noStore}}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}
	v1, v2 := fixture(t, "v1.json"), fixture(t, "v2.json")
	without := header()
	delete(without, "X-Request-Id")
	for name, x := range map[string]apitest.Exchange{
		"":                     {Method: "POST", Path: "/verify", Body: v2, Status: 200, Answer: header(), Text: `{"isValid":true}`},
		"an unknown reason":    {Method: "POST", Path: "/verify", Body: v2, Status: 200, Answer: header(), Text: `{"isValid":false,"invalidReason":"because"}`},
		"no verdict":           {Method: "POST", Path: "/verify", Body: v2, Status: 200, Answer: header(), Text: `{"payer":"0x"}`},
		"no request id":        {Method: "POST", Path: "/verify", Body: v2, Status: 200, Answer: without, Text: `{"isValid":true}`},
		"another header":       {Method: "POST", Path: "/verify", Body: v2, Status: 200, Answer: header("Settlement-Id", id), Text: `{"isValid":true}`},
		"another member":       {Method: "POST", Path: "/verify", Body: v2, Status: 200, Answer: header(), Text: `{"isValid":true,"valid":true}`},
		"another status":       {Method: "POST", Path: "/settle", Body: v1, Status: 201, Answer: header(), Text: `{}`},
		"no transaction":       {Method: "POST", Path: "/settle", Body: v1, Status: 200, Answer: header(), Text: `{"success":true,"network":"base"}`},
		"no Retry-After":       {Method: "POST", Path: "/settle", Body: v1, Status: 503, Answer: header(), Text: `{"error":"x"}`},
		"a settlement of less": {Method: "GET", Path: "/settlements/a", Status: 200, Answer: header(), Text: `{"id":"` + id + `"}`},
		"another path":         {Method: "GET", Path: "/settlement", Status: 200, Answer: header(), Text: `{}`},
		"no amount": {
			Method: "POST", Path: "/verify", Status: 200, Answer: header(), Text: `{"isValid":true}`,
			Body: edit(t, v2, `"paymentRequirements":{"scheme":"exact","network":"eip155:84532","amount":"10000",`, `"paymentRequirements":{"scheme":"exact","network":"eip155:84532",`),
		},
		"no version": {
			Method: "POST", Path: "/verify", Status: 200, Answer: header(), Text: `{"isValid":true}`,
			Body: edit(t, v1, `{"x402Version":1,"paymentPayload":{"x402Version":1,`, `{"x402Version":null,"paymentPayload":{"x402Version":null,`),
		},
		"another version": {Method: "POST", Path: "/verify", Body: `{"x402Version":3}`, Status: 200, Answer: header(), Text: `{"isValid":true}`},
	} {
		if err := described.Check(t.Context(), x); (err == nil) != (name == "") {
			t.Errorf("%q: %v", name, err)
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
	doc, err := apitest.Description()
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
