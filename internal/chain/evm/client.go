// Package evm speaks to EVM nodes: JSON-RPC with three-valued answers (I7),
// ABI and EIP-712 encoding by hand, signatures, and the facts of a token.
package evm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"facilitator/internal/chain"
)

// Client asks the nodes of one chain. Every method returns one of: a result, a
// *RevertError (the EVM judged the call), or an error that wraps
// chain.ErrUnavailable (the nodes could not tell). A node answers within the
// timeout or has not answered. No error holds a node's URL (I10). It is safe for
// concurrent use.
type Client struct {
	nodes []*endpoint
	opts  Options
}

// Node says how a node is reached.
type Node struct {
	// Name in logs and metrics.
	Name string
	// URL, http or https. Often holds a key.
	URL string
}

// Options of a client.
type Options struct {
	// Timeout of one round trip to one node.
	Timeout time.Duration
	// Network in metrics.
	Network string
	// ChainID that each node of several must serve; 0 is not checked.
	ChainID uint64
	// MaxLag is how many blocks a node may be behind the one that is furthest.
	MaxLag  uint64
	Now     func() time.Time
	Metrics *Metrics // nil counts nothing
	// Tracer has spans of requests made; nil makes none.
	Tracer trace.TracerProvider
}

// DialAll prepares a client for one node or more, the preferred first. It does
// not connect.
func DialAll(ctx context.Context, nodes []Node, o Options) (*Client, error) {
	c := &Client{opts: o}
	for _, cfg := range nodes {
		n, err := newEndpoint(ctx, cfg, o)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("%s: %w", cfg.Name, err)
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// Dial prepares a client for one node.
func Dial(ctx context.Context, url string, timeout time.Duration) (*Client, error) {
	return DialAll(ctx, []Node{{Name: "node", URL: url}}, Options{Timeout: timeout, Now: time.Now}) //nolint:forbidigo // the system's clock is this one's
}

// Close drops idle connections.
func (c *Client) Close() {
	for _, n := range c.nodes {
		n.close()
	}
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
	// inside reads the height of the state that an eth_call ran on from its answer,
	// where it was asked for there.
	inside func(answer []byte) (uint64, bool)
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

// ask sends one query, or several as one JSON-RPC batch: one round trip to one
// node. The error is non-nil only if the whole trip failed; single outcomes are in
// q.err.
func (c *Client) ask(ctx context.Context, qs ...*query) error {
	if len(c.nodes) == 1 {
		err := c.nodes[0].ask(ctx, qs)
		if ctx.Err() == nil { // else nobody waited for it
			c.nodes[0].metrics.up(!errors.Is(err, chain.ErrUnavailable))
		}
		return err
	}
	return c.askAny(ctx, qs)
}

// maxBatch bounds a JSON-RPC batch: hosted nodes refuse large ones.
const maxBatch = 100

// maxParallel bounds how many batches of one question are under way at a time.
const maxParallel = 4

// askAll sends any number of queries, in as many batches as it takes, several
// at a time. The error is non-nil only if a whole trip failed; the queries of
// that trip hold it too.
func (c *Client) askAll(ctx context.Context, qs []*query) error {
	var trips errgroup.Group // not of one context: a trip that fails ends no other
	trips.SetLimit(maxParallel)
	for part := range slices.Chunk(qs, maxBatch) {
		trips.Go(func() error {
			err := c.ask(ctx, part...)
			if len(part) == 1 {
				return nil // its own outcome is all there is
			}
			for _, q := range part {
				if err != nil {
					q.err = err
				}
			}
			return err
		})
	}
	return trips.Wait()
}

// Call runs eth_call.
func (c *Client) Call(ctx context.Context, m Message) ([]byte, error) {
	var out hexBytes
	err := c.ask(ctx, callQuery(m, &out))
	return out, err
}

// Result is one outcome of CallsAndCode.
type Result struct {
	Data []byte
	Err  error
}

// CallsAndCode runs several eth_calls, each on its own copy of the state, and
// reads the code at an address at the latest block, in one round trip.
func (c *Client) CallsAndCode(ctx context.Context, of chain.Address, ms ...Message) ([]Result, []byte, error) {
	var code hexBytes
	outs := make([]hexBytes, len(ms))
	qs := make([]*query, len(ms), len(ms)+1)
	for i, m := range ms {
		qs[i] = callQuery(m, &outs[i])
	}
	last := codeQuery(of, &code)
	if err := c.ask(ctx, append(qs, last)...); err != nil {
		return nil, nil, notJudged(err)
	}
	if last.err != nil {
		return nil, nil, notJudged(last.err)
	}
	results := make([]Result, len(ms))
	for i := range ms {
		results[i] = Result{Data: outs[i], Err: qs[i].err}
	}
	return results, code, nil
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
