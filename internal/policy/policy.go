// Package policy is the operator's own say in which payments are taken, beside
// what the protocol asks for. It is one gate that verify and settle pass for
// every scheme: a payment of somebody to itself, screening of everybody a payment
// deals with, and how much one payer or payee may ask for.
//
// It guarantees that
//   - what a source of screening can't tell is no judgement of the payment (I7),
//     and nothing is let through for it unless FailOpen says so,
//   - a message to the payer never tells which source has it,
//   - what is kept of payers and payees is bounded in memory, and what a flood of
//     refused payments writes is bounded in the record,
//   - no request waits for the record of whom screening refused.
//
// It does not guarantee that replicas agree: each counts and keeps for itself. Nor
// that the record of whom screening refused is exact: the log is.
package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// Config of the gate. The zero value refuses what a payer pays to itself, and
// nothing else.
type Config struct {
	// AllowSelfSend takes payments whose payer is the payee.
	AllowSelfSend bool
	// FailOpen lets payments through that a source could not tell about.
	FailOpen bool
	// CheckEvery is how often the lists' files are looked at.
	CheckEvery time.Duration
	Lists      []ListConfig
	// Oracles by network.
	Oracles map[x402.Network]Oracle
	// OracleTTL is how long an oracle's answer is kept.
	OracleTTL time.Duration
	Hook      HookConfig
	// Record keeps whom screening refused; nil for none.
	Record  Record
	Traffic TrafficConfig
}

// Gate is safe for concurrent use.
type Gate struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	metrics *Metrics
	sources []*source
	lists   []*list
	oracles map[x402.Network]*oracle
	hook    *hook // nil without one
	hits    *hits // nil without a record
	traffic *traffic
}

// New reads every list; one that can't be read is an error.
func New(ctx context.Context, cfg Config, now func() time.Time, log *slog.Logger, m *Metrics) (*Gate, error) {
	g := assemble(ctx, cfg, now, log, m)
	for _, l := range g.lists {
		if err := l.refresh(ctx); err != nil {
			return nil, fmt.Errorf("list %s: %w", l.Name, err)
		}
	}
	return g, nil
}

// assemble makes a gate whose lists are not read yet.
func assemble(ctx context.Context, cfg Config, now func() time.Time, log *slog.Logger, m *Metrics) *Gate {
	g := &Gate{cfg: cfg, log: log, metrics: m, now: now, oracles: make(map[x402.Network]*oracle)}
	g.traffic = newTraffic(cfg.Traffic, now)
	if cfg.Record != nil {
		g.hits = newHits(cfg.Record, now, log, m)
	}
	for _, c := range cfg.Lists {
		g.lists = append(g.lists, &list{ListConfig: c, source: g.source(ctx, c.Name, string(c.Format)), now: now})
	}
	for network, o := range cfg.Oracles {
		g.oracles[network] = newOracle(o, cfg.OracleTTL, now, g.source(ctx, "oracle_"+string(network), "oracle"))
	}
	if cfg.Hook.URL != "" {
		g.hook = newHook(cfg.Hook, now, g.source(ctx, "hook", "hook"))
	}
	return g
}

func (g *Gate) source(ctx context.Context, name, kind string) *source {
	s := &source{name: name, kind: kind, log: g.log, metrics: g.metrics}
	g.metrics.watch(s, g.now())
	g.sources = append(g.sources, s)
	g.log.InfoContext(ctx, "screening", slog.String("source", name), slog.String("kind", kind))
	return s
}

// Run looks at the lists' files until ctx ends.
func (g *Gate) Run(ctx context.Context) {
	if len(g.lists) == 0 {
		return
	}
	tick := time.NewTicker(g.cfg.CheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.Refresh(ctx)
		}
	}
}

// Refresh reads the lists whose files changed. One that can't be read stays as it
// is; log and metrics tell.
func (g *Gate) Refresh(ctx context.Context) {
	for _, l := range g.lists {
		_ = l.refresh(ctx) // it is told already
	}
}

// RunHits records whom screening refused until ctx ends, and what is left then.
func (g *Gate) RunHits(ctx context.Context) {
	if g.hits != nil {
		g.hits.run(ctx)
	}
}

// WriteHits records at once whom screening refused.
func (g *Gate) WriteHits(ctx context.Context) {
	if g.hits != nil {
		g.hits.write(ctx)
	}
}

// Problems are what is wrong with the sources, safe to show.
func (g *Gate) Problems() []string {
	var problems []string
	for _, s := range g.sources {
		if s.failing.Load() {
			problems = append(problems, "screening by "+s.name+" fails")
		}
	}
	for _, l := range g.lists {
		if l.stale() {
			problems = append(problems, "screening by "+l.name+": "+errStale.Error())
		}
	}
	return problems
}

// Close drops the hook's idle connections.
func (g *Gate) Close() {
	if g.hook != nil {
		g.hook.client.CloseIdleConnections()
	}
}

