package api_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// The read deadline is for bodies: net/http reads on in the background.
func TestAReadMayTakeLongerThanABody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.deps.Ready = func(ctx context.Context) (bool, []string) {
			select {
			case <-time.After(2 * readTimeout):
			case <-ctx.Done():
				t.Error("the request's context ended although the client waits")
			}
			return true, nil
		}
		dial, stop := serve(t, b.handler())
		defer stop()
		conn := dial()
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if status, body := answered(t, conn); status != http.StatusOK {
			t.Errorf("%d %s", status, body)
		}
	})
}

// A version 1 server whose base URL ends in a slash calls /x402//verify.
func TestADoubleSlashBehindThePrefixIsServed(t *testing.T) {
	t.Parallel()
	b := newBench()
	b.deps.PathPrefix = "/x402"
	if r := call(t, b.handler(), http.MethodPost, "http://x/x402//verify", fixture(t, "v2.json")); r.status != http.StatusOK {
		t.Errorf("%d", r.status)
	}
}

// RFC 9110, 15.5.6: a 405 must have the header.
func TestA405SaysWhatIsAllowed(t *testing.T) {
	t.Parallel()
	if r := call(t, newBench().handler(), http.MethodGet, "/verify", ""); r.header.Get("Allow") != http.MethodPost {
		t.Errorf("Allow: %q", r.header.Get("Allow"))
	}
}
