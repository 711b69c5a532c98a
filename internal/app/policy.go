package app

import (
	"context"
	"fmt"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/config"
	"facilitator/internal/policy"
	"facilitator/internal/x402"
)

// wirePolicy makes the gate. Oracles are asked through the chains' own nodes.
func (a *App) wirePolicy(ctx context.Context, o Options, m *policy.Metrics) (*policy.Gate, error) {
	clients := make(map[x402.Network]*evm.Client)
	for n, c := range a.chains {
		clients[n] = c.client
	}
	wired, err := policyConfig(a.cfg, clients)
	if err != nil {
		return nil, err
	}
	wired.Record = a.store
	return policy.New(ctx, wired, o.Now, a.log, m)
}

// policyConfig is the gate's, with the nodes by which its oracles are asked.
func policyConfig(c *config.Config, clients map[x402.Network]*evm.Client) (policy.Config, error) {
	cfg := c.Policy
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
	for network, chainConfig := range c.Chains {
		if chainConfig.SanctionsOracle == "" {
			continue
		}
		address, err := chain.ParseAddress(chainConfig.SanctionsOracle)
		if err != nil {
			return wired, fmt.Errorf("sanctions_oracle of %s: %w", network, err)
		}
		n := x402.Network(network)
		wired.Oracles[n] = evm.NewSanctions(clients[n], address)
	}
	return wired, nil
}

// Screening is who asks the sources of screening, as they are configured; nil
// where there is none. closing must be called, whatever the error.
func Screening(ctx context.Context, cfg *config.Config, now func() time.Time) (_ *policy.Inspector, closing func(), _ error) {
	clients := make(map[x402.Network]*evm.Client)
	closing = func() {
		for _, c := range clients {
			c.Close()
		}
	}
	var networks []x402.Network
	for name, c := range cfg.Chains {
		networks = append(networks, x402.Network(name))
		if c.SanctionsOracle == "" {
			continue
		}
		client, err := evm.DialAll(ctx, readNodes(c), evm.Options{Timeout: c.RPCTimeout, Network: name, MaxLag: c.MaxLag, Now: now})
		if err != nil {
			return nil, closing, fmt.Errorf("chains.%s: %w", name, err)
		}
		clients[x402.Network(name)] = client
	}
	wired, err := policyConfig(cfg, clients)
	if err != nil || len(wired.Lists)+len(wired.Oracles) == 0 && wired.Hook.URL == "" {
		return nil, closing, err
	}
	inspector := policy.NewInspector(ctx, wired, networks, now)
	hangUp := closing
	return inspector, func() {
		inspector.Close()
		hangUp()
	}, nil
}
