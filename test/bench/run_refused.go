package main

import (
	"context"
	"errors"
	"fmt"
)

// runRefused has payments verified that need no look at the chain, with a node
// that is far away: what they would ask of it shows in counts and latencies.
func runRefused(ctx context.Context, b *bench, size scaled) (err error) {
	l := size.verifyLoad(verifyLoad{name: "refused", delay: farAway, clients: 128, verifies: 20_000})
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
	for _, f := range flaws() {
		m, err := d.verify(ctx, l, f)
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		b.wrong(m.findings)
		b.report.add("refused", "Refused without a look at the chain",
			[]string{
				"payment", "code", "node", "callers", "verified", "refused with it", "a second", "p50", "p99",
				"round trips/verification", "all round trips, and as many at rest", "SQL reads/verification", "CPU service",
			},
			f.name, "`"+string(f.reason)+"`", added(l.delay), count(l.clients), count(m.calls), share(m.settled, m.calls), perSecond(m.rate()),
			ms(percentile(m.latencies, 50)), ms(percentile(m.latencies, 99)),
			m.each(m.used.roundTrips, m.resting.roundTrips),
			fmt.Sprintf("%s, %.0f", count(int(m.used.roundTrips)), float64(m.resting.roundTrips)*m.took.Seconds()/m.rested.Seconds()),
			b.readsOf(m), perPayment(m.used.service, m.settled))
	}
	return nil
}
