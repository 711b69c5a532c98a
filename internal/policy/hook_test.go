package policy_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/policy"
	"facilitator/internal/x402"
)

const hookSecret = "hook-secret-0123456789"

// hooked is a gate that asks a server; its path is as secret as its token.
func hooked(t *testing.T, h http.HandlerFunc, of func(*policy.HookConfig)) *bench {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	cfg := policy.HookConfig{URL: s.URL + "/" + hookSecret, Secret: hookSecret, Timeout: time.Minute, TTL: time.Minute}
	if of != nil {
		of(&cfg)
	}
	return newBench(t, policy.Config{Hook: cfg})
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestAHookIsAskedAndItsAnswerKept(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	var body, authorization, method atomic.Value
	b := hooked(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		text, _ := io.ReadAll(r.Body)
		body.Store(string(text))
		authorization.Store(r.Header.Get("Authorization"))
		method.Store(r.Method + " " + r.Header.Get("Content-Type"))
		if strings.Contains(string(text), bad.String()) {
			_, _ = io.WriteString(w, `{"decision":"deny","reason":"mixer, 2 hops\n{}","score":97}`)
			return
		}
		_, _ = io.WriteString(w, `{"decision":"allow"}`)
	}, nil)
	for range 3 {
		if err := b.pass(t, deal(nil), factory); err != nil {
			t.Fatal(err)
		}
	}
	const want = `{"network":"eip155:8453","payer":"0x0000000000000000000000000000000000000001","payTo":"0x0000000000000000000000000000000000000002",` +
		`"asset":"0x0000000000000000000000000000000000000003","contracts":["0x0000000000000000000000000000000000000004"]}`
	if body.Load() != want || authorization.Load() != "Bearer "+hookSecret || method.Load() != "POST application/json" || calls.Load() != 1 {
		t.Errorf("%d calls, %v, body %v, authorization %v", calls.Load(), method.Load(), body.Load(), authorization.Load())
	}
	for range 2 {
		err := b.pass(t, deal(to(bad)))
		wantReason(t, err, x402.ReasonKYTRisk)
		if strings.Contains(err.Error(), "mixer") {
			t.Errorf("the payer is told why: %v", err)
		}
	}
	// A payee that is fine by itself may not be with another payer, or another factory.
	for _, terms := range []payment.Terms{deal(by(bad)), deal(func(t *payment.Terms) { t.Asset = bad })} {
		wantReason(t, b.pass(t, terms), x402.ReasonKYTRisk)
	}
	wantReason(t, b.pass(t, deal(nil), bad), x402.ReasonKYTRisk)
	if calls.Load() != 5 {
		t.Errorf("%d calls", calls.Load())
	}
	b.turn(time.Minute)
	if err := b.pass(t, deal(nil), factory); err != nil || calls.Load() != 6 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
	if text := b.log.String(); !strings.Contains(text, `"detail":"mixer, 2 hops\n{}"`) || strings.Contains(text, hookSecret) {
		t.Errorf("log: %s", text)
	}
}

