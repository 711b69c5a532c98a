package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/scheme/exact"
	"facilitator/internal/verify"
	"facilitator/internal/x402"
)

// FuzzDecode: whatever the body, /verify and /settle answer with a JSON object
// of the right form, never with a panic and never with a fault of ours. What the
// payload holds is read by the real scheme, which asks no chain for that.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"v1.json", "v2.json"} {
		body := fixture(f, name)
		f.Add([]byte(body))
		f.Add([]byte(body[:len(body)/2]))
		f.Add([]byte(strings.ReplaceAll(body, `"10000"`, `10000`)))
		f.Add([]byte(strings.ReplaceAll(body, `0x2b69`, `0x`)))
		f.Add([]byte(strings.ReplaceAll(body, `"payload"`, `"authorization"`)))
	}
	for _, body := range []string{
		``, `{}`, `[]`, `{"paymentPayload":{},"paymentRequirements":{}}`, `{"x402Version":1e99,"paymentPayload":{},"paymentRequirements":{}}`,
		`{"x402Version":2,"paymentPayload":{"x402Version":2,"accepted":{"scheme":"exact","network":"eip155:84532"},"payload":{"authorization":null}},"paymentRequirements":{"scheme":"exact","network":"eip155:84532","amount":"1","asset":"0x0000000000000000000000000000000000000000","payTo":"0x0000000000000000000000000000000000000000"}}`,
		`{"paymentRequirements":{"network":"\ud800"},"paymentPayload":{"x402Version":1}}`,
	} {
		f.Add([]byte(body))
	}
	const sepolia = x402.Network("eip155:84532")
	judge := verify.New(map[x402.Network]verify.Network{sepolia: {
		Schemes:  map[x402.SchemeName]scheme.Scheme{x402.SchemeExact: exact.New(exact.Config{Network: sepolia, ChainID: 84532}, nil, nil)},
		AnyAsset: true, Ready: func() error { return nil },
	}}, nil, nil, time.Now)
	read := func(req *x402.Request) (string, error) {
		p, err := judge.Parse(req)
		if err != nil {
			return "", err
		}
		p.Terms().Fingerprint()
		return p.Payer(), nil
	}
	b := newBench()
	b.deps.Verifier = verifier(func(_ context.Context, req *x402.Request) (string, error) { return read(req) })
	b.settler.settle = func(_ context.Context, req *x402.Request, _ payment.Wishes) (payment.Answer, error) {
		payer, err := read(req)
		return payment.Answer{Success: err == nil, Payer: payer, TxHash: chain.Hash{1}}, err
	}
	h := b.handler()
	f.Fuzz(func(t *testing.T, body []byte) {
		for path, keys := range map[string][]string{"/verify": {"isValid"}, "/settle": {"success", "transaction", "network"}} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(string(body))))
			b.log.Reset()
			var o map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil {
				t.Fatalf("%s: no JSON object: %q", path, w.Body)
			}
			switch w.Code {
			case http.StatusOK, http.StatusBadRequest:
				for _, key := range keys {
					if _, there := o[key]; !there {
						t.Errorf("%s: %d without %s: %s", path, w.Code, key, w.Body)
					}
				}
				if _, explained := o["error"]; explained != (w.Code == http.StatusBadRequest) {
					t.Errorf("%s: %d %s", path, w.Code, w.Body)
				}
			case http.StatusRequestEntityTooLarge:
				if len(body) <= maxBody {
					t.Errorf("%s: %d bytes are too many", path, len(body))
				}
			default:
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	})
}
