package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/x402"
)

// TestDelayedPiecesComeInOrderEachInItsTime has pieces overlap: the delay is of
// each, not of one after the other.
func TestDelayedPiecesComeInOrderEachInItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const delay, apart, pieces = 30 * time.Millisecond, time.Millisecond, 100
		from, source := io.Pipe()
		sink, to := io.Pipe()
		copied := make(chan error, 1)
		go func() {
			copied <- late(to, from, delay)
			_ = to.Close()
		}()
		begun := time.Now()
		go func() {
			for i := range pieces {
				_, _ = fmt.Fprintf(source, "%03d", i)
				time.Sleep(apart)
			}
			_ = source.Close()
		}()
		for i := range pieces {
			piece := make([]byte, 3)
			if _, err := io.ReadFull(sink, piece); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("%03d", i); string(piece) != want {
				t.Fatalf("piece %d is %s", i, piece)
			}
			if at, want := time.Since(begun), time.Duration(i)*apart+delay; at != want {
				t.Fatalf("piece %d came after %v, want %v", i, at, want)
			}
		}
		if err := <-copied; !errors.Is(err, io.EOF) {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestDelayEndsWithWhoeverIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from, source := io.Pipe()
		sink, to := io.Pipe()
		copied := make(chan error, 1)
		go func() { copied <- late(to, from, time.Second) }()
		_ = sink.Close()
		_, _ = source.Write([]byte("lost"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		_, _ = source.Write([]byte("as is this"))
		if err := <-copied; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("it ended with %v", err)
		}
		_ = source.Close()
	})
}

