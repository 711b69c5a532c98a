package devnet

import (
	"context"
	"fmt"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
)

// tokenABI is what this package calls of USDC.
//
//nolint:gosec // no credentials
const tokenABI = `[
{"type":"function","name":"initialize","inputs":[{"name":"tokenName","type":"string"},{"name":"tokenSymbol","type":"string"},
 {"name":"tokenCurrency","type":"string"},{"name":"tokenDecimals","type":"uint8"},{"name":"newMasterMinter","type":"address"},
 {"name":"newPauser","type":"address"},{"name":"newBlacklister","type":"address"},{"name":"newOwner","type":"address"}]},
{"type":"function","name":"initializeV2","inputs":[{"name":"newName","type":"string"}]},
{"type":"function","name":"initializeV2_1","inputs":[{"name":"lostAndFound","type":"address"}]},
{"type":"function","name":"initializeV2_2","inputs":[{"name":"accountsToBlacklist","type":"address[]"},{"name":"newSymbol","type":"string"}]},
{"type":"function","name":"configureMinter","inputs":[{"name":"minter","type":"address"},{"name":"allowed","type":"uint256"}]},
{"type":"function","name":"mint","inputs":[{"name":"to","type":"address"},{"name":"amount","type":"uint256"}]},
{"type":"function","name":"blacklist","inputs":[{"name":"account","type":"address"}]},
{"type":"function","name":"unBlacklist","inputs":[{"name":"account","type":"address"}]},
{"type":"function","name":"pause","inputs":[]},
{"type":"function","name":"unpause","inputs":[]},
{"type":"function","name":"masterMinter","inputs":[],"outputs":[{"type":"address"}]},
{"type":"function","name":"blacklister","inputs":[],"outputs":[{"type":"address"}]},
{"type":"function","name":"pauser","inputs":[],"outputs":[{"type":"address"}]},
{"type":"function","name":"minterAllowance","inputs":[{"name":"minter","type":"address"}],"outputs":[{"type":"uint256"}]},
{"type":"function","name":"balanceOf","inputs":[{"name":"account","type":"address"}],"outputs":[{"type":"uint256"}]},
{"type":"function","name":"decimals","inputs":[],"outputs":[{"type":"uint8"}]},
{"type":"function","name":"DOMAIN_SEPARATOR","inputs":[],"outputs":[{"type":"bytes32"}]}
]`

// multicallABI is what this package calls of Multicall3.
const multicallABI = `[
{"type":"function","name":"aggregate3","inputs":[{"name":"calls","type":"tuple[]","components":[
 {"name":"target","type":"address"},{"name":"allowFailure","type":"bool"},{"name":"callData","type":"bytes"}]}],
 "outputs":[{"name":"results","type":"tuple[]","components":[{"name":"success","type":"bool"},{"name":"returnData","type":"bytes"}]}]}
]`

// subcall is one element of an aggregate3. The names are the ABI's.
type subcall struct {
	Target       common.Address
	AllowFailure bool
	CallData     []byte
}

// readToken calls a reading method of a token and stores its one result in the
// variable that out points to.
func (c *Chain) readToken(ctx context.Context, token common.Address, out any, method string, args ...any) error {
	return c.read(ctx, c.token, token, out, method, args...)
}

func (c *Chain) read(ctx context.Context, contract abi.ABI, to common.Address, out any, method string, args ...any) error {
	data, err := contract.Pack(method, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	raw, err := c.call(ctx, common.Address{}, to, data)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if err := contract.UnpackIntoInterface(out, method, raw); err != nil {
		return fmt.Errorf("%s of %v: %w", method, to, err)
	}
	return nil
}

// call runs eth_call on the latest block.
func (c *Chain) call(ctx context.Context, from, to common.Address, data []byte) ([]byte, error) {
	message := map[string]any{"from": from, "to": to, "data": hexutil.Bytes(data)}
	var result hexutil.Bytes
	if err := c.rpc.CallContext(ctx, &result, "eth_call", message, "latest"); err != nil {
		return nil, err
	}
	return result, nil
}

// do calls an RPC method for its effect.
func (c *Chain) do(ctx context.Context, method string, args ...any) error {
	if err := c.rpc.CallContext(ctx, nil, method, args...); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}
