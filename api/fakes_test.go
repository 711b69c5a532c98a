package api_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"facilitator/api"
	v1 "facilitator/api/v1"
	v2 "facilitator/api/v2"
	"facilitator/internal/chain"
	"facilitator/internal/client"
	"facilitator/internal/metrics"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const payer = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"

// verifier answers /verify.
type verifier func(ctx context.Context, req *x402.Request) (string, error)

func (v verifier) Verify(ctx context.Context, req *x402.Request) (string, error) { return v(ctx, req) }

// settler answers /settle and counts what it is told was not delivered.
type settler struct {
	settle      func(ctx context.Context, req *x402.Request, wishes payment.Wishes) (payment.Answer, error)
	undelivered []payment.Answer
}

func (s *settler) Settle(ctx context.Context, req *x402.Request, wishes payment.Wishes) (payment.Answer, error) {
	return s.settle(ctx, req, wishes)
}

func (s *settler) Undelivered(_ context.Context, a payment.Answer) error {
	s.undelivered = append(s.undelivered, a)
	return nil
}

// payments answers /settlements.
type payments struct {
	list  []payment.Payment
	err   error
	asked string
	// listing is called at the start of a list where it is not nil.
	listing func()
}

func (p *payments) PaymentByID(_ context.Context, id payment.ID) (payment.Payment, error) {
	p.asked = "id " + string(id)
	for _, one := range p.list {
		if one.ID == id {
			return one, p.err
		}
	}
	if p.err != nil {
		return payment.Payment{}, p.err
	}
	return payment.Payment{}, payment.ErrNotFound
}

func (p *payments) PaymentsByTransaction(_ context.Context, n x402.Network, hash chain.Hash) ([]payment.Payment, error) {
	p.asked = "transaction " + string(n) + " " + hash.String()
	return p.list, p.err
}

func (p *payments) PaymentsByNonce(_ context.Context, n x402.Network, payer chain.Address, nonce chain.Hash) ([]payment.Payment, error) {
	p.asked = "nonce " + string(n) + " " + payer.String() + " " + nonce.String()
	return p.list, p.err
}

func (p *payments) ListPayments(_ context.Context, f payment.Filter) ([]payment.Payment, error) {
	if p.listing != nil {
		p.listing()
		return nil, nil
	}
	p.asked = fmt.Sprintf("list %s %s since %s until %s after %s limit %d", f.Network, f.PayTo, f.Since.Format(time.RFC3339), f.Until.Format(time.RFC3339), f.After, f.Limit)
	return p.list[:min(len(p.list), f.Limit)], p.err
}

// nobody knows no client: every caller is the anonymous one.
type nobody struct{}

func (nobody) Identify(client.Call) (*client.Client, error) { return nil, nil }

type noLimits struct{}

func (noLimits) Take(*client.Client) error   { return nil }
func (noLimits) Afford(*client.Client) error { return nil }

// bench is a handler with all that it depends on.
type bench struct {
	deps     api.Deps
	settler  *settler
	payments *payments
	log      *bytes.Buffer
}

const (
	maxBody     = 4096
	readTimeout = 10 * time.Second
)

// newBench accepts and settles everything.
func newBench() *bench {
	b := &bench{log: new(bytes.Buffer), payments: &payments{}, settler: &settler{
		settle: func(context.Context, *x402.Request, payment.Wishes) (payment.Answer, error) { return settled(), nil },
	}}
	b.deps = api.Deps{
		Verifier: verifier(func(context.Context, *x402.Request) (string, error) { return payer, nil }),
		Settler:  b.settler, Payments: b.payments,
		Supported: func() v2.SupportedResponse {
			return v2.SupportedResponse{
				Kinds: []v2.Kind{
					{X402Version: 2, Scheme: "exact", Network: "eip155:84532", Extra: map[string]any{"confirmation": map[string]any{"default": "mined", "levels": []string{"mined", "<n blocks>"}, "waitSeconds": 20}}},
					{X402Version: 1, Scheme: "exact", Network: "base-sepolia"},
				},
				Extensions: []string{}, Signers: map[string][]string{"eip155:*": {"0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"}},
			}
		},
		Networks: []x402.Network{"eip155:84532"},
		Clients:  nobody{}, Limits: noLimits{}, Anonymous: &client.Client{Name: "anonymous", Scopes: client.Scopes()},
		Names:        v1.Names{"base-sepolia": "eip155:84532"},
		Ready:        func(context.Context) (bool, []string) { return true, nil },
		MaxBodyBytes: maxBody, ReadTimeout: readTimeout, Now: time.Now,
		Log: slog.New(slog.NewTextHandler(b.log, nil)), Meters: meters(),
	}
	return b
}

func meters() *api.Metrics { return api.NewMetrics(metrics.New(prometheus.NewRegistry()), time.Now) }

func (b *bench) handler() http.Handler {
	b.deps.Meters = meters() // each handler counts anew
	return api.New(b.deps)
}

var txHash = chain.Hash{0: 0xab, 31: 0xcd}

const txText = "0xab000000000000000000000000000000000000000000000000000000000000cd"

func settled() payment.Answer {
	return payment.Answer{Success: true, Payer: payer, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash}
}

// fixture is a request as an official client sends it.
func fixture(tb testing.TB, name string) string {
	tb.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	text   string
}

// call sends one request to a handler, without a network.
func call(t *testing.T, h http.Handler, method, path, body string, header ...string) reply {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	got := reply{status: w.Code, header: w.Header(), text: w.Body.String()}
	wantDescribed(t, method, path, body, r.Header, got)
	return got
}
