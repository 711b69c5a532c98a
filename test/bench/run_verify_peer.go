package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"facilitator/internal/devnet"
)

// runVerifyPeer has ours and the official TypeScript facilitator verify, on the
// same chain one after the other.
func runVerifyPeer(ctx context.Context, b *bench, size scaled) error {
	delays := []time.Duration{farAway, 0}
	if size.nodeDelay != nil {
		delays = []time.Duration{*size.nodeDelay}
	}
	for _, delay := range delays {
		// The peer gets fewer: it would take minutes.
		ours := size.verifyLoad(verifyLoad{name: "peer", delay: delay, clients: 128, verifies: 20_000})
		theirs := ours
		theirs.verifies = min(ours.verifies, size.many(4_000))
		if err := b.compareVerify(ctx, size, ours, theirs); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) compareVerify(ctx context.Context, size scaled, l, theirs verifyLoad) (err error) {
	s, err := b.verifySite(ctx, size, l.verifies)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }() //nolint:contextcheck // closing works after ctx ended
	ours, err := s.verifyBy(ctx, l, func() (*deployment, error) {
		return s.deploy(ctx, deployConfig{lanes: size.orLanes(verifyLanes), replicas: 1, counted: true, delay: l.delay})
	})
	if err != nil {
		return err
	}
	b.wrong(ours.findings)
	limited, cancel := context.WithTimeout(ctx, b.peerLimit)
	defer cancel()
	peer, err := s.verifyBy(limited, theirs, func() (*deployment, error) { return s.deployPeer(ctx, l.delay) })
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, finding := range peer.findings { // of the peer: told, and no failure of ours
		if i < problemsShown {
			b.say("  peer: %s", finding)
		}
	}
	ratio := "it verified none"
	if peer.settled > 0 {
		ratio = fmt.Sprintf("%.1f", ours.rate()/peer.rate())
	}
	b.rowVerifyPeer(l, "ours", ours, ratio)
	b.rowVerifyPeer(theirs, "peer", peer, "")
	return nil
}

// verifyBy verifies the load by a deployment of its own.
func (s *site) verifyBy(ctx context.Context, l verifyLoad, deploy func() (*deployment, error)) (m verified, err error) {
	d, err := deploy()
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, d.close()) }() //nolint:contextcheck // closing works after ctx ended
	return d.verify(ctx, l, flawless())
}

// deployPeer is the peer in the place of the service, behind a proxy of its own.
func (s *site) deployPeer(ctx context.Context, delay time.Duration) (*deployment, error) {
	d := &deployment{site: s, lanes: devnet.Keys("peer that verifies", 1)}
	var err error
	if d.proxy, err = startProxy(ctx, s.chain.URL(), delay); err != nil {
		return nil, err
	}
	peer, err := s.startPeer(ctx, d.proxy.url, d.lanes[0], true)
	if err != nil {
		return nil, errors.Join(err, d.close()) //nolint:contextcheck // closing works after ctx ended
	}
	d.replicas = []*replica{{command: peer, address: strings.TrimPrefix(peer.Ready(), peerServes)}}
	return d, nil
}

func (b *bench) rowVerifyPeer(l verifyLoad, name string, m verified, ratio string) {
	b.report.add("peer", "Beside the official TypeScript facilitator",
		[]string{
			"node", "callers", "facilitator", "verified", "right", "a second", "p50", "p95", "p99",
			"round trips/verification", "JSON-RPC calls/verification", "CPU of it", "its peak memory", "ours / peer",
		},
		added(l.delay), count(l.clients), name, count(m.answered()), share(m.settled, m.answered()), perSecond(m.rate()),
		ms(percentile(m.latencies, 50)), ms(percentile(m.latencies, 95)), ms(percentile(m.latencies, 99)),
		m.each(m.used.roundTrips, m.resting.roundTrips), m.each(m.used.calls, m.resting.calls),
		perPayment(m.used.service, m.settled), mega(m.used.peak), ratio)
}

// answered is how many got a verdict, right or wrong.
func (m *verified) answered() int { return m.calls - m.kinds[(&answer{}).kind()] }
