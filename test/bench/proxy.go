package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// onTheWay is how many pieces of an answer a delayed connection holds before it
// reads no further: far more than a node sends within the delay.
const onTheWay = 1_024

// proxy counts HTTP requests and the JSON-RPC calls in them on their way to a
// node, and can stand for a node far away: what the node answers then arrives
// that much later, however much of it is on its way. It reads no more of the
// requests than their lengths.
type proxy struct {
	url      string
	upstream string
	delay    time.Duration
	listener net.Listener
	requests atomic.Int64
	calls    atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
	all   sync.WaitGroup
}

func startProxy(ctx context.Context, nodeURL string, delay time.Duration) (*proxy, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{
		url: "http://" + listener.Addr().String(), upstream: strings.TrimPrefix(nodeURL, "http://"),
		delay: delay, listener: listener, conns: make(map[net.Conn]bool),
	}
	p.all.Go(p.serve)
	return p, nil
}

func (p *proxy) serve() {
	for {
		down, err := p.listener.Accept()
		if err != nil {
			return
		}
		var d net.Dialer
		up, err := d.DialContext(context.Background(), "tcp", p.upstream)
		if err != nil || !p.keep(down, up) {
			_ = down.Close() // its client finds out
			continue
		}
		p.all.Go(func() {
			_ = p.count(up, down)
			p.drop(down, up)
		})
		p.all.Go(func() {
			_ = late(down, up, p.delay) // ends with either side
			p.drop(down, up)
		})
	}
}

// keep remembers connections to close; it says no once the proxy is closed.
func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		for _, c := range conns {
			_ = c.Close()
		}
		return false
	}
	for _, c := range conns {
		p.conns[c] = true
	}
	return true
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.all.Wait()
}

// late copies what it reads, each piece so long after it came. Nothing waits
// for anything but its own time: a piece does not keep the next from being read.
func late(to io.Writer, from io.Reader, delay time.Duration) error {
	if delay == 0 {
		_, err := io.Copy(to, from)
		return err
	}
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, onTheWay)
	written := make(chan error, 1)
	failed := make(chan struct{})
	go func() {
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				close(failed)
				written <- err
				return
			}
		}
		written <- nil
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-failed:
			return <-written
		default:
		}
		if n > 0 {
			select {
			case pieces <- piece{time.Now().Add(delay), bytes.Clone(buffer[:n])}:
			case <-failed:
				return <-written
			}
		}
		if err != nil {
			close(pieces)
			return errors.Join(err, <-written)
		}
	}
}

// count copies requests and counts them.
func (p *proxy) count(to io.Writer, from io.Reader) error {
	var head []byte // of the request that begins; nil within a body
	left := 0       // of the body
	tail := []byte(nil)
	method := []byte(`"method":`)
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if _, err := to.Write(buffer[:n]); err != nil {
			return err
		}
		for chunk := buffer[:n]; len(chunk) > 0; {
			if left > 0 {
				part := chunk[:min(left, len(chunk))]
				text := append(tail, part...)
				p.calls.Add(int64(bytes.Count(text, method)))
				tail = append([]byte(nil), text[max(0, len(text)-len(method)+1):]...)
				left, chunk = left-len(part), chunk[len(part):]
				continue
			}
			before := len(head)
			head = append(head, chunk...)
			end := bytes.Index(head, []byte("\r\n\r\n"))
			if end < 0 {
				break
			}
			length, err := contentLength(head[:end])
			if err != nil {
				return err
			}
			p.requests.Add(1)
			left, tail, chunk = length, nil, chunk[end+4-before:]
			head = nil
		}
		if err != nil {
			return err
		}
	}
}

func contentLength(head []byte) (int, error) {
	for line := range strings.Lines(string(head)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Content-Length") {
			return strconv.Atoi(strings.TrimSpace(value))
		}
		if strings.EqualFold(name, "Transfer-Encoding") {
			return 0, errors.New("a request without a length")
		}
	}
	return 0, nil
}
