package app

import (
	"net"
	"sync"
	"sync/atomic"
)

// cappedListener closes connections at once that are more than most: whoever
// holds many open must not have others wait for theirs.
type cappedListener struct {
	net.Listener
	most int64
	open atomic.Int64
}

func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.most {
			return &cappedConn{Conn: conn, done: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
		}
		l.open.Add(-1)
		_ = conn.Close() // its peer is told nothing else
	}
}

type cappedConn struct {
	net.Conn
	done func()
}

func (c *cappedConn) Close() error {
	c.done()
	return c.Conn.Close()
}
