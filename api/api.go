// Package api is the REST edge: it turns HTTP into calls and results into HTTP.
// Only here does a refusal or a fault become a status.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	v1 "facilitator/api/v1"
	v2 "facilitator/api/v2"
	"facilitator/internal/chain"
	"facilitator/internal/client"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// Verifier answers /verify; it is verify.Verifier.
type Verifier interface {
	Verify(ctx context.Context, req *x402.Request) (payer string, _ error)
}

// Settler answers /settle; it is settle.Settler.
type Settler interface {
	Settle(ctx context.Context, req *x402.Request, wishes payment.Wishes) (payment.Answer, error)
	Undelivered(ctx context.Context, a payment.Answer) error
}

// Payments answers /settlements.
type Payments interface {
	PaymentByID(ctx context.Context, id payment.ID) (payment.Payment, error)
	PaymentsByTransaction(ctx context.Context, n x402.Network, hash chain.Hash) ([]payment.Payment, error)
	PaymentsByNonce(ctx context.Context, n x402.Network, payer chain.Address, nonce chain.Hash) ([]payment.Payment, error)
	ListPayments(ctx context.Context, f payment.Filter) ([]payment.Payment, error)
}

// Deps of the API; all are required but Metrics and PathPrefix.
type Deps struct {
	Verifier Verifier
	Settler  Settler
	Payments Payments
	// Supported is asked for each time: a network that can't settle is left out.
	Supported func() v2.SupportedResponse
	// Networks that are served, whether or not they can settle now.
	Networks []x402.Network
	Names    v1.Names
	Clients  Clients
	Limits   Limits
	// Anonymous is the client of callers without a key; without scopes they may call
	// nothing.
	Anonymous *client.Client
	// MaxCalls and MaxGuesses are how many calls a second one address may make, and
	// how many without a good key; 0 is any number.
	MaxCalls, MaxGuesses int
	// TrustedProxies are believed when they say for whom they call.
	TrustedProxies []netip.Prefix
	// MaxVerifying is how many /verify may be under way; 0 is any number.
	MaxVerifying int
	// Ready says whether to send requests here, and every problem there is, each
	// safe to show.
	Ready        func(ctx context.Context) (ready bool, problems []string)
	PathPrefix   string
	MaxBodyBytes int64
	// ReadTimeout of a body.
	ReadTimeout time.Duration
	Now         func() time.Time
	Log         *slog.Logger
	Meters      *Metrics
	// Metrics is served at /metrics where it is not nil.
	Metrics http.Handler
}

// maxListing bounds the lists of settlements under way: each may read over many
// rows of its client.
const maxListing = 8

// largeBody is more than payments have: a kilobyte or two, and a wallet's signature.
const largeBody = 16 << 10

type server struct {
	Deps
	// calls and guesses, without a good key, are bounded by address.
	calls, guesses     addressRate
	verifying, listing crowd
	// large bodies are decoded by a part of the cores, so that they stall no others.
	large  chan struct{}
	bodies sync.Pool // of *bytes.Buffer
}

// New returns the handler of every route.
func New(d Deps) http.Handler {
	s := &server{Deps: d, calls: addressRate{perSecond: d.MaxCalls}, guesses: addressRate{perSecond: d.MaxGuesses}}
	s.verifying.most, s.listing.most = int64(d.MaxVerifying), maxListing
	s.large = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	root := chi.NewRouter()
	root.NotFound(s.handle(routeNone, s.notFound))
	root.MethodNotAllowed(s.handle(routeNone, s.methodNotAllowed))
	routes := func(r chi.Router) {
		r.NotFound(s.handle(routeNone, s.notFound))
		r.MethodNotAllowed(s.handle(routeNone, s.methodNotAllowed))
		calls := func(r chi.Router) {
			r.Post(routeVerify, s.handle(routeVerify, s.as(client.ScopeVerify, s.verify))) // resource servers
			r.Post(routeSettle, s.handle(routeSettle, s.as(client.ScopeSettle, s.settle))) // resource servers
			r.Get(routeSupported, s.handle(routeSupported, s.supported))                   // resource servers at their start
		}
		calls(r)
		r.Route("/platform/v2/x402", calls)                                                            // clients of the hosted facilitator
		r.Get(routeWhoami, s.handle(routeWhoami, s.whoami))                                            // people with a new key
		r.Get(routeSettlements, s.handle(routeSettlements, s.as(client.ScopeRead, s.findSettlements))) // resource servers, to reconcile
		r.Get(routeSettlement, s.handle(routeSettlement, s.as(client.ScopeRead, s.settlement)))        // resource servers, after settlement_pending
		r.Get(routeLivez, s.handle(routeLivez, s.livez))                                               // orchestrators: restart me?
		r.Get(routeReadyz, s.handle(routeReadyz, s.readyz))                                            // load balancers: send to me?
		r.Get("/openapi.yaml", openAPI())                                                              // programmers and their generators
		if d.Metrics != nil {
			r.Method(http.MethodGet, "/metrics", d.Metrics) // Prometheus
		}
	}
	if d.PathPrefix == "" {
		root.Group(routes)
	} else {
		root.Route(d.PathPrefix, routes)
	}
	return collapseSlashes(root)
}

// collapseSlashes serves "/x402//verify" as "/x402/verify": version 1 servers
// join a base URL that ends in a slash without looking, and a redirected POST
// would lose its body.
func collapseSlashes(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		for strings.Contains(path, "//") {
			path = strings.ReplaceAll(path, "//", "/")
		}
		if path != r.URL.Path {
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = path, ""
		}
		next.ServeHTTP(w, r)
	})
}
