package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// warmUp is how many payments are settled before the clock starts: tokens
	// are known, connections open, code paths warm.
	warmUp = 64
	// directGas is what transferWithAuthorization of USDC uses in a transaction
	// of its own, to a payee that holds the token already.
	directGas = 85_764
)

// load is many callers that settle many payments.
type load struct {
	name              string
	blockTime         time.Duration
	clients, payments int
	lanes             int
}

func newLoad(blockTime time.Duration, clients, payments, lanes int) load {
	return load{blockTime: blockTime, clients: clients, payments: payments, lanes: lanes}
}

func (l load) about() string {
	return fmt.Sprintf("blocks of %v, %s callers, %s payments, %d lanes", l.blockTime, count(l.clients), count(l.payments), l.lanes)
}

// measured is what a load came to.
type measured struct {
	summary

	used counters // during the load
	gas  gasOf
	paid int // on chain
}

// runLoad measures a load, and counts round trips in a smaller one where the
// service does not count them itself.
func (b *bench) runLoad(ctx context.Context, l load) (err error) {
	s, err := b.newSite(ctx, l.blockTime, min(l.clients, 2_048))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }() //nolint:contextcheck // closing works after ctx ended
	m, err := s.deployAndLoad(ctx, l, deployConfig{lanes: l.lanes, replicas: 1})
	if err != nil {
		return err
	}
	b.rowLoad(l, m)
	trips, ok := m.used.metrics[b.roundTrips]
	source := "metric"
	if !ok {
		source = "proxy"
		small := l
		small.payments = max(l.payments/10, min(2*l.clients, l.payments))
		counted, err := s.deployAndLoad(ctx, small, deployConfig{lanes: l.lanes, replicas: 1, counted: true})
		if err != nil {
			return err
		}
		trips = float64(counted.used.roundTrips) / float64(max(counted.paid, 1)) * float64(m.paid)
	}
	b.rowCost(l, m, trips, source)
	return nil
}

// deployAndLoad measures a load on a deployment of its own.
func (s *site) deployAndLoad(ctx context.Context, l load, cfg deployConfig) (m measured, err error) {
	d, err := s.deploy(ctx, cfg)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, d.close()) }() //nolint:contextcheck // closing works after ctx ended
	return d.load(ctx, l, nil)
}

// load settles the load's payments and audits them. With during, it runs beside
// the load, from its start on.
func (d *deployment) load(ctx context.Context, l load, during func(start time.Time)) (m measured, _ error) {
	f, err := newFleet(ctx, l.clients, d.addresses()...)
	if err != nil {
		return m, err
	}
	defer f.close()
	defer d.site.unstick(ctx, d.lanes)()
	first, err := d.site.signSales(min(warmUp, l.clients))
	if err != nil {
		return m, err
	}
	sales, err := d.site.signSales(l.payments)
	if err != nil {
		return m, err
	}
	if warm := summarize(f.settle(ctx, first)); warm.settled < len(first) {
		d.site.bench.say("  warm-up: %v %v", warm.kinds, warm.example)
	}
	before, err := d.read(ctx)
	if err != nil {
		return m, err
	}
	if during != nil {
		go during(time.Now())
	}
	answers := f.settle(ctx, sales)
	if err := context.Cause(ctx); err != nil {
		return m, err
	}
	after, err := d.read(ctx)
	if err != nil {
		return m, err
	}
	m.summary, m.used = summarize(answers), after.since(before)
	if m.gas, err = d.site.gasSince(ctx, before.block, d.lanes); err != nil {
		return m, err
	}
	var findings []string
	m.paid, findings, err = d.site.audit(ctx, before.block+1, sales, answers)
	if err != nil {
		return m, err
	}
	d.site.bench.wrong(findings)
	if m.settled < m.calls {
		d.site.bench.problem("%d of %d settled: %v %v", m.settled, m.calls, m.kinds, m.example)
	}
	return m, nil
}

func (b *bench) rowLoad(l load, m measured) {
	b.report.add("load", "Load",
		[]string{"scenario", "blocks", "callers", "lanes", "payments", "settled", "settled/s", "p50", "p95", "p99", "max"},
		l.name, l.blockTime.String(), count(l.clients), count(l.lanes), count(m.calls), share(m.settled, m.calls), fmt.Sprintf("%.0f", m.rate()),
		ms(percentile(m.latencies, 50)), ms(percentile(m.latencies, 95)), ms(percentile(m.latencies, 99)), ms(percentile(m.latencies, 100)))
}

func (b *bench) rowCost(l load, m measured, trips float64, source string) {
	n := float64(max(m.paid, 1))
	writes := fmt.Sprintf("%.2f", float64(m.used.writes)/n)
	if commits, ok := m.used.metrics[b.commits]; ok {
		writes += fmt.Sprintf(" (the service counts %.2f)", commits/n)
	}
	b.report.add("cost", "What a payment costs",
		[]string{
			"scenario", "gas/payment", "of direct", "payments/transaction", "reverted", "round trips/payment", "SQL writes/payment",
			"service peak memory", "CPU service", "CPU Postgres", "CPU node", "CPU load",
		},
		l.name, count(int(float64(m.gas.gas)/n)), fmt.Sprintf("%.0f %%", 100*float64(m.gas.gas)/n/directGas),
		fmt.Sprintf("%.1f", n/float64(max(m.gas.transactions, 1))), count(m.gas.reverted),
		fmt.Sprintf("%.2f (%s)", trips/n, source), writes, mega(m.used.peak),
		perPayment(m.used.service, m.paid), perPayment(m.used.postgres, m.paid), perPayment(m.used.node, m.paid), perPayment(m.used.load, m.paid))
}
