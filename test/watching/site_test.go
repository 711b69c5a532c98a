package watching

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/app"
	"facilitator/internal/config"
	"facilitator/internal/devnet"
	"facilitator/internal/store/storetest"
)

// site is a facilitator at work and the Prometheus that watches it.
type site struct {
	chain      *devnet.Chain
	lane       devnet.Key
	payers     []devnet.Key
	first      *node // rpc_url
	second     *node // read_from
	url        string
	metricsURL string
	prometheus *devnet.Prometheus
	silent     atomic.Bool // the screening hook gives no answer
}

// node is a way to the chain that can be cut.
type node struct {
	url string
	// down answers nothing; deaf does not take transactions.
	down, deaf atomic.Bool
}

func newNode(t *testing.T, to string) *node {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.ErrorLog = transport, slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || n.down.Load() || n.deaf.Load() && bytes.Contains(body, []byte("eth_sendRawTransaction")) {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	n.url = server.URL
	return n
}

func closing(t *testing.T, c io.Closer) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	database := must(storetest.Start(t.Context()))(t)
	closing(t, database)
	s := &site{lane: devnet.Keys(devnet.RoleLane, 1)[0], payers: devnet.Keys(devnet.RolePayer, 4)}
	s.chain = must(devnet.StartChain(t.Context(), devnet.ChainConfig{Network: devnet.Base, BlockTime: 200 * time.Millisecond}))(t)
	closing(t, s.chain)
	for _, p := range s.payers {
		if err := s.chain.FundUSDC(t.Context(), big.NewInt(1_000_000_000), p.Address); err != nil {
			t.Fatal(err)
		}
	}
	s.fund(t, 1e18)
	s.first, s.second = newNode(t, s.chain.URL()), newNode(t, s.chain.URL())
	s.serve(t, database.Database(t))
	path := filepath.Join(t.TempDir(), "prometheus.yml")
	writeScaled(t, path, s.metricsURL)
	s.prometheus = must(devnet.StartPrometheus(t.Context(), devnet.PrometheusConfig{Config: path}))(t)
	closing(t, s.prometheus)
	return s
}

// fund sets what the lane has, in wei.
func (s *site) fund(t *testing.T, wei int64) {
	t.Helper()
	if err := s.chain.RPC().CallContext(t.Context(), nil, "anvil_setBalance", s.lane.Address, hexutil.EncodeBig(big.NewInt(wei))); err != nil {
		t.Fatal(err)
	}
}

// serve runs a facilitator in this process until the test ends.
func (s *site) serve(t *testing.T, databaseURL string) {
	t.Helper()
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if s.silent.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, `{"decision": "allow"}`) // a caller that is gone needs none
	}))
	t.Cleanup(hook.Close)
	settings := must(json.Marshal(map[string]any{
		"http":     map[string]any{"address": "127.0.0.1:0", "drain_delay": "0s", "drain_timeout": "10s"},
		"clients":  map[string]any{"anonymous": map[string]any{"scopes": []string{"verify", "settle", "read"}, "rate": 0, "gas_per_day": 0}},
		"metrics":  map[string]any{"address": "127.0.0.1:0"},
		"database": map[string]any{"url": databaseURL},
		"policy":   map[string]any{"screening": map[string]any{"hook": map[string]any{"url": hook.URL, "ttl": "1s"}}},
		"chains": map[string]any{s.chain.Network(): map[string]any{
			"rpc_url": s.first.url, "read_from": []any{map[string]any{"url": s.second.url, "name": "second"}},
			"lanes":         []any{map[string]any{"private_key": s.lane.Hex()}},
			"poll_interval": "20ms", "resend_interval": "500ms", "bump_after": "1h", "lane_lease": "2s", "max_lag": 50,
		}},
	}))(t)
	cfg := must(config.Load("", nil, settings))(t)
	out := new(lockedBuffer)
	a := must(app.New(t.Context(), cfg, app.Options{
		Log: slog.New(slog.NewJSONHandler(out, nil)), Now: time.Now, Version: "test",
	}))(t)
	s.url, s.metricsURL = a.URL(), a.MetricsURL()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("service log:\n%s", out)
		}
	})
}

// post sends a payment; 0.0001 USDC to anybody.
func (s *site) post(ctx context.Context, path string, payer devnet.Key) error {
	sale := devnet.Sale{Payer: payer, PayTo: common.Address{1}, Amount: 100}.ForNow(time.Now(), 5*time.Minute)
	body, err := s.chain.Request(sale)
	if err != nil {
		return err
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+path, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	return err
}

// load verifies and settles until the test ends, whatever the answers.
func (s *site) load(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var work sync.WaitGroup
	for _, p := range s.payers {
		work.Go(func() {
			pause := time.NewTicker(100 * time.Millisecond)
			defer pause.Stop()
			for ctx.Err() == nil {
				for _, path := range []string{"/verify", "/settle"} {
					if err := s.post(ctx, path, p); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
				}
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(func() {
		stop()
		work.Wait()
	})
}

// faster is how much less time all takes that the rules wait for.
const faster = 30

// writeScaled writes the deployed configuration with rules that wait less.
func writeScaled(t *testing.T, path, metricsURL string) {
	t.Helper()
	target := must(url.Parse(metricsURL))(t)
	text := string(must(os.ReadFile(filepath.Join(deployed, "prometheus.yml")))(t))
	text = strings.NewReplacer("facilitator:9402", target.Host, "10s", "250ms").Replace(text)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(filepath.Dir(path), "rules")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"recording.yml", "alerts.yml"} {
		rules := string(must(os.ReadFile(filepath.Join(deployed, "rules", name)))(t))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(scaled(rules)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	waits   = regexp.MustCompile(`(for: |\[)(\d+[smh])`)
	seconds = regexp.MustCompile(`(_seconds\)* > )(\d+)`)
)

// scaled shortens durations, and bounds that are seconds.
func scaled(rules string) string {
	rules = waits.ReplaceAllStringFunc(rules, func(text string) string {
		m := waits.FindStringSubmatch(text)
		d, _ := time.ParseDuration(m[2])
		return fmt.Sprintf("%s%dms", m[1], (d / faster).Milliseconds())
	})
	return seconds.ReplaceAllStringFunc(rules, func(text string) string {
		m := seconds.FindStringSubmatch(text)
		n, _ := strconv.ParseFloat(m[2], 64)
		return m[1] + strconv.FormatFloat(n/faster, 'f', 3, 64)
	})
}

// query asks Prometheus.
func (s *site) query(ctx context.Context, q string) ([]Sample, error) {
	return Query(ctx, s.prometheus.URL(), q)
}

// lockedBuffer is a log that many goroutines write.
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
