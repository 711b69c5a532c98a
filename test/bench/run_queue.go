package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// filesKept of those that a process may have open are for other things than callers.
	filesKept = 500
	// claimsAtOnce is how many calls are under way that are not recorded yet.
	claimsAtOnce = 128
	// inFlight is how many transactions a lane has open at most, and batch how
	// many payments one carries, as the service has them by default: what is
	// sent and not mined is not queued.
	inFlight, batch = 16, 25
	// fewCallers wait when it is measured what queued payments take by themselves.
	fewCallers = 256
	// probes are calls made when the queue is full.
	probes = 100
	// queueWait is the longest that callers of /settle may be made to wait.
	queueWait = 80 * time.Second
	// boundPatience is how long the service may take to find its queue full.
	boundPatience = 10 * time.Second
)

// runQueue fills the queue of a service whose chain mines nothing, and looks at
// its memory: once with few callers who wait, the others having hung up, and once
// with a caller for each payment. Then it calls once more, and lets the chain go on.
func runQueue(ctx context.Context, b *bench, size scaled) (err error) {
	s, err := b.newSite(ctx, 0, 2_048)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }() //nolint:contextcheck // closing works after ctx ended
	all := max(b.openFiles-filesKept, 1)
	for _, connections := range []int{min(fewCallers, all), all} {
		if err := s.runQueue(ctx, size, connections, connections == all); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) runQueue(ctx context.Context, size scaled, connections int, probe bool) (err error) {
	most, lanes := size.many(20_000), size.orLanes(4)
	d, err := s.deploy(ctx, deployConfig{lanes: lanes, replicas: 1, settings: map[string]any{
		"settle": map[string]any{"wait": queueWait.String(), "max_queued": most},
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }() //nolint:contextcheck // closing works after ctx ended
	q := &queue{bench: s.bench, site: s, deployment: d, most: most, connections: connections}
	if q.sales, err = s.signSales(most + lanes*inFlight*batch + probes); err != nil {
		return err
	}
	q.answers = make([]answer, len(q.sales))
	if q.from, err = s.chain.Client().BlockNumber(ctx); err != nil {
		return err
	}
	return q.run(ctx, probe)
}

// queue is one run of the scenario. The last sales are the probes'.
type queue struct {
	bench       *bench
	site        *site
	deployment  *deployment
	most        int
	connections int // of callers who wait
	sales       []sale
	answers     []answer
	from        uint64
	hangUp      func()       // has every caller hang up who still waits
	over        atomic.Int64 // callers who wait no more
	unrecorded  atomic.Int64 // of them, those who did not hang up: they were refused, or had no answer
	callers     sync.WaitGroup
}

func (q *queue) row(figure, value string) {
	q.bench.report.add("queue", "A full queue", []string{"figure", "value"}, figure, value)
}

func (q *queue) run(ctx context.Context, probe bool) error {
	if err := q.site.chain.SetAutomine(ctx, false); err != nil {
		return err
	}
	pid := q.deployment.replicas[0].command.PID()
	empty, _ := memoryOf(pid)
	begun := time.Now()
	waiting, err := q.fill(ctx)
	defer q.hangUp()
	if err != nil {
		return err
	}
	filled := time.Since(begun)
	queued, recorded, err := q.recorded(ctx)
	if err != nil {
		return err
	}
	now, peak := memoryOf(pid)
	metrics := q.deployment.replicas[0].scrape(ctx)
	q.row("payments queued, by the record; recorded in all; callers who wait", fmt.Sprintf("%s; %s; %s", count(queued), count(recorded), count(waiting)))
	q.row("recorded in a second", fmt.Sprintf("%.0f", float64(recorded)/filled.Seconds()))
	q.row("memory of the service before; with the queue full; at its peak", mega(empty)+"; "+mega(now)+"; "+mega(peak))
	if waiting > fewCallers {
		q.row("of that for each caller who waits", fmt.Sprintf("%.1f KB", float64(int64(now)-int64(empty))/1024/float64(max(waiting, 1)))) //nolint:gosec // bytes of memory
	}
	q.row("its Go heap in use; goroutines", mega(uint64(metrics["go_memstats_heap_inuse_bytes"]))+"; "+count(int(metrics["go_goroutines"])))
	if probe {
		if err := q.probe(ctx); err != nil {
			return err
		}
	}
	// The chain goes on, and everybody is answered.
	begun = time.Now()
	if err := q.site.chain.SetIntervalMining(ctx, baseBlockTime); err != nil {
		return err
	}
	defer q.site.unstick(ctx, q.deployment.lanes)()
	q.callers.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := q.deployment.settled(ctx, queueWait); err != nil {
		return err
	}
	took := time.Since(begun)
	paid, findings, err := q.site.audit(ctx, q.from+1, q.sales, q.answers)
	if err != nil {
		return err
	}
	q.bench.wrong(findings)
	told := summarize(q.answers)
	q.row("paid when the chain went on; told success; others", fmt.Sprintf("%s; %s; %s, in %.1f s", count(paid), count(told.settled), kindsBut(told.kinds, "success"), took.Seconds()))
	return nil
}

// fill has callers settle payments until so many are queued. Where there may
// not be a connection for each, the first callers hang up once their payments
// are recorded: those stay queued. It returns how many callers wait.
func (q *queue) fill(ctx context.Context) (waiting int, _ error) {
	sales := q.sales[:len(q.sales)-probes]
	most := q.connections
	gone := max(0, len(sales)-most)
	f := &fleet{addresses: q.deployment.addresses()}
	round := 0 // where the callers begin who did not hang up
	during := q.newRound(ctx)
	made := 0
	for ; made < len(sales); made++ {
		if made == gone && made > round || made-round == most {
			if _, err := q.await(ctx, made, 0); err != nil {
				return 0, err
			}
			q.hangUp()
			q.callers.Wait()
			during, round = q.newRound(ctx), made //nolint:fatcontext // made from ctx, not from the round before
		}
		if made%claimsAtOnce == 0 { // the record is not asked every time
			if full, err := q.await(ctx, made, claimsAtOnce); err != nil || full {
				if err != nil {
					return 0, err
				}
				break
			}
		}
		of, till := made, during
		q.callers.Go(func() {
			c := &caller{fleet: f}
			defer c.hangUp()
			a := c.call(till, sales[of])
			a.called = true
			q.answers[of] = a
			q.over.Add(1)
			if till.Err() == nil {
				q.unrecorded.Add(1)
			}
		})
	}
	if _, err := q.await(ctx, made, 0); err != nil {
		return 0, err
	}
	return made - int(q.over.Load()), nil
}

// newRound is a context for callers who hang up together.
func (q *queue) newRound(ctx context.Context) context.Context {
	ctx, q.hangUp = context.WithCancel(ctx)
	return ctx
}

// await returns when of so many calls made no more than so many are neither
// recorded nor answered, and whether the queue is full.
func (q *queue) await(ctx context.Context, made, atOnce int) (full bool, _ error) {
	for deadline := time.Now().Add(queueWait); ; {
		queued, recorded, err := q.recorded(ctx)
		if err != nil {
			return false, err
		}
		if made-recorded-int(q.unrecorded.Load()) <= atOnce {
			return queued >= q.most, nil
		}
		if time.Now().After(deadline) {
			return false, fmt.Errorf("of %d calls only %d are recorded, %d refused", made, recorded, q.unrecorded.Load())
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// recorded counts the rows of payments that are queued, and all.
func (q *queue) recorded(ctx context.Context) (queued, all int, err error) {
	err = q.deployment.database.QueryRow(ctx, "SELECT count(*) FILTER (WHERE state = 'queued'), count(*) FROM payments").Scan(&queued, &all)
	if err != nil {
		return 0, 0, fmt.Errorf("queue: %w", err)
	}
	return queued, all, nil
}

// probe calls with payments that the full queue has no room for.
func (q *queue) probe(ctx context.Context) error {
	f, err := newFleet(ctx, 1, q.deployment.addresses()...)
	if err != nil {
		return err
	}
	defer f.close()
	c := f.callers[0]
	_, before, err := q.recorded(ctx)
	if err != nil {
		return err
	}
	refused, text := 0, ""
	var slowest time.Duration
	deadline := time.Now().Add(boundPatience)
	for i := len(q.sales) - probes; i < len(q.sales); i++ {
		// A caller does not wait for one that the service has let in.
		short, cancel := context.WithTimeout(ctx, time.Second)
		begun := time.Now()
		a := c.call(short, q.sales[i])
		cancel()
		a.called = true
		q.answers[i] = a
		switch {
		case a.status == http.StatusServiceUnavailable && a.retryAfter != "" && a.settlement == "":
			refused++
			text = fmt.Sprintf("%d, `Retry-After: %s`, %q", a.status, a.retryAfter, a.Error)
			slowest = max(slowest, time.Since(begun))
		case refused == 0 && time.Now().Before(deadline):
			// The bound is looked at now and then.
		default:
			q.bench.problem("past the bound a call was answered %s %v", a.kind(), a.err)
		}
	}
	_, after, err := q.recorded(ctx)
	if err != nil {
		return err
	}
	if refused == 0 {
		q.bench.problem("nothing was refused with %d payments queued", before)
	}
	q.row("calls past the bound: refused, at the slowest", fmt.Sprintf("%d of %d, %s", refused, probes, ms(slowest)))
	q.row("how they were answered", text)
	q.row("payments recorded by them", count(after-before))
	if after-before > probes-refused {
		q.bench.problem("calls past the bound were refused, yet %d payments recorded", after-before)
	}
	return nil
}

// settled waits until nothing is under way any more.
func (d *deployment) settled(ctx context.Context, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		var open int
		err := d.database.QueryRow(ctx, "SELECT count(*) FROM payments WHERE state IN ('queued', 'signed', 'broadcast')").Scan(&open)
		if err != nil {
			return fmt.Errorf("open payments: %w", err)
		}
		if open == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d payments are still under way after %v", open, patience)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
