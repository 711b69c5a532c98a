package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

const (
	// guardRounds is how often each of the two is loaded, in turn. An even number: each
	// begins as often as the other.
	guardRounds = 24
	// refusedAddresses are on the list that everybody is looked for in.
	refusedAddresses = 1_000
)

// guards is all that the operator can put before a verification, with limits that
// nobody here reaches: what is measured is that they are looked at.
func (b *bench) guards(dir string) (map[string]any, error) {
	list := filepath.Join(dir, "refused.txt")
	var lines strings.Builder
	for i := range refusedAddresses {
		fmt.Fprintln(&lines, common.BigToAddress(common.Big257).Hex()[:34]+fmt.Sprintf("%08x", i))
	}
	if err := os.WriteFile(list, []byte(lines.String()), 0o600); err != nil {
		return nil, fmt.Errorf("screening list: %w", err)
	}
	const never = 1_000_000 // the most that may be configured
	return map[string]any{
		"clients": map[string]any{"anonymous": map[string]any{"scopes": []string{}}},
		"policy": map[string]any{
			"screening": map[string]any{"lists": []any{map[string]any{"name": "own", "path": list}}},
			"rate":      map[string]any{"per_payer": never, "per_payee": never},
			"breaker":   map[string]any{"payer_failures": never, "payee_failures": never},
		},
	}, nil
}

// newClient makes a client that is bound in every way, and returns its key.
func (d *deployment) newClient(ctx context.Context, dir string) (string, error) {
	file := filepath.Join(dir, "clients.yaml")
	if err := os.WriteFile(file, []byte(d.text), 0o600); err != nil {
		return "", fmt.Errorf("new client: %w", err)
	}
	payees := make([]string, len(d.site.payees))
	for i, k := range d.site.payees {
		payees[i] = k.Address.Hex()
	}
	var out, problems bytes.Buffer
	command := exec.CommandContext(ctx, d.site.bench.service, "clients", "create", "-config", file, "-name", "bench", //nolint:gosec // the operator's own
		"-scopes", "verify,settle", "-networks", d.site.chain.Network(), "-assets", d.site.chain.USDC().Hex(), "-pay-to", strings.Join(payees, ","),
		"-rate", "1000000", "-burst", "1000000", "-gas-per-day", "1000000000000000000")
	command.Stdout, command.Stderr = &out, &problems
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("new client: %w: %s%s", err, out.Bytes(), problems.Bytes())
	}
	key := regexp.MustCompile(`x402f_\S+`).FindString(out.String())
	if key == "" {
		return "", fmt.Errorf("new client: no key in %q", out.String())
	}
	return key, nil
}

// runGuards measures what keys, limits and policy cost: the service with none and
// with all of them, on the same chain, loaded in turn, so that both see the same
// machine. The processor is what is short, since the node is near.
func runGuards(ctx context.Context, b *bench, size scaled) (err error) {
	l := size.verifyLoad(verifyLoad{name: "guards", clients: 128, verifies: 5_000})
	dir, err := os.MkdirTemp("", "bench-guards-")
	if err != nil {
		return fmt.Errorf("screening list: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := b.startSite(ctx, devnet.ChainConfig{BlockTime: size.orBlockTime(verifyBlockTime)}, 64)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }() //nolint:contextcheck // closing works after ctx ended
	all, err := b.guards(dir)
	if err != nil {
		return err
	}
	var sides [2]guarded
	for i, settings := range []map[string]any{nil, all} {
		d, err := s.deploy(ctx, deployConfig{lanes: size.orLanes(verifyLanes), replicas: 1, counted: true, delay: l.delay, settings: settings})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.close()) }() //nolint:contextcheck // closing works after ctx ended
		sides[i].deployment = d
	}
	if sides[1].deployment.key, err = sides[1].deployment.newClient(ctx, dir); err != nil {
		return err
	}
	if err := sides[1].deployment.takesKey(ctx); err != nil {
		return err
	}
	for round := range guardRounds {
		for turn := range sides {
			side := &sides[(round+turn)%2] // neither is always the first
			m, err := side.deployment.verify(ctx, l, flawless())
			if err != nil {
				return err
			}
			b.wrong(m.findings)
			side.add(m)
		}
	}
	for i, name := range []string{"none", "all"} {
		b.rowGuards(l, name, &sides[i], &sides[0])
	}
	return nil
}

// takesKey returns when the service has noticed the client.
func (d *deployment) takesKey(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	checks, err := d.site.signChecks(1, flawless())
	if err != nil {
		return err
	}
	f, err := newFleet(ctx, 1, d.addresses()...)
	if err != nil {
		return err
	}
	defer f.close()
	for {
		answers := f.verify(ctx, d.authorized(checks))
		if answers[0].status == 200 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the key is not taken: %s%w", answers[0].Error, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// guarded is one of two that are compared, in all its rounds.
type guarded struct {
	deployment *deployment
	rates      []float64       // verifications in a second
	processor  []time.Duration // of the service, for each verification
	latencies  []time.Duration
	verified   int
}

func (g *guarded) add(m verified) {
	g.rates = append(g.rates, m.rate())
	g.processor = append(g.processor, m.used.service/time.Duration(max(m.settled, 1)))
	g.latencies = append(g.latencies, m.latencies...)
	g.verified += m.settled
}

// median of an even number is the mean of the two in the middle.
func median[T float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// rowGuards compares each round with the other's that ran beside it: from one
// round to the next the machine may have become another.
func (b *bench) rowGuards(l verifyLoad, name string, g, none *guarded) {
	slices.Sort(g.latencies)
	rates, costs := make([]float64, len(g.rates)), make([]float64, len(g.rates))
	for i := range rates {
		rates[i], costs[i] = g.rates[i]/none.rates[i], g.processor[i].Seconds()/none.processor[i].Seconds()
	}
	b.report.add("guards", "What keys, limits and policy cost",
		[]string{"keys, limits, policy", "node", "callers", "verified", "a second (median)", "of none", "p50", "p99", "CPU service (median)", "of none"},
		name, added(l.delay), count(l.clients), count(g.verified), perSecond(median(g.rates)), spread(rates),
		ms(percentile(g.latencies, 50)), ms(percentile(g.latencies, 99)),
		fmt.Sprintf("%.3f ms each", median(g.processor).Seconds()*1e3), spread(costs))
}

// spread is the median of ratios, and the half of them around it.
func spread(ratios []float64) string {
	sorted := slices.Sorted(slices.Values(ratios))
	if sorted[0] == sorted[len(sorted)-1] {
		return percent(sorted[0])
	}
	return fmt.Sprintf("%s (%s to %s)", percent(median(sorted)), percent(sorted[len(sorted)/4]), percent(sorted[len(sorted)*3/4]))
}

func percent(ratio float64) string { return fmt.Sprintf("%.1f %%", 100*ratio) }
