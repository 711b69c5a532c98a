package app

import (
	"context"
	"fmt"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/policy"
	"facilitator/internal/x402"
)

// wirePolicy makes the gate. Oracles are asked through the chains' own nodes.
func (a *App) wirePolicy(ctx context.Context, o Options, m *policy.Metrics) (*policy.Gate, error) {
	cfg := a.cfg.Policy
	s, breaker := cfg.Screening, cfg.Breaker
	wired := policy.Config{
		AllowSelfSend: cfg.AllowSelfSend, FailOpen: s.FailOpen, CheckEvery: s.CheckInterval,
		Oracles: make(map[x402.Network]policy.Oracle), OracleTTL: s.OracleTTL,
		Hook: policy.HookConfig{URL: s.Hook.URL.Reveal(), Secret: s.Hook.Token.Reveal(), Timeout: s.Hook.Timeout, TTL: s.Hook.TTL},
		Traffic: policy.TrafficConfig{
			PerPayer: cfg.Rate.PerPayer, PerPayee: cfg.Rate.PerPayee, Interval: cfg.Rate.Interval,
			PayerFailures: breaker.PayerFailures, PayeeFailures: breaker.PayeeFailures, Percent: breaker.Percent,
			HalfLife: breaker.HalfLife, SlowTo: breaker.SlowTo, RefuseFor: breaker.RefuseFor,
		},
	}
	for i, l := range s.Lists {
		wired.Lists = append(wired.Lists, policy.ListConfig{Name: l.NameAt(i), Path: l.Path, Format: policy.Format(l.Format), MaxAge: l.MaxAge})
	}
	for network, c := range a.cfg.Chains {
		if c.SanctionsOracle == "" {
			continue
		}
		address, err := chain.ParseAddress(c.SanctionsOracle)
		if err != nil {
			return nil, fmt.Errorf("sanctions_oracle of %s: %w", network, err)
		}
		n := x402.Network(network)
		wired.Oracles[n] = evm.NewSanctions(a.chains[n].client, address)
	}
	return policy.New(ctx, wired, o.Now, a.log, m)
}
