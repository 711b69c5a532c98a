package devnet

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/rpc"
)

const (
	// sendGas is the gas limit of our own transactions: the most that Base
	// lets one have.
	sendGas = 16_000_000
	// minePatience is how long the chain may take to mine our own
	// transactions by itself before we have it done.
	minePatience = 50 * time.Millisecond
	// strandedAfter is after how many such times a transaction that is not mined
	// is sent anew.
	strandedAfter = 40
	receiptPoll   = 3 * time.Millisecond
)

// Deploy creates a contract from its creation code, which must end with its
// encoded constructor arguments, and returns its address once it is there.
func (c *Chain) Deploy(ctx context.Context, bytecode []byte) (common.Address, error) {
	receipts, err := c.send(ctx, roleAddress("deployer"), nil, bytecode)
	if err != nil {
		return common.Address{}, fmt.Errorf("deploy: %w", err)
	}
	return receipts[0].ContractAddress, nil
}

// sendToken sends a transaction to a token as from, whose key is not needed.
func (c *Chain) sendToken(ctx context.Context, token, from common.Address, method string, args ...any) error {
	data, err := c.token.Pack(method, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if _, err := c.send(ctx, from, &token, data); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// sent is a transaction of ours.
type sent struct {
	fields  map[string]any // of eth_sendTransaction
	hash    common.Hash
	receipt *types.Receipt
}

// send sends one transaction per payload as from, whose key is not needed,
// and returns their receipts. A reverted transaction is an error with its
// reason. If the chain does not mine by itself soon, send mines.
func (c *Chain) send(ctx context.Context, from common.Address, to *common.Address, payloads ...[]byte) ([]*types.Receipt, error) {
	c.sending.Lock()
	defer c.sending.Unlock()
	ether := new(big.Int).Exp(big.NewInt(10), big.NewInt(21), nil)
	if err := errors.Join(c.FundETH(ctx, ether, from), c.do(ctx, "anvil_impersonateAccount", from)); err != nil {
		return nil, err
	}
	// The nonces are ours to tell: what the node loses is the same one when it is
	// sent anew.
	var nonce hexutil.Uint64
	if err := c.rpc.CallContext(ctx, &nonce, "eth_getTransactionCount", from, "pending"); err != nil {
		return nil, fmt.Errorf("nonce of %v: %w", from, err)
	}
	all := make([]*sent, len(payloads))
	for i, data := range payloads {
		if to != nil {
			// The node tells why a call fails, not why a transaction did.
			if _, err := c.call(ctx, from, *to, data); err != nil {
				return nil, err
			}
		}
		all[i] = &sent{fields: map[string]any{
			"from": from, "to": to, "data": hexutil.Bytes(data), "gas": hexutil.Uint64(sendGas), "nonce": nonce + hexutil.Uint64(i),
		}}
		if err := c.rpc.CallContext(ctx, &all[i].hash, "eth_sendTransaction", all[i].fields); err != nil {
			return nil, fmt.Errorf("send: %w", err)
		}
	}
	if err := c.await(ctx, all); err != nil {
		return nil, err
	}
	receipts := make([]*types.Receipt, len(all))
	for i, tx := range all {
		receipts[i] = tx.receipt
	}
	return receipts, nil
}

// sendAnew has the node take a transaction of ours once more: it can lose what it is
// given while it mines the one before, or keep it and never mine it.
func (c *Chain) sendAnew(ctx context.Context, tx *sent) error {
	var known *struct{ BlockHash *common.Hash }
	if err := c.rpc.CallContext(ctx, &known, "eth_getTransactionByHash", tx.hash); err != nil {
		return fmt.Errorf("send again: %w", err)
	}
	if known != nil && known.BlockHash != nil {
		return nil // it is mined
	}
	if known != nil {
		if err := c.do(ctx, "anvil_dropTransaction", tx.hash); err != nil {
			return err
		}
	}
	err := c.rpc.CallContext(ctx, &tx.hash, "eth_sendTransaction", tx.fields)
	if err != nil && c.look(ctx, []*sent{tx}) == nil && tx.receipt != nil {
		return nil // it was mined meanwhile
	}
	if err != nil {
		return fmt.Errorf("send again: %w", err)
	}
	return nil
}

// await returns when all transactions have receipts.
func (c *Chain) await(ctx context.Context, all []*sent) error {
	poll := time.NewTicker(receiptPoll)
	defer poll.Stop()
	idle := time.NewTimer(minePatience)
	defer idle.Stop()
	open := slices.Clone(all)
	for waits := 0; ; {
		if err := c.look(ctx, open); err != nil {
			return err
		}
		open = slices.DeleteFunc(open, func(tx *sent) bool { return tx.receipt != nil })
		if len(open) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d transactions to be mined: %w", len(open), context.Cause(ctx))
		case <-idle.C:
			if waits++; waits%strandedAfter == 0 {
				for _, tx := range open {
					if err := c.sendAnew(ctx, tx); err != nil {
						return err
					}
				}
			}
			if err := c.Mine(ctx, 1); err != nil {
				return err
			}
			idle.Reset(minePatience)
		case <-poll.C:
		}
	}
}

// look reads the receipts that there are.
func (c *Chain) look(ctx context.Context, all []*sent) error {
	calls := make([]rpc.BatchElem, len(all))
	for i, tx := range all {
		calls[i] = rpc.BatchElem{Method: "eth_getTransactionReceipt", Args: []any{tx.hash}, Result: &tx.receipt}
	}
	if err := c.batch(ctx, calls); err != nil {
		return err
	}
	for _, tx := range all {
		if tx.receipt != nil && tx.receipt.Status != types.ReceiptStatusSuccessful {
			return fmt.Errorf("transaction %v reverted", tx.hash)
		}
	}
	return nil
}

// batch sends the calls in one request. Any failure among them is an error.
func (c *Chain) batch(ctx context.Context, calls []rpc.BatchElem) error {
	if len(calls) == 0 {
		return nil
	}
	if err := c.rpc.BatchCallContext(ctx, calls); err != nil {
		return fmt.Errorf("%s: %w", calls[0].Method, err)
	}
	for _, call := range calls {
		if call.Error != nil {
			return fmt.Errorf("%s: %w", call.Method, call.Error)
		}
	}
	return nil
}

// canonical returns the logs whose block is still part of the chain: anvil
// goes on serving those of blocks that a reorganization dropped.
func (c *Chain) canonical(ctx context.Context, logs []types.Log) ([]types.Log, error) {
	headers := make(map[uint64]*struct{ Hash common.Hash })
	var batch []rpc.BatchElem
	for _, log := range logs {
		if headers[log.BlockNumber] != nil {
			continue
		}
		header := new(struct{ Hash common.Hash })
		headers[log.BlockNumber] = header
		batch = append(batch, rpc.BatchElem{
			Method: "eth_getBlockByNumber", Args: []any{hexutil.Uint64(log.BlockNumber), false}, Result: header,
		})
	}
	if err := c.batch(ctx, batch); err != nil {
		return nil, err
	}
	kept := logs[:0]
	for _, log := range logs {
		if headers[log.BlockNumber].Hash == log.BlockHash {
			kept = append(kept, log)
		}
	}
	return kept, nil
}
