package long

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
)

// hostileNode stands between the service and its node and treats requests as
// the worst providers do, by chance, until it is healed.
type hostileNode struct {
	rig    func() *rig // counts
	target string
	client *http.Client
	server *httptest.Server
	evil   atomic.Bool

	mu   sync.Mutex
	dice *rand.Rand
}

func newHostileNode(t *testing.T, target string, r func() *rig) *hostileNode {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	n := &hostileNode{rig: r, target: target, client: &http.Client{Transport: transport}, dice: dice("node", 0)}
	n.server = httptest.NewServer(n)
	t.Cleanup(func() {
		n.server.Close()
		transport.CloseIdleConnections()
	})
	return n
}

// call is one JSON-RPC call. A raw message that is absent is null.
type rpcCall struct {
	Version string            `json:"jsonrpc"`
	ID      json.RawMessage   `json:"id"`
	Method  string            `json:"method"`
	Params  []json.RawMessage `json:"params"`
}

type rpcReply struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   json.RawMessage `json:"error,omitempty"`
}

// fault answers a request in a way of its own.
type fault struct {
	name   string
	weight int
	// sends says that it is for requests with a transaction in them only.
	sends bool
	serve func(n *hostileNode, w http.ResponseWriter, r *http.Request, body []byte)
}

// faults of a node; about one request in five meets one.
func faults() []fault {
	return []fault{
		{"slow", 40, false, (*hostileNode).slow},
		{"dropped", 15, false, func(_ *hostileNode, w http.ResponseWriter, _ *http.Request, _ []byte) { cutOff(w) }},
		{"answer lost", 20, false, func(n *hostileNode, w http.ResponseWriter, r *http.Request, body []byte) {
			_, _ = n.forward(r, body) // whatever it was
			cutOff(w)
		}},
		{"doubled", 20, false, func(n *hostileNode, w http.ResponseWriter, r *http.Request, body []byte) {
			_, _ = n.forward(r, body) // the second answer counts
			n.pass(w, r, body)
		}},
		{"429", 15, false, status(http.StatusTooManyRequests, `{"jsonrpc":"2.0","id":null,"error":{"code":-32005,"message":"limit exceeded"}}`)},
		{"500", 10, false, status(http.StatusInternalServerError, "internal error")},
		{"HTML", 10, false, status(http.StatusOK, "<html><body>maintenance</body></html>")},
		{"truncated", 10, false, (*hostileNode).truncated},
		{"one call failed", 20, false, (*hostileNode).oneFailed},
		{"stale", 40, false, (*hostileNode).stale},
		{"sent, but an error", 100, true, (*hostileNode).sentButError},
		{"sent, but 502", 50, true, func(n *hostileNode, w http.ResponseWriter, r *http.Request, body []byte) {
			_, _ = n.forward(r, body) // it is in the pool
			http.Error(w, "bad gateway", http.StatusBadGateway)
		}},
		{"swallowed", 50, true, (*hostileNode).swallowed},
	}
}

// honest is the weight of no fault.
const honest = 800

// pick throws the dice.
func (n *hostileNode) pick(sends bool) *fault {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := faults()
	total := honest
	for _, f := range list {
		if sends || !f.sends {
			total += f.weight
		}
	}
	at := n.dice.IntN(total) - honest
	for i, f := range list {
		if f.sends && !sends {
			continue
		}
		if at -= f.weight; at < 0 && at >= -f.weight {
			return &list[i]
		}
	}
	return nil
}

func (n *hostileNode) intN(most int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dice.IntN(most)
}

func (n *hostileNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the service hung up
	}
	if n.evil.Load() {
		if f := n.pick(bytes.Contains(body, []byte("eth_sendRawTransaction"))); f != nil {
			n.rig().count("node: "+f.name, 1)
			n.rig().count("faults", 1)
			f.serve(n, w, r, body)
			return
		}
	}
	n.pass(w, r, body)
}

// forward asks the real node.
func (n *hostileNode) forward(r *http.Request, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, n.target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	response, err := n.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

func (n *hostileNode) pass(w http.ResponseWriter, r *http.Request, body []byte) {
	answer, err := n.forward(r, body)
	if err != nil {
		cutOff(w)
		return
	}
	write(w, answer)
}

func write(w http.ResponseWriter, answer []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // the service may have hung up
}

func cutOff(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close() // it is to be cut off
	}
}

func status(code int, text string) func(*hostileNode, http.ResponseWriter, *http.Request, []byte) {
	return func(_ *hostileNode, w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, text) // the service may have hung up
	}
}

func (n *hostileNode) slow(w http.ResponseWriter, r *http.Request, body []byte) {
	if rest(r.Context(), time.Duration(n.intN(1500))*time.Millisecond) {
		n.pass(w, r, body)
	}
}

func (n *hostileNode) truncated(w http.ResponseWriter, r *http.Request, body []byte) {
	answer, err := n.forward(r, body)
	if err != nil {
		cutOff(w)
		return
	}
	write(w, answer[:len(answer)/2])
}

