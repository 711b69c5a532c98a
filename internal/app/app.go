// Package app is the composition root: it wires the service, starts it and
// stops it in order. It is the only package that sees all the others.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/sync/errgroup"

	"facilitator/api"
	v2 "facilitator/api/v2"
	"facilitator/internal/chain"
	"facilitator/internal/client"
	"facilitator/internal/config"
	"facilitator/internal/metrics"
	"facilitator/internal/payment"
	"facilitator/internal/policy"
	"facilitator/internal/relayer"
	"facilitator/internal/settle"
	"facilitator/internal/store"
	"facilitator/internal/tracing"
	"facilitator/internal/verify"
)

// The store implements what its users declare.
var (
	_ verify.Record = (*store.Store)(nil)
	_ verify.Gate   = (*policy.Gate)(nil)
	_ settle.Store  = (*store.Store)(nil)
	_ relayer.Store = (*store.Store)(nil)
	_ api.Payments  = (*store.Store)(nil)
	_ client.Source = (*store.Store)(nil)
	_ client.Usage  = (*store.Store)(nil)
	_ policy.Record = (*store.Store)(nil)
)

// Options are what the command line and tests decide; zero values do.
type Options struct {
	Log     *slog.Logger
	Now     func() time.Time
	Version string
	// Crash is called with the name of each step of a settlement.
	Crash func(point string)
}

// App is a wired service. Run must be called, or Close.
type App struct {
	cfg *config.Config
	log *slog.Logger
	// replica names this process in leases.
	replica string
	// store is the API's, ledger the relayer's: a flood of requests must not take
	// the connections that follow payments.
	store, ledger *store.Store
	pulse         *pulse
	board         *settle.Board
	clients       *client.Directory
	limits        *client.Limits
	tracer        *tracing.Tracer // nil where tracing is off
	claims        *tracing.Claims
	chains        chains
	gate          *policy.Gate
	handler       http.Handler
	metrics       http.Handler
	listener      net.Listener
	// metricsListener is nil where metrics have no listener of their own.
	metricsListener net.Listener
	draining        atomic.Bool
}

// traceTimeout is how long the last traces may take to be sent.
const traceTimeout = 2 * time.Second

// maxHeaderBytes is far above a token and an idempotency key: as many connections
// as there may be can hold so much memory each.
const maxHeaderBytes = 16 << 10

// boardInterval is how often callers of one replica learn what another settled.
const boardInterval = 100 * time.Millisecond

// New checks everything that can be checked and listens. What can't heal by
// itself is an error; a node that can't be reached leaves the service not ready.
func New(ctx context.Context, cfg *config.Config, o Options) (*App, error) {
	if o.Crash == nil {
		o.Crash = func(string) {}
	}
	a := &App{cfg: cfg, log: o.Log, replica: uuid.NewString()}
	if err := a.wire(ctx, o); err != nil {
		a.Close() //nolint:contextcheck // the last spans are sent whatever ended
		return nil, err
	}
	return a, nil
}

func (a *App) wire(ctx context.Context, o Options) error {
	var err error
	if a.tracer, err = tracing.New(ctx, tracing.Options{
		Endpoint: a.cfg.Tracing.Endpoint, Headers: a.cfg.Tracing.Headers.Reveal(), PerMillion: a.cfg.Tracing.SamplePerMillion,
		Version: o.Version, Replica: a.replica, Log: a.log, ShutdownTimeout: traceTimeout,
	}); err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	a.claims = a.tracer.Claims()
	if err = a.openStores(ctx); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	a.pulse = newPulse(a.store.Ping, o.Now)
	registry := prometheus.NewRegistry()
	meters := newInstruments(metrics.New(registry), o.Version, o.Now, map[string]*store.Store{poolAPI: a.store, poolRelayer: a.ledger})
	a.metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	a.board = settle.NewBoard(a.store, boardInterval, a.log)

	if a.chains, err = wireChains(ctx, a, o, meters); err != nil {
		return err
	}
	if a.gate, err = a.wirePolicy(ctx, o, meters.policy); err != nil {
		return fmt.Errorf("policy.screening: %w", err)
	}
	verifier := verify.New(a.chains.networks(), a.store, a.gate, o.Now)
	settler := settle.New(settle.Deps{
		Verifier: verifier, Store: a.store, Relayer: a.chains, Board: a.board,
		Wait: a.cfg.Settle.Wait, MaxQueued: a.cfg.Settle.MaxQueued, Told: a.told, Claims: a.claims, Crash: o.Crash,
	})
	if a.clients, err = client.NewDirectory(ctx, a.store, a.cfg.Clients.TokenHosts, o.Now, a.log); err != nil {
		return fmt.Errorf("clients: %w", err)
	}
	a.limits = client.NewLimits(a.store, a.replica, o.Now, a.log)
	anonymous, proxies, err := wireCallers(a.cfg)
	if err != nil {
		return err
	}
	deps := api.Deps{
		Verifier: verifier, Settler: settler, Payments: a.store,
		Supported: func() v2.SupportedResponse { return a.chains.supported(a.cfg.Settle.Wait) },
		Networks:  slices.Sorted(maps.Keys(a.chains)), Names: a.chains.names(), Ready: a.readiness,
		Clients: a.clients, Limits: a.limits, Anonymous: anonymous, MaxCalls: a.cfg.HTTP.MaxCallsPerAddress, MaxGuesses: a.cfg.Clients.MaxGuesses,
		TrustedProxies: proxies, MaxVerifying: a.cfg.HTTP.MaxVerifying,
		PathPrefix: a.cfg.HTTP.PathPrefix, MaxBodyBytes: a.cfg.HTTP.MaxBodyBytes, ReadTimeout: a.cfg.HTTP.ReadTimeout,
		Now: o.Now, Log: a.log, Meters: meters.api,
	}
	if a.cfg.Metrics.Address == "same" {
		deps.Metrics = a.metrics
	}
	a.handler = a.tracer.Server(api.New(deps))
	return a.listen(ctx)
}

