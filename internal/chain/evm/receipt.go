package evm

import (
	"context"
	"maps"
	"slices"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/chain"
)

type logEntry struct {
	Address   common.Address `json:"address"`
	Topics    []common.Hash  `json:"topics"`
	Data      hexutil.Bytes  `json:"data"`
	TxHash    common.Hash    `json:"transactionHash"`
	BlockHash common.Hash    `json:"blockHash"`
	Removed   bool           `json:"removed"`
}

func (l *logEntry) log() chain.Log {
	topics := make([]chain.Hash, len(l.Topics))
	for i, t := range l.Topics {
		topics[i] = chain.Hash(t)
	}
	return chain.Log{Address: chain.Address(l.Address), Topics: topics, Data: l.Data}
}

type receipt struct {
	TxHash      common.Hash     `json:"transactionHash"`
	BlockHash   common.Hash     `json:"blockHash"`
	BlockNumber *hexutil.Uint64 `json:"blockNumber"`
	Status      *hexutil.Uint64 `json:"status"`
	GasUsed     hexutil.Uint64  `json:"gasUsed"`
	GasPrice    hexutil.Uint64  `json:"effectiveGasPrice"`
	L1Fee       looseUint64     `json:"l1Fee"`
	Logs        []*logEntry     `json:"logs"`
}

// looseUint64 takes what is no 64-bit quantity for 0. It is for what only adds
// to a receipt: a strange fee must not hide the proof of a payment.
type looseUint64 uint64

func (n *looseUint64) UnmarshalJSON(text []byte) error {
	if (*hexutil.Uint64)(n).UnmarshalJSON(text) != nil {
		*n = 0
	}
	return nil
}

// receipt needs status and block number to be there.
func (r *receipt) receipt() *chain.Receipt {
	logs := make([]chain.Log, 0, len(r.Logs))
	for _, l := range r.Logs {
		if l != nil && !l.Removed {
			logs = append(logs, l.log())
		}
	}
	return &chain.Receipt{
		TxHash: chain.Hash(r.TxHash), BlockHash: chain.Hash(r.BlockHash), BlockNumber: uint64(*r.BlockNumber),
		Succeeded: *r.Status == 1, GasUsed: uint64(r.GasUsed), EffectiveGasPrice: uint64(r.GasPrice),
		L1Fee: uint64(r.L1Fee), Logs: logs,
	}
}

// Lookup is what a node said of one transaction: mined with this receipt, not
// mined (nil and known), or it could not tell (I7).
type Lookup struct {
	Receipt *chain.Receipt
	Unknown bool
}

// lookups is a question about many transactions.
type lookups struct {
	hashes []chain.Hash
	raw    []*receipt
	qs     []*query
}

func newLookups(hashes []chain.Hash) *lookups {
	l := &lookups{hashes: hashes, raw: make([]*receipt, len(hashes)), qs: make([]*query, len(hashes))}
	for i, h := range hashes {
		l.qs[i] = &query{method: "eth_getTransactionReceipt", args: []any{common.Hash(h)}, result: &l.raw[i]}
	}
	return l
}

// found is what the answers say, whether their blocks are canonical or not.
func (l *lookups) found() map[chain.Hash]Lookup {
	found := make(map[chain.Hash]Lookup, len(l.hashes))
	for i, h := range l.hashes {
		switch r := l.raw[i]; {
		case l.qs[i].err != nil:
			found[h] = Lookup{Unknown: true}
		case r == nil:
			found[h] = Lookup{}
		case chain.Hash(r.TxHash) != h || r.Status == nil || r.BlockNumber == nil:
			found[h] = Lookup{Unknown: true}
		default:
			found[h] = Lookup{Receipt: r.receipt()}
		}
	}
	return found
}

// blocks are the heights of all receipts but those in the block that is known
// to be canonical.
func blocks(found map[chain.Hash]Lookup, canonical chain.Head) []uint64 {
	heights := make(map[uint64]bool)
	for _, l := range found {
		if l.Receipt != nil && !in(canonical, l.Receipt) {
			heights[l.Receipt.BlockNumber] = true
		}
	}
	return slices.Sorted(maps.Keys(heights))
}

