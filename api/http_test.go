package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// network is a listener in memory, so that time can be the test's own.
type network struct {
	conns chan net.Conn
	end   chan struct{}
	once  sync.Once
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.end:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error   { n.once.Do(func() { close(n.end) }); return nil }
func (n *network) Addr() net.Addr { return &net.TCPAddr{} }

// serve runs an HTTP server until the returned stop, and dials it.
func serve(t *testing.T, h http.Handler) (dial func() net.Conn, stop func()) {
	t.Helper()
	n := &network{conns: make(chan net.Conn), end: make(chan struct{})}
	s := &http.Server{Handler: h, ReadHeaderTimeout: readTimeout}
	done := make(chan error, 1)
	go func() { done <- s.Serve(n) }()
	dial = func() net.Conn {
		client, server := net.Pipe()
		n.conns <- server
		return client
	}
	return dial, func() {
		if err := errors.Join(s.Close(), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		synctest.Wait()
	}
}

// head is a POST of a body of some length.
func head(path string, length int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, length)
}

// answered reads one answer.
func answered(t *testing.T, conn net.Conn) (status int, body string) {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func send(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(conn, s); err != nil {
		t.Error(err)
	}
}

func TestABodyThatDribblesIsNotWaitedForBeyondTheReadTimeout(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/verify", "/settle", "/nowhere"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dial, stop := serve(t, newBench().handler())
				defer stop()
				conn := dial()
				start := time.Now()
				send(t, conn, head(path, 2000)+`{"`)
				dribbling := make(chan struct{})
				go func() { // a byte a second
					defer close(dribbling)
					for {
						time.Sleep(time.Second)
						if _, err := io.WriteString(conn, "a"); err != nil {
							return
						}
					}
				}()
				_, _ = io.Copy(io.Discard, conn) // an answer or none: it ends
				if took := time.Since(start); took > readTimeout+time.Second {
					t.Errorf("the connection is held for %v", took)
				}
				_ = conn.Close()
				<-dribbling
			})
		})
	}
}

func TestABodyThatStopsIsAnsweredAtTheReadTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dial, stop := serve(t, newBench().handler())
		defer stop()
		conn := dial()
		defer conn.Close()
		start := time.Now()
		send(t, conn, head("/verify", 2000)+`{"`)
		status, body := answered(t, conn)
		if status != http.StatusBadRequest || body != `{"error":"body could not be read"}` || time.Since(start) != readTimeout {
			t.Errorf("%d %s after %v", status, body, time.Since(start))
		}
	})
}

func TestASettlementMayTakeLongerThanItsBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.settler.settle = func(ctx context.Context, _ *x402.Request, _ payment.Wishes) (payment.Answer, error) {
			select {
			case <-time.After(3 * readTimeout):
				return settled(), nil
			case <-ctx.Done():
				return payment.Answer{}, ctx.Err()
			}
		}
		dial, stop := serve(t, b.handler())
		defer stop()
		conn := dial()
		defer conn.Close()
		body := fixture(t, "v2.json")
		for range 2 { // on one connection
			send(t, conn, head("/settle", len(body))+body)
			status, got := answered(t, conn)
			if status != http.StatusOK || !strings.Contains(got, `"success":true`) {
				t.Errorf("%d %s", status, got)
			}
		}
		if len(b.settler.undelivered) != 0 {
			t.Error("a delivered answer is reported as undelivered")
		}
	})
}

