package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// callTimeout is how long a caller waits for an answer, as the official
	// client of a facilitator does.
	callTimeout = 90 * time.Second
	// answerLimit bounds the body of an answer.
	answerLimit = 64 << 10
	// dialsAtOnce keeps a listener's backlog from overflowing.
	dialsAtOnce = 64
)

// answer is what became of one sale, as its caller sees it.
type answer struct {
	Success     bool   `json:"success"`
	ErrorReason string `json:"errorReason"`
	Transaction string `json:"transaction"`
	Error       string `json:"error"`

	status     int // 0: no answer
	retryAfter string
	settlement string // the Settlement-Id
	err        error
	latency    time.Duration // from the first call to the last answer
	at         time.Duration // when, since the load began
	called     bool
	repeats    int // further calls for the same sale
}

// kind sorts answers for the report.
func (a *answer) kind() string {
	switch {
	case !a.called:
		return "not called in time"
	case a.err != nil:
		return "no answer"
	case a.Success:
		return "success"
	case a.ErrorReason != "":
		return a.ErrorReason
	default:
		return fmt.Sprintf("HTTP %d", a.status)
	}
}

// fleet is a number of callers, each with one connection that it keeps. They
// speak just enough HTTP to cost little beside what they measure.
type fleet struct {
	addresses []string
	callers   []*caller
	answered  func() // after each sale, if it is set
}

type caller struct {
	fleet   *fleet
	home    int // which address it calls
	conn    net.Conn
	replies *bufio.Reader
	body    []byte // of the last answer to send
}

// newFleet connects n callers to the addresses in turn.
func newFleet(ctx context.Context, n int, addresses ...string) (*fleet, error) {
	f := &fleet{addresses: addresses, callers: make([]*caller, n)}
	for i := range f.callers {
		f.callers[i] = &caller{fleet: f, home: i % len(addresses)}
	}
	errs := make(chan error, n)
	slots := make(chan struct{}, dialsAtOnce)
	for _, c := range f.callers {
		slots <- struct{}{}
		go func() {
			errs <- c.dial(ctx)
			<-slots
		}()
	}
	var failed error
	for range n {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	if failed != nil {
		f.close()
		return nil, fmt.Errorf("connect %d callers: %w", n, failed)
	}
	return f, nil
}

func (f *fleet) close() {
	for _, c := range f.callers {
		c.hangUp()
	}
}

// settle has the callers settle all sales, each the next one when it has an
// answer, until ctx ends.
func (f *fleet) settle(ctx context.Context, sales []sale) []answer {
	answers := make([]answer, len(sales))
	start := time.Now()
	f.each(ctx, len(sales), func(c *caller, i int) {
		answers[i] = c.settle(ctx, sales[i], start)
		if f.answered != nil {
			f.answered()
		}
	})
	return answers
}

// each has the callers do n things, each the next one when it is done, until ctx
// ends.
func (f *fleet) each(ctx context.Context, n int, do func(c *caller, i int)) {
	var next atomic.Int64
	var callers sync.WaitGroup
	for _, c := range f.callers {
		callers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				do(c, i)
			}
		})
	}
	callers.Wait()
}

// settle calls as an official resource server does: once more after
// settlement_pending. A caller that loses its connection goes to the next
// address, if there is one, with the identical call.
func (c *caller) settle(ctx context.Context, s sale, start time.Time) answer {
	began := time.Now()
	var a answer
	repeats := 0
	for pending := 0; ; repeats++ {
		a = c.call(ctx, s)
		if a.err != nil && len(c.fleet.addresses) > 1 && ctx.Err() == nil && time.Since(began) < callTimeout {
			c.home = (c.home + 1) % len(c.fleet.addresses)
			time.Sleep(10 * time.Millisecond) // both may be away
			continue
		}
		if a.ErrorReason == "settlement_pending" && pending == 0 && ctx.Err() == nil {
			pending++
			continue
		}
		break
	}
	a.called, a.repeats = true, repeats
	a.latency, a.at = time.Since(began), time.Since(start)
	return a
}

func (c *caller) call(ctx context.Context, s sale) (a answer) {
	a, a.err = c.exchange(ctx, s.request)
	if a.err != nil {
		c.hangUp()
	}
	return a
}

// exchange sends a request and reads its answer.
func (c *caller) exchange(ctx context.Context, request []byte) (a answer, _ error) {
	if err := c.dial(ctx); err != nil {
		return a, err
	}
	conn := c.conn
	_ = conn.SetDeadline(time.Now().Add(callTimeout)) // fails only if it is closed, which the write tells
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(request); err != nil {
		return a, err
	}
	response, err := http.ReadResponse(c.replies, nil)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, fmt.Errorf("status %d, not a JSON object: %q", response.StatusCode, body)
	}
	a.status, a.retryAfter = response.StatusCode, response.Header.Get("Retry-After")
	a.settlement = response.Header.Get("Settlement-Id")
	if response.Close {
		c.hangUp()
	}
	return a, nil
}

func (c *caller) dial(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.fleet.addresses[c.home])
	if err != nil {
		return err
	}
	c.conn = conn
	if c.replies == nil {
		c.replies = bufio.NewReaderSize(conn, 1<<10)
	} else {
		c.replies.Reset(conn)
	}
	return nil
}

func (c *caller) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close() // nothing of it is needed any more
		c.conn = nil
	}
}

// summary is what callers saw of a load.
type summary struct {
	calls, settled int
	took           time.Duration // until the last answer of success
	latencies      []time.Duration
	kinds          map[string]int
	example        map[string]string // by kind: the text of one that was no success
	repeats        int
}

func summarize(answers []answer) summary {
	s := summary{calls: len(answers), kinds: make(map[string]int), example: make(map[string]string)}
	for i := range answers {
		a := &answers[i]
		s.kinds[a.kind()]++
		s.repeats += a.repeats
		if !a.Success {
			if a.err != nil {
				s.example[a.kind()] = a.err.Error()
			} else if a.Error != "" {
				s.example[a.kind()] = a.Error
			}
			continue
		}
		s.settled++
		s.latencies = append(s.latencies, a.latency)
		s.took = max(s.took, a.at)
	}
	slices.Sort(s.latencies)
	return s
}

// rate is how many were settled in a second.
func (s summary) rate() float64 {
	if s.took == 0 {
		return 0
	}
	return float64(s.settled) / s.took.Seconds()
}

// percentile of all latencies of successes: the smallest that at least p
// percent of them do not exceed. They are sorted.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}