// Pass refuses what the policy does not take, or says that it can't be told now:
// the error is an *x402.Rejection, a *payment.ThrottledError, or wraps
// payment.ErrUnscreened. What asks nobody is looked at first. The payment's
// signature must have been checked: nobody else is asked about for the asking,
// and no name on a payment that is not its payer's own counts for anything.
func (g *Gate) Pass(ctx context.Context, t payment.Terms, contracts []chain.Address) error {
	if t.Key.Payer == t.PayTo && !g.cfg.AllowSelfSend {
		g.metrics.refusals.WithLabelValues(checkSelfSend).Inc()
		return x402.Reject(x402.ReasonSelfSend, "the payer is the payee")
	}
	if err := g.throttled(g.traffic.passes(t)); err != nil {
		return err
	}
	oracle := g.oracles[t.Key.Network]
	if len(g.lists) == 0 && oracle == nil {
		return nil
	}
	who := partiesOf(t, contracts)
	if err := g.screenLocally(ctx, t, who); err != nil {
		return err
	}
	if oracle != nil {
		return g.judged(ctx, t, oracle.source, oracle.ask(ctx, who))
	}
	return nil
}

// Ask asks the hook about a payment that would succeed, and says what Pass does.
// Only who has the money can keep the hook busy.
func (g *Gate) Ask(ctx context.Context, t payment.Terms, contracts []chain.Address) error {
	if g.hook == nil {
		return nil
	}
	return g.judged(ctx, t, g.hook.source, g.hook.ask(ctx, t, contracts))
}

// screenLocally looks into every list before it says that one of them is too old.
func (g *Gate) screenLocally(ctx context.Context, t payment.Terms, who []party) error {
	var stale error
	for _, l := range g.lists {
		v := l.ask(who)
		if err := g.judged(ctx, t, l.source, v); err != nil {
			if _, hit := x402.AsRejection(err); hit {
				return err
			}
			stale = errors.Join(stale, err)
		}
	}
	return stale
}

// judged makes of what a source said what the gate says.
func (g *Gate) judged(ctx context.Context, t payment.Terms, s *source, v verdict) error {
	switch {
	case v.hit != nil:
		g.metrics.hits.WithLabelValues(s.name, s.kind).Inc()
		g.log.WarnContext(ctx, "screening hit",
			slog.String("source", s.name), slog.String("kind", s.kind), slog.String("role", v.hit.role),
			slog.String("address", v.hit.address.String()), slog.String("detail", v.detail), slog.String("network", string(t.Key.Network)),
			slog.String("payer", t.Key.Payer.String()), slog.String("pay_to", t.PayTo.String()),
			slog.String("authorization_nonce", t.Key.Nonce.String()))
		if g.hits != nil {
			g.hits.add(ctx, t, s, v)
		}
		return x402.Reject(x402.ReasonKYTRisk, "this payment can't be processed")
	case v.err == nil:
		return nil
	case ctx.Err() != nil: // nobody waits: it says nothing about the source
		return fmt.Errorf("%w: %w", payment.ErrUnscreened, context.Cause(ctx))
	case g.cfg.FailOpen:
		g.metrics.unscreened.Inc()
		return nil
	}
	return fmt.Errorf("%w: %s: %w", payment.ErrUnscreened, s.name, v.err)
}

// Take counts a payment that was found good for its payer and payee; once,
// however often it is asked about. What is more than they may have is refused.
func (g *Gate) Take(t payment.Terms) error { return g.throttled(g.traffic.take(t)) }

func (g *Gate) throttled(why *throttle) error {
	if why == nil {
		return nil
	}
	g.metrics.refusals.WithLabelValues(why.check).Inc()
	return &payment.ThrottledError{Wait: why.wait, Message: why.message()}
}

// Taken says whether a payment was found good here before.
func (g *Gate) Taken(t payment.Terms) bool { return g.traffic.taken(t) }

// Refused counts against payer and payee that a payment is refused which Take let
// through before.
func (g *Gate) Refused(t payment.Terms) { g.broken(t, g.traffic.refused(t)) }

// Ended counts that a payment came to a state, with the evidence there is, once
// for all who know. What failed for reasons of ours or of time is nobody's fault.
func (g *Gate) Ended(t payment.Terms, state payment.State, evidence *payment.Evidence) {
	switch state {
	case payment.StateIncluded, payment.StateFinal:
		g.traffic.ended(t, true)
	case payment.StateFailed:
		if evidence == nil || evidence.Kind == payment.EvidenceExpired || evidence.Kind == payment.EvidenceNotSent {
			return
		}
		g.broken(t, g.traffic.ended(t, false))
	case payment.StateQueued, payment.StateSigned, payment.StateBroadcast:
	}
}

// broken tells whom the breaker refuses from now on.
func (g *Gate) broken(t payment.Terms, sides []side) {
	for _, s := range sides {
		g.metrics.opened.WithLabelValues(s.role()).Inc()
		g.log.Warn("too many settles fail: refused for a while",
			slog.String("role", s.role()), slog.String("address", s.address.String()),
			slog.String("network", string(t.Key.Network)), slog.Duration("refused_for", g.cfg.Traffic.RefuseFor))
	}
}