// TestAHookThatDoesNotTellJudgesNobody, and shows neither its address nor its
// secret (I7, I10).
func TestAHookThatDoesNotTellJudgesNobody(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		elsewhere.Add(1)
		_, _ = io.WriteString(w, `{"decision":"allow"}`)
	}))
	t.Cleanup(other.Close)
	hangs := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a server notices who leaves only then
		<-r.Context().Done()
	}
	for name, c := range map[string]struct {
		h  http.HandlerFunc
		of func(*policy.HookConfig)
	}{
		"an error of its own": {says(500, `{"decision":"allow"}`), nil},
		"another success":     {says(201, `{"decision":"allow"}`), nil},
		"not allowed to ask":  {says(401, `{"decision":"deny"}`), nil},
		"no JSON":             {says(200, `allow`), nil},
		"nothing":             {says(200, ``), nil},
		"null":                {says(200, `null`), nil},
		"no decision":         {says(200, `{}`), nil},
		"another decision":    {says(200, `{"decision":"ALLOW"}`), nil},
		"a decision and more": {says(200, `{"decision":"allow"}{"decision":"deny"}`), nil},
		"a decision of many":  {says(200, `{"decision":["allow"]}`), nil},
		"a flood":             {says(200, `{"decision":"allow","reason":"`+strings.Repeat("x", 1<<20)+`"}`), nil},
		"a flood of nothing":  {says(200, `{"decision":"allow"}`+strings.Repeat(" ", 1<<20)), nil},
		"a flood of headers": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			says(200, `{"decision":"allow"}`)(w, nil)
		}, nil},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}, nil},
		"an answer without an end": {func(w http.ResponseWriter, r *http.Request) {
			says(200, `{"decision":"allow"}`)(w, nil)
			_ = http.NewResponseController(w).Flush() // a server that can't flush makes another test fail
			hangs(w, r)
		}, func(c *policy.HookConfig) { c.Timeout = 20 * time.Millisecond }},
		"a connection that broke": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil},
		"no answer in time":       {hangs, func(c *policy.HookConfig) { c.Timeout = 20 * time.Millisecond }},
		"nobody there":            {hangs, func(c *policy.HookConfig) { c.URL = "http://127.0.0.1:1/" + hookSecret }},
		"no URL at all":           {hangs, func(c *policy.HookConfig) { c.URL = "http://127.0.0.1:port/" + hookSecret }},
		"a scheme that is none":   {hangs, func(c *policy.HookConfig) { c.URL = "gopher://127.0.0.1/" + hookSecret }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := hooked(t, c.h, c.of)
			err := b.pass(t, deal(nil))
			if _, judged := x402.AsRejection(err); judged || !errors.Is(err, payment.ErrUnscreened) {
				t.Fatalf("%v", err)
			}
			if text := err.Error() + b.log.String(); strings.Contains(text, hookSecret) {
				t.Errorf("a secret is shown: %s", text)
			}
			if n := b.sample(t, "screening_failures_total", "kind=hook"); n != 1 {
				t.Errorf("%v failures", n)
			}
		})
	}
	t.Cleanup(func() {
		if n := elsewhere.Load(); n != 0 {
			t.Errorf("%d calls to another server", n)
		}
	})
}

// TestNoRedirectOfAHookIsFollowed, wherever it goes: who answers for the hook must
// not have us ask somebody else, least of all what only this machine can reach.
func TestNoRedirectOfAHookIsFollowed(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		elsewhere.Add(1)
		_, _ = io.WriteString(w, `{"decision":"allow"}`)
	}))
	t.Cleanup(other.Close)
	port := other.URL[strings.LastIndex(other.URL, ":"):]
	for _, to := range []string{
		other.URL, "http://localhost" + port, "http://[::ffff:127.0.0.1]" + port, "http://0.0.0.0" + port, "//127.0.0.1" + port, // this machine
		"http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/meta-data/", "http://metadata.google.internal/", // clouds' metadata
		"http://[fe80::1]/", "http://10.0.0.1/", "https://screening.example.com/", "file:///etc/passwd", "/elsewhere", "",
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			b := hooked(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/elsewhere") {
					elsewhere.Add(1)
				}
				w.Header().Set("Location", to)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, `{"decision":"allow"}`)
			}, nil)
			if err := b.pass(t, deal(nil)); !errors.Is(err, payment.ErrUnscreened) {
				t.Errorf("%d to %s: %v", status, to, err)
			}
			if want := fmt.Sprintf("answered with status %d", status); !strings.Contains(b.log.String(), want) {
				t.Errorf("%d to %s: it was followed: %s", status, to, b.log.String())
			}
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d calls elsewhere", n)
	}
}

func TestAHookIsAskedAboutNobodyWhoIsOnAList(t *testing.T) {
	t.Parallel()
	o := &asked{bad: map[chain.Address]bool{bad: true}}
	var calls atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	t.Cleanup(s.Close)
	b := newBench(t, policy.Config{
		Oracles: map[x402.Network]policy.Oracle{network: o}, OracleTTL: time.Minute,
		Hook: policy.HookConfig{URL: s.URL, Timeout: time.Minute, TTL: time.Minute},
	})
	wantReason(t, b.pass(t, deal(by(bad))), x402.ReasonKYTRisk)
	wantReason(t, b.pass(t, deal(to(payer))), x402.ReasonSelfSend)
	if calls.Load() != 0 || len(o.calls) != 1 {
		t.Errorf("the hook was called %d times, the oracle %d", calls.Load(), len(o.calls))
	}
}
