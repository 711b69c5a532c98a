package test

import (
	"bytes"
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

// attackConnections are held open at once, as far as this process may.
func attackConnections(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return min(10_000, int(limit.Cur)-1000)
}

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
// and fails nothing: other tests run at the same time.
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
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() (net.Conn, error) {
		return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", u.Host)
	}
	quiet := make(chan struct{})
	time.AfterFunc(time.Second, func() { close(quiet) })
	p50, p99, n := h.during(t, quiet)
	t.Logf("%-34s %6d answers, p50 %s, p99 %s", "nobody", n, p50, p99)

	many := attackConnections(t)
	flood := func(workers, each int, attack func(i int)) func() {
		return func() {
			var all sync.WaitGroup
			for w := range workers {
				all.Go(func() {
					for i := range each {
						attack(w*each + i)
					}
				})
			}
			all.Wait()
		}
	}
	held := func(n int, write func(conn net.Conn)) func() {
		return func() {
			var conns []net.Conn
			var mu sync.Mutex
			flood(16, n/16, func(int) {
				conn, err := dial()
				if err != nil {
					return // it may be refused
				}
				write(conn)
				mu.Lock()
				conns = append(conns, conn)
				mu.Unlock()
			})()
			deadline := time.Now().Add(time.Second)
			for _, conn := range conns { // each is closed by the service in the end, or by us
				_ = conn.SetReadDeadline(deadline)
				_, _ = conn.Read(make([]byte, 1))
				_ = conn.Close()
			}
			if len(conns) < n/2 {
				t.Errorf("only %d of %d connections were made", len(conns), n)
			}
		}
	}
	send := func(text string) func(net.Conn) { return func(conn net.Conn) { _, _ = io.WriteString(conn, text) } }
	const head = "POST /verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	statuses := make(map[int]int)
	var mu sync.Mutex
	post := func(body io.Reader, header ...string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/verify", body)
		if err != nil {
			t.Error(err)
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
		mu.Lock()
		statuses[response.StatusCode]++
		mu.Unlock()
	}
	for _, attack := range []struct {
		name string
		run  func()
	}{
		{fmt.Sprintf("%d connections that say nothing", many), held(many, func(net.Conn) {})},
		{"2,000 that send half a header", held(2000, send("POST /verify HTT"))},
		{"2,000 that send half a body", held(2000, send(head+"Authorization: "+h.header+"\r\nContent-Length: 1000\r\n\r\n{"))},
		{"headers of a megabyte", flood(8, 50, func(int) { post(strings.NewReader("{}"), "X-Bomb", strings.Repeat("x", 1<<20)) })},
		{"20,000 headers", held(200, send(head+strings.Repeat("X-A: 1\r\n", 20_000)+"\r\n"))},
		{"calls without a key", flood(8, 1000, func(i int) { post(strings.NewReader(h.bodies[i%4])) })},
		{"calls with guessed keys", flood(8, 1000, func(i int) {
			post(strings.NewReader(h.bodies[i%4]), "Authorization", fmt.Sprintf("Bearer x402f_%016x_%s", i, strings.Repeat("A", 43)))
		})},
		{"tokens that nobody signed", flood(8, 1000, func(i int) {
			post(strings.NewReader(h.bodies[i%4]), "Authorization", "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJhIn0."+strings.Repeat("A", 86))
		})},
		{"bodies without an end", flood(8, 20, func(int) { post(io.LimitReader(endless{}, 20<<20), "Authorization", h.header) })},
		{"JSON bombs", flood(8, 100, func(i int) {
			bombs := []string{
				strings.Repeat("[", 200_000), `{"a":` + strings.Repeat(`{"a":`, 40_000), `{"paymentPayload":{"x":` + strings.Repeat("9", 200_000) + `}}`,
				`{"` + strings.Repeat(`\u0000`, 30_000) + `":1}`, "{" + strings.Repeat(`"k":1,`, 30_000) + `"z":1}`,
			}
			post(strings.NewReader(bombs[i%len(bombs)]), "Authorization", h.header)
		})},
	} {
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			attack.run()
		}()
		p50, p99, n := h.during(t, stop)
		t.Logf("%-34s %6d answers, p50 %s, p99 %s", attack.name, n, p50, p99)
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

// endless is a body of blanks.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte{' '}, len(p)))
	return len(p), nil
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
