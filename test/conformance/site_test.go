package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"

	"facilitator/internal/app"
	"facilitator/internal/config"
	"facilitator/internal/devnet"
	"facilitator/internal/store/storetest"
)

// site is a chain, the facilitators that use it, and what they are asked about.
type site struct {
	tools     string
	chain     *devnet.Chain
	database  *storetest.Server
	contracts map[string]devnet.Contract

	// By default any token is accepted and the factories below may be called, so
	// that every check can be reached.
	ours, peer *facilitator
	// simulating is the peer with simulateInSettle.
	simulating *facilitator
	// strict is ours as it is by default, and hasty the peer. They do not wait for
	// long, and read the chain by way of node.
	strict, hasty *facilitator
	node          *node

	payer devnet.Key // has much USDC
	// wallet is one that payer owns, deployed and funded.
	wallet, factory, doorFactory common.Address

	accounts atomic.Int64
}

func newSite(t *testing.T) *site {
	t.Helper()
	tools, err := devnet.Tools("")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{tools: tools}
	if s.database, err = storetest.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, s.database) })
	if s.chain, err = devnet.StartChain(t.Context(), devnet.ChainConfig{Tools: tools, Network: devnet.Base}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, s.chain) })
	if s.contracts, err = devnet.CompileContracts(t.Context(), tools, filepath.Join("..", "contracts")); err != nil {
		t.Fatal(err)
	}

	s.payer = s.richKey(t)
	s.factory, s.doorFactory = s.deploy(t, "WalletFactory"), s.deploy(t, "DoorFactory")
	s.wallet = s.deploy(t, "Wallet1271", s.payer.Address)
	s.fund(t, s.wallet)

	factories := []string{s.factory.Hex(), s.doorFactory.Hex()}
	s.node = newNode(t, s.chain.URL())
	s.ours = s.startOurs(t, s.chain.URL(), "20s", map[string]any{"allow_any_asset": true, "eip6492_factories": factories})
	s.strict = s.startOurs(t, s.node.URL, "1s", map[string]any{"assets": []any{map[string]any{"address": s.chain.USDC().Hex(), "min_amount": 10_000}}})
	allowed := "FACTORIES=" + strings.Join(factories, ",")
	start := []struct {
		to   **facilitator
		node string
		env  []string
	}{
		{&s.peer, s.chain.URL(), []string{allowed}},
		{&s.simulating, s.chain.URL(), []string{allowed, "SIMULATE_IN_SETTLE=on"}},
		{&s.hasty, s.node.URL, []string{"CONFIRMATION_TIMEOUT=300"}},
	}
	failed := make([]error, len(start))
	var all sync.WaitGroup
	for i, p := range start {
		wallet := s.richKey(t)
		all.Go(func() { *p.to, failed[i] = s.startPeer(t, p.node, wallet, p.env) })
	}
	all.Wait()
	for _, err := range failed {
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func closing(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// startOurs runs the service in this process until the test ends.
func (s *site) startOurs(t *testing.T, nodeURL, wait string, more map[string]any) *facilitator {
	t.Helper()
	var lanes []map[string]string
	out := new(facilitator)
	for range 2 {
		key := s.richKey(t)
		lanes, out.wallets = append(lanes, map[string]string{"private_key": key.Hex()}), append(out.wallets, key.Address)
	}
	settings := map[string]any{"rpc_url": nodeURL, "lanes": lanes, "poll_interval": "20ms", "resend_interval": "500ms", "lane_lease": "2s"}
	maps.Copy(settings, more)
	text, err := json.Marshal(map[string]any{
		"http":     map[string]any{"address": "127.0.0.1:0", "drain_delay": "0s", "drain_timeout": "10s"},
		"clients":  map[string]any{"anonymous": map[string]any{"scopes": []string{"verify", "settle", "read"}, "rate": 0, "gas_per_day": 0}},
		"metrics":  map[string]any{"address": "off"},
		"log":      map[string]any{"level": "debug"},
		"database": map[string]any{"url": s.database.Database(t)},
		"settle":   map[string]any{"wait": wait},
		"chains":   map[string]any{s.chain.Network(): settings},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load("", nil, text)
	if err != nil {
		t.Fatal(err)
	}
	written := new(lockedBuffer)
	log := slog.New(slog.NewJSONHandler(written, &slog.HandlerOptions{Level: cfg.Log.Level}))
	a, err := app.New(t.Context(), cfg, app.Options{Log: log, Now: time.Now, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("service: %v", err)
		}
		if t.Failed() && testing.Verbose() {
			t.Logf("service log:\n%s", written.String())
		}
	})
	out.url = a.URL()
	return out
}

// startPeer runs the official facilitator until the test ends. Its wallet keeps
// no count of its own: payments that it does not get to send would leave gaps.
func (s *site) startPeer(t *testing.T, nodeURL string, wallet devnet.Key, env []string) (*facilitator, error) {
	t.Helper()
	const serves = "serving http://"
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	peer, err := devnet.StartCommand(ctx, devnet.CommandConfig{
		Path: node, Args: []string{filepath.Join(s.tools, "peer", "facilitator.mjs")}, Ready: serves,
		Env: append([]string{
			"NODE_ENV=production", "RPC_URL=" + nodeURL, "NETWORK=" + s.chain.Network(), "PRIVATE_KEY=" + wallet.Hex(),
			"NONCE_MANAGER=off", "POLLING_INTERVAL=20",
		}, env...),
	})
	if err != nil {
		return nil, fmt.Errorf("start the official facilitator: %w", err)
	}
	t.Cleanup(func() { closing(t, peer) })
	return &facilitator{url: "http://" + strings.TrimPrefix(peer.Ready(), serves), wallets: []common.Address{wallet.Address}, oneAtATime: new(sync.Mutex)}, nil
}

// newKey returns a key that nobody else has.
func (s *site) newKey() devnet.Key {
	return devnet.Keys(fmt.Sprintf("conformance %d", s.accounts.Add(1)), 1)[0]
}

// richKey is a new one with 1,000 ETH and 1,000 USDC.
func (s *site) richKey(t *testing.T) devnet.Key {
	t.Helper()
	key := s.newKey()
	s.fund(t, key.Address)
	if err := s.chain.FundETH(t.Context(), new(big.Int).Exp(big.NewInt(10), big.NewInt(21), nil), key.Address); err != nil {
		t.Fatal(err)
	}
	return key
}

// fund gives an address 1,000 USDC.
func (s *site) fund(t *testing.T, to common.Address) {
	t.Helper()
	if err := s.chain.FundUSDC(t.Context(), big.NewInt(1_000_000_000), to); err != nil {
		t.Fatal(err)
	}
}

func (s *site) contract(t *testing.T, name string) devnet.Contract {
	t.Helper()
	contract, ok := s.contracts[name]
	if !ok {
		t.Fatalf("no contract %s", name)
	}
	return contract
}

func (s *site) deploy(t *testing.T, name string, args ...any) common.Address {
	t.Helper()
	code, err := s.contract(t, name).Creation(args...)
	if err != nil {
		t.Fatal(err)
	}
	address, err := s.chain.Deploy(t.Context(), code)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// token deploys a test token called by its contract, of which the payer has 1,000.
func (s *site) token(t *testing.T, name string) common.Address {
	t.Helper()
	token := s.deploy(t, name, name, "2")
	s.send(t, token, s.pack(t, name, "mint", s.payer.Address, big.NewInt(1_000_000_000)))
	return token
}

func (s *site) pack(t *testing.T, contract, method string, args ...any) []byte {
	t.Helper()
	data, err := s.contract(t, contract).ABI.Pack(method, args...)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// send sends a transaction of somebody who is no facilitator, and waits for its
// success.
func (s *site) send(t *testing.T, to common.Address, data []byte) {
	t.Helper()
	s.sendFrom(t, s.newKey().Address, to, data)
}

func (s *site) sendFrom(t *testing.T, from, to common.Address, data []byte) {
	t.Helper()
	hash := s.submit(t, from, to, data)
	var receipt *types.Receipt
	eventually(t, "a receipt", func() bool {
		receipt, _ = s.chain.Client().TransactionReceipt(t.Context(), hash)
		return receipt != nil
	})
	if receipt.Status != types.ReceiptStatusSuccessful {
		t.Fatalf("transaction %s reverted", hash)
	}
}

// submit sends a transaction for more than facilitators pay.
func (s *site) submit(t *testing.T, from, to common.Address, data []byte) (hash common.Hash) {
	t.Helper()
	do(t, s.chain.FundETH(t.Context(), new(big.Int).Exp(big.NewInt(10), big.NewInt(20), nil), from))
	do(t, s.chain.RPC().CallContext(t.Context(), nil, "anvil_impersonateAccount", from))
	const gwei = 1_000_000_000
	transaction := map[string]any{
		"from": from, "to": to, "data": hexutil.Bytes(data), "gas": hexutil.Uint64(1_000_000),
		"maxFeePerGas": hexutil.Uint64(100 * gwei), "maxPriorityFeePerGas": hexutil.Uint64(50 * gwei),
	}
	do(t, s.chain.RPC().CallContext(t.Context(), &hash, "eth_sendTransaction", transaction))
	return hash
}

// delegate has an account's code be that of a contract (EIP-7702).
func (s *site) delegate(t *testing.T, account, to common.Address) {
	t.Helper()
	if err := s.chain.SetCode(t.Context(), account, types.AddressToDelegation(to)); err != nil {
		t.Fatal(err)
	}
}

// do is for what the chain does at once.
func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition of another process, looking often; it fails
// the test after half a minute.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
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
