package api

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// address is where a call comes from: the peer, or what a trusted proxy says that
// it saw, as far as only trusted proxies stand between. Of an IPv6 address only
// the network counts, which is one household's or one machine's.
func (s *server) address(r *http.Request) netip.Prefix {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	at := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && s.trusted(at); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = hop.Unmap()
	}
	bits := 32
	if at.Is6() {
		bits = 64
	}
	network, err := at.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

func (s *server) trusted(a netip.Addr) bool {
	for _, p := range s.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// maxAddresses bounds those that are remembered. When there are more, all are
// forgotten: whoever has that many is not stopped by it.
const maxAddresses = 65_536

// addressRate bounds something by the address that it comes from, at this replica.
type addressRate struct {
	perSecond int
	mu        sync.Mutex
	seen      map[netip.Prefix]*rate.Limiter
}

// allow says whether one more is within the bound. Ten seconds' worth may come at
// once.
func (a *addressRate) allow(from netip.Prefix, now time.Time) bool {
	if a.perSecond == 0 {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.seen[from]
	if l == nil {
		if len(a.seen) >= maxAddresses || a.seen == nil {
			a.seen = make(map[netip.Prefix]*rate.Limiter)
		}
		l = rate.NewLimiter(rate.Limit(a.perSecond), 10*a.perSecond)
		a.seen[from] = l
	}
	return l.AllowN(now, 1)
}
