package long

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// switchboard is the address that the service knows as its database. It leads
// to one server at a time.
type switchboard struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	target string // empty: nobody answers
	conns  map[net.Conn]bool
}

func newSwitchboard(t *testing.T) *switchboard {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &switchboard{listener: listener, conns: map[net.Conn]bool{}}
	s.running.Go(s.accept)
	t.Cleanup(func() {
		_ = listener.Close() // ends accept
		s.cut()
		s.running.Wait()
	})
	return s
}

// url is a server's URL by way of the switchboard.
func (s *switchboard) url(t *testing.T, server string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = s.listener.Addr().String()
	return u.String()
}

// connect leads new connections to a server.
func (s *switchboard) connect(t *testing.T, server string) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = u.Host
}

// cut ends every connection, and takes no new ones.
func (s *switchboard) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = ""
	for conn := range s.conns {
		_ = conn.Close() // it is to be cut off
	}
	clear(s.conns)
}

func (s *switchboard) accept() {
	for {
		client, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		target := s.target
		s.mu.Unlock()
		server, err := net.DialTimeout("tcp", target, 2*time.Second)
		if target == "" || err != nil {
			_ = client.Close() // as good as cut
			continue
		}
		s.mu.Lock()
		if s.target != target {
			_, _ = client.Close(), server.Close() // cut meanwhile
		} else {
			s.conns[client], s.conns[server] = true, true
			s.running.Go(func() { s.pump(client, server) })
			s.running.Go(func() { s.pump(server, client) })
		}
		s.mu.Unlock()
	}
}

func (s *switchboard) pump(to, from net.Conn) {
	_, _ = io.Copy(to, from) // however it ends, it ended
	_, _ = to.Close(), from.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, to)
	delete(s.conns, from)
}
