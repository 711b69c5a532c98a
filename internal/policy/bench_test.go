package policy_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/chain"
	"facilitator/internal/metrics"
	"facilitator/internal/payment"
	"facilitator/internal/policy"
	"facilitator/internal/store/storetest"
	"facilitator/internal/x402"
)

// server is nil where there is no Postgres to test with.
var server *storetest.Server

func TestMain(m *testing.M) { os.Exit(storetest.Main(m, &server)) }

const network = x402.Network("eip155:8453")

var (
	payer   = chain.Address{19: 1}
	payee   = chain.Address{19: 2}
	asset   = chain.Address{19: 3}
	factory = chain.Address{19: 4}
	bad     = chain.Address{19: 0xbd}
)

// bench is a gate with a clock of its own.
type bench struct {
	*policy.Gate
	registry *prometheus.Registry
	log      *lockedBuffer

	mu  sync.Mutex
	now time.Time
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) turn(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

func newBench(t *testing.T, cfg policy.Config) *bench {
	t.Helper()
	b, err := tryBench(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tryBench(t *testing.T, cfg policy.Config) (*bench, error) {
	t.Helper()
	b := &bench{registry: prometheus.NewRegistry(), log: new(lockedBuffer), now: time.Now()}
	g, err := policy.New(t.Context(), cfg, b.clock, slog.New(slog.NewJSONHandler(b.log, nil)), policy.NewMetrics(metrics.New(b.registry), b.clock))
	if err != nil {
		return nil, err
	}
	b.Gate = g
	t.Cleanup(g.Close)
	return b, nil
}

var nonces struct {
	sync.Mutex
	last uint32
}

// deal is a payment that no other test has; one to payee by payer.
func deal(of func(*payment.Terms)) payment.Terms {
	nonces.Lock()
	defer nonces.Unlock()
	nonces.last++
	t := payment.Terms{
		Key:    payment.Key{Network: network, Contract: asset, Payer: payer, Nonce: number(nonces.last)},
		Scheme: x402.SchemeExact, Asset: asset, PayTo: payee, Amount: x402.NewUint256(10000), SignatureHash: number(nonces.last),
	}
	if of != nil {
		of(&t)
	}
	return t
}

func by(a chain.Address) func(*payment.Terms) { return func(t *payment.Terms) { t.Key.Payer = a } }
func to(a chain.Address) func(*payment.Terms) { return func(t *payment.Terms) { t.PayTo = a } }

func (b *bench) pass(t *testing.T, terms payment.Terms, contracts ...chain.Address) error {
	t.Helper()
	if err := b.Pass(t.Context(), terms, contracts); err != nil {
		return err
	}
	return b.Ask(t.Context(), terms, contracts)
}

func wantReason(t *testing.T, err error, want x402.Reason) {
	t.Helper()
	if r, ok := x402.AsRejection(err); !ok || r.Reason != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// sample is the value of a metric whose labels, joined, hold a text.
func (b *bench) sample(t *testing.T, name, labels string) float64 {
	t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var pairs []string
			for _, l := range m.GetLabel() {
				pairs = append(pairs, l.GetName()+"="+l.GetValue())
			}
			if f.GetName() == "facilitator_"+name && strings.Contains(strings.Join(pairs, ","), labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s{%s}", name, labels)
	return 0
}

// write replaces a file the way that an operator should.
func write(t *testing.T, path, text string, at time.Time) {
	t.Helper()
	part := filepath.Join(filepath.Dir(path), "part")
	if err := os.WriteFile(part, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(part, at, at); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(part, path); err != nil {
		t.Fatal(err)
	}
}

// asked is an oracle that says what it is told to say.
type asked struct {
	mu  sync.Mutex
	bad map[chain.Address]bool
	err error
	// partly is the error that comes with answers: some of them are none.
	partly error
	calls  [][]chain.Address
}

func (o *asked) Sanctioned(_ context.Context, addresses []chain.Address) ([]bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, addresses)
	if o.err != nil {
		return nil, o.err
	}
	answers := make([]bool, len(addresses))
	for i, a := range addresses {
		answers[i] = o.bad[a]
	}
	return answers, o.partly
}

func number(n uint32) (h chain.Hash) {
	binary.BigEndian.PutUint32(h[:], n)
	return h
}
