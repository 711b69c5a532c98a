package test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// attackEnv makes a process of this test an attacker and nothing else.
const attackEnv = "TEST_ATTACKER"

// attackFor is how long each attack goes on at least, and attackAtMost how long where
// it is not done often enough to prove anything.
const (
	attackFor    = 2 * time.Second
	attackAtMost = time.Minute
)

// attackOrder is what an attacker is to do, and what it knows.
type attackOrder struct {
	Attack, URL string
	Key         string   // of somebody who may verify, as a header
	Bodies      []string // good payments
}

// attackReport is what became of it.
type attackReport struct {
	Times    int
	Statuses map[int]int
	Failed   string
}

// attackerProcess does what it is told on its standard input.
type attackerProcess struct {
	orders  *json.Encoder
	reports *json.Decoder
}

// startAttacker starts one, with the least claim to the cores that there is: what
// its own work costs is not what it does to others.
func startAttacker(t *testing.T) *attackerProcess {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "nice", "-n", "19", os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), attackEnv+"=yes"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // it ends
		if err := cmd.Wait(); err != nil {
			t.Errorf("attacker: %v", err)
		}
	})
	return &attackerProcess{json.NewEncoder(in), json.NewDecoder(out)}
}

// attack has it do one thing, and sends what became of it.
func (p *attackerProcess) attack(order attackOrder) <-chan attackReport {
	done := make(chan attackReport, 1)
	go func() {
		defer close(done)
		var r attackReport
		if err := errors.Join(p.orders.Encode(order), p.reports.Decode(&r)); err != nil {
			r.Failed = err.Error()
		}
		done <- r
	}()
	return done
}

// attackerMain is the attacker's process.
func attackerMain() error {
	orders, reports := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		a := &attacker{statuses: map[int]int{}}
		if err := orders.Decode(&a.order); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("order: %w", err)
		}
		u, err := url.Parse(a.order.URL)
		if err != nil {
			return fmt.Errorf("order: %w", err)
		}
		a.host = u.Host
		for _, one := range attacks() {
			if one.name == a.order.Attack {
				a.carryOut(one)
			}
		}
		http.DefaultClient.CloseIdleConnections()
		if err := reports.Encode(attackReport{Times: int(a.times.Load()), Statuses: a.statuses}); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
}

// carryOut does an attack for its time.
func (a *attacker) carryOut(one attack) {
	ctx, cancel := context.WithTimeout(context.Background(), attackAtMost)
	defer cancel()
	go func() {
		look := time.NewTicker(10 * time.Millisecond)
		defer look.Stop()
		for begun := time.Now(); ctx.Err() == nil; <-look.C {
			if time.Since(begun) >= attackFor && a.times.Load() >= int64(one.least) {
				cancel()
			}
		}
	}()
	one.run(ctx, a)
}

// attack is a way to stall a service.
type attack struct {
	name  string
	least int // times that it must have been done to prove anything
	run   func(ctx context.Context, a *attacker)
}

const attackHead = "POST /verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

func attacks() []attack {
	bombs := []string{
		strings.Repeat("[", 200_000), `{"a":` + strings.Repeat(`{"a":`, 40_000), `{"paymentPayload":{"x":` + strings.Repeat("9", 200_000) + `}}`,
		`{"` + strings.Repeat(`\u0000`, 30_000) + `":1}`, "{" + strings.Repeat(`"k":1,`, 30_000) + `"z":1}`,
	}
	const connections = 10_000
	return []attack{
		{"10,000 connections that say nothing", 2000, keepOpen(connections, func(*attacker) string { return "" })},
		{"2,000 that send half a header", 1000, keepOpen(2000, func(*attacker) string { return "POST /verify HTT" })},
		{"2,000 that send half a body", 1000, keepOpen(2000, func(a *attacker) string {
			return attackHead + "Authorization: " + a.order.Key + "\r\nContent-Length: 1000\r\n\r\n{"
		})},
		{"headers of a megabyte", 10, flood(func(ctx context.Context, a *attacker, _ int) {
			a.post(ctx, strings.NewReader("{}"), "X-Bomb", strings.Repeat("x", 1<<20))
		})},
		{"20,000 headers", 50, flood(func(ctx context.Context, a *attacker, _ int) {
			a.send(ctx, attackHead+strings.Repeat("X-A: 1\r\n", 20_000)+"\r\n")
		})},
		{"calls without a key", 500, flood(func(ctx context.Context, a *attacker, i int) {
			a.post(ctx, strings.NewReader(a.order.Bodies[i%len(a.order.Bodies)]))
		})},
		{"calls with guessed keys", 500, flood(func(ctx context.Context, a *attacker, i int) {
			a.post(ctx, strings.NewReader(a.order.Bodies[i%len(a.order.Bodies)]), "Authorization", fmt.Sprintf("Bearer x402f_%016x_%s", i, strings.Repeat("A", 43)))
		})},
		{"tokens that nobody signed", 500, flood(func(ctx context.Context, a *attacker, i int) {
			a.post(ctx, strings.NewReader(a.order.Bodies[i%len(a.order.Bodies)]), "Authorization", "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJhIn0."+strings.Repeat("A", 86))
		})},
		{"bodies without an end", 50, flood(func(ctx context.Context, a *attacker, _ int) {
			a.post(ctx, io.LimitReader(endless{}, 20<<20), "Authorization", a.order.Key)
		})},
		{"JSON bombs", 50, flood(func(ctx context.Context, a *attacker, i int) {
			a.post(ctx, strings.NewReader(bombs[i%len(bombs)]), "Authorization", a.order.Key)
		})},
	}
}

// attacker does one of them.
type attacker struct {
	order attackOrder
	host  string
	times atomic.Int64

	mu       sync.Mutex
	statuses map[int]int
}

// flood has eight at a time do something again and again.
func flood(do func(ctx context.Context, a *attacker, i int)) func(context.Context, *attacker) {
	return func(ctx context.Context, a *attacker) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for ctx.Err() == nil {
					do(ctx, a, int(a.times.Add(1)))
				}
			})
		}
		all.Wait()
	}
}

// keepOpen opens n connections, as far as this process may, says something on each and
// keeps them.
func keepOpen(n int, text func(*attacker) string) func(context.Context, *attacker) {
	return func(ctx context.Context, a *attacker) {
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
			n = min(n, int(limit.Cur)-1000)
		}
		var all sync.WaitGroup
		for w := range 16 {
			all.Go(func() {
				for i := w; i < n && ctx.Err() == nil; i += 16 {
					conn, err := a.dial(ctx)
					if err != nil {
						continue // it may be refused
					}
					defer conn.Close() // all of them, when the time is up
					_, _ = io.WriteString(conn, text(a))
					a.times.Add(1)
				}
				<-ctx.Done()
			})
		}
		all.Wait()
	}
}

func (a *attacker) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", a.host)
}

// send writes what it likes.
func (a *attacker) send(ctx context.Context, text string) {
	conn, err := a.dial(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	go func() { _, _ = io.WriteString(conn, text) }() // the answer may come first
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		_ = response.Body.Close()
		a.answered(response.StatusCode)
	}
}

// post sends a call.
func (a *attacker) post(ctx context.Context, body io.Reader, header ...string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.order.URL+"/verify", body)
	if err != nil {
		return
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return // it was cut off
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	a.answered(response.StatusCode)
}

func (a *attacker) answered(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.statuses[status]++
}

// endless is a body of blanks.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
