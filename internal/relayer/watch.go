package relayer

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// finalized is the newest block that counts as final.
func (c *Chain) finalized(ctx context.Context) (chain.Head, error) {
	if c.Config.FinalityDepth == 0 {
		return c.Node.Finalized(ctx)
	}
	head := c.Head()
	if head.Number < c.Config.FinalityDepth {
		return chain.Head{}, nil
	}
	return c.Node.HeadByNumber(ctx, head.Number-c.Config.FinalityDepth)
}

const (
	// reorgWindow is how many of the newest blocks are compared at every look; an
	// older one is compared once more when it becomes final.
	reorgWindow = 128
	// finalAtOnce is how many blocks are read, and sealTogether how many are made
	// final in one commit: finality comes in jumps, of two thousand blocks on Base.
	finalAtOnce, sealTogether = 256, 16
)

// watchBlocks compares the newest blocks that payments rest on with the canonical
// chain: those that vanished give their payments back.
func (c *Chain) watchBlocks(ctx context.Context) error {
	head, err := c.Node.Head(ctx)
	if err != nil {
		return fmt.Errorf("head: %w", err)
	}
	c.see(head)
	from := head.Number - min(head.Number, reorgWindow)
	blocks, err := c.Store.WatchedBlocks(ctx, c.Config.Network, from, math.MaxUint64, 2*reorgWindow)
	if err != nil {
		return err
	}
	_, complete, err := c.compareBlocks(ctx, blocks)
	if err != nil {
		return err
	}
	if err := c.noticeReorgs(ctx); err != nil {
		return err
	}
	if !complete {
		return nil
	}
	safe := chain.Head{}
	if c.wantsDepth(c.Now()) {
		if safe, err = c.Node.Safe(ctx); err != nil {
			c.Log.DebugContext(ctx, "node tells no safe block", slog.Any("error", err))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked, c.safe = head.Number, max(safe.Number, c.final)
	return nil
}

// compareBlocks gives the payments of blocks that are not canonical back, and
// returns those that are; complete says that the node could tell of each.
func (c *Chain) compareBlocks(ctx context.Context, blocks []chain.Head) (kept []chain.Head, complete bool, _ error) {
	numbers := make([]uint64, len(blocks))
	for i, b := range blocks {
		numbers[i] = b.Number
	}
	canonical, err := c.Node.CanonicalHashes(ctx, numbers)
	if err != nil {
		return nil, false, fmt.Errorf("canonical blocks: %w", err)
	}
	complete = true
	for _, b := range blocks {
		switch hash, known := canonical[b.Number]; {
		case !known: // the node lags: it can't tell
			complete = false
		case hash == b.Hash:
			kept = append(kept, b)
		default:
			c.Log.WarnContext(ctx, "block reorganised, its payments are broadcast again", slog.Uint64("block", b.Number), slog.String("block_hash", b.Hash.String()))
			c.Metrics.reorgs.WithLabelValues(string(c.Config.Network)).Inc()
			if err := c.Store.RecordReorg(ctx, c.Config.Network, b); err != nil {
				return nil, false, err
			}
			c.Wake()
		}
	}
	return kept, complete, nil
}

// finalize brings payments whose block is final to their end, beside the tracker,
// which has callers waiting.
func (c *Chain) finalize(ctx context.Context) {
	for {
		more, err := c.finalizeOnce(ctx)
		if err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "final blocks not recorded, it is tried again", slog.Any("error", err))
		}
		if !more && !sleep(ctx, healthInterval) {
			return
		}
	}
}

// finalizeOnce records some final blocks and says whether there are more.
func (c *Chain) finalizeOnce(ctx context.Context) (more bool, _ error) {
	final, err := c.finalized(ctx)
	if err != nil {
		return false, fmt.Errorf("finalized block: %w", err)
	}
	c.mu.Lock()
	c.final = final.Number
	c.mu.Unlock()
	c.expire(ctx, c.Head(), final)
	blocks, err := c.Store.WatchedBlocks(ctx, c.Config.Network, 0, final.Number, finalAtOnce)
	if err != nil {
		return false, err
	}
	kept, complete, err := c.compareBlocks(ctx, blocks)
	if err != nil {
		return false, err
	}
	for chunk := range slices.Chunk(kept, sealTogether) {
		if err := c.Store.RecordFinal(ctx, c.Config.Network, chunk); err != nil {
			return false, err
		}
	}
	return complete && len(blocks) == finalAtOnce, nil
}

// noticeReorgs has lanes read their rows again of which transactions were opened
// again, by this replica or by another.
func (c *Chain) noticeReorgs(ctx context.Context) error {
	counts, err := c.Store.LaneReorgs(ctx, c.Config.Network)
	if err != nil {
		return err
	}
	for _, l := range c.wallets() {
		l.mu.Lock()
		if counts[l.row.ID] != l.reorgs {
			l.reorgs, l.stale = counts[l.row.ID], true
			signal(c.look)
		}
		l.mu.Unlock()
	}
	return nil
}

// wantsDepth says whether somebody waits for more than one block.
func (c *Chain) wantsDepth(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Sub(c.deepWanted) < healthInterval
}

// expire fails payments whose time ran out by a final block, unused (I6). Their
// transaction stays open until it is mined or replaced by an empty one.
func (c *Chain) expire(ctx context.Context, head, final chain.Head) {
	evidence := &payment.Evidence{
		Kind: payment.EvidenceExpired, BlockNumber: final.Number, BlockHash: &final.Hash, BlockTime: final.Time,
	}
	over := x402.NewUint256(final.Time)
	for _, l := range c.lanes {
		if _, held := l.lease(); !held {
			continue
		}
		for _, t := range l.transactions() {
			l.mu.Lock()
			var ps []*payment.Payment
			if !t.closed() && !t.judging {
				for _, p := range t.undecided() {
					if p.Terms.ValidBefore.Cmp(over) <= 0 && c.isDue(p.ID) {
						ps = append(ps, p)
					}
				}
			}
			t.judging = t.judging || len(ps) > 0
			l.mu.Unlock()
			if len(ps) > 0 {
				c.judge1(ctx, func(ctx context.Context) { c.expireAll(ctx, l, t, ps, head.Number, evidence) })
			}
		}
	}
}

func (c *Chain) expireAll(ctx context.Context, l *lane, t *openTx, ps []*payment.Payment, at uint64, evidence *payment.Evidence) {
	for _, p := range ps {
		o, err := c.judge(ctx, p, at, evidence)
		if o.Evidence != nil && o.Evidence.Kind == payment.EvidenceExpired {
			o.Reason, o.Message = x402.ReasonExactValidBefore, "the authorization expired unused"
		}
		if err == nil && o.To != payment.StateQueued {
			err = c.record(ctx, p, o)
		}
		if err != nil || o.To == payment.StateQueued {
			c.putOff(p.ID)
			c.Log.WarnContext(ctx, "expiry not judged, it is tried again", slog.String("payment_id", string(p.ID)), slog.Any("error", err))
			continue
		}
		l.mu.Lock()
		p.State = o.To
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.judging = false
}
