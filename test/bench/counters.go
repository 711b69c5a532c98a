package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// counters are what is read before and after a load.
type counters struct {
	block   uint64
	service time.Duration // CPU, all replicas
	peak    uint64        // bytes of memory, the largest of the replicas
	// postgres, node and load are the CPU of the others on the machine.
	postgres, node, load time.Duration
	// writes is the number of SQL transactions that wrote or locked something:
	// Postgres gives exactly those an id.
	writes int64
	// roundTrips and calls to the node: of the proxy, or of the service's metric.
	roundTrips, calls int64
	metrics           map[string]float64
}

func (d *deployment) read(ctx context.Context) (c counters, err error) {
	s := d.site
	if c.block, err = s.chain.Client().BlockNumber(ctx); err != nil {
		return c, fmt.Errorf("block number: %w", err)
	}
	if c.writes, err = s.transactionIDs(ctx); err != nil {
		return c, err
	}
	c.metrics = make(map[string]float64)
	for _, r := range d.replicas {
		c.service += cpuOf(r.command.PID())
		_, peak := memoryOf(r.command.PID())
		c.peak = max(c.peak, peak)
		for name, value := range r.scrape(ctx) {
			c.metrics[name] += value
		}
	}
	c.postgres, c.node, c.load = cpuOf(s.postgres.PID()), cpuOf(s.chain.PID()), cpuOfAlone(os.Getpid())
	if d.proxy != nil {
		c.roundTrips, c.calls = d.proxy.requests.Load(), d.proxy.calls.Load()
	}
	return c, nil
}

// transactionIDs is how many ids Postgres has given to SQL transactions.
func (s *site) transactionIDs(ctx context.Context) (n int64, err error) {
	err = s.admin.QueryRow(ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("transaction ids: %w", err)
	}
	return n, nil
}

// scrape reads a replica's metrics, of each the sum over its labels. One that
// can't be read has none.
func (r *replica) scrape(ctx context.Context) map[string]float64 {
	sums := make(map[string]float64)
	if r.metrics == "" {
		return sums
	}
	answer, err := get(ctx, r.metrics)
	if err != nil {
		return sums
	}
	lines := bufio.NewScanner(bytes.NewReader(answer.body))
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || at < 0 {
			continue
		}
		name, _, _ := strings.Cut(line[:at], "{")
		if value, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			sums[name] += value
		}
	}
	return sums
}

// since is the difference of two readings, but for the peak.
func (c counters) since(before counters) counters {
	d := c
	d.service -= before.service
	d.postgres -= before.postgres
	d.node -= before.node
	d.load -= before.load
	d.writes -= before.writes
	d.roundTrips -= before.roundTrips
	d.calls -= before.calls
	d.metrics = make(map[string]float64, len(c.metrics))
	for name, value := range c.metrics {
		d.metrics[name] = value - before.metrics[name]
	}
	return d
}
