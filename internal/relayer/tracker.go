package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// track follows every open transaction to its end: the receipts of all of them
// in one batch a tick, the same bytes again while there is none, and finality
// or reorganisation afterwards.
func (c *Chain) track(ctx context.Context) {
	var looked time.Time
	for {
		open, err := c.follow(ctx)
		if err == nil && c.Now().Sub(looked) >= healthInterval {
			looked = c.Now()
			err = c.watchBlocks(ctx)
		}
		if err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "tracking failed, it is tried again", slog.Any("error", err))
		}
		pause := time.NewTimer(c.pause(open))
		select {
		case <-ctx.Done():
		case <-c.sent:
		case <-pause.C:
		}
		pause.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (c *Chain) pause(open int) time.Duration {
	if open > 0 {
		return c.Config.PollInterval
	}
	return max(idlePoll, c.Config.PollInterval)
}

// follow looks at all open transactions once and returns how many stay open.
func (c *Chain) follow(ctx context.Context) (int, error) {
	txs, err := c.Store.OpenTransactions(ctx, c.Config.Network)
	if err != nil {
		return 0, err
	}
	c.countOpen(txs)
	if len(txs) == 0 {
		return 0, nil
	}
	var hashes []chain.Hash
	for _, t := range txs {
		for _, a := range t.Transaction.Attempts {
			hashes = append(hashes, a.Hash)
		}
	}
	receipts, err := c.Node.Receipts(ctx, hashes)
	if err != nil {
		return len(txs), fmt.Errorf("receipts: %w", err)
	}
	head, err := c.Node.Head(ctx)
	if err != nil {
		return len(txs), fmt.Errorf("head: %w", err)
	}
	c.see(head)
	var stay []payment.Carried
	var failures []error
	for _, t := range txs {
		r := receiptOf(t, receipts)
		if r == nil {
			stay = append(stay, t)
			continue
		}
		if err := c.conclude(ctx, t, r); err != nil {
			failures = append(failures, err)
			stay = append(stay, t)
		}
	}
	c.countOpen(stay)
	if len(stay) < len(txs) {
		for _, l := range c.lanes {
			signal(l.wake) // there is room again
		}
	}
	failures = append(failures, c.resend(ctx, stay, receipts), c.expire(ctx, stay, head))
	return len(stay), errors.Join(failures...)
}

func receiptOf(t payment.Carried, receipts map[chain.Hash]*chain.Receipt) *chain.Receipt {
	for _, a := range t.Transaction.Attempts {
		if r := receipts[a.Hash]; r != nil {
			return r
		}
	}
	return nil
}

func (c *Chain) countOpen(txs []payment.Carried) {
	byLane := make(map[int64]int)
	for _, t := range txs {
		byLane[t.Transaction.Lane.ID]++
	}
	for _, l := range c.lanes {
		l.mu.Lock()
		l.open = byLane[l.row.ID]
		l.mu.Unlock()
		c.Metrics.inFlight.WithLabelValues(string(c.Config.Network), l.signer.Address().String()).Set(float64(byLane[l.row.ID]))
	}
}

// conclude records what a mined transaction did to each payment it carries.
func (c *Chain) conclude(ctx context.Context, t payment.Carried, r *chain.Receipt) error {
	c.Crash("receipt")
	in := payment.Inclusion{Transaction: t.Transaction.ID, Receipt: r}
	for i := range t.Payments {
		p := &t.Payments[i]
		if p.State != payment.StateSigned && p.State != payment.StateBroadcast {
			continue // decided already: expired, or settled by somebody else
		}
		o, err := c.outcome(ctx, p, r)
		if err != nil {
			return err
		}
		in.Outcomes = append(in.Outcomes, o)
	}
	err := c.Store.RecordInclusion(ctx, in)
	if errors.Is(err, payment.ErrTransition) {
		return nil // another replica was faster
	}
	if err != nil {
		return fmt.Errorf("record inclusion of %s: %w", r.TxHash, err)
	}
	c.Crash("included")
	c.Metrics.gas.WithLabelValues(string(c.Config.Network)).Add(float64(r.GasUsed))
	for _, o := range in.Outcomes {
		c.count(ctx, o)
		c.Moved(o.Payment)
		if o.To == payment.StateQueued {
			c.Wake()
		}
	}
	return nil
}

