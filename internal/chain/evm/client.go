// Package evm speaks to EVM nodes: JSON-RPC with three-valued answers (I7),
// ABI and EIP-712 encoding by hand, signatures, and the facts of a token.
package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"facilitator/internal/chain"
)

// Client asks one node. Every method answers within the timeout given to Dial
// and returns one of: a result, a *RevertError (the EVM judged the call), or an
// error that wraps chain.ErrUnavailable (the node could not tell). No error
// holds the node's URL (I10). It is safe for concurrent use.
type Client struct {
	rpc     *rpc.Client
	http    *http.Client
	timeout time.Duration
	scrub   scrubber
}

// Dial prepares a client for an http or https URL. It does not connect.
func Dial(ctx context.Context, url string, timeout time.Duration) (*Client, error) {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns:        256,
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	client := &http.Client{Transport: transport}
	c, err := rpc.DialOptions(ctx, url, rpc.WithHTTPClient(client))
	if err != nil {
		return nil, errors.New("rpc url is not usable") // err holds pieces of it
	}
	return &Client{rpc: c, http: client, timeout: timeout, scrub: newScrubber(url)}, nil
}

// Close drops idle connections.
func (c *Client) Close() {
	c.rpc.Close()
	c.http.CloseIdleConnections()
}

// Message is an eth_call: From pays nothing, Gas bounds what foreign code may
// burn on the node (I8). Block is the height whose state it runs on, 0 for the
// latest; a node that does not have that block can't tell.
type Message struct {
	From, To chain.Address
	Data     []byte
	Gas      uint64
	Block    uint64
}

func (m Message) block() string {
	if m.Block == 0 {
		return "latest"
	}
	return hexutil.EncodeUint64(m.Block)
}

func (m Message) arg() map[string]any {
	arg := map[string]any{
		"from":  common.Address(m.From),
		"to":    common.Address(m.To),
		"input": hexutil.Bytes(m.Data),
	}
	if m.Gas != 0 {
		arg["gas"] = hexutil.Uint64(m.Gas)
	}
	return arg
}

// query is one JSON-RPC call: err is its own outcome inside a batch.
type query struct {
	method string
	args   []any
	result any
	err    error
}

// hexBytes is hexutil.Bytes that does not take an empty text for no bytes: a
// node that answers nothing has told nothing (I7).
type hexBytes []byte

func (b *hexBytes) UnmarshalJSON(text []byte) error {
	if len(text) < 4 { // "0x" is the least
		return errors.New("not hex data")
	}
	return (*hexutil.Bytes)(b).UnmarshalJSON(text)
}

func callQuery(m Message, result *hexBytes) *query {
	return &query{method: "eth_call", args: []any{m.arg(), m.block()}, result: result}
}

func codeQuery(a chain.Address, result *hexBytes) *query {
	return &query{method: "eth_getCode", args: []any{common.Address(a), "latest"}, result: result}
}

// ask sends one query, or several as one JSON-RPC batch: one round trip. The
// error is non-nil only if the whole trip failed; single outcomes are in q.err.
func (c *Client) ask(ctx context.Context, qs ...*query) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if len(qs) == 1 {
		qs[0].err = c.scrub.classify(c.rpc.CallContext(ctx, qs[0].result, qs[0].method, qs[0].args...))
		return qs[0].err
	}
	batch := make([]rpc.BatchElem, len(qs))
	for i, q := range qs {
		batch[i] = rpc.BatchElem{Method: q.method, Args: q.args, Result: q.result}
	}
	if err := c.rpc.BatchCallContext(ctx, batch); err != nil {
		return c.scrub.unavailable(err)
	}
	for i, q := range qs {
		q.err = c.scrub.classify(batch[i].Error)
	}
	return nil
}

// maxBatch bounds a JSON-RPC batch: hosted nodes refuse large ones.
const maxBatch = 100

// askAll sends any number of queries, in as many batches as it takes.
func (c *Client) askAll(ctx context.Context, qs []*query) error {
	for part := range slices.Chunk(qs, maxBatch) {
		if err := c.ask(ctx, part...); err != nil && len(part) > 1 {
			return err
		}
	}
	return nil
}

// Call runs eth_call.
func (c *Client) Call(ctx context.Context, m Message) ([]byte, error) {
	var out hexBytes
	err := c.ask(ctx, callQuery(m, &out))
	return out, err
}

// CallLatest runs eth_call on the latest state and returns a height that this
// state is at or above, in one round trip.
func (c *Client) CallLatest(ctx context.Context, m Message) (data []byte, atLeast uint64, _ error) {
	var out hexBytes
	var height hexutil.Uint64
	number, call := &query{method: "eth_blockNumber", result: &height}, callQuery(m, &out)
	if err := c.ask(ctx, number, call); err != nil {
		return nil, 0, err
	}
	if number.err != nil {
		return nil, 0, number.err
	}
	return out, uint64(height), call.err
}

// Result is one outcome of CallMany.
type Result struct {
	Data []byte
	Err  error
}

