package evm

import (
	"context"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/chain"
)

// Account is a wallet as the node sees it.
type Account struct {
	Balance *big.Int // wei, at the latest block
	// Nonce counts mined transactions.
	Nonce uint64
	// Pending counts those that the node would mine next as well. It is never
	// below Nonce.
	Pending uint64
	// Height that the state of all this is at or below.
	Height uint64
}

// Account reads balance and wallet nonces in one round trip.
func (c *Client) Account(ctx context.Context, a chain.Address) (Account, error) {
	accounts, err := c.Accounts(ctx, []chain.Address{a})
	if err != nil {
		return Account{}, err
	}
	return accounts[0], nil
}

// Accounts reads many wallets, in their order, in one round trip. What the node
// can't tell of one of them fails all: a balance that is not known is not 0.
func (c *Client) Accounts(ctx context.Context, as []chain.Address) ([]Account, error) {
	raw := make([]struct {
		balance        hexutil.Big
		nonce, pending hexutil.Uint64
	}, len(as))
	qs := make([]*query, 0, 3*len(as))
	for i, a := range as {
		of := common.Address(a)
		qs = append(qs,
			&query{method: "eth_getBalance", args: []any{of, "latest"}, result: &raw[i].balance},
			&query{method: "eth_getTransactionCount", args: []any{of, "latest"}, result: &raw[i].nonce},
			&query{method: "eth_getTransactionCount", args: []any{of, "pending"}, result: &raw[i].pending},
		)
	}
	var height hexutil.Uint64
	qs = append(qs, &query{method: "eth_blockNumber", result: &height})
	if err := c.askAll(ctx, qs); err != nil {
		return nil, err
	}
	accounts := make([]Account, len(as))
	for _, q := range qs {
		if q.err != nil {
			return nil, q.err
		}
	}
	for i := range raw {
		r := &raw[i]
		accounts[i] = Account{Balance: r.balance.ToInt(), Nonce: uint64(r.nonce), Pending: max(uint64(r.pending), uint64(r.nonce)), Height: uint64(height)}
	}
	return accounts, nil
}
