package evm

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Of go-ethereum's simulated backend: one is never ended, the other looks
		// only every 30 s whether its database is closed.
		goleak.IgnoreTopFunction("github.com/ethereum/go-ethereum/core.(*txSenderCacher).cache"),
		goleak.IgnoreTopFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"),
	)
}

// Anvil's second key and what it is used for in the vectors below: the domain
// is USDC on Base Sepolia.
const (
	payerKey  = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
	payerText = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
	payToText = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
	usdcText  = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"

	vectorSignature = "0x2b69b5de4d31cbfb90ced871f0eed57b07d9edcd2341360e28807cc08d0bf3ab" +
		"09104fcb264820733f96f2b8fdd6ff1f6b1d9ecb5203f8934d869c51d4cf5aa51c"
	vectorDigest = "0x3436604614080630e93ae2143fcc0a280c83b7fe1ee3703aea9636f289775ab1"
)

func address(tb testing.TB, s string) chain.Address {
	tb.Helper()
	a, err := chain.ParseAddress(s)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func hash(tb testing.TB, s string) chain.Hash {
	tb.Helper()
	h, err := chain.ParseHash(s)
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// vector is the authorization that vectorSignature signs.
func vector(tb testing.TB) Authorization {
	tb.Helper()
	return Authorization{
		From: address(tb, payerText), To: address(tb, payToText), Value: x402.NewUint256(10000),
		ValidBefore: x402.NewUint256(2000000000), Nonce: hash(tb, "0x"+strings.Repeat("11", 32)),
	}
}

func vectorDomain(tb testing.TB) chain.Hash {
	tb.Helper()
	return DomainSeparator("USDC", "2", 84532, address(tb, usdcText))
}

// nodeError is a JSON-RPC error object.
type nodeError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

// node answers JSON-RPC calls, alone and in batches, like a node does.
type node func(method string, params []json.RawMessage) (any, *nodeError)

type nodeRequest struct {
	ID     json.RawMessage   `json:"id"`
	Method string            `json:"method"`
	Params []json.RawMessage `json:"params"`
}

func (n node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client hung up
	}
	answer := func(q nodeRequest) map[string]any {
		result, failed := n(q.Method, q.Params)
		if failed != nil {
			return map[string]any{"jsonrpc": "2.0", "id": q.ID, "error": failed}
		}
		return map[string]any{"jsonrpc": "2.0", "id": q.ID, "result": result}
	}
	w.Header().Set("Content-Type", "application/json")
	var batch []nodeRequest
	if json.Unmarshal(body, &batch) == nil {
		answers := make([]map[string]any, len(batch))
		for i, q := range batch {
			answers[i] = answer(q)
		}
		_ = json.NewEncoder(w).Encode(answers)
		return
	}
	var q nodeRequest
	if json.Unmarshal(body, &q) != nil {
		http.Error(w, "not JSON-RPC", http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(answer(q))
}

// The URL of every node in these tests has credentials, which no error may hold.
const (
	urlUser     = "operator"
	urlPassword = "hunter2"
	urlKey      = "0123456789abcdef"
)

// credentialed puts user, password and a key into a test server's URL.
func credentialed(base string) string {
	return strings.Replace(base, "http://", "http://"+urlUser+":"+urlPassword+"@", 1) + "/v3/" + urlKey + "?key=" + urlKey
}

func dial(t *testing.T, url string, timeout time.Duration) *Client {
	t.Helper()
	c, err := Dial(t.Context(), url, timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// patience is the timeout of a client that nothing should keep waiting.
const patience = time.Minute

// serve starts a node and a client for it.
func serve(t *testing.T, h http.Handler) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return dial(t, credentialed(s.URL), patience)
}

// discreet fails the test if an error tells a secret of the URL (I10).
func discreet(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, secret := range []string{urlUser, urlPassword, urlKey, "http://", "https://", "/v3/"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells %q: %v", secret, err)
		}
	}
}