func (a *App) listen(ctx context.Context) error {
	var lc net.ListenConfig
	var err error
	if a.listener, err = lc.Listen(ctx, "tcp", a.cfg.HTTP.Address); err != nil {
		return fmt.Errorf("http.address: %w", err)
	}
	if most := a.cfg.HTTP.MaxConnections; most > 0 {
		a.listener = &cappedListener{Listener: a.listener, most: int64(most)}
	}
	if address := a.cfg.Metrics.Address; address != "same" && address != "off" {
		if a.metricsListener, err = lc.Listen(ctx, "tcp", address); err != nil {
			return fmt.Errorf("metrics.address: %w", err)
		}
	}
	return nil
}

// relayerConnections are those of the relayers: one for each lane, which holds it
// while it prepares a transaction, and some for the loops; half of all at most.
func (a *App) relayerConnections() (given, wanted int) {
	lanes := 0
	for _, c := range a.cfg.Chains {
		lanes += len(c.Lanes) + 2
	}
	return max(1, min(lanes+2, a.cfg.Database.MaxConnections/2)), lanes + 2
}

// openStores connects and makes sure that the schema is this binary's.
func (a *App) openStores(ctx context.Context) error {
	cfg := a.cfg.Database
	relayers, wanted := a.relayerConnections()
	if relayers < wanted {
		a.log.WarnContext(ctx, "database.max_connections is low for so many lanes: they will wait for each other",
			slog.Int("max_connections", cfg.MaxConnections), slog.Int("enough", 2*wanted))
	}
	var err error
	if a.store, err = store.Open(ctx, cfg.URL.Reveal(), store.Options{
		MaxConnections: cfg.MaxConnections - relayers, Timeout: cfg.Timeout, Tracer: a.queryTracer(),
	}); err != nil {
		return err
	}
	if a.ledger, err = store.Open(ctx, cfg.URL.Reveal(), store.Options{MaxConnections: relayers, Timeout: cfg.Timeout, Tracer: a.queryTracer()}); err != nil {
		return err
	}
	if cfg.Migrate {
		applied, err := a.store.MigrateUp(ctx)
		if len(applied) > 0 {
			a.log.InfoContext(ctx, "database migrated", slog.Any("versions", applied))
		}
		return err
	}
	pending, err := a.store.PendingMigrations(ctx)
	if err == nil && pending > 0 {
		err = fmt.Errorf("%d migrations are missing: run \"facilitator migrate up\" or set database.migrate", pending)
	}
	return err
}

// queryTracer has spans of statements, without their arguments and without where
// the database is; nil where tracing is off.
func (a *App) queryTracer() pgx.QueryTracer {
	provider := a.tracer.Provider()
	if provider == nil {
		return nil
	}
	return otelpgx.NewTracer(otelpgx.WithTracerProvider(provider), otelpgx.WithMeterProvider(noop.NewMeterProvider()),
		otelpgx.WithDisableConnectionDetailsInAttributes())
}

// URL is the API's base.
func (a *App) URL() string { return "http://" + a.listener.Addr().String() + a.cfg.HTTP.PathPrefix }

// MetricsURL is where metrics are served; empty where they are off.
func (a *App) MetricsURL() string {
	switch {
	case a.metricsListener != nil:
		return "http://" + a.metricsListener.Addr().String() + "/metrics"
	case a.cfg.Metrics.Address == "same":
		return a.URL() + "/metrics"
	default:
		return ""
	}
}

