package app

import (
	"errors"
	"io"
	"net"
	"testing"
)

// TestConnectionsBeyondTheMostAreClosed: at once, and not those before them.
func TestConnectionsBeyondTheMostAreClosed(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	inner, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &cappedListener{Listener: inner, most: 2}
	accepted := make(chan net.Conn)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	dial()
	first := <-accepted
	dial()
	second := <-accepted
	if n, err := dial().Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a third one: read %d, %v", n, err)
	}
	if err := errors.Join(first.Close(), first.Close()); err == nil {
		t.Error("closed twice without an error")
	}
	dial() // there is room for one
	third := <-accepted
	if n, err := dial().Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("one more after one was closed: read %d, %v", n, err)
	}
	for _, conn := range []io.Closer{second, third, inner} {
		_ = conn.Close()
	}
	<-done
}
