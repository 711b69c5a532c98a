package devnet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
)

// Mine mines n blocks now, whatever the mining mode.
func (c *Chain) Mine(ctx context.Context, n int) error {
	return c.do(ctx, "anvil_mine", hexutil.Uint64(n)) //nolint:gosec // a number of blocks
}

// SetAutomine mines a block at every transaction (on), or none at all until
// Mine or another mode is called (off).
func (c *Chain) SetAutomine(ctx context.Context, on bool) error {
	c.setMiner(func() {})
	// Only this ends anvil's own interval mining; turning automine off does not.
	if err := c.do(ctx, "evm_setIntervalMining", 0); err != nil || !on {
		return err
	}
	return c.do(ctx, "evm_setAutomine", true)
}

// SetIntervalMining mines a block every interval, of which fractions of a
// second work.
func (c *Chain) SetIntervalMining(ctx context.Context, interval time.Duration) error {
	if interval <= 0 {
		return errors.New("the mining interval must be positive")
	}
	if err := c.SetAutomine(ctx, false); err != nil {
		return err
	}
	if interval%time.Second == 0 {
		return c.do(ctx, "evm_setIntervalMining", int64(interval/time.Second))
	}
	// The RPC method takes whole seconds only, unlike the command line.
	miner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-miner.Done():
				return
			case <-tick.C:
				_ = c.Mine(miner, 1) // fails only if the node is gone
			}
		}
	}()
	c.setMiner(func() {
		cancel()
		<-ended
	})
	return nil
}

// setMiner ends the interval mining that runs and says how to end the new one.
func (c *Chain) setMiner(stop func()) {
	c.mu.Lock()
	previous := c.stopMiner
	c.stopMiner = stop
	c.mu.Unlock()
	previous()
}

// IncreaseTime sets the chain's clock forward and mines a block, so that calls
// run at the new time.
func (c *Chain) IncreaseTime(ctx context.Context, by time.Duration) error {
	if err := c.do(ctx, "evm_increaseTime", int64(by/time.Second)); err != nil {
		return err
	}
	return c.Mine(ctx, 1)
}

// SetBlockGasLimit sets how much gas the following blocks hold.
func (c *Chain) SetBlockGasLimit(ctx context.Context, gas uint64) error {
	return c.do(ctx, "evm_setBlockGasLimit", hexutil.Uint64(gas))
}

// Snapshot remembers the chain's state; Revert returns to it, once.
func (c *Chain) Snapshot(ctx context.Context) (string, error) {
	var id string
	if err := c.rpc.CallContext(ctx, &id, "evm_snapshot"); err != nil {
		return "", fmt.Errorf("snapshot: %w", err)
	}
	return id, nil
}

// Revert returns to a snapshot. It and later ones are used up.
func (c *Chain) Revert(ctx context.Context, snapshot string) error {
	var done bool
	if err := c.rpc.CallContext(ctx, &done, "evm_revert", snapshot); err != nil {
		return fmt.Errorf("revert: %w", err)
	}
	if !done {
		return fmt.Errorf("revert: no snapshot %s", snapshot)
	}
	return nil
}

// SetCode replaces the code of an address.
func (c *Chain) SetCode(ctx context.Context, addr common.Address, code []byte) error {
	return c.do(ctx, "anvil_setCode", addr, hexutil.Bytes(code))
}

// Blacklist has the token refuse the address, as its blacklister.
func (c *Chain) Blacklist(ctx context.Context, addr common.Address) error {
	return c.asRole(ctx, "blacklister", "blacklist", addr)
}

// Unblacklist takes a Blacklist back.
func (c *Chain) Unblacklist(ctx context.Context, addr common.Address) error {
	return c.asRole(ctx, "blacklister", "unBlacklist", addr)
}

// Pause has the token refuse every transfer, as its pauser.
func (c *Chain) Pause(ctx context.Context) error { return c.asRole(ctx, "pauser", "pause") }

// Unpause takes a Pause back.
func (c *Chain) Unpause(ctx context.Context) error { return c.asRole(ctx, "pauser", "unpause") }

// asRole sends a transaction to the token from the address that has the role
// there.
func (c *Chain) asRole(ctx context.Context, role, method string, args ...any) error {
	var holder common.Address
	if err := c.readToken(ctx, c.USDC(), &holder, role); err != nil {
		return err
	}
	return c.sendToken(ctx, c.USDC(), holder, method, args...)
}
