package test

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"facilitator/internal/devnet"
)

// TestOneNodeOfTwoIsEnough: whatever ails the first one, payments are verified and
// settled by way of the other, and nobody is told.
func TestOneNodeOfTwoIsEnough(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]outageRule{
		"it refuses":           outageRefuse,
		"it is overloaded":     outageStatus(http.StatusTooManyRequests),
		"it answers HTML":      outageHTML,
		"it knows no block":    outageError(-32000, "header not found"),
		"it limits every call": outageError(-32005, "limit exceeded"),
		"it hangs":             outageHang,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startChain(t, devnet.ChainConfig{})
			payer := payers(t, c, 1)[0]
			first := newOutageNode(t, c)
			s := setup{chain: c, rpcURL: first.url, overlay: fmt.Sprintf(
				"chains: {'%s': {rpc_timeout: 2s, read_from: [{url: '%s', name: second}], send_to: [{url: '%s'}]}}", c.Network(), c.URL(), c.URL(),
			)}.start(t)
			wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer))))
			first.follow(fault)
			body := request(t, c, sale(t, payer))
			if r := s.post(t, "/verify", body); r.status != http.StatusOK || !r.is("isValid") {
				t.Errorf("/verify: %d %s", r.status, r.text)
			}
			wantSuccess(t, s.post(t, "/settle", body))
			if r := s.get(t, "/readyz"); r.status != http.StatusOK {
				t.Errorf("/readyz: %d %s", r.status, r.text)
			}
			eventually(t, "the metrics tell which node is down", func() bool {
				return s.metric(t, "facilitator_node_up", c.Network(), "rpc_url") == 0 && s.metric(t, "facilitator_node_up", c.Network(), "second") == 1
			})
			first.heal()
			eventually(t, "it is used again", func() bool { return s.metric(t, "facilitator_node_up", c.Network(), "rpc_url") == 1 })
			wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer))))
			checkWallets(t, s.databaseURL, c, 3)
		})
	}
}

// TestANodeThatStandsStillTellsNothing: its state is old, and what it says of it
// would be wrong.
func TestANodeThatStandsStillTellsNothing(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{BlockTime: 200 * time.Millisecond})
	payer := payers(t, c, 1)[0]
	old := startChain(t, devnet.ChainConfig{ForkURL: c.URL()}) // and makes no block
	target, err := url.Parse(old.URL())
	if err != nil {
		t.Fatal(err)
	}
	standing := httputil.NewSingleHostReverseProxy(target)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	standing.Transport = transport
	first := newOutageNode(t, c)
	s := setup{chain: c, rpcURL: first.url, overlay: fmt.Sprintf("chains: {'%s': {max_lag: 3, read_from: [{url: '%s'}]}}", c.Network(), c.URL())}.start(t)
	wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer))))
	first.follow(func(body string, forward http.HandlerFunc) http.HandlerFunc {
		if strings.Contains(body, "eth_sendRawTransaction") {
			return forward
		}
		return func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path, r.URL.RawQuery = "/", ""
			standing.ServeHTTP(w, r)
		}
	})
	eventually(t, "it is behind", func() bool { return s.metric(t, "facilitator_node_up", c.Network(), "rpc_url") == 0 })
	for range 3 { // the old state has the payer's money, and none of its payments
		body := request(t, c, sale(t, payer))
		wantSuccess(t, s.post(t, "/settle", body))
		if r := s.post(t, "/verify", body); r.is("isValid") {
			t.Errorf("a settled payment verifies: %s", r.text)
		}
	}
	checkWallets(t, s.databaseURL, c, 4)
}
