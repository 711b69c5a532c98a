package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
)

// view is the chain as its node shows it.
type view struct {
	head chain.Head
	// seen is when the node last answered, set when head was last taken over, and
	// moved when it last was another block; by our clock.
	seen, set, moved time.Time
	// busy is when a block last had room taken by anybody: an empty chain tells
	// nothing about fees.
	busy time.Time
	tip  uint64
	// skew is how far our clock was ahead of the last new block's.
	skew time.Duration
}

const (
	// healthInterval is how often balances, tip, queue and budget are looked at.
	healthInterval = 2 * time.Second
	// staleHead is how long a node may be silent before nothing is settled by it.
	staleHead = 5 * healthInterval
)

// Head is the latest block seen.
func (c *Chain) Head() chain.Head {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view.head
}

// see takes over what the node calls its latest block.
func (c *Chain) see(h chain.Head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := &c.view
	v.seen = c.Now()
	// A lower head is a lagging node at first, and the truth if it lasts: the
	// chain was rolled back, or the higher head was a lie.
	if h.Number >= v.head.Number || v.seen.Sub(v.set) > staleHead {
		if h.Hash != v.head.Hash {
			if !v.moved.IsZero() { // the first one seen may be old
				v.skew = v.seen.Sub(time.Unix(int64(h.Time), 0)) //nolint:gosec // G115: seconds
				c.Metrics.skew.WithLabelValues(string(c.Config.Network)).Set(v.skew.Seconds())
			}
			v.moved = v.seen
			// A few system transactions are in every block of some chains.
			if h.GasUsed > h.GasLimit/100 {
				v.busy = v.seen
			}
		}
		v.head, v.set = h, v.seen
	}
	c.Metrics.head.WithLabelValues(string(c.Config.Network)).Set(float64(h.Number))
}

// Skewed says that our clock and the chain's differ too much, by the newest block;
// empty where they don't. Payments are still settled: the chain has the last word.
func (c *Chain) Skewed() string {
	c.mu.Lock()
	skew := c.view.skew
	c.mu.Unlock()
	if skew.Abs() <= c.Config.MaxClockSkew {
		return ""
	}
	return fmt.Sprintf("%s: our clock and the chain's differ by %s", c.Config.Network, skew.Abs().Round(time.Second))
}

// pushed takes a head that the node told by itself.
func (c *Chain) pushed(h chain.Head) {
	c.see(h)
	signal(c.look)
}

// countQueued meters the queue, which grows while the node is away.
func (c *Chain) countQueued(ctx context.Context) error {
	queued, err := c.Store.CountQueued(ctx, c.Config.Network)
	if err == nil {
		c.Metrics.queued.WithLabelValues(string(c.Config.Network)).Set(float64(queued))
	}
	return err
}

// refresh reads head, tip, budget and wallets.
func (c *Chain) refresh(ctx context.Context) error {
	head, err := c.Node.Head(ctx)
	if err != nil {
		return err
	}
	c.see(head) // whatever else fails, the node has answered
	tip, err := c.Node.SuggestTip(ctx)
	if err != nil {
		// Not every node suggests one; the cap is what we are willing to pay.
		tip = c.Config.MaxTip
		c.Log.DebugContext(ctx, "node suggests no tip, the cap is used", slog.Any("error", err))
	}
	spent, err := c.Store.SpentToday(ctx, c.Config.Network)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.view.tip, c.spent = tip, spent
	c.mu.Unlock()
	c.Metrics.spent.WithLabelValues(string(c.Config.Network)).Set(gwei(spent))
	return c.lookAtWallets(ctx)
}

func (c *Chain) watchHealth(ctx context.Context) {
	for sleep(ctx, healthInterval) {
		c.trySigners(ctx)
		// One failed look is no fault: what was seen before stands until it is stale.
		err := errors.Join(c.countQueued(ctx), c.refresh(ctx), c.topUp(ctx))
		if err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "chain not looked at", slog.Any("error", err))
		}
	}
}

// fees of the next transaction: head-room of twice the base fee plus the tip,
// within the caps.
func (c *Chain) fees() chain.Fees {
	c.mu.Lock()
	defer c.mu.Unlock()
	tip := min(c.view.tip, c.Config.MaxTip, c.Config.MaxFeePerGas)
	return chain.Fees{FeeCap: min(2*c.view.head.BaseFee+tip, c.Config.MaxFeePerGas), TipCap: tip}
}

// stalled says whether the chain stands still: something of ours has waited for
// a block longer than any should take, and there was none. A chain that makes
// blocks only for transactions is idle, not still.
func (c *Chain) stalled() bool {
	c.mu.Lock()
	moved, now := c.view.moved, c.Now()
	c.mu.Unlock()
	if now.Sub(moved) < c.Config.StallAfter {
		return false
	}
	for _, l := range c.wallets() {
		if since, waiting := l.waitingSince(); waiting && now.Sub(since) >= c.Config.StallAfter {
			return true
		}
	}
	return false
}

// checkProfile compares the profile's block time and gas with the chain's own.
// A difference is told, not refused: the chain may have changed.
func (c *Chain) checkProfile(ctx context.Context) {
	const span = 64
	head := c.Head()
	if head.GasLimit > 0 && c.Config.MaxGas > head.GasLimit {
		c.Log.WarnContext(ctx, "gas.max_per_payment is more than a block of this chain holds",
			slog.Uint64("block_gas_limit", head.GasLimit))
	}
	if head.Number < span {
		return
	}
	before, err := c.Node.HeadByNumber(ctx, head.Number-span)
	if err != nil || before.Time >= head.Time {
		return
	}
	seen := time.Duration(head.Time-before.Time) * time.Second / span //nolint:gosec // G115: seconds between two blocks
	if seen > 2*c.Config.BlockTime+time.Second/span || 2*seen+time.Second/span < c.Config.BlockTime {
		c.Log.WarnContext(ctx, "the chain makes blocks at another pace than configured: set block_time or profile",
			slog.Duration("configured", c.Config.BlockTime), slog.Duration("seen", seen))
	}
}

// SettledUpTo is the highest block at which an included payment counts as
// settled at level l. A payment that is final counts at every level.
func (c *Chain) SettledUpTo(l payment.Level) uint64 {
	if l.IsDefault() {
		l = c.DefaultLevel()
	}
	if l.Depth() == 1 {
		return math.MaxInt64
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deepWanted = c.Now()
	switch {
	case l.IsSafe():
		return min(c.safe, c.checked)
	case l.Depth() > 1 && c.checked+1 >= l.Depth():
		return c.checked + 1 - l.Depth()
	default:
		return 0
	}
}

// DefaultLevel is what success waits for where a caller asks for nothing else.
func (c *Chain) DefaultLevel() payment.Level { return payment.Blocks(c.Config.Confirmations) }