// CallMany runs several eth_calls, each on its own copy of the state, in one
// round trip.
func (c *Client) CallMany(ctx context.Context, ms ...Message) ([]Result, error) {
	outs := make([]hexBytes, len(ms))
	qs := make([]*query, len(ms))
	for i, m := range ms {
		qs[i] = callQuery(m, &outs[i])
	}
	if err := c.ask(ctx, qs...); err != nil && len(ms) > 1 {
		return nil, err
	}
	results := make([]Result, len(ms))
	for i := range ms {
		results[i] = Result{Data: outs[i], Err: qs[i].err}
	}
	return results, nil
}

// Code returns the code at an address, empty where there is none.
func (c *Client) Code(ctx context.Context, a chain.Address) ([]byte, error) {
	var out hexBytes
	err := c.ask(ctx, codeQuery(a, &out))
	return out, err
}

// ChainID returns eth_chainId.
func (c *Client) ChainID(ctx context.Context) (uint64, error) {
	var id hexutil.Uint64
	err := c.ask(ctx, &query{method: "eth_chainId", result: &id})
	return uint64(id), err
}

// EstimateGas returns eth_estimateGas; a *RevertError where the call fails.
func (c *Client) EstimateGas(ctx context.Context, m Message) (uint64, error) {
	var gas hexutil.Uint64
	err := c.ask(ctx, &query{method: "eth_estimateGas", args: []any{m.arg()}, result: &gas})
	return uint64(gas), err
}

// Account is a wallet as the node sees it at the latest block.
type Account struct {
	Balance *big.Int // wei
	// Nonce counts mined transactions.
	Nonce uint64
}

// Account reads balance and wallet nonce in one round trip.
func (c *Client) Account(ctx context.Context, a chain.Address) (Account, error) {
	var (
		balance hexutil.Big
		nonce   hexutil.Uint64
	)
	qs := []*query{
		{method: "eth_getBalance", args: []any{common.Address(a), "latest"}, result: &balance},
		{method: "eth_getTransactionCount", args: []any{common.Address(a), "latest"}, result: &nonce},
	}
	if err := c.ask(ctx, qs...); err != nil {
		return Account{}, err
	}
	for _, q := range qs {
		if q.err != nil {
			return Account{}, q.err
		}
	}
	return Account{Balance: balance.ToInt(), Nonce: uint64(nonce)}, nil
}

type header struct {
	Number    hexutil.Uint64 `json:"number"`
	Hash      common.Hash    `json:"hash"`
	Timestamp hexutil.Uint64 `json:"timestamp"`
	BaseFee   hexutil.Uint64 `json:"baseFeePerGas"`
}

func (h *header) head() chain.Head {
	return chain.Head{Number: uint64(h.Number), Hash: chain.Hash(h.Hash), Time: uint64(h.Timestamp), BaseFee: uint64(h.BaseFee)}
}

func headQuery(block string, h **header) *query {
	return &query{method: "eth_getBlockByNumber", args: []any{block, false}, result: h}
}

// Head reads the latest block's header.
func (c *Client) Head(ctx context.Context) (chain.Head, error) { return c.headAt(ctx, "latest") }

// Finalized reads the header behind the node's "finalized" tag.
func (c *Client) Finalized(ctx context.Context) (chain.Head, error) {
	return c.headAt(ctx, "finalized")
}

// HeadByNumber reads the canonical header at a height.
func (c *Client) HeadByNumber(ctx context.Context, n uint64) (chain.Head, error) {
	return c.headAt(ctx, hexutil.EncodeUint64(n))
}

func (c *Client) headAt(ctx context.Context, block string) (chain.Head, error) {
	var h *header
	if err := c.ask(ctx, headQuery(block, &h)); err != nil {
		return chain.Head{}, err
	}
	if h == nil {
		return chain.Head{}, fmt.Errorf("%w: it has no block %s", chain.ErrUnavailable, block)
	}
	return h.head(), nil
}

// CanonicalHashes reads the block hash at each height. One that the node does
// not have, or can't tell, is left out.
func (c *Client) CanonicalHashes(ctx context.Context, numbers []uint64) (map[uint64]chain.Hash, error) {
	headers := make([]*header, len(numbers))
	qs := make([]*query, len(numbers))
	for i, n := range numbers {
		qs[i] = headQuery(hexutil.EncodeUint64(n), &headers[i])
	}
	if err := c.askAll(ctx, qs); err != nil {
		return nil, err
	}
	hashes := make(map[uint64]chain.Hash, len(numbers))
	for i, q := range qs {
		if q.err == nil && headers[i] != nil {
			hashes[numbers[i]] = chain.Hash(headers[i].Hash)
		}
	}
	return hashes, nil
}

// SuggestTip returns the node's eth_maxPriorityFeePerGas in wei.
func (c *Client) SuggestTip(ctx context.Context) (uint64, error) {
	var tip hexutil.Big
	if err := c.ask(ctx, &query{method: "eth_maxPriorityFeePerGas", result: &tip}); err != nil {
		return 0, err
	}
	if !tip.ToInt().IsUint64() {
		return 0, fmt.Errorf("%w: it suggests an absurd tip", chain.ErrUnavailable)
	}
	return tip.ToInt().Uint64(), nil
}
