package evm_test

import (
	"bytes"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/devnet"
)

const patience = time.Minute

// startChain starts a chain that ends with the test. Without tools the test is
// skipped, but in continuous integration they must be there.
func startChain(t *testing.T) *devnet.Chain {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a process")
	}
	if _, err := devnet.Tools(""); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	c, err := devnet.StartChain(t.Context(), devnet.ChainConfig{Network: devnet.Base})
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

func target(t *testing.T, c *devnet.Chain) *url.URL {
	t.Helper()
	u, err := url.Parse(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func dial(t *testing.T, url string) *evm.Client {
	t.Helper()
	c, err := evm.Dial(t.Context(), url, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestSimulationsAtOnceShareRequests: fewer requests than callers, and each
// caller has its own verdict, whoever it shares with.
func TestSimulationsAtOnceShareRequests(t *testing.T) {
	t.Parallel()
	c := startChain(t)
	var requests atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(target(t, c))
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy.Transport = transport
	gate := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		<-gate
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	simulator := evm.NewSimulator(dial(t, s.URL))

	// A wallet that burns all gas it is given, and one that reverts.
	burner, reverter := common.Address{19: 0xb0}, common.Address{19: 0xb1}
	for a, code := range map[common.Address][]byte{burner: {0x5b, 0x60, 0x00, 0x56}, reverter: {0x60, 0x00, 0x60, 0x00, 0xfd}} {
		if err := c.SetCode(t.Context(), a, code); err != nil {
			t.Fatal(err)
		}
	}
	payer := devnet.Keys("payer", 1)[0].Address
	if err := c.FundUSDC(t.Context(), big.NewInt(42), payer); err != nil {
		t.Fatal(err)
	}
	const n = 200
	var callers, queued sync.WaitGroup
	queued.Add(n)
	for i := range n {
		callers.Go(func() {
			to := chain.Address(c.USDC())
			hostile := i%10 == 3 || i%10 == 4
			switch i % 10 {
			case 3:
				to = chain.Address(burner)
			case 4:
				to = chain.Address(reverter)
			}
			ctx := evm.Waiting(t.Context(), sync.OnceFunc(queued.Done))
			got, err := simulator.Simulate(ctx, evm.Simulation{
				Message: evm.Message{To: to, Data: evm.BalanceOfData(chain.Address(payer)), Gas: 200_000},
				Payer:   chain.Address{0: 1, 19: byte(i)}, Sharable: i%2 == 0,
			})
			if err != nil || got.AtLeast == 0 || got.OK == hostile {
				t.Errorf("%d: %+v, %v", i, got, err)
			}
		})
	}
	queued.Wait()
	close(gate)
	callers.Wait()
	if got := requests.Load(); got > n/4 {
		t.Errorf("%d callers made %d requests", n, got)
	}
}

// TestALoneSimulationIsOneCall once the chain has told that its code sees the
// height.
func TestALoneSimulationIsOneCall(t *testing.T) {
	t.Parallel()
	c := startChain(t)
	proxy := httputil.NewSingleHostReverseProxy(target(t, c))
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy.Transport = transport
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked = append(asked, string(body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	simulator := evm.NewSimulator(dial(t, s.URL))
	for i := range 3 {
		if i == 2 {
			if err := c.Mine(t.Context(), 5); err != nil {
				t.Fatal(err)
			}
		}
		head, err := c.Client().BlockNumber(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := simulator.Simulate(t.Context(), evm.Simulation{
			Message:  evm.Message{To: chain.Address(c.USDC()), Data: evm.BalanceOfData(chain.Address{1}), Gas: 200_000},
			Sharable: true,
		})
		if err != nil || !got.OK || got.AtLeast != head {
			t.Errorf("%d: %+v, %v, at %d", i, got, err, head)
		}
	}
	for i, body := range asked {
		if lone := !strings.Contains(body, "eth_blockNumber"); lone != (i > 0) {
			t.Errorf("%d asked %s", i, body)
		}
	}
}

func TestALookAtARealChain(t *testing.T) {
	t.Parallel()
	c := startChain(t)
	client := dial(t, c.URL())
	head, found, err := client.Look(t.Context(), []chain.Hash{{1}})
	if err != nil || head.Number == 0 || head.GasLimit == 0 || found[chain.Hash{1}] != (evm.Lookup{}) {
		t.Errorf("%+v, %+v, %v", head, found, err)
	}
	safe, err := client.Safe(t.Context())
	if err != nil || safe.Number > head.Number {
		t.Errorf("safe %+v, %v", safe, err)
	}
	key := devnet.Keys("lane", 1)[0]
	if err := c.FundETH(t.Context(), big.NewInt(1e18), key.Address); err != nil {
		t.Fatal(err)
	}
	signer, err := evm.NewKeySigner(key.Hex(), c.ChainID())
	if err != nil {
		t.Fatal(err)
	}
	var raws [][]byte
	var hashes []chain.Hash
	for nonce := range uint64(3) {
		signed, err := signer.Sign(t.Context(), evm.Unsigned{
			Call: chain.Call{To: signer.Address()}, WalletNonce: nonce, GasLimit: 21_000, Fees: chain.Fees{FeeCap: 1e10, TipCap: 1e9},
		})
		if err != nil {
			t.Fatal(err)
		}
		raws, hashes = append(raws, signed.Raw), append(hashes, signed.Hash)
	}
	if err := c.SetAutomine(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	senders := evm.NewSenders(client, dial(t, c.URL()))
	for i, s := range senders.SendMany(t.Context(), raws) {
		if s.Err != nil {
			t.Errorf("%d: %+v", i, s)
		}
	}
	senders.Close()
	if a, err := client.Account(t.Context(), signer.Address()); err != nil || a.Nonce != 0 || a.Pending != 3 {
		t.Errorf("%+v, %v", a, err)
	}
	if err := c.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	head, found, err = client.Look(t.Context(), hashes)
	for _, h := range hashes {
		if r := found[h].Receipt; err != nil || r == nil || r.BlockHash != head.Hash || r.Cost().Sign() == 0 {
			t.Errorf("%s: %+v, %v", h, found[h], err)
		}
	}
}