// each forwards a request, single or batch, and lets change alter the calls
// before and the replies after.
func (n *hostileNode) each(w http.ResponseWriter, r *http.Request, body []byte, before func(*rpcCall), after func([]rpcCall, []rpcReply)) {
	var calls []rpcCall
	batch := json.Unmarshal(body, &calls) == nil
	if !batch {
		calls = make([]rpcCall, 1)
		if json.Unmarshal(body, &calls[0]) != nil {
			n.pass(w, r, body)
			return
		}
	}
	asked := make([]rpcCall, len(calls))
	copy(asked, calls)
	for i := range calls {
		before(&calls[i])
	}
	changed, err := json.Marshal(calls)
	if err != nil {
		cutOff(w)
		return
	}
	answer, err := n.forward(r, changed)
	var replies []rpcReply
	if err != nil || json.Unmarshal(answer, &replies) != nil {
		cutOff(w)
		return
	}
	after(asked, replies)
	for i := range replies {
		if replies[i].Result == nil && replies[i].Error == nil {
			replies[i].Result = json.RawMessage("null")
		}
	}
	var out []byte
	if batch {
		out, err = json.Marshal(replies)
	} else {
		out, err = json.Marshal(replies[0])
	}
	if err != nil {
		cutOff(w)
		return
	}
	write(w, out)
}

func rpcError(text string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"code":-32000,"message":%q}`, text))
}

func (n *hostileNode) oneFailed(w http.ResponseWriter, r *http.Request, body []byte) {
	n.each(w, r, body, func(*rpcCall) {}, func(_ []rpcCall, replies []rpcReply) {
		i := n.intN(len(replies))
		replies[i].Result, replies[i].Error = nil, rpcError("header not found")
	})
}

// sentButError hands transactions on and says that something went wrong.
func (n *hostileNode) sentButError(w http.ResponseWriter, r *http.Request, body []byte) {
	n.each(w, r, body, func(*rpcCall) {}, func(calls []rpcCall, replies []rpcReply) {
		for i := range replies {
			if i < len(calls) && calls[i].Method == "eth_sendRawTransaction" {
				replies[i].Result, replies[i].Error = nil, rpcError("internal error")
			}
		}
	})
}

// swallowed takes transactions, answers with their hashes, and forgets them.
func (n *hostileNode) swallowed(w http.ResponseWriter, r *http.Request, body []byte) {
	n.each(w, r, body, func(c *rpcCall) {
		if c.Method == "eth_sendRawTransaction" {
			c.Method, c.Params = "eth_chainId", nil
		}
	}, func(calls []rpcCall, replies []rpcReply) {
		for i := range replies {
			if i < len(calls) && calls[i].Method == "eth_sendRawTransaction" {
				var raw hexutil.Bytes
				_ = json.Unmarshal(calls[i].Params[0], &raw)       // then the hash is that of nothing
				hash, _ := json.Marshal(crypto.Keccak256Hash(raw)) //nolint:errchkjson // 32 bytes
				replies[i].Result, replies[i].Error = hash, nil
			}
		}
	})
}

// stale answers as a node that is some blocks behind.
func (n *hostileNode) stale(w http.ResponseWriter, r *http.Request, body []byte) {
	answer, err := n.forward(r, []byte(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}`))
	var head struct{ Result string }
	if err != nil || json.Unmarshal(answer, &head) != nil {
		cutOff(w)
		return
	}
	height, err := strconv.ParseUint(strings.TrimPrefix(head.Result, "0x"), 16, 64)
	if err != nil {
		cutOff(w)
		return
	}
	at := height - min(height, uint64(1+n.intN(20)))
	n.each(w, r, body, func(c *rpcCall) { c.rewind(at) }, func(calls []rpcCall, replies []rpcReply) {
		for i := range replies {
			if i < len(calls) {
				replies[i].rewind(calls[i].Method, at)
			}
		}
	})
}

// rewind has a call look at an older block.
func (c *rpcCall) rewind(at uint64) {
	tag := json.RawMessage(fmt.Sprintf(`"0x%x"`, at))
	place := 1
	switch c.Method {
	case "eth_getBlockByNumber":
		place = 0
	case "eth_call", "eth_estimateGas", "eth_getBalance", "eth_getTransactionCount", "eth_getCode":
	default:
		return
	}
	params := append([]json.RawMessage(nil), c.Params...)
	if len(params) == place {
		params = append(params, tag)
	}
	if len(params) > place && (string(params[place]) == `"latest"` || string(params[place]) == `"pending"`) {
		params[place] = tag
	}
	c.Params = params
}

// rewind hides what is newer than a block.
func (a *rpcReply) rewind(method string, at uint64) {
	newer := func(field string) bool {
		var body map[string]json.RawMessage
		if json.Unmarshal(a.Result, &body) != nil {
			return false
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(strings.Trim(string(body[field]), `"`), "0x"), 16, 64)
		return err == nil && n > at
	}
	switch method {
	case "eth_blockNumber":
		a.Result = json.RawMessage(fmt.Sprintf(`"0x%x"`, at))
	case "eth_getTransactionReceipt":
		if newer("blockNumber") {
			a.Result = nil
		}
	case "eth_getBlockByNumber":
		if newer("number") {
			a.Result = nil
		}
	}
}
