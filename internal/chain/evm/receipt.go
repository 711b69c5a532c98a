package evm

import (
	"context"

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
	Logs        []*logEntry     `json:"logs"`
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
		Succeeded: *r.Status == 1, GasUsed: uint64(r.GasUsed), EffectiveGasPrice: uint64(r.GasPrice), Logs: logs,
	}
}

// Lookup is what a node said of one transaction: mined with this receipt, not
// mined (nil and known), or it could not tell (I7).
type Lookup struct {
	Receipt *chain.Receipt
	Unknown bool
}

// Receipts looks many transactions up. What is unusable about one of them (an
// error, another transaction's receipt, a block that is not canonical by the
// same node's word) makes that one unknown and touches no other. The error says
// that the node told nothing at all.
func (c *Client) Receipts(ctx context.Context, hashes []chain.Hash) (map[chain.Hash]Lookup, error) {
	raw := make([]*receipt, len(hashes))
	qs := make([]*query, len(hashes))
	for i, h := range hashes {
		qs[i] = &query{method: "eth_getTransactionReceipt", args: []any{common.Hash(h)}, result: &raw[i]}
	}
	if err := c.askAll(ctx, qs); err != nil {
		return nil, err
	}
	found := make(map[chain.Hash]Lookup, len(hashes))
	var blocks []uint64
	seen := make(map[uint64]bool)
	for i, h := range hashes {
		switch r := raw[i]; {
		case qs[i].err != nil:
			found[h] = Lookup{Unknown: true}
		case r == nil:
			found[h] = Lookup{}
		case chain.Hash(r.TxHash) != h || r.Status == nil || r.BlockNumber == nil:
			found[h] = Lookup{Unknown: true}
		default:
			found[h] = Lookup{Receipt: r.receipt()}
			if n := uint64(*r.BlockNumber); !seen[n] {
				seen[n] = true
				blocks = append(blocks, n)
			}
		}
	}
	canonical, err := c.CanonicalHashes(ctx, blocks)
	if err != nil {
		return nil, err
	}
	for h, l := range found {
		if l.Receipt == nil {
			continue
		}
		if block, known := canonical[l.Receipt.BlockNumber]; !known || block != l.Receipt.BlockHash {
			found[h] = Lookup{Unknown: true}
		}
	}
	return found, nil
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