// outcome judges one payment of a mined transaction. Status 1 alone is not
// paid, and status 0 alone is not failed (I5, I6).
func (c *Chain) outcome(ctx context.Context, p *payment.Payment, r *chain.Receipt) (payment.Outcome, error) {
	s := c.Schemes[p.Terms.Scheme]
	if s == nil {
		return payment.Outcome{}, fmt.Errorf("payment %s is of scheme %q, which is not configured", p.ID, p.Terms.Scheme)
	}
	if s.Proves(p.Terms, r) {
		return payment.Paid(p.ID, payment.EvidenceReceipt, r), nil
	}
	if r.Succeeded {
		fate, err := s.Fate(ctx, p.Terms, p.ClaimedAtBlock+1)
		if err != nil {
			return payment.Outcome{}, fmt.Errorf("fate of payment %s: %w", p.ID, err)
		}
		if fate.Kind == scheme.FatePaid {
			return payment.Paid(p.ID, payment.EvidenceOtherTransaction, fate.Receipt), nil
		}
		const detail = "the transaction succeeded, but the token shows no transfer of this authorization"
		return payment.Failed(p.ID, x402.ReasonExactTransferMismatch, detail,
			payment.ReceiptEvidence(payment.EvidenceReverted, r, detail)), nil
	}
	o, err := c.judge(ctx, p, func(why *x402.Rejection) *payment.Evidence {
		return payment.ReceiptEvidence(payment.EvidenceReverted, r, why.Error())
	})
	if err == nil && o.To == payment.StateQueued && p.Tries >= maxTries {
		const detail = "the transaction reverted, as others for this payment before"
		return payment.Failed(p.ID, x402.ReasonExactTransactionFailed, detail,
			payment.ReceiptEvidence(payment.EvidenceReverted, r, detail)), nil
	}
	return o, err
}

// resend hands the same bytes to the node again: mempools forget.
func (c *Chain) resend(ctx context.Context, txs []payment.Carried, receipts map[chain.Hash]*chain.Receipt) error {
	var due []payment.Carried
	for _, t := range txs {
		last := t.Transaction.Attempts[len(t.Transaction.Attempts)-1]
		if receiptOf(t, receipts) == nil && c.Now().Sub(last.LastSendAt) >= c.Config.ResendInterval {
			due = append(due, t)
		}
	}
	if len(due) == 0 {
		return nil
	}
	return c.broadcast(ctx, due)
}

// expire fails payments whose time ran out by a final block, unused (I6). Their
// transaction stays open: its wallet nonce is taken until it is mined.
func (c *Chain) expire(ctx context.Context, txs []payment.Carried, head chain.Head) error {
	var final *chain.Head
	for _, t := range txs {
		for i := range t.Payments {
			p := &t.Payments[i]
			open := p.State == payment.StateSigned || p.State == payment.StateBroadcast
			if !open || p.Terms.ValidBefore.Cmp(x402.NewUint256(head.Time)) > 0 {
				continue
			}
			if final == nil {
				f, err := c.finalized(ctx)
				if err != nil {
					return fmt.Errorf("finalized block: %w", err)
				}
				final = &f
			}
			if p.Terms.ValidBefore.Cmp(x402.NewUint256(final.Time)) > 0 {
				continue
			}
			o, err := c.judge(ctx, p, func(*x402.Rejection) *payment.Evidence {
				return &payment.Evidence{
					Kind: payment.EvidenceExpired, BlockNumber: final.Number, BlockHash: &final.Hash, BlockTime: final.Time,
				}
			})
			if err != nil {
				return err
			}
			if o.To == payment.StateQueued {
				continue
			}
			if err := c.record(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

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

// reorgWindow is how many of the newest blocks are compared at every look; an
// older one is compared once more when it becomes final.
const reorgWindow = 128

// watchBlocks compares the blocks that payments rest on with the canonical
// chain: final ones are done with, vanished ones give their payments back.
func (c *Chain) watchBlocks(ctx context.Context) error {
	head := c.Head()
	final, err := c.finalized(ctx)
	if err != nil {
		return fmt.Errorf("finalized block: %w", err)
	}
	recent := uint64(0)
	if head.Number > reorgWindow {
		recent = head.Number - reorgWindow
	}
	blocks, err := c.Store.WatchedBlocks(ctx, c.Config.Network, final.Number, recent)
	if err != nil || len(blocks) == 0 {
		return err
	}
	numbers := make([]uint64, len(blocks))
	for i, b := range blocks {
		numbers[i] = b.Number
	}
	canonical, err := c.Node.CanonicalHashes(ctx, numbers)
	if err != nil {
		return fmt.Errorf("canonical blocks: %w", err)
	}
	for _, b := range blocks {
		hash, known := canonical[b.Number]
		switch {
		case !known: // the node lags: it can't tell
		case hash != b.Hash:
			c.Log.WarnContext(ctx, "block reorganised, its payments are broadcast again", slog.Uint64("block", b.Number), slog.String("block_hash", b.Hash.String()))
			c.Metrics.reorgs.WithLabelValues(string(c.Config.Network)).Inc()
			if err := c.Store.RecordReorg(ctx, c.Config.Network, b); err != nil {
				return err
			}
			signal(c.sent)
			c.Wake()
		case b.Number <= final.Number:
			if err := c.Store.RecordFinal(ctx, c.Config.Network, b); err != nil {
				return err
			}
		}
	}
	return nil
}