// TestASuccessThatReachesNobodyIsGivenBack is I2: the next identical call
// collects it.
func TestASuccessThatReachesNobodyIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer payment.Answer
		stays  bool
		want   int
	}{
		"a success and nobody there": {settled(), false, 1},
		"a success that is read":     {settled(), true, 0},
		"a failure and nobody there": {payment.Answer{Reason: x402.ReasonSettlementPending, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash}, false, 0},
		"a failure that is read":     {payment.Answer{Reason: x402.ReasonSettlementPending, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash}, true, 0},
		"a replay and nobody there":  {payment.Answer{Success: true, Replayed: true, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash}, false, 1}, // the settler knows not to give it back
		"a replay that is read":      {payment.Answer{Success: true, Replayed: true, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash}, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				dial, stop := serve(t, b.handler())
				defer stop()
				conn := dial()
				b.settler.settle = func(context.Context, *x402.Request, payment.Wishes) (payment.Answer, error) {
					if !c.stays {
						_ = conn.Close()
					}
					return c.answer, nil
				}
				body := fixture(t, "v2.json")
				send(t, conn, head("/settle", len(body))+body)
				if c.stays {
					answered(t, conn)
				}
				synctest.Wait()
				if n := len(b.settler.undelivered); n != c.want {
					t.Errorf("reported as undelivered %d times", n)
				}
				if logged := strings.Contains(b.log.String(), "undelivered=true"); logged == c.stays {
					t.Errorf("logged as undelivered: %t", logged)
				}
				_ = conn.Close()
			})
		})
	}
}

func TestAClientThatHungUpIsNoFault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		dial, stop := serve(t, b.handler())
		defer stop()
		conn := dial()
		b.settler.settle = func(ctx context.Context, _ *x402.Request, _ payment.Wishes) (payment.Answer, error) {
			_ = conn.Close()
			<-ctx.Done()
			return payment.Answer{}, ctx.Err()
		}
		body := fixture(t, "v2.json")
		send(t, conn, head("/settle", len(body))+body)
		synctest.Wait()
		if log := b.log.String(); !strings.Contains(log, "status=499") || strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=WARN") {
			t.Errorf("logged:\n%s", log)
		}
	})
}

func TestAPanicIsAnsweredWithoutDetail(t *testing.T) {
	t.Parallel()
	const secret = "postgres://me:hunter2@db"
	for path, set := range map[string]func(*bench){
		"/verify": func(b *bench) {
			b.deps.Verifier = verifier(func(context.Context, *x402.Request) (string, error) { panic(secret) })
		},
		"/settle": func(b *bench) {
			b.settler.settle = func(context.Context, *x402.Request, payment.Wishes) (payment.Answer, error) { panic(secret) }
		},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			set(b)
			r := call(t, b.handler(), http.MethodPost, path, fixture(t, "v2.json"))
			if body := r.text; r.status != http.StatusInternalServerError || body != `{"error":"internal error"}` {
				t.Errorf("%d %s", r.status, body)
			}
			for key, values := range r.header {
				if strings.Contains(strings.Join(values, " "), "hunter2") {
					t.Errorf("header %s: %s", key, values)
				}
			}
			if !strings.Contains(b.log.String(), "level=ERROR") {
				t.Errorf("nobody is told:\n%s", b.log)
			}
		})
	}
}

func TestPathsAreServedAsClientsJoinThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		prefix, path string
		status       int
	}{
		{"", "/verify", 200},
		{"", "//verify", 200},
		{"", "///verify", 200},
		{"", "verify", 200},
		{"/x402", "/x402/verify", 200},
		{"/x402", "//x402/verify", 200},
		{"/a/b", "/a/b/verify", 200},
		{"/x402", "/verify", 404},
		{"/x402", "/x402verify", 404},
		{"/x402", "/x402", 404},
		{"", "/x402/verify", 404},
	} {
		t.Run(c.prefix+" "+c.path, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			b.deps.PathPrefix = c.prefix
			target := c.path
			if !strings.HasPrefix(target, "/") {
				target = "/" + target
			}
			r := call(t, b.handler(), http.MethodPost, "http://facilitator.test"+target, fixture(t, "v2.json"))
			if r.status != c.status || r.header.Get("Location") != "" {
				t.Errorf("%d, to %q", r.status, r.header.Get("Location"))
			}
			var o map[string]any
			if err := json.Unmarshal([]byte(r.text), &o); err != nil {
				t.Errorf("no JSON object: %v", err)
			}
		})
	}
}

func TestIdempotencyKeysAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 255)
	for name, c := range map[string]struct {
		key    string
		status int
	}{
		"a key":            {"order-1", 200},
		"none":             {"", 200},
		"a long one":       {long, 200},
		"one too long":     {long + "k", 400},
		"one with a space": {"order 1", 400},
		"one with a tab":   {"order\t1", 400},
		"one not in ASCII": {"ordér", 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			asked := false
			b.settler.settle = func(_ context.Context, _ *x402.Request, wishes payment.Wishes) (payment.Answer, error) {
				if asked = true; wishes.IdempotencyKey != c.key || !wishes.Level.IsDefault() {
					t.Errorf("wishes %+v", wishes)
				}
				return settled(), nil
			}
			r := call(t, b.handler(), http.MethodPost, "/settle", fixture(t, "v1.json"), "Idempotency-Key", c.key)
			const refused = `{"success":false,"errorReason":"invalid_payload","errorMessage":"Idempotency-Key: must be at most 255 printable ASCII characters",` +
				`"transaction":"","network":"base-sepolia","error":"Idempotency-Key: must be at most 255 printable ASCII characters"}`
			if body := r.text; r.status != c.status || asked != (c.status == 200) || c.status == 400 && body != refused {
				t.Errorf("asked: %t, %d %s", asked, r.status, body)
			}
		})
	}
}

func TestCallersChooseHowSettledIsSettled(t *testing.T) {
	t.Parallel()
	const form = "must be submitted, mined, safe, finalized or a number of blocks from 1 to 10000"
	for text, problem := range map[string]string{
		"": "", "submitted": "", "mined": "", "2": "", "10000": "", "safe": "", "finalized": "",
		"preconfirmed": "this network has no preconfirmations; " + form,
		"soon":         form, "Mined": form, "0": form, "-1": form, "10001": form, "1.5": form, "mined,safe": form, "\"mined\"": form,
	} {
		for version, network := range map[string]string{"v1.json": "base-sepolia", "v2.json": "eip155:84532"} {
			t.Run(text+" in "+version, func(t *testing.T) {
				t.Parallel()
				b := newBench()
				asked := false
				b.settler.settle = func(_ context.Context, _ *x402.Request, wishes payment.Wishes) (payment.Answer, error) {
					want, err := payment.ParseLevel(text)
					if asked = true; err != nil || wishes.Level != want || wishes.IdempotencyKey != "order-1" {
						t.Errorf("wishes %+v", wishes)
					}
					return settled(), nil
				}
				r := call(t, b.handler(), http.MethodPost, "/settle", fixture(t, version), "Settlement-Wait", text, "Idempotency-Key", "order-1")
				if problem == "" {
					if r.status != http.StatusOK || !asked {
						t.Errorf("%d %s", r.status, r.text)
					}
					return
				}
				want := `{"success":false,"errorReason":"invalid_payload","errorMessage":"Settlement-Wait: ` + problem + `",` +
					`"transaction":"","network":"` + network + `","error":"Settlement-Wait: ` + problem + `"}`
				if r.status != http.StatusBadRequest || r.text != want || asked {
					t.Errorf("asked: %t, %d %s", asked, r.status, r.text)
				}
			})
		}
	}
}

func TestARequestKeepsItsHarmlessID(t *testing.T) {
	t.Parallel()
	for id, kept := range map[string]bool{
		"req-1": true, strings.Repeat("i", 64): true, strings.Repeat("i", 65): false, "two words": false, "é": false, "": false,
	} {
		r := call(t, newBench().handler(), http.MethodGet, "/livez", "", "X-Request-Id", id)
		if got := r.header.Get("X-Request-Id"); got == "" || (got == id) != kept {
			t.Errorf("%q came back as %q", id, got)
		}
	}
}
