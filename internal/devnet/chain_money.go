package devnet

import (
	"context"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/common/math"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rpc"
)

const (
	// mintsPerCall is how many addresses one transaction funds; it uses about
	// half of sendGas.
	mintsPerCall = 200
	// visiblePatience is how long reads may lag behind a receipt.
	visiblePatience = 5 * time.Second
)

// Transfer is a movement of tokens that a contract logged.
type Transfer struct {
	From, To common.Address
	Value    *big.Int
	TxHash   common.Hash
	Block    uint64
}

// FundETH sets the balance of each address to wei. No block is needed.
func (c *Chain) FundETH(ctx context.Context, wei *big.Int, addrs ...common.Address) error {
	for chunk := range slices.Chunk(addrs, 1000) {
		batch := make([]rpc.BatchElem, len(chunk))
		for i, addr := range chunk {
			batch[i] = rpc.BatchElem{Method: "anvil_setBalance", Args: []any{addr, (*hexutil.Big)(wei)}, Result: new(any)}
		}
		if err := c.batch(ctx, batch); err != nil {
			return fmt.Errorf("fund with ether: %w", err)
		}
	}
	return nil
}

// FundUSDC is FundToken with USDC.
func (c *Chain) FundUSDC(ctx context.Context, amount *big.Int, addrs ...common.Address) error {
	return c.FundToken(ctx, c.USDC(), amount, addrs...)
}

// FundToken mints amount of USDC or EURC for each address, on top of what it has, and returns
// when the balances can be read. The addresses must not spend meanwhile. It
// works in every mining mode, mining blocks of its own if it must, and on a
// fork, where it acts as the token's master minter.
func (c *Chain) FundToken(ctx context.Context, token common.Address, amount *big.Int, addrs ...common.Address) error {
	if amount.Sign() <= 0 || len(addrs) == 0 {
		return nil
	}
	minter, err := c.prepareMinter(ctx, token)
	if err != nil {
		return fmt.Errorf("fund with tokens: %w", err)
	}
	var payloads [][]byte
	for chunk := range slices.Chunk(addrs, mintsPerCall) {
		mints := make([]subcall, len(chunk))
		for i, addr := range chunk {
			data, err := c.token.Pack("mint", addr, amount)
			if err != nil {
				return fmt.Errorf("fund with tokens: %w", err)
			}
			mints[i] = subcall{Target: token, CallData: data}
		}
		data, err := c.batcher.Pack("aggregate3", mints)
		if err != nil {
			return fmt.Errorf("fund with tokens: %w", err)
		}
		payloads = append(payloads, data)
	}
	if _, err := c.send(ctx, roleAddress("funder"), &minter, payloads...); err != nil {
		return fmt.Errorf("fund with tokens: %w", err)
	}
	return c.awaitBalances(ctx, token, amount, addrs)
}

// prepareMinter returns a minter of the token that mints for many in one
// transaction: an address with Multicall3's code. The canonical Multicall3
// itself gets no rights, since the facilitator uses it.
func (c *Chain) prepareMinter(ctx context.Context, token common.Address) (common.Address, error) {
	minter := roleAddress("minter")
	var allowance *big.Int
	if err := c.readToken(ctx, token, &allowance, "minterAllowance", minter); err != nil {
		return minter, err
	}
	if allowance.BitLen() == 256 {
		return minter, nil
	}
	code, err := c.Client().CodeAt(ctx, c.Multicall3(), nil)
	if err != nil {
		return minter, fmt.Errorf("multicall3: %w", err)
	}
	if err := c.SetCode(ctx, minter, code); err != nil {
		return minter, err
	}
	var master common.Address
	if err := c.readToken(ctx, token, &master, "masterMinter"); err != nil {
		return minter, err
	}
	return minter, c.sendToken(ctx, token, master, "configureMinter", minter, math.MaxBig256)
}

// awaitBalances returns when every address has at least amount: a read just
// after a receipt can still see the state before.
func (c *Chain) awaitBalances(ctx context.Context, token common.Address, amount *big.Int, addrs []common.Address) error {
	ctx, cancel := context.WithTimeout(ctx, visiblePatience)
	defer cancel()
	for chunk := range slices.Chunk(addrs, mintsPerCall) {
		for {
			poor, err := c.poorest(ctx, token, amount, chunk)
			if err != nil {
				return fmt.Errorf("read balances: %w", err)
			}
			if poor == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the funds of %v do not show: %w", poor, context.Cause(ctx))
			case <-time.After(receiptPoll):
			}
		}
	}
	return nil
}

// poorest returns an address that has less of the token than amount, or nil.
func (c *Chain) poorest(ctx context.Context, token common.Address, amount *big.Int, addrs []common.Address) (*common.Address, error) {
	reads := make([]subcall, len(addrs))
	for i, addr := range addrs {
		data, err := c.token.Pack("balanceOf", addr)
		if err != nil {
			return nil, err
		}
		reads[i] = subcall{Target: token, CallData: data}
	}
	var results []struct {
		Success    bool
		ReturnData []byte
	}
	if err := c.read(ctx, c.batcher, c.Multicall3(), &results, "aggregate3", reads); err != nil {
		return nil, err
	}
	for i, result := range results {
		if new(big.Int).SetBytes(result.ReturnData).Cmp(amount) < 0 {
			return &addrs[i], nil
		}
	}
	return nil, nil
}

// BalanceOf returns what addr has of an ERC-20 token.
func (c *Chain) BalanceOf(ctx context.Context, token, addr common.Address) (*big.Int, error) {
	var balance *big.Int
	if err := c.read(ctx, c.token, token, &balance, "balanceOf", addr); err != nil {
		return nil, err
	}
	return balance, nil
}

// Transfers returns every transfer that the token logged in the canonical
// chain since fromBlock, in its order: the money as the chain saw it move.
func (c *Chain) Transfers(ctx context.Context, token common.Address, fromBlock uint64) ([]Transfer, error) {
	logs, err := c.Client().FilterLogs(ctx, ethereum.FilterQuery{
		FromBlock: new(big.Int).SetUint64(fromBlock),
		Addresses: []common.Address{token},
		Topics:    [][]common.Hash{{crypto.Keccak256Hash([]byte("Transfer(address,address,uint256)"))}},
	})
	if err != nil {
		return nil, fmt.Errorf("transfers: %w", err)
	}
	logs, err = c.canonical(ctx, logs)
	if err != nil {
		return nil, fmt.Errorf("transfers: %w", err)
	}
	transfers := make([]Transfer, 0, len(logs))
	for _, log := range logs {
		if len(log.Topics) != 3 || len(log.Data) != 32 {
			continue // a token of another kind
		}
		transfers = append(transfers, Transfer{
			From: common.BytesToAddress(log.Topics[1][:]), To: common.BytesToAddress(log.Topics[2][:]),
			Value: new(big.Int).SetBytes(log.Data), TxHash: log.TxHash, Block: log.BlockNumber,
		})
	}
	return transfers, nil
}
