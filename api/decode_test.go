package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// TestRequestsOfOfficialClientsAreRead decodes what the official SDKs send, key
// order and unknown keys included.
func TestRequestsOfOfficialClientsAreRead(t *testing.T) {
	t.Parallel()
	const (
		asset = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
		payTo = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
	)
	timeouts := map[int]int64{1: 60, 2: 300}
	for name, version := range map[string]int{"v2.json": 2, "v1.json": 1} {
		want := &x402.Request{
			Version: version,
			Requirements: x402.Requirements{
				Scheme: "exact", Network: "eip155:84532", Amount: x402.NewUint256(10000), Asset: asset, PayTo: payTo,
				MaxTimeoutSeconds: timeouts[version],
			},
			AcceptedScheme: "exact", AcceptedNetwork: "eip155:84532", Resource: "https://api.example.com/weather",
		}
		for _, path := range []string{"/verify", "/settle"} {
			t.Run(name+" to "+path, func(t *testing.T) {
				t.Parallel()
				b := newBench()
				var got *x402.Request
				b.deps.Verifier = verifier(func(_ context.Context, req *x402.Request) (string, error) { got = req; return payer, nil })
				settle := b.settler.settle
				b.settler.settle = func(ctx context.Context, req *x402.Request, wishes payment.Wishes) (payment.Answer, error) {
					got = req
					return settle(ctx, req, wishes)
				}
				if r := call(t, b.handler(), http.MethodPost, path, fixture(t, name)); r.status != http.StatusOK {
					t.Fatalf("%d %s", r.status, r.text)
				}
				ignore := []cmp.Option{cmpopts.IgnoreFields(x402.Requirements{}, "Extra"), cmpopts.IgnoreFields(x402.Request{}, "Payload")}
				if diff := cmp.Diff(want, got, ignore...); diff != "" {
					t.Errorf("request (-want +got):\n%s", diff)
				}
				authorization, err := got.Payload.Object("authorization")
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range []struct {
					in        x402.Object
					key, want string
				}{
					{got.Requirements.Extra, "name", "USDC"},
					{got.Requirements.Extra, "version", "2"},
					{authorization, "from", payer},
					{authorization, "to", payTo},
					{authorization, "value", "10000"},
					{authorization, "validAfter", "0"},
					{authorization, "validBefore", "2000000000"},
					{authorization, "nonce", "0x" + strings.Repeat("11", 32)},
				} {
					if s, err := f.in.String(f.key); s != f.want || err != nil {
						t.Errorf("%s is %q, want %q: %v", f.key, s, f.want, err)
					}
				}
				if s, err := got.Payload.String("signature"); len(s) != 132 || err != nil {
					t.Errorf("signature %q, %v", s, err)
				}
			})
		}
	}
}

// edit replaces a piece of a fixture, which must be there.
func edit(t *testing.T, body, old, by string) string {
	t.Helper()
	if !strings.Contains(body, old) {
		t.Fatalf("%q is not in the fixture", old)
	}
	return strings.Replace(body, old, by, 1)
}

func TestTheWireVersionIsThePayloads(t *testing.T) {
	t.Parallel()
	const outer, inner = `{"x402Version":2,"paymentPayload":{"x402Version":2,`, `"paymentPayload":{"x402Version":2,`
	for name, c := range map[string]struct {
		old, by string
		status  int
	}{
		"only the payload's":          {outer, `{"paymentPayload":{"x402Version":2,`, http.StatusOK},
		"only the outer one":          {inner, `"paymentPayload":{`, http.StatusOK},
		"both null but the payload's": {`{"x402Version":2,"pay`, `{"x402Version":null,"pay`, http.StatusOK},
		"null in the payload":         {inner, `"paymentPayload":{"x402Version":null,`, http.StatusOK},
		"none":                        {outer, `{"paymentPayload":{`, http.StatusBadRequest},
		"nothing but null":            {outer, `{"x402Version":null,"paymentPayload":{"x402Version":null,`, http.StatusBadRequest},
		"two that differ":             {outer, `{"x402Version":1,"paymentPayload":{"x402Version":2,`, http.StatusBadRequest},
		"text":                        {outer, `{"x402Version":"2","paymentPayload":{"x402Version":"2",`, http.StatusBadRequest},
		"text outside":                {outer, `{"x402Version":"2","paymentPayload":{"x402Version":2,`, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := call(t, newBench().handler(), http.MethodPost, "/verify", edit(t, fixture(t, "v2.json"), c.old, c.by))
			if r.status != c.status {
				t.Errorf("%d %s", r.status, r.text)
			}
		})
	}
}

func TestFieldsThatMayBeMissing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, old, by string }{
		"v2 without resource":          {"v2.json", `"resource":{"url":"https://api.example.com/weather","description":"Weather report","mimeType":"application/json"},`, ``},
		"v2 with null for a resource":  {"v2.json", `{"url":"https://api.example.com/weather","description":"Weather report","mimeType":"application/json"}`, `null`},
		"v2 without timeout and extra": {"v2.json", `,"maxTimeoutSeconds":300,"extra":{"name":"USDC","version":"2"}}}`, `}}`},
		"v2 with null for extra":       {"v2.json", `"extra":{"name":"USDC","version":"2"}}}`, `"extra":null}}`},
		"v2 with extensions":           {"v2.json", `"paymentPayload":{`, `"paymentPayload":{"extensions":{"bazaar":{"info":{"a":[1,{}]}}},`},
		"v2 with unknown keys":         {"v2.json", `"paymentRequirements":{`, `"trace":"x","paymentRequirements":{"AMOUNT":"1",`},
		"v2 with timeout 0":            {"v2.json", `"maxTimeoutSeconds":300,"extra":{"name":"USDC","version":"2"}}}`, `"maxTimeoutSeconds":0,"extra":{}}}`},
		"v1 without outputSchema":      {"v1.json", `"outputSchema":{"input":{"type":"http","method":"GET","discoverable":true},"output":null},`, ``},
		"v1 without extra":             {"v1.json", `,"extra":{"name":"USDC","version":"2"}`, ``},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := call(t, newBench().handler(), http.MethodPost, "/verify", edit(t, fixture(t, c.file), c.old, c.by))
			if r.status != http.StatusOK {
				t.Errorf("%d %s", r.status, r.text)
			}
		})
	}
}

// TestBodiesDoNotMix: the room that they are read into is used again.
func TestBodiesDoNotMix(t *testing.T) {
	t.Parallel()
	b := newBench()
	b.deps.MaxBodyBytes = 64 << 10
	h := b.handler()
	v2 := fixture(t, "v2.json")
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for j := range 16 {
				network := fmt.Sprintf("eip155:%d", 1_000_000+i*100+j)
				padding := strings.Repeat("x", i*j*200) // up to 45 kB, some past what decodes at once
				body := strings.ReplaceAll(v2, "eip155:84532", network)
				body = strings.Replace(body, `{"x402Version"`, `{"padding":"`+padding+`","x402Version"`, 1)
				if r := call(t, h, http.MethodPost, "/settle", body); r.status != http.StatusOK || !strings.Contains(r.text, `"network":"`+network+`"`) {
					t.Errorf("%s: %d %s", network, r.status, r.text)
				}
			}
		})
	}
	callers.Wait()
}
