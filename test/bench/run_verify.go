package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"facilitator/internal/devnet"
)

const (
	// farAway is added to every answer of a node that is not on this machine.
	farAway = 30 * time.Millisecond
	// verifyBlockTime is Base's.
	verifyBlockTime = 2 * time.Second
	// verifyRest is how long an idle service is watched before a load.
	verifyRest = 3 * time.Second
	// verifyLanes are as many as the service has in the settling scenarios.
	verifyLanes = 4
)

// verifyLoad is callers that have payments verified.
type verifyLoad struct {
	name              string
	delay             time.Duration
	clients, verifies int
}

func (l verifyLoad) about() string {
	return fmt.Sprintf("%s callers, %s payments, %v added to every answer of the node", count(l.clients), count(l.verifies), l.delay)
}

// verifying is the scenarios of the suite verify.
func verifying() []scenario {
	load := func(name string, delay time.Duration, clients, verifies int) scenario {
		l := verifyLoad{name: name, delay: delay, clients: clients, verifies: verifies}
		return scenario{name: name, about: l.about(), run: func(ctx context.Context, b *bench, s scaled) error { return b.runVerify(ctx, s, s.verifyLoad(l)) }}
	}
	return []scenario{
		load("lone-30ms", farAway, 1, 300),
		load("lone-0ms", 0, 1, 3_000),
		load("many-30ms", farAway, 128, 40_000),
		load("wide-30ms", farAway, 512, 50_000),
		load("many-0ms", 0, 128, 50_000),
		{name: "peer", about: "the official TypeScript facilitator under the same load", run: runVerifyPeer},
		{name: "guards", about: "the service without and with keys, limits and policy, in turn", run: runGuards},
		{name: "refused", about: "payments that are refused without a look at the chain", run: runRefused},
		{name: "memory", about: "a million payers, none of them twice", run: runMemory},
	}
}

// verifyLoad is l as the flags have it.
func (s scaled) verifyLoad(l verifyLoad) verifyLoad {
	l.verifies = s.many(l.verifies)
	if s.quick {
		l.clients = min(l.clients, max(l.verifies/4, 1))
	}
	if s.clients > 0 {
		l.clients = s.clients
	}
	if s.nodeDelay != nil {
		l.delay = *s.nodeDelay
	}
	return l
}

// verifySite is a site on which payments of so many payers are verified.
func (b *bench) verifySite(ctx context.Context, size scaled, payers int) (*site, error) {
	return b.startSite(ctx, devnet.ChainConfig{BlockTime: size.orBlockTime(verifyBlockTime)}, min(payers, 2_048))
}

func (s scaled) orBlockTime(blockTime time.Duration) time.Duration {
	if s.blockTime > 0 {
		return s.blockTime
	}
	return blockTime
}

// verified is what a load of verifications came to.
type verified struct {
	summary

	used     counters // during the load
	took     time.Duration
	resting  counters // of the service while nobody called it, before the load
	rested   time.Duration
	findings []string
}

// runVerify measures a load; of a lone caller also how much is the node's.
func (b *bench) runVerify(ctx context.Context, size scaled, l verifyLoad) (err error) {
	s, err := b.verifySite(ctx, size, l.verifies)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }() //nolint:contextcheck // closing works after ctx ended
	d, err := s.deploy(ctx, deployConfig{lanes: size.orLanes(verifyLanes), replicas: 1, counted: true, delay: l.delay})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }() //nolint:contextcheck // closing works after ctx ended
	m, err := d.verify(ctx, l, flawless())
	if err != nil {
		return err
	}
	b.wrong(m.findings)
	b.rowVerify(l, m)
	b.rowVerifyCost(l, m)
	if l.clients == 1 {
		return d.inTurns(ctx, l)
	}
	return nil
}

// verify has payments with a flaw verified, after a warm-up with as many
// connections.
func (d *deployment) verify(ctx context.Context, l verifyLoad, of flaw) (m verified, _ error) {
	f, err := newFleet(ctx, l.clients, d.addresses()...)
	if err != nil {
		return m, err
	}
	defer f.close()
	first, err := d.site.signChecks(max(2*l.clients, 16), of)
	if err != nil {
		return m, err
	}
	checks, err := d.site.signChecks(l.verifies, of)
	if err != nil {
		return m, err
	}
	first, checks = d.authorized(first), d.authorized(checks)
	if m.resting, m.rested, err = d.rest(ctx, verifyRest); err != nil {
		return m, err
	}
	m.findings = misjudged(first, f.verify(ctx, first))
	before, err := d.read(ctx)
	if err != nil {
		return m, err
	}
	begun := time.Now()
	answers := f.verify(ctx, checks)
	m.took = time.Since(begun)
	// Only the limit of a load ends it early, and what is not answered by then is
	// no verdict.
	if ctx.Err() != nil {
		for i := range answers {
			answers[i].called = answers[i].called && answers[i].err == nil
		}
	}
	after, err := d.read(context.WithoutCancel(ctx))
	if err != nil {
		return m, err
	}
	m.used, m.summary = after.since(before), summarize(answers)
	m.findings = append(m.findings, misjudged(checks, answers)...)
	return m, nil
}

// inTurns verifies a payment and runs the transfer of another on the node by
// hand, by a proxy of the same kind, one after the other.
func (d *deployment) inTurns(ctx context.Context, l verifyLoad) error {
	s := d.site
	ours, err := newFleet(ctx, 1, d.addresses()...)
	if err != nil {
		return err
	}
	defer ours.close()
	p, err := startProxy(ctx, s.chain.URL(), l.delay)
	if err != nil {
		return err
	}
	defer p.close()
	node, err := newFleet(ctx, 1, p.listener.Addr().String())
	if err != nil {
		return err
	}
	defer node.close()
	n := l.verifies/2 + 1
	checks, err := s.signChecks(n, flawless())
	if err != nil {
		return err
	}
	sales, err := s.signSales(n)
	if err != nil {
		return err
	}
	answers := make([]answer, n)
	var byHand []time.Duration
	for i := range n {
		answers[i] = ours.callers[0].verify(ctx, checks[i], time.Now())
		took, err := node.callers[0].simulate(ctx, s, d.lanes[0], sales[i])
		if err != nil {
			return fmt.Errorf("ask the node by hand: %w", err)
		}
		byHand = append(byHand, took)
	}
	s.bench.wrong(misjudged(checks, answers))
	s.bench.rowLone(l, summarize(answers).latencies, byHand)
	return nil
}
