package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/devnet"
)

// simulate runs a sale's transfer on the node, from a wallet.
func (c *caller) simulate(ctx context.Context, s *site, from devnet.Key, of sale) (time.Duration, error) {
	request, err := postOf("/", map[string]any{
		"jsonrpc": "2.0", "id": 1, "method": "eth_call",
		"params": []any{map[string]any{"from": from.Address, "to": s.chain.USDC(), "data": hexutil.Bytes(of.transfer())}, "latest"},
	})
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	_, body, err := c.send(ctx, request)
	took := time.Since(begun)
	if err != nil {
		return 0, err
	}
	var answered struct{ Result, Error json.RawMessage }
	if err := json.Unmarshal(body, &answered); err != nil || answered.Result == nil || answered.Error != nil {
		return 0, fmt.Errorf("the node answered %q", body)
	}
	return took, nil
}

func (b *bench) rowVerify(l verifyLoad, m verified) {
	b.report.add("load", "Verifications",
		[]string{"scenario", "node", "callers", "verified", "right", "a second", "p50", "p95", "p99", "max"},
		l.name, added(l.delay), count(l.clients), count(m.calls), share(m.settled, m.calls), perSecond(m.rate()),
		ms(percentile(m.latencies, 50)), ms(percentile(m.latencies, 95)), ms(percentile(m.latencies, 99)), ms(percentile(m.latencies, 100)))
}

func (b *bench) rowVerifyCost(l verifyLoad, m verified) {
	b.report.add("cost", "What a verification costs",
		[]string{
			"scenario", "round trips/verification", "JSON-RPC calls/verification", "at rest", "SQL reads/verification",
			"service peak memory", "CPU service", "CPU Postgres", "CPU node", "CPU load and proxy",
		},
		l.name, m.each(m.used.roundTrips, m.resting.roundTrips), m.each(m.used.calls, m.resting.calls), m.atRest(), b.readsOf(m),
		mega(m.used.peak), perPayment(m.used.service, m.settled), perPayment(m.used.postgres, m.settled),
		perPayment(m.used.node, m.settled), perPayment(m.used.load, m.settled))
}

// rowLone tells what of a lone verification is the node's.
func (b *bench) rowLone(l verifyLoad, ours, node []time.Duration) {
	slices.Sort(node)
	spread := func(d []time.Duration) string {
		return ms(percentile(d, 50)) + " / " + ms(percentile(d, 95)) + " / " + ms(percentile(d, 99))
	}
	b.report.add("lone", "A lone verification",
		[]string{"node", "verified", "p50 / p95 / p99", "the node's own round trip", "above it (p50)"},
		added(l.delay), count(len(ours)), spread(ours), spread(node), ms(percentile(ours, 50)-percentile(node, 50)))
}

// each is how much of something a verification took, less what the service
// does at rest in the same time.
func (m *verified) each(during, atRest int64) string {
	rest := float64(atRest) / m.rested.Seconds() * m.took.Seconds()
	return fmt.Sprintf("%.3f", max(float64(during)-rest, 0)/float64(max(m.settled, 1)))
}

// atRest is what the service asks its node for when nobody calls.
func (m *verified) atRest() string {
	return fmt.Sprintf("%.1f/s, %.1f/s", float64(m.resting.roundTrips)/m.rested.Seconds(), float64(m.resting.calls)/m.rested.Seconds())
}

// readsOf tells the SQL reads of a verification, if the service counts them.
func (b *bench) readsOf(m verified) string {
	reads, ok := m.used.metrics[b.reads]
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%.3f", reads/float64(max(m.settled, 1)))
}

func added(delay time.Duration) string { return fmt.Sprintf("+%d ms", delay.Milliseconds()) }

func perSecond(rate float64) string {
	if rate < 100 {
		return fmt.Sprintf("%.1f", rate)
	}
	return count(int(rate))
}
