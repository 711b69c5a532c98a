package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"facilitator/internal/devnet"
)

// honest verifies good payments all the time, and keeps how long each took.
type honest struct {
	service *service
	header  string
	bodies  []string

	mu   sync.Mutex
	took []time.Duration
	bad  []string
}

// during verifies until stop is closed, with four callers, and returns how long 99
// of 100 took at most.
func (h *honest) during(t *testing.T, stop <-chan struct{}) (p50, p99 time.Duration, n int) {
	t.Helper()
	h.took = nil
	var callers sync.WaitGroup
	for i := range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				start := time.Now()
				r, err := h.service.do(context.WithoutCancel(t.Context()), http.MethodPost, "/verify", h.bodies[i], "Authorization", h.header)
				h.mu.Lock()
				h.took = append(h.took, time.Since(start))
				if err != nil || !r.is("isValid") {
					h.bad = append(h.bad, fmt.Sprintf("%d %s %v", r.status, r.text, err))
				}
				h.mu.Unlock()
			}
		})
	}
	callers.Wait()
	slices.Sort(h.took)
	n = len(h.took)
	return h.took[n/2], h.took[n*99/100], n
}

// TestAttackersDoNotStallHonestCallers: whatever somebody without a key does,
// nobody who has one is refused or forgotten for it. How long these wait is told
// and fails nothing: other tests run at the same time. Attackers are a process of
// their own that has what of the cores the others leave, as they have elsewhere.
func TestAttackersDoNotStallHonestCallers(t *testing.T) {
	t.Parallel()
	c := world.chain
	// A process of its own, which has its own bound of open files.
	set := setup{chain: c, keysOnly: true}
	env := []string{"FACILITATOR_HTTP_READ_TIMEOUT=2s", "FACILITATOR_CLIENTS_MAX_GUESSES=0", "FACILITATOR_LOG_LEVEL=info"}
	s := startBinary(t, buildBinary(t, "-race=false"), env, "serve", "-config", set.writeConfig(t)).service(t, set)
	h := &honest{service: s, header: newClient(t, s, "honest", nil)}
	for _, key := range payers(t, c, 4) {
		body, err := json.Marshal(request(t, c, sale(t, key)))
		if err != nil {
			t.Fatal(err)
		}
		h.bodies = append(h.bodies, string(body))
	}
	attacker := startAttacker(t)
	quiet := make(chan struct{})
	time.AfterFunc(3*time.Second, func() { close(quiet) })
	p50, p99, n := h.during(t, quiet)
	t.Logf("%-34s %6d answers, p50 %s, p99 %s", "nobody", n, p50, p99)
	calm := p99
	statuses := make(map[int]int)
	for _, a := range attacks() {
		stop, report := make(chan struct{}), attackReport{}
		attacked := attacker.attack(attackOrder{Attack: a.name, URL: s.url, Key: h.header, Bodies: h.bodies})
		go func() {
			defer close(stop)
			report = <-attacked
		}()
		p50, p99, n := h.during(t, stop)
		t.Logf("%-34s %6d answers, p50 %s, p99 %s, %.1f of nobody's; %d times", a.name, n, p50, p99, float64(p99)/float64(calm), report.Times)
		if report.Failed != "" || report.Times < a.least {
			t.Fatalf("%s: done %d times, want %d: %s", a.name, report.Times, a.least, report.Failed)
		}
		for status, n := range report.Statuses {
			statuses[status] += n
		}
	}
	if len(h.bad) > 0 {
		t.Errorf("%d honest calls failed, such as %s", len(h.bad), h.bad[0])
	}
	t.Logf("attackers were answered: %v", statuses)
	for status := range statuses {
		if status < 400 || status >= 500 {
			t.Errorf("an attacker was answered %d", status)
		}
	}
}

// TestPathTricksLeadNowhere: there is one way to each route, and none around its
// key.
func TestPathTricksLeadNowhere(t *testing.T) {
	t.Parallel()
	s := setup{chain: world.chain, keysOnly: true}.start(t)
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{
		"/settlements/..%2f..%2fmetrics", "/verify/../settle", "/./settle", "//settle", "///platform//v2/x402//settle", "/%2e%2e/settle",
		"/settle%00", "/settle;a=b", "/SETTLE", "/settle/", "/supported/../settlements", "/settlements/%00", "/settlements/" + strings.Repeat("a", 8000),
		"/livez/../settle", "/.env", "/debug/pprof/", "/metrics", "http://127.0.0.1:1/settle", "/settlements?transaction=%27%3B--&network=eip155:8453", "*",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "OPTIONS", "TRACE", "CONNECT", "X"} {
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			_, _ = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nX-HTTP-Method-Override: POST\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", method, target, u.Host)
			answer, err := io.ReadAll(conn)
			_ = conn.Close()
			status := string(answer[:min(len(answer), 12)])
			if err != nil && !errors.Is(err, syscall.ECONNRESET) || !strings.HasPrefix(status, "HTTP/1.1 4") {
				t.Errorf("%s %.60s: %s (%v)", method, target, status, err)
			}
		}
	}
}

// TestLogsHoldOneLineForEachEvent: what callers write is in them as text.
func TestLogsHoldOneLineForEachEvent(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t)
	const forged = "\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\r\n\x1b[31m\u2028"
	deal := sale(t, newKey(t, devnet.RolePayer))
	for _, path := range []string{
		"paymentRequirements.network", "paymentRequirements.scheme", "paymentRequirements.asset", "paymentRequirements.payTo", "paymentRequirements.extra.name",
		badAuthorization + ".from", badAuthorization + ".nonce", badSignature,
	} {
		body := badCopy(t, request(t, c, deal))
		body.set(path, forged)
		for _, route := range []string{"/verify", "/settle"} {
			s.post(t, route, body, "User-Agent", "x", "X-Request-Id", "a b", "Idempotency-Key", "k")
		}
	}
	s.stop()
	lines := strings.Split(strings.TrimSpace(s.log.String()), "\n")
	if len(lines) < 16 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		var event struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(line), &event); err != nil || event.Msg == "forged" || strings.Contains(line, "\x1b") {
			t.Errorf("%v: %s", err, line)
		}
	}
}
