package evm

import (
	"context"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/chain"
)

type header struct {
	Number    hexutil.Uint64 `json:"number"`
	Hash      common.Hash    `json:"hash"`
	Timestamp hexutil.Uint64 `json:"timestamp"`
	BaseFee   hexutil.Uint64 `json:"baseFeePerGas"`
	GasUsed   hexutil.Uint64 `json:"gasUsed"`
	GasLimit  hexutil.Uint64 `json:"gasLimit"`
}

func (h *header) head() chain.Head {
	return chain.Head{
		Number: uint64(h.Number), Hash: chain.Hash(h.Hash), Time: uint64(h.Timestamp), BaseFee: uint64(h.BaseFee),
		GasUsed: uint64(h.GasUsed), GasLimit: uint64(h.GasLimit),
	}
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

// Safe reads the header behind the node's "safe" tag.
func (c *Client) Safe(ctx context.Context) (chain.Head, error) { return c.headAt(ctx, "safe") }

// HeadByNumber reads the canonical header at a height.
func (c *Client) HeadByNumber(ctx context.Context, n uint64) (chain.Head, error) {
	return c.headAt(ctx, hexutil.EncodeUint64(n))
}

func (c *Client) headAt(ctx context.Context, block string) (chain.Head, error) {
	var h *header
	if err := c.ask(ctx, headQuery(block, &h)); err != nil {
		return chain.Head{}, err
	}
	return h.at(block)
}

// at is the header that the node gave for a height or tag.
func (h *header) at(block string) (chain.Head, error) {
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