// readiness says whether there is anything this replica can settle, and every
// problem it has. One broken network does not keep the others from being served.
func (a *App) readiness(ctx context.Context) (ready bool, problems []string) {
	if a.draining.Load() {
		return false, []string{"shutting down"}
	}
	for _, c := range a.chains {
		if err := c.relayer.Ready(); err != nil {
			problems = append(problems, strings.TrimPrefix(err.Error(), chain.ErrNotReady.Error()+" on "))
		}
	}
	ready = len(problems) < len(a.chains)
	for _, c := range a.chains {
		if problem := c.relayer.Skewed(); problem != "" {
			problems = append(problems, problem)
		}
	}
	problems = append(problems, a.gate.Problems()...)
	if err := a.pulse.check(ctx); err != nil {
		ready, problems = false, append(problems, "the record can't be reached")
	}
	slices.Sort(problems)
	return ready, problems
}

// Run serves until ctx ends, then stops in order: not ready, in-flight requests
// finished within the drain timeout, loops stopped, connections closed. What is
// not finished by then is in the record and goes on at the next start (I9).
func (a *App) Run(ctx context.Context) error {
	defer a.Close() //nolint:contextcheck // the last spans are sent whatever ended
	// The loops outlive ctx: requests in flight need them while they drain.
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	group, failed := errgroup.WithContext(loops)
	for _, c := range a.chains {
		group.Go(func() error { return c.relayer.Run(failed) })
		group.Go(func() error {
			c.client.Watch(failed, a.log)
			return nil
		})
	}
	group.Go(func() error { return a.board.Run(failed) })
	for _, run := range []func(context.Context){a.clients.Run, a.limits.Run, a.gate.Run, a.gate.RunHits} {
		group.Go(func() error {
			run(failed)
			return nil
		})
	}

	server := a.server(a.handler)
	servers := []*http.Server{server}
	group.Go(func() error { return serve(server, a.listener) })
	if a.metricsListener != nil {
		metrics := a.server(a.metricsRoutes())
		servers = append(servers, metrics)
		group.Go(func() error { return serve(metrics, a.metricsListener) })
	}
	a.log.InfoContext(ctx, "serving", slog.String("url", a.URL()), slog.String("metrics_url", a.MetricsURL()))

	select {
	case <-ctx.Done():
		a.log.InfoContext(ctx, "stopping")
	case <-failed.Done():
	}
	a.drain(loops, failed, servers)
	stopLoops()
	err := group.Wait()
	a.log.InfoContext(loops, "stopped")
	return err
}

// drain says not ready, lets load balancers notice, and finishes what is in
// flight. A service whose loops failed does not wait to be noticed.
func (a *App) drain(ctx, failed context.Context, servers []*http.Server) {
	a.draining.Store(true)
	notice := time.NewTimer(a.cfg.HTTP.DrainDelay)
	defer notice.Stop()
	select {
	case <-notice.C:
	case <-failed.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.HTTP.DrainTimeout)
	defer cancel()
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			a.log.WarnContext(ctx, "requests were cut off; their payments go on from the record", slog.Any("error", err))
			_ = s.Close() // nothing is left to save
		}
	}
}

func (a *App) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: a.cfg.HTTP.ReadTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeaderBytes,
		// A caller that does not read its answer is cut off.
		WriteTimeout: a.cfg.Settle.Wait + 30*time.Second,
		ErrorLog:     slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
}

// metricsRoutes are those of the metrics' own listener.
func (a *App) metricsRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics)
	if a.cfg.Metrics.Profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func serve(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// Close frees what New opened. Run does it by itself.
func (a *App) Close() {
	for _, l := range []net.Listener{a.listener, a.metricsListener} {
		if l != nil {
			_ = l.Close() // closed by its server already, or never served
		}
	}
	for _, c := range a.chains {
		c.close()
	}
	if a.gate != nil {
		a.gate.Close()
	}
	for _, s := range []*store.Store{a.store, a.ledger} {
		if s != nil {
			s.Close()
		}
	}
	ctx := context.Background() // whatever ended, the last spans are sent
	if err := a.tracer.Close(ctx); err != nil {
		a.log.WarnContext(ctx, "the last traces were not sent", slog.Any("error", err))
	}
}

// moved tells waiting callers.
func (a *App) moved(ids ...payment.ID) { a.board.Moved(ids...) }

// ended has the policy learn what became of payments. Nothing ends before Run.
func (a *App) ended(p *payment.Payment, o payment.Outcome) { a.gate.Ended(p.Terms, o.To, o.Evidence) }

// told has it learn of those that another replica's wallets settled, too.
func (a *App) told(p *payment.Payment) { a.gate.Ended(p.Terms, p.State, p.Evidence) }
