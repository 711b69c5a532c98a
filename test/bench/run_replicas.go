package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// killAfter is the share of a load after which a replica is killed.
const killAfter = 3

// runReplicas settles the same load with one process, with two on one Postgres
// and the same lanes, and with two of which one is killed on the way.
func runReplicas(ctx context.Context, b *bench, size scaled) (err error) {
	l := size.load(newLoad(baseBlockTime, 512, 6_000, 4))
	s, err := b.newSite(ctx, l.blockTime, min(l.clients, 2_048))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }() //nolint:contextcheck // closing works after ctx ended
	for _, replicas := range []int{1, 2} {
		m, err := s.deployAndLoad(ctx, l, deployConfig{lanes: l.lanes, replicas: replicas})
		if err != nil {
			return err
		}
		b.rowReplicas(fmt.Sprintf("%d", replicas), l, m, "–")
	}
	return s.killOne(ctx, l)
}

func (b *bench) rowReplicas(replicas string, l load, m measured, gaps string) {
	b.report.add("replicas", "Replicas",
		[]string{"replicas", "blocks", "callers", "lanes", "payments", "told success", "paid on chain", "settled/s", "p50", "p99", "longest gap of the service / of one lane after the kill"},
		replicas, l.blockTime.String(), count(l.clients), count(l.lanes), count(m.calls), share(m.settled, m.calls), share(m.paid, m.calls),
		fmt.Sprintf("%.0f", m.rate()), ms(percentile(m.latencies, 50)), ms(percentile(m.latencies, 99)), gaps)
}

// killOne kills one of two replicas on the way. Its callers go to the other.
func (s *site) killOne(ctx context.Context, l load) (err error) {
	d, err := s.deploy(ctx, deployConfig{lanes: l.lanes, replicas: 2})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }() //nolint:contextcheck // closing works after ctx ended
	f, err := newFleet(ctx, l.clients, d.addresses()...)
	if err != nil {
		return err
	}
	defer f.close()
	sales, err := s.signSales(min(warmUp, l.clients) + l.payments)
	if err != nil {
		return err
	}
	warm, sales := sales[:len(sales)-l.payments], sales[len(sales)-l.payments:]
	f.settle(ctx, warm)
	from, err := s.chain.Client().BlockNumber(ctx)
	if err != nil {
		return err
	}
	defer s.unstick(ctx, d.lanes)()
	watch := s.watchBlocks(ctx)
	defer watch.stop()
	var killed time.Time
	kill := sync.OnceFunc(func() {
		killed = time.Now()
		d.replicas[0].command.Kill()
	})
	var answered counter
	f.answered = func() {
		if answered.add() >= l.payments/killAfter {
			kill()
		}
	}
	begun := time.Now()
	answers := f.settle(ctx, sales)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	kill() // nothing was answered: it still ends
	var m measured
	m.summary = summarize(answers)
	if err := d.settled(ctx, callTimeout); err != nil {
		s.bench.problem("after the kill: %v", err)
	}
	watch.stop()
	var findings []string
	if m.paid, findings, err = s.audit(ctx, from+1, sales, answers); err != nil {
		return err
	}
	s.bench.wrong(findings)
	if m.gas, err = s.gasSince(ctx, from, d.lanes); err != nil {
		return err
	}
	if unpaid := m.calls - m.paid; unpaid > 0 {
		s.bench.problem("one of two killed: %d of %d were not paid: %v %v", unpaid, m.calls, m.kinds, m.example)
	}
	service, lane := watch.gaps(m.gas, killed, begun.Add(m.took))
	s.bench.rowReplicas(fmt.Sprintf("2, one killed after %.1f s", killed.Sub(begun).Seconds()), l, m,
		fmt.Sprintf("%s / %s; %s repeated; others told: %s", ms(service), ms(lane), count(m.repeats), kindsBut(m.kinds, "success")))
	return nil
}

// counter counts from many goroutines.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) add() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n
}

// blockWatch knows when each block was first seen.
type blockWatch struct {
	mu   sync.Mutex
	seen map[uint64]time.Time
	stop func()
}

// watchBlocks looks for new blocks until it is stopped.
func (s *site) watchBlocks(ctx context.Context) *blockWatch {
	w := &blockWatch{seen: make(map[uint64]time.Time)}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	w.stop = func() {
		cancel()
		<-ended
	}
	go func() {
		defer close(ended)
		look := time.NewTicker(20 * time.Millisecond)
		defer look.Stop()
		last := uint64(0)
		for {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
			number, err := s.chain.Client().BlockNumber(ctx)
			if err != nil {
				continue
			}
			w.mu.Lock()
			for n := max(last+1, number-min(number, 100)); n <= number; n++ {
				w.seen[n] = time.Now()
			}
			w.mu.Unlock()
			last = number
		}
	}()
	return w
}

// gaps are the longest times between two blocks with settlements of the
// service, and of one lane, from the kill until the load's end. A lane that
// settled nothing any more has a gap to the end.
func (w *blockWatch) gaps(g gasOf, killed, end time.Time) (service, lane time.Duration) {
	all := make(map[uint64]bool)
	for _, blocks := range g.blocks {
		lane = max(lane, w.longest(blocks, killed, end))
		for _, b := range blocks {
			all[b] = true
		}
	}
	return w.longest(slices.Sorted(maps.Keys(all)), killed, end), lane
}

func (w *blockWatch) longest(blocks []uint64, killed, end time.Time) (gap time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := killed
	for _, b := range blocks {
		at := w.seen[b]
		switch {
		case at.IsZero():
		case at.Before(killed):
			last = at
		default:
			gap, last = max(gap, at.Sub(last)), at
		}
	}
	if end.After(last) {
		gap = max(gap, end.Sub(last))
	}
	return gap
}

// kindsBut lists kinds of answers but one.
func kindsBut(kinds map[string]int, but string) string {
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if kind != but {
			list = append(list, fmt.Sprintf("%s × %s", count(kinds[kind]), kind))
		}
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
