package evm_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
)

// wire is a TCP proxy whose connections can be cut.
type wire struct {
	url   string
	dials chan struct{}

	mu    sync.Mutex
	conns []net.Conn
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{url: "ws://operator:hunter2@" + listener.Addr().String() + "/?key=0123456789abcdef", dials: make(chan struct{}, 1024)}
	var copies sync.WaitGroup
	copies.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, near, far)
			w.mu.Unlock()
			w.dials <- struct{}{}
			copies.Go(func() { _, _ = io.Copy(far, near); far.Close() })
			copies.Go(func() { _, _ = io.Copy(near, far); near.Close() })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		w.cut()
		copies.Wait()
	})
	return w
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// logged is a log that can be read while it is written.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// feed runs a head feed and returns its heads and its log. The end function
// ends it.
func feed(t *testing.T, f *evm.HeadFeed) (heads <-chan chain.Head, log *logged, end func()) {
	t.Helper()
	got, log := make(chan chain.Head, 1024), &logged{}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx, func(h chain.Head) { got <- h }, slog.New(slog.NewTextHandler(log, nil))) })
	end = func() { cancel(); running.Wait() }
	t.Cleanup(end)
	return got, log, end
}

// await reads heads until there is one at or above n.
func await(heads <-chan chain.Head, n uint64) chain.Head {
	for h := range heads {
		if h.Number >= n {
			return h
		}
	}
	return chain.Head{}
}

func TestHeadsComeAndComeAgainAfterACut(t *testing.T) {
	t.Parallel()
	c := startChain(t)
	client := dial(t, c.URL())
	w := newWire(t, target(t, c).Host)
	f := evm.NewHeadFeed(w.url, patience)
	f.Retry = time.Millisecond
	heads, log, end := feed(t, f)
	first := <-heads
	if want, err := client.Head(t.Context()); err != nil || first != want {
		t.Errorf("the first head is %+v, want %+v, %v", first, want, err)
	}
	for i := range uint64(3) {
		if err := c.Mine(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		got := await(heads, first.Number+1+i)
		if want, err := client.Head(t.Context()); err != nil || got != want {
			t.Errorf("head %+v, want %+v, %v", got, want, err)
		}
		w.cut()
	}
	if err := c.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	await(heads, first.Number+4)
	end()
	text := log.String()
	if !strings.Contains(text, "head feed lost") {
		t.Errorf("a cut goes without saying:\n%s", text)
	}
	for _, secret := range []string{"operator", "hunter2", "0123456789abcdef", "ws://"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log tells %q:\n%s", secret, text)
		}
	}
}

func TestAQuietConnectionIsDropped(t *testing.T) {
	t.Parallel()
	c := startChain(t)
	w := newWire(t, target(t, c).Host)
	f := evm.NewHeadFeed(w.url, patience)
	f.Quiet, f.Retry = time.Millisecond, time.Millisecond
	_, log, end := feed(t, f)
	for range 3 {
		<-w.dials
	}
	end()
	if text := log.String(); !strings.Contains(text, "no head for too long") {
		t.Errorf("log:\n%s", text)
	}
}

// TestANodeThatIsDownIsTriedAgain: for ever, and without its URL in the log.
func TestANodeThatIsDownIsTriedAgain(t *testing.T) {
	t.Parallel()
	tries := make(chan struct{}, 1024)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tries <- struct{}{}
		http.Error(w, "no such key 0123456789abcdef", http.StatusUnauthorized)
	}))
	t.Cleanup(s.Close)
	f := evm.NewHeadFeed(strings.Replace(s.URL, "http://", "ws://operator:hunter2@", 1)+"/v3/0123456789abcdef?key=0123456789abcdef", patience)
	f.Retry = time.Millisecond
	heads, log, end := feed(t, f)
	for range 4 {
		<-tries
	}
	end()
	text := log.String()
	for _, secret := range []string{"operator", "hunter2", "0123456789abcdef", "ws://"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log tells %q:\n%s", secret, text)
		}
	}
	if len(heads) != 0 || !strings.Contains(text, "401") {
		t.Errorf("%d heads, log:\n%s", len(heads), text)
	}
}