func in(h chain.Head, r *chain.Receipt) bool {
	return !h.Hash.IsZero() && r.BlockNumber == h.Number && r.BlockHash == h.Hash
}

// doubt makes unknown what is in none of these blocks.
func doubt(found map[chain.Hash]Lookup, head chain.Head, canonical map[uint64]chain.Hash) {
	for h, l := range found {
		if l.Receipt == nil || in(head, l.Receipt) {
			continue
		}
		if block, known := canonical[l.Receipt.BlockNumber]; !known || block != l.Receipt.BlockHash {
			found[h] = Lookup{Unknown: true}
		}
	}
}

// Receipts looks many transactions up. What is unusable about one of them (an
// error, another transaction's receipt, a block that is not canonical by the
// same node's word) makes that one unknown and touches no other. The error says
// that the node told nothing at all.
func (c *Client) Receipts(ctx context.Context, hashes []chain.Hash) (map[chain.Hash]Lookup, error) {
	l := newLookups(hashes)
	if err := c.askAll(ctx, l.qs); err != nil {
		return nil, err
	}
	found := l.found()
	canonical, err := c.CanonicalHashes(ctx, blocks(found, chain.Head{}))
	if err != nil {
		return nil, err
	}
	doubt(found, chain.Head{}, canonical)
	return found, nil
}

// Look reads the latest header and looks many transactions up, mostly in one
// round trip: a receipt in that very block is canonical without a further
// question, and only receipts of other blocks take a second one. The header is
// read first, so what is not mined by this answer is not mined at that head
// either. Otherwise it says what Receipts says; where just the second question
// fails, what it was about is unknown. The error says that there is no header.
func (c *Client) Look(ctx context.Context, hashes []chain.Hash) (chain.Head, map[chain.Hash]Lookup, error) {
	const latest = "latest"
	var h *header
	l := newLookups(hashes)
	first := min(len(hashes), maxBatch-1)
	top := headQuery(latest, &h)
	if err := c.ask(ctx, append([]*query{top}, l.qs[:first]...)...); err != nil {
		return chain.Head{}, nil, err
	}
	if top.err != nil {
		return chain.Head{}, nil, top.err
	}
	head, err := h.at(latest)
	if err != nil {
		return chain.Head{}, nil, err
	}
	// A trip that fails leaves its queries in error, and so unknown.
	_ = c.askAll(ctx, l.qs[first:])
	found := l.found()
	canonical, err := c.CanonicalHashes(ctx, blocks(found, head))
	if err != nil {
		canonical = nil
	}
	doubt(found, head, canonical)
	return head, found, nil
}

const (
	// logWindow is how many blocks one eth_getLogs asks for: hosted nodes refuse
	// long ranges.
	logWindow = 2000
	// maxLogWindows bounds the search: 100,000 blocks.
	maxLogWindows = 50
)

// TransactionsWithLog returns the hashes of the transactions in blocks from to
// until, both included, whose logs have this address and these topics, oldest
// first. Of a longer range than 100,000 blocks it reads the newest.
func (c *Client) TransactionsWithLog(ctx context.Context, address chain.Address, topics []chain.Hash, from, until uint64) ([]chain.Hash, error) {
	want := make([]common.Hash, len(topics))
	for i, t := range topics {
		want[i] = common.Hash(t)
	}
	if most := uint64(logWindow * maxLogWindows); until >= most {
		from = max(from, until-most+1)
	}
	var hashes []chain.Hash
	for ; from <= until; from += logWindow {
		filter := map[string]any{
			"address": common.Address(address), "topics": want,
			"fromBlock": hexutil.EncodeUint64(from), "toBlock": hexutil.EncodeUint64(min(until, from+logWindow-1)),
		}
		var logs []*logEntry
		if err := c.ask(ctx, &query{method: "eth_getLogs", args: []any{filter}, result: &logs}); err != nil {
			return nil, err
		}
		for _, l := range logs {
			if l != nil && !l.Removed {
				hashes = append(hashes, chain.Hash(l.TxHash))
			}
		}
	}
	return hashes, nil
}
