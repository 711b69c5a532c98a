package devnet

import (
	"context"
	"errors"
	"fmt"
	"math/big"
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
	// strandedAfter is after how many such times a transaction that the node has,
	// and never mines, is sent anew.
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
	hashes := make([]common.Hash, len(payloads))
	for i, data := range payloads {
		if to != nil {
			// The node tells why a call fails, not why a transaction did.
			if _, err := c.call(ctx, from, *to, data); err != nil {
				return nil, err
			}
		}
		transaction := map[string]any{"from": from, "to": to, "data": hexutil.Bytes(data), "gas": hexutil.Uint64(sendGas)}
		if err := c.rpc.CallContext(ctx, &hashes[i], "eth_sendTransaction", transaction); err != nil {
			return nil, fmt.Errorf("send: %w", err)
		}
	}
	return c.await(ctx, hashes)
}

// sendAnew has the node forget a transaction of ours and take it once more: it can
// strand what it is given while it mines the one before.
func (c *Chain) sendAnew(ctx context.Context, hash common.Hash) (common.Hash, error) {
	var tx map[string]any
	if err := c.rpc.CallContext(ctx, &tx, "eth_getTransactionByHash", hash); err != nil || tx == nil || tx["blockHash"] != nil {
		return hash, err // it is mined, or gone
	}
	if err := c.do(ctx, "anvil_dropTransaction", hash); err != nil {
		return hash, err
	}
	again := map[string]any{"from": tx["from"], "to": tx["to"], "data": tx["input"], "gas": tx["gas"], "nonce": tx["nonce"]}
	if err := c.rpc.CallContext(ctx, &hash, "eth_sendTransaction", again); err != nil {
		return hash, fmt.Errorf("send again: %w", err)
	}
	return hash, nil
}

// await returns the receipts of the transactions, in their order.
func (c *Chain) await(ctx context.Context, hashes []common.Hash) ([]*types.Receipt, error) {
	receipts := make([]*types.Receipt, len(hashes))
	poll := time.NewTicker(receiptPoll)
	defer poll.Stop()
	idle := time.NewTimer(minePatience)
	defer idle.Stop()
	waits := 0
	for {
		batch := make([]rpc.BatchElem, len(hashes))
		for i, hash := range hashes {
			batch[i] = rpc.BatchElem{Method: "eth_getTransactionReceipt", Args: []any{hash}, Result: &receipts[i]}
		}
		if err := c.batch(ctx, batch); err != nil {
			return nil, err
		}
		mined := 0
		for i, receipt := range receipts {
			if receipt == nil {
				continue
			}
			if receipt.Status != types.ReceiptStatusSuccessful {
				return nil, fmt.Errorf("transaction %v reverted", hashes[i])
			}
			mined++
		}
		if mined == len(hashes) {
			return receipts, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %d transactions to be mined: %w", len(hashes)-mined, context.Cause(ctx))
		case <-idle.C:
			if waits++; waits%strandedAfter == 0 {
				if err := c.sendStranded(ctx, hashes, receipts); err != nil {
					return nil, err
				}
			}
			if err := c.Mine(ctx, 1); err != nil {
				return nil, err
			}
			idle.Reset(minePatience)
		case <-poll.C:
		}
	}
}

// sendStranded sends what has no receipt anew.
func (c *Chain) sendStranded(ctx context.Context, hashes []common.Hash, receipts []*types.Receipt) error {
	for i, receipt := range receipts {
		if receipt != nil {
			continue
		}
		var err error
		if hashes[i], err = c.sendAnew(ctx, hashes[i]); err != nil {
			return err
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
