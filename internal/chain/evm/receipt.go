package evm

import (
	"context"
	"fmt"

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
	TxHash      common.Hash    `json:"transactionHash"`
	BlockHash   common.Hash    `json:"blockHash"`
	BlockNumber hexutil.Uint64 `json:"blockNumber"`
	Status      hexutil.Uint64 `json:"status"`
	GasUsed     hexutil.Uint64 `json:"gasUsed"`
	GasPrice    hexutil.Uint64 `json:"effectiveGasPrice"`
	Logs        []*logEntry    `json:"logs"`
}

func (r *receipt) receipt() *chain.Receipt {
	logs := make([]chain.Log, 0, len(r.Logs))
	for _, l := range r.Logs {
		if l != nil && !l.Removed {
			logs = append(logs, l.log())
		}
	}
	return &chain.Receipt{
		TxHash: chain.Hash(r.TxHash), BlockHash: chain.Hash(r.BlockHash), BlockNumber: uint64(r.BlockNumber),
		Succeeded: r.Status == 1, GasUsed: uint64(r.GasUsed), EffectiveGasPrice: uint64(r.GasPrice), Logs: logs,
	}
}

// Receipts reads the receipts of many transactions in one round trip; those
// that are not mined are absent. A receipt that is not of the asked hash, or
// whose block is not canonical by the same node's word, is no answer at all:
// the call fails with chain.ErrUnavailable rather than report it as unmined.
func (c *Client) Receipts(ctx context.Context, hashes []chain.Hash) (map[chain.Hash]*chain.Receipt, error) {
	found := make(map[chain.Hash]*chain.Receipt)
	if len(hashes) == 0 {
		return found, nil
	}
	raw := make([]*receipt, len(hashes))
	qs := make([]*query, len(hashes))
	for i, h := range hashes {
		qs[i] = &query{method: "eth_getTransactionReceipt", args: []any{common.Hash(h)}, result: &raw[i]}
	}
	if err := c.ask(ctx, qs...); err != nil {
		return nil, err
	}
	var blocks []uint64
	seen := make(map[uint64]bool)
	for i, q := range qs {
		switch {
		case q.err != nil:
			return nil, q.err
		case raw[i] == nil:
			continue
		case chain.Hash(raw[i].TxHash) != hashes[i]:
			return nil, fmt.Errorf("%w: it answered with another transaction's receipt", chain.ErrUnavailable)
		}
		found[hashes[i]] = raw[i].receipt()
		if n := uint64(raw[i].BlockNumber); !seen[n] {
			seen[n] = true
			blocks = append(blocks, n)
		}
	}
	canonical, err := c.CanonicalHashes(ctx, blocks)
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		if canonical[r.BlockNumber] != r.BlockHash {
			return nil, fmt.Errorf("%w: receipt of a block that is not canonical", chain.ErrUnavailable)
		}
	}
	return found, nil
}

// TransactionsWithLog returns the hashes of canonical transactions from block
// on whose logs have this address and these topics, oldest first.
func (c *Client) TransactionsWithLog(ctx context.Context, address chain.Address, topics []chain.Hash, from uint64) ([]chain.Hash, error) {
	want := make([]common.Hash, len(topics))
	for i, t := range topics {
		want[i] = common.Hash(t)
	}
	filter := map[string]any{
		"address": common.Address(address), "topics": want,
		"fromBlock": blockArg(from), "toBlock": "latest",
	}
	var logs []*logEntry
	if err := c.ask(ctx, &query{method: "eth_getLogs", args: []any{filter}, result: &logs}); err != nil {
		return nil, err
	}
	var hashes []chain.Hash
	for _, l := range logs {
		if l != nil && !l.Removed {
			hashes = append(hashes, chain.Hash(l.TxHash))
		}
	}
	return hashes, nil
}
