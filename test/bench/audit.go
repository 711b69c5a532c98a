package main

import (
	"context"
	"fmt"
	"math/big"
	"slices"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"facilitator/internal/chain/evm"
	"facilitator/internal/devnet"
)

const (
	// logSpan is how many blocks' logs are asked for at once.
	logSpan = 500
	// receiptSpan is how many blocks' receipts are asked for at once.
	receiptSpan = 50
	// problemsShown bounds what a broken run prints.
	problemsShown = 10
)

// paid is what the chain says of one sale.
type paid struct {
	used      []common.Hash // transactions that used its authorization
	transfers []common.Hash // transactions that moved its amount from its payer to its payee
}

// ledger reads what the chain did for the sales since a block, and what
// it did that nobody signed.
func (s *site) ledger(ctx context.Context, from uint64, sales []sale) ([]paid, []string, error) {
	type transfer struct {
		payer, payee common.Address
		amount       uint64
	}
	byNonce, byTransfer := make(map[common.Hash]int), make(map[transfer]int)
	for i, one := range sales {
		byNonce[one.nonce] = i
		byTransfer[transfer{one.payer, one.payee, one.amount}] = i
	}
	used, moved := common.Hash(evm.EventAuthorizationUsed()), common.Hash(evm.EventTransfer())
	head, err := s.chain.Client().BlockNumber(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	all := make([]paid, len(sales))
	var problems []string
	for first := from; first <= head; first += logSpan {
		logs, err := s.chain.Client().FilterLogs(ctx, ethereum.FilterQuery{
			FromBlock: new(big.Int).SetUint64(first), ToBlock: new(big.Int).SetUint64(min(first+logSpan-1, head)),
			Addresses: []common.Address{s.chain.USDC()}, Topics: [][]common.Hash{{used, moved}},
		})
		if err != nil {
			return nil, nil, fmt.Errorf("audit: %w", err)
		}
		for _, l := range logs {
			if l.Topics[0] == used {
				if i, ours := byNonce[l.Topics[2]]; ours {
					all[i].used = append(all[i].used, l.TxHash)
				}
				continue
			}
			key := transfer{
				common.BytesToAddress(l.Topics[1][:]), common.BytesToAddress(l.Topics[2][:]),
				new(big.Int).SetBytes(l.Data).Uint64(),
			}
			if i, ours := byTransfer[key]; ours {
				all[i].transfers = append(all[i].transfers, l.TxHash)
			} else {
				problems = append(problems, fmt.Sprintf("block %d: a transfer that nobody signed: %+v", l.BlockNumber, key))
			}
		}
	}
	return all, problems, nil
}

// audit compares what callers were told with what the chain did since a block:
// every success has its transfer, in the transaction that was named; nothing
// was paid twice; and nothing was paid whose caller was told that it failed. It
// returns how many sales were paid, and what is wrong.
func (s *site) audit(ctx context.Context, from uint64, sales []sale, answers []answer) (settled int, problems []string, _ error) {
	all, problems, err := s.ledger(ctx, from, sales)
	if err != nil {
		return 0, nil, err
	}
	wrong := func(i int, format string, args ...any) {
		problems = append(problems, fmt.Sprintf("payment %d: ", i)+fmt.Sprintf(format, args...))
	}
	for i, p := range all {
		a := &answers[i]
		if len(p.used) > 0 {
			settled++
		}
		switch {
		case len(p.used) > 1 || len(p.transfers) > 1:
			wrong(i, "used in %v, moved in %v", p.used, p.transfers)
		case !slices.Equal(p.used, p.transfers):
			wrong(i, "used in %v, but moved in %v", p.used, p.transfers)
		case a.Success && len(p.used) == 0:
			wrong(i, "told success in %s, and never paid", a.Transaction)
		case a.Success && p.used[0] != common.HexToHash(a.Transaction):
			wrong(i, "told success in %s, but paid in %v", a.Transaction, p.used[0])
		case a.definite() && len(p.used) == 1:
			wrong(i, "told %s, but paid in %v", a.kind(), p.used[0])
		}
	}
	return settled, problems, nil
}

// definite says whether the answer is a failure for good.
func (a *answer) definite() bool {
	switch a.ErrorReason {
	case "", "settlement_pending", "duplicate_settlement":
		return false
	}
	return a.status == 200 && !a.Success
}

// gasOf is what lanes' transactions used.
type gasOf struct {
	gas          uint64
	transactions int
	reverted     int
	blocks       map[common.Address][]uint64 // of each lane: the blocks with transactions of it, in order
}

// gasSince adds up the transactions that the lanes have in the chain after a block.
func (s *site) gasSince(ctx context.Context, after uint64, lanes []devnet.Key) (gasOf, error) {
	total := gasOf{blocks: make(map[common.Address][]uint64)}
	for _, lane := range lanes {
		total.blocks[lane.Address] = nil
	}
	head, err := s.chain.Client().BlockNumber(ctx)
	if err != nil {
		return total, fmt.Errorf("gas: %w", err)
	}
	for first := after + 1; first <= head; first += receiptSpan {
		blocks := make([][]receipt, min(receiptSpan, head-first+1))
		batch := make([]rpc.BatchElem, len(blocks))
		for i := range blocks {
			number := hexutil.Uint64(first + uint64(i))
			batch[i] = rpc.BatchElem{Method: "eth_getBlockReceipts", Args: []any{number}, Result: &blocks[i]}
		}
		if err := s.chain.RPC().BatchCallContext(ctx, batch); err != nil {
			return total, fmt.Errorf("gas: %w", err)
		}
		for i, receipts := range blocks {
			if batch[i].Error != nil {
				return total, fmt.Errorf("gas: %w", batch[i].Error)
			}
			total.add(first+uint64(i), receipts)
		}
	}
	return total, nil
}

// receipt is what of a transaction's receipt counts here.
type receipt struct {
	From    common.Address
	GasUsed hexutil.Uint64
	Status  hexutil.Uint64
}

func (g *gasOf) add(block uint64, receipts []receipt) {
	for _, r := range receipts {
		blocks, ours := g.blocks[r.From]
		if !ours {
			continue
		}
		g.gas += uint64(r.GasUsed)
		g.transactions++
		if r.Status == 0 {
			g.reverted++
		}
		if len(blocks) == 0 || blocks[len(blocks)-1] != block {
			g.blocks[r.From] = append(blocks, block)
		}
	}
}
