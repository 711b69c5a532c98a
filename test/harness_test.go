// Package test holds the suites that run the whole service: on a local chain
// with the real USDC, on real Postgres, with the official SDKs, and killed.
package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"go.uber.org/goleak"

	"facilitator/api/apitest"
	"facilitator/internal/app"
	"facilitator/internal/config"
	"facilitator/internal/devnet"
	"facilitator/internal/store/storetest"
)

// world is what all tests of this package share. Chains are shared by tests
// that only pay; a test that changes how blocks are made starts its own.
var world struct {
	tools    string
	database *storetest.Server
	chain    *devnet.Chain // automine
	fork     *devnet.Chain // of a chain like it, or of FORK_RPC_URL
	accounts atomic.Int64
	// described holds every call against api/openapi.yaml.
	described *apitest.Checker
}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "test set-up:", err)
		return 1
	}
	if os.Getenv(attackEnv) != "" {
		if err := attackerMain(); err != nil {
			return fail(err)
		}
		return 0
	}
	before := goleak.IgnoreCurrent()
	ctx := context.Background()
	world.described = apitest.New()
	var err error
	if world.tools, err = devnet.Tools(""); err != nil {
		return fail(err)
	}
	if world.database, err = storetest.Start(ctx); err != nil {
		return fail(err)
	}
	if world.chain, err = devnet.StartChain(ctx, devnet.ChainConfig{Tools: world.tools, Network: devnet.Base}); err != nil {
		return fail(err)
	}
	closers := []io.Closer{world.chain, world.database}
	forkURL := os.Getenv("FORK_RPC_URL")
	if forkURL == "" {
		// One that stands still: a node forgets the state of the block that the
		// fork goes back to when enough others follow.
		origin, err := devnet.StartChain(ctx, devnet.ChainConfig{Tools: world.tools, Network: devnet.Base})
		if err != nil {
			return fail(err)
		}
		closers, forkURL = append(closers, origin), origin.URL()
	}
	if world.fork, err = devnet.StartChain(ctx, devnet.ChainConfig{Tools: world.tools, Network: devnet.Base, ForkURL: forkURL}); err != nil {
		return fail(err)
	}
	closers = append([]io.Closer{world.fork}, closers...)
	if os.Getenv("TEST_FORK") != "" {
		world.chain = world.fork // every test that shares a chain is on the fork
	}
	code := m.Run()
	for _, closer := range closers {
		if err := closer.Close(); err != nil {
			code = fail(err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(before); err != nil && code == 0 {
		code = fail(err)
	}
	return code
}

// newKeys returns keys that no other test has.
func newKeys(t *testing.T, role string, n int) []devnet.Key {
	t.Helper()
	return devnet.Keys(fmt.Sprintf("%s of test %d", role, world.accounts.Add(1)), n)
}

func newKey(t *testing.T, role string) devnet.Key {
	t.Helper()
	return newKeys(t, role, 1)[0]
}

// payers returns n payers with 1,000 USDC each.
func payers(t *testing.T, c *devnet.Chain, n int) []devnet.Key {
	t.Helper()
	keys := newKeys(t, devnet.RolePayer, n)
	if err := c.FundUSDC(t.Context(), big.NewInt(1_000_000_000), addresses(keys)...); err != nil {
		t.Fatal(err)
	}
	return keys
}

func addresses(keys []devnet.Key) []common.Address {
	list := make([]common.Address, len(keys))
	for i, k := range keys {
		list[i] = k.Address
	}
	return list
}

// startChain starts a chain of the test's own.
func startChain(t *testing.T, cfg devnet.ChainConfig) *devnet.Chain {
	t.Helper()
	if os.Getenv("TEST_FORK") != "" {
		t.Skip("it has a chain of its own: nothing would be new on a fork")
	}
	cfg.Tools = world.tools
	if cfg.Network == "" {
		cfg.Network = devnet.Base
	}
	c, err := devnet.StartChain(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// setup is one service under test.
type setup struct {
	chain *devnet.Chain
	// databaseURL, where a test has one already.
	databaseURL string
	// rpcURL is what the service uses as its node; the chain itself by default.
	rpcURL string
	// lanes are their keys; one funded lane by default.
	lanes []devnet.Key
	// unfunded leaves the lanes without gas.
	unfunded bool
	// keysOnly leaves callers without a key out.
	keysOnly bool
	// overlay is YAML merged over the test's defaults, and more over that.
	overlay, more string
}

// callers are those without a key, without limits, unless they are left out.
func (s *setup) callers() map[string]any {
	scopes := []string{"verify", "settle", "read"}
	if s.keysOnly {
		scopes = []string{}
	}
	return map[string]any{"anonymous": map[string]any{"scopes": scopes, "rate": 0, "gas_per_day": 0}}
}

// service is a running facilitator.
type service struct {
	url, metricsURL, databaseURL string
	lanes                        []devnet.Key
	log                          *lockedBuffer
	stop                         func() // graceful; waits
	// undescribed is told what of a call is not as api/openapi.yaml says.
	undescribed func(error)
}

// configuration fills the gaps of s and returns the service's YAML.
func (s *setup) configuration(t *testing.T) [][]byte {
	t.Helper()
	if s.databaseURL == "" {
		s.databaseURL = world.database.Database(t)
	}
	if s.rpcURL == "" {
		s.rpcURL = s.chain.URL()
	}
	if len(s.lanes) == 0 {
		s.lanes = newKeys(t, devnet.RoleLane, 1)
	}
	if !s.unfunded {
		wei := new(big.Int).Exp(big.NewInt(10), big.NewInt(20), nil)
		if err := s.chain.FundETH(t.Context(), wei, addresses(s.lanes)...); err != nil {
			t.Fatal(err)
		}
	}
	var lanes []map[string]string
	for _, k := range s.lanes {
		lanes = append(lanes, map[string]string{"private_key": k.Hex()})
	}
	defaults, err := json.Marshal(map[string]any{
		"http":     map[string]any{"address": "127.0.0.1:0", "drain_delay": "0s", "drain_timeout": "10s"},
		"clients":  s.callers(),
		"metrics":  map[string]any{"address": "127.0.0.1:0"},
		"log":      map[string]any{"level": "debug"},
		"database": map[string]any{"url": s.databaseURL},
		"chains": map[string]any{s.chain.Network(): map[string]any{
			"rpc_url": s.rpcURL, "lanes": lanes, "poll_interval": "20ms", "resend_interval": "500ms", "lane_lease": "2s",
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{defaults, []byte(s.overlay), []byte(s.more)}
}

// start runs the service in this process until the test ends.
func (s setup) start(t *testing.T) *service {
	t.Helper()
	cfg, err := config.Load("", nil, s.configuration(t)...)
	if err != nil {
		t.Fatal(err)
	}
	out := &service{databaseURL: s.databaseURL, lanes: s.lanes, log: new(lockedBuffer), undescribed: func(err error) { t.Error(err) }}
	log := slog.New(slog.NewJSONHandler(out.log, &slog.HandlerOptions{Level: cfg.Log.Level}))
	a, err := app.New(t.Context(), cfg, app.Options{Log: log, Now: time.Now, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	out.url, out.metricsURL = a.URL(), a.MetricsURL()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	out.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("service: %v", err)
		}
	}
	t.Cleanup(func() {
		out.stop()
		if t.Failed() {
			t.Logf("service log:\n%s", out.log.String())
		}
	})
	return out
}

// reply is an HTTP answer.
type reply struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

func (r reply) str(key string) string {
	s, _ := r.body[key].(string)
	return s
}

func (r reply) is(key string) bool {
	b, _ := r.body[key].(bool)
	return b
}

// post sends body, marshalled unless it is text, and fails the test on anything
// but a JSON object.
func (s *service) post(t *testing.T, path string, body any, header ...string) reply {
	t.Helper()
	r, err := s.tryPost(t.Context(), path, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *service) tryPost(ctx context.Context, path string, body any, header ...string) (reply, error) {
	text, ok := body.(string)
	if !ok {
		encoded, err := json.Marshal(body)
		if err != nil {
			return reply{}, err
		}
		text = string(encoded)
	}
	return s.do(ctx, http.MethodPost, path, text, header...)
}

func (s *service) get(t *testing.T, path string) reply {
	t.Helper()
	r, err := s.do(t.Context(), http.MethodGet, path, "")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *service) do(ctx context.Context, method, path, body string, header ...string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return reply{}, err
	}
	r := reply{status: response.StatusCode, header: response.Header, text: string(raw)}
	err = world.described.Check(ctx, apitest.Exchange{
		Method: method, Path: req.URL.RequestURI(), Header: req.Header, Body: body, Status: r.status, Answer: r.header, Text: r.text,
	})
	if err != nil {
		s.undescribed(err)
	}
	if r.status == http.StatusNotModified {
		return r, nil
	}
	if err := json.Unmarshal(raw, &r.body); err != nil {
		return r, fmt.Errorf("%s %s: status %d, not a JSON object: %q", method, path, r.status, raw)
	}
	return r, nil
}

// sale is a payment of 0.01 USDC valid for five minutes, to a payee of its own.
func sale(t *testing.T, payer devnet.Key) devnet.Sale {
	t.Helper()
	return devnet.Sale{Payer: payer, PayTo: newKey(t, devnet.RolePayee).Address, Amount: 10_000}.ForNow(time.Now(), 5*time.Minute)
}

// request signs a sale.
func request(t *testing.T, c *devnet.Chain, s devnet.Sale) map[string]any {
	t.Helper()
	body, err := c.Request(s)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// received is what a payee has on chain.
func received(t *testing.T, c *devnet.Chain, payee common.Address) int64 {
	t.Helper()
	balance, err := c.BalanceOf(t.Context(), c.USDC(), payee)
	if err != nil {
		t.Fatal(err)
	}
	return balance.Int64()
}

// eventually waits for a condition of another process or goroutine, looking
// often; it fails the test after a minute.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-deadline.C:
			t.Fatalf("did not happen in time: %s", what)
		}
	}
}

// lockedBuffer is a log that many goroutines write and tests read.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// height is the number of the chain's latest block.
func height(t *testing.T, c *devnet.Chain) uint64 {
	t.Helper()
	number, err := c.Client().BlockNumber(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// mine mines n blocks.
func mine(t *testing.T, c *devnet.Chain, n int) {
	t.Helper()
	if err := c.Mine(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// held makes a chain of the test's own mine nothing until it is told to.
func held(t *testing.T, c *devnet.Chain) {
	t.Helper()
	if err := c.SetAutomine(t.Context(), false); err != nil {
		t.Fatal(err)
	}
}

// heldChain starts a chain with one payer that mines nothing until it is told to.
func heldChain(t *testing.T) (*devnet.Chain, devnet.Key) {
	t.Helper()
	c := startChain(t, devnet.ChainConfig{})
	payer := payers(t, c, 1)[0]
	held(t, c)
	return c, payer
}

// pooled counts the transactions that wait to be mined.
func pooled(t *testing.T, c *devnet.Chain) uint64 {
	t.Helper()
	var pool struct{ Pending hexutil.Uint64 }
	if err := c.RPC().CallContext(t.Context(), &pool, "txpool_status"); err != nil {
		t.Fatal(err)
	}
	return uint64(pool.Pending)
}

// drop has the node forget a transaction.
func drop(t *testing.T, c *devnet.Chain, hash string) {
	t.Helper()
	var dropped *common.Hash
	if err := c.RPC().CallContext(t.Context(), &dropped, "anvil_dropTransaction", hash); err != nil {
		t.Fatal(err)
	}
	if dropped == nil {
		t.Fatalf("the node did not have %s", hash)
	}
}

// paidTo is what the canonical chain moved to a payee since a block.
func paidTo(t *testing.T, c *devnet.Chain, from uint64, payee common.Address) []devnet.Transfer {
	t.Helper()
	all, err := c.Transfers(t.Context(), c.USDC(), from)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(m devnet.Transfer) bool { return m.To != payee })
}
