package evm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"facilitator/internal/chain"
)

// Support says whether a node can do something. Unknown is an answer too: a
// node that was busy has told nothing (I7).
type Support string

// What a node's answers say of a feature.
const (
	Supported      Support = "yes"
	Unsupported    Support = "no"
	SupportUnknown Support = "unknown"
)

// Features are what one node can do beside what every node must.
type Features struct {
	// Safe, Finalized and Pending are block tags that it answers with a block.
	Safe, Finalized, Pending Support
	// SyncSend is eth_sendRawTransactionSync (EIP-7966).
	SyncSend Support
	// Batch is the largest JSON-RPC batch of those tried that it answered whole; 0
	// if none.
	Batch int
}

// Features asks the client's first node what it can do, in at most seven small
// requests. Nothing that is sent can become a transaction.
func (c *Client) Features(ctx context.Context) Features {
	n := c.nodes[0]
	var f Features
	for tag, support := range map[string]*Support{"safe": &f.Safe, "finalized": &f.Finalized, "pending": &f.Pending} {
		*support = n.knowsTag(ctx, tag)
	}
	f.SyncSend = n.sendsSync(ctx)
	f.Batch = n.batchLimit(ctx)
	return f
}

// knowsTag says whether the node has a block for a tag. Nodes without the tag
// answer null or an error.
func (n *endpoint) knowsTag(ctx context.Context, tag string) Support {
	var block *struct{} // a pending block has neither a hash nor, at some nodes, a number
	err := n.call(ctx, &block, "eth_getBlockByNumber", tag, false)
	coded := rpc.Error(nil)
	switch {
	case err == nil && block != nil:
		return Supported
	case err == nil, errors.As(err, &coded):
		return Unsupported
	default:
		return SupportUnknown
	}
}

// sendsSync hands over bytes that are no transaction: a node that has the method
// says what is wrong with them.
func (n *endpoint) sendsSync(ctx context.Context) Support {
	var result any
	err := n.call(ctx, &result, "eth_sendRawTransactionSync", hexutil.Bytes{})
	coded := rpc.Error(nil)
	if !errors.As(err, &coded) {
		return SupportUnknown
	}
	const methodNotFound, methodNotSupported, invalidParams, rejected = -32601, -32004, -32602, -32000
	text := strings.ToLower(coded.Error())
	for _, missing := range []string{"not found", "not supported", "unsupported", "does not exist", "not available", "not allowed", "not whitelisted"} {
		if strings.Contains(text, missing) {
			return Unsupported
		}
	}
	switch coded.ErrorCode() {
	case methodNotFound, methodNotSupported:
		return Unsupported
	case invalidParams, rejected:
		return Supported
	default:
		return SupportUnknown
	}
}

// batchLimit tries the largest batch that we ever send, then smaller ones. The
// question costs a node nothing.
func (n *endpoint) batchLimit(ctx context.Context) int {
	for _, size := range []int{maxBatch, 25, 10} {
		qs := make([]*query, size)
		for i := range qs {
			qs[i] = &query{method: "eth_chainId", result: new(hexutil.Uint64)}
		}
		if n.ask(ctx, qs) != nil {
			continue
		}
		whole := true
		for _, q := range qs {
			whole = whole && q.err == nil
		}
		if whole {
			return size
		}
	}
	return 0
}

// call is one request whose error is as the library has it, codes and all. It is
// for asking about the node itself; nothing of it may be shown.
func (n *endpoint) call(ctx context.Context, result any, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	return n.rpc.CallContext(ctx, result, method, args...) //nolint:wrapcheck // as it is
}

// Check subscribes to newHeads once, and returns the
// latest head and the chain that the node serves. No error holds the URL (I10).
func (f *HeadFeed) Check(ctx context.Context) (chainID uint64, _ chain.Head, _ error) {
	client, sub, head, _, err := f.subscribe(ctx)
	if err != nil {
		return 0, chain.Head{}, f.scrub.unavailable(err)
	}
	defer client.Close()
	defer sub.Unsubscribe()
	var id hexutil.Uint64
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if err := client.CallContext(ctx, &id, "eth_chainId"); err != nil {
		return 0, chain.Head{}, f.scrub.unavailable(fmt.Errorf("chain id: %w", err))
	}
	return uint64(id), head, nil
}