// TestDelayingProxyAnswersManyAtOnce has more connections wait than the proxy
// could serve in turn, each for its own answer.
func TestDelayingProxyAnswersManyAtOnce(t *testing.T) {
	t.Parallel()
	const callers, each = 32, 5
	var together sync.WaitGroup
	together.Add(callers)
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if strings.Contains(string(body), "first") { // of all callers: none is answered before all have asked
			together.Done()
			together.Wait()
		}
		_, _ = w.Write(body)
	}))
	defer node.Close()
	p, err := startProxy(t.Context(), node.URL, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	f, err := newFleet(t.Context(), callers, p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	var all sync.WaitGroup
	for i, c := range f.callers {
		all.Go(func() {
			for k := range each {
				method := fmt.Sprintf("%d-%d", i, k)
				if k == 0 {
					method += "-first"
				}
				request, err := postOf("/", map[string]any{"method": method})
				if err != nil {
					t.Error(err)
					return
				}
				status, body, err := c.send(t.Context(), request)
				if want := `{"method":"` + method + `"}`; err != nil || status != http.StatusOK || string(body) != want {
					t.Errorf("status %d, %v: %s, want %s", status, err, body, want)
					return
				}
			}
		})
	}
	all.Wait()
	if requests, calls := p.requests.Load(), p.calls.Load(); requests != callers*each || calls != callers*each {
		t.Errorf("%d requests and %d calls, want %d of both", requests, calls, callers*each)
	}
}

func TestVerdictIsThePaymentsOrWrong(t *testing.T) {
	t.Parallel()
	payer := common.HexToAddress("0xabcdef0123456789abcdef0123456789abcdef01")
	valid, refused := check{payer: payer}, check{payer: payer, reason: x402.ReasonExactValue}
	of := func(verdict string) string { return `{"payer":"` + payer.Hex() + `",` + verdict + `}` }
	for _, row := range []struct {
		name   string
		check  check
		status int
		body   string
		right  bool
	}{
		{"valid, told valid", valid, 200, of(`"isValid":true`), true},
		{"valid, told refused", valid, 200, of(`"isValid":false,"invalidReason":"` + string(x402.ReasonExactValue) + `"`), false},
		{"refused, told so", refused, 200, of(`"isValid":false,"invalidReason":"` + string(x402.ReasonExactValue) + `"`), true},
		{"refused, told valid", refused, 200, of(`"isValid":true`), false},
		{"refused, told another reason", refused, 200, of(`"isValid":false,"invalidReason":"` + string(x402.ReasonExactSignature) + `"`), false},
		{"valid with a reason", valid, 200, of(`"isValid":true,"invalidReason":"` + string(x402.ReasonExactValue) + `"`), false},
		{"of another payer", valid, 200, `{"isValid":true,"payer":"0xabcdef0123456789abcdef0123456789abcdef02"}`, false},
		{"no verdict", valid, 503, `{"error":"not ready"}`, false},
		{"no verdict with a status of success", valid, 200, `{}`, false},
		{"a verdict with a status of failure", valid, 500, of(`"isValid":true`), false},
		{"no JSON", valid, 200, `<html>`, false},
	} {
		a := answer{called: true, status: row.status}
		a.judge(row.check, []byte(row.body))
		if a.Success != row.right {
			t.Errorf("%s: %+v", row.name, a)
		}
		if findings := misjudged([]check{row.check}, []answer{a}); (len(findings) == 0) != row.right {
			t.Errorf("%s: findings %v", row.name, findings)
		}
	}
}

func TestAnswersAreReadOneAfterTheOther(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	defer here.Close()
	c := &caller{fleet: &fleet{addresses: []string{""}}, conn: here, replies: bufio.NewReaderSize(here, 1<<10)}
	go func() {
		request := make([]byte, 1)
		for _, text := range []string{
			"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Other: 7\r\n\r\nfirst",
			"HTTP/1.1 503 Service Unavailable\r\ncontent-length:  6\r\n\r\nsecond",
			"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		} {
			_, _ = there.Read(request)
			_, _ = there.Write([]byte(text))
		}
		_ = there.Close()
	}()
	for _, want := range []struct {
		status int
		body   string
	}{{200, "first"}, {503, "second"}, {204, ""}} {
		status, body, err := c.send(context.Background(), []byte("?"))
		if err != nil || status != want.status || string(body) != want.body {
			t.Errorf("status %d, %v: %q, want %d: %q", status, err, body, want.status, want.body)
		}
	}
	if _, _, err := c.send(context.Background(), []byte("?")); err == nil {
		t.Error("an answer without a length was taken")
	}
}

func TestGrowthIsOfTheSecondHalfAndMoreThanNoise(t *testing.T) {
	t.Parallel()
	run := func(heaps ...uint64) []sample {
		var samples []sample
		for i, heap := range heaps {
			samples = append(samples, sample{verified: i * 100_000, heap: heap << 10})
		}
		return samples
	}
	for _, row := range []struct {
		name    string
		samples []sample
		grew    bool
	}{
		{"nothing measured", nil, false},
		{"only the start", run(4_000), false},
		{"caches fill in the first half", run(4_000, 40_000, 50_000, 50_000, 50_000), false},
		{"64 bytes for each", run(4_000, 10_250, 16_500, 22_750, 29_000), true},
		{"it shrinks", run(4_000, 10_000, 9_000, 8_000, 7_000), false},
		{"noise", run(4_000, 5_000, 5_000, 5_000, 5_900), false},
	} {
		if bytes, grew := growth(row.samples); grew != row.grew {
			t.Errorf("%s: grew %t by %.1f bytes", row.name, grew, bytes)
		}
	}
	noise := []sample{{}, {verified: 10_000, heap: 5 << 20}, {verified: 20_000, heap: 5<<20 + 200_000}}
	if bytes, grew := growth(noise); grew {
		t.Errorf("a heap that moves by 200 KB grew, by %.1f bytes", bytes)
	}
}

func TestFlawsChangeWhatIsAskedOnBothSides(t *testing.T) {
	t.Parallel()
	for _, f := range flaws() {
		if f.request == nil {
			continue
		}
		terms := func() map[string]any { return map[string]any{"payTo": "0x01", "amount": "1000"} }
		request := map[string]any{"paymentRequirements": terms(), "paymentPayload": map[string]any{"accepted": terms(), "payload": terms()}}
		f.request(request)
		payload, _ := request["paymentPayload"].(map[string]any)
		for _, side := range []any{request["paymentRequirements"], payload["accepted"]} {
			if fmt.Sprint(side) == fmt.Sprint(terms()) {
				t.Errorf("%s: %v is as it was", f.name, side)
			}
		}
		if fmt.Sprint(payload["payload"]) != fmt.Sprint(terms()) {
			t.Errorf("%s: what was signed was changed", f.name)
		}
	}
}

func TestRequestsHoldTheirLength(t *testing.T) {
	t.Parallel()
	text, err := postOf("/verify", map[string]any{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	defer request.Body.Close()
	body, err := io.ReadAll(request.Body)
	if err != nil || request.URL.Path != "/verify" || string(body) != `{"a":"b"}` {
		t.Errorf("%s %q, %v", request.URL.Path, body, err)
	}
}
