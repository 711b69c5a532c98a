package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
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
		// Success at a depth waits for the look at its block, finality has time.
		if c.Config.Confirmations > 1 || c.Now().Sub(looked) >= healthInterval {
			looked = c.Now()
			err = errors.Join(err, c.watchBlocks(ctx))
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
	if open > 0 || c.Config.Confirmations > 1 {
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
	var unmined, left []payment.Carried
	var failures []error
	for _, t := range txs {
		mined, unknown := lookup(t, receipts)
		switch {
		case mined != nil:
			done, err := c.conclude(ctx, t, mined)
			failures = append(failures, err)
			if !done {
				left = append(left, t)
			}
		case unknown: // neither mined nor to be sent again, as far as one can tell
			left = append(left, t)
		default:
			unmined = append(unmined, t)
		}
	}
	left = append(left, unmined...)
	if len(left) < len(txs) {
		c.countOpen(left)
		for _, l := range c.lanes {
			signal(l.wake) // there is room again
		}
	}
	failures = append(failures, c.resend(ctx, unmined), c.expire(ctx, left, head))
	return len(left), errors.Join(failures...)
}

// lookup returns the receipt of whichever attempt was mined; without one,
// whether the node could not tell about one of them.
func lookup(t payment.Carried, receipts map[chain.Hash]evm.Lookup) (mined *chain.Receipt, unknown bool) {
	for _, a := range t.Transaction.Attempts {
		l := receipts[a.Hash]
		if l.Receipt != nil {
			return l.Receipt, false
		}
		unknown = unknown || l.Unknown
	}
	return nil, unknown
}

// countOpen counts the wallet nonces that are not known to be mined.
func (c *Chain) countOpen(txs []payment.Carried) {
	byLane := make(map[int64]int)
	open := make(map[int64]bool)
	for _, t := range txs {
		if !t.Transaction.Mined() {
			byLane[t.Transaction.Lane.ID]++
			open[t.Transaction.ID] = true
		}
	}
	for _, l := range c.lanes {
		l.mu.Lock()
		l.open = byLane[l.row.ID]
		l.mu.Unlock()
		c.Metrics.inFlight.WithLabelValues(string(c.Config.Network), l.signer.Address().String()).Set(float64(byLane[l.row.ID]))
	}
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	// A lane may have sent one that these rows are too old to hold.
	maps.DeleteFunc(c.sentAt, func(id int64, at time.Time) bool { return !open[id] && now.Sub(at) > c.Config.ResendInterval })
}

// conclude records that a transaction was mined, and what it did to each payment
// it carries. A payment the chain can't tell about yet stays for a later look
// (not done), while its wallet nonce is free all the same.
func (c *Chain) conclude(ctx context.Context, t payment.Carried, r *chain.Receipt) (done bool, _ error) {
	c.Crash("receipt")
	outcomes, done, failure := c.outcomes(ctx, t, r)
	if t.Transaction.Mined() {
		for _, o := range outcomes {
			failure = errors.Join(failure, c.record(ctx, o))
		}
		return done && failure == nil, failure
	}
	err := c.Store.RecordInclusion(ctx, payment.Inclusion{Transaction: t.Transaction.ID, Receipt: r, Outcomes: outcomes})
	if errors.Is(err, payment.ErrTransition) {
		return done, failure // another replica was faster
	}
	if err != nil {
		return false, errors.Join(failure, fmt.Errorf("record inclusion of %s: %w", r.TxHash, err))
	}
	c.Crash("included")
	c.Metrics.gas.WithLabelValues(string(c.Config.Network)).Add(float64(r.GasUsed))
	for _, o := range outcomes {
		c.count(ctx, o)
		c.Moved(o.Payment)
		if o.To == payment.StateQueued {
			c.Wake()
		}
	}
	return done, failure
}

// outcomes judges the payments of a mined transaction; all of them, or it is not
// done. The error tells of those the chain could not tell about now.
func (c *Chain) outcomes(ctx context.Context, t payment.Carried, r *chain.Receipt) (outcomes []payment.Outcome, done bool, _ error) {
	var failures []error
	now := c.Now()
	done = true
	for i := range t.Payments {
		p := &t.Payments[i]
		s := c.Schemes[p.Terms.Scheme]
		switch {
		case s == nil:
			failures = append(failures, fmt.Errorf("payment %s is of scheme %q, which is not configured", p.ID, p.Terms.Scheme))
			done = false
			continue
		case s.Proves(p.Terms, r):
			// Even one that was given up: its transaction was mined after all.
			if p.Open() || p.State == payment.StateFailed {
				outcomes = append(outcomes, p.Paid(payment.EvidenceReceipt, r))
			}
			continue
		case !p.Open():
			continue
		case !c.isDue(p.ID, now):
			done = false
			continue
		}
		o, err := c.unpaid(ctx, s, p, r)
		if err != nil {
			c.putOff(p.ID)
			failures = append(failures, err)
			done = false
			continue
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, done, errors.Join(failures...)
}

func (c *Chain) isDue(id payment.ID, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deferred.due(id, now)
}

func (c *Chain) putOff(id payment.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deferred.add(id, c.Now())
}

// unpaid judges a payment that its mined transaction did not pay. Status 1 alone
// is not paid, and status 0 alone is not failed (I5, I6).
func (c *Chain) unpaid(ctx context.Context, s scheme.Scheme, p *payment.Payment, r *chain.Receipt) (payment.Outcome, error) {
	if !r.Succeeded {
		o, err := c.judge(ctx, p, r.BlockNumber, payment.ReceiptEvidence(payment.EvidenceReverted, r, ""))
		if err == nil && o.To == payment.StateQueued && p.Tries >= maxTries {
			const detail = "the transaction reverted, as others for this payment before"
			o = p.Failed(x402.ReasonExactTransactionFailed, detail, payment.ReceiptEvidence(payment.EvidenceReverted, r, detail))
		}
		return o, err
	}
	// The call ran to its end and the token shows no transfer for it. Unless
	// somebody else's transaction made it, it is not to be had from this token.
	fate, err := s.Fate(ctx, p.Terms, p.ClaimedAtBlock+1, r.BlockNumber)
	if err != nil {
		return payment.Outcome{}, fmt.Errorf("fate of payment %s: %w", p.ID, err)
	}
	if fate.Kind == scheme.FatePaid {
		return p.Paid(payment.EvidenceOtherTransaction, fate.Receipt), nil
	}
	const detail = "the transaction succeeded, but the token shows no transfer of this authorization"
	return p.Failed(x402.ReasonExactTransferMismatch, detail, payment.ReceiptEvidence(payment.EvidenceReverted, r, detail)), nil
}

// resend hands the same bytes to the node again: mempools forget. What the
// record says is another process's sending; its clock is not ours, so a time in
// our future is not believed.
func (c *Chain) resend(ctx context.Context, unmined []payment.Carried) error {
	var due []payment.Carried
	now := c.Now()
	c.mu.Lock()
	rested := func(at time.Time) bool {
		age := now.Sub(at)
		return age < 0 || age >= c.Config.ResendInterval
	}
	for _, t := range unmined {
		newest := t.Transaction.Attempts[len(t.Transaction.Attempts)-1]
		if rested(c.sentAt[t.Transaction.ID]) && rested(newest.SignedAt) && rested(newest.LastSendAt) {
			due = append(due, t)
		}
	}
	c.mu.Unlock()
	if len(due) == 0 {
		return nil
	}
	return c.broadcast(ctx, due)
}

// expire fails payments whose time ran out by a final block, unused (I6). Their
// transaction stays open: its wallet nonce is taken until it is mined.
func (c *Chain) expire(ctx context.Context, txs []payment.Carried, head chain.Head) error {
	var over []*payment.Payment
	for _, t := range txs {
		for i := range t.Payments {
			p := &t.Payments[i]
			if p.Open() && p.Terms.ValidBefore.Cmp(x402.NewUint256(head.Time)) <= 0 && c.isDue(p.ID, c.Now()) {
				over = append(over, p)
			}
		}
	}
	if len(over) == 0 {
		return nil
	}
	final, err := c.finalized(ctx)
	if err != nil {
		return fmt.Errorf("finalized block: %w", err)
	}
	evidence := &payment.Evidence{
		Kind: payment.EvidenceExpired, BlockNumber: final.Number, BlockHash: &final.Hash, BlockTime: final.Time,
	}
	var failures []error
	for _, p := range over {
		if p.Terms.ValidBefore.Cmp(x402.NewUint256(final.Time)) > 0 {
			continue
		}
		o, err := c.judge(ctx, p, head.Number, evidence)
		if o.Evidence != nil && o.Evidence.Kind == payment.EvidenceExpired {
			o.Reason, o.Message = x402.ReasonExactValidBefore, "the authorization expired unused"
		}
		if err == nil && o.To != payment.StateQueued {
			err = c.record(ctx, o)
		}
		if err != nil || o.To == payment.StateQueued {
			c.putOff(p.ID)
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
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
	head, err := c.Node.Head(ctx)
	if err != nil {
		return fmt.Errorf("head: %w", err)
	}
	c.see(head)
	final, err := c.finalized(ctx)
	if err != nil {
		return fmt.Errorf("finalized block: %w", err)
	}
	recent := uint64(0)
	if head.Number > reorgWindow {
		recent = head.Number - reorgWindow
	}
	blocks, err := c.Store.WatchedBlocks(ctx, c.Config.Network, final.Number, recent)
	if err != nil {
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
	complete := true
	for _, b := range blocks {
		hash, known := canonical[b.Number]
		switch {
		case !known: // the node lags: it can't tell
			complete = false
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
	if complete {
		c.mu.Lock()
		c.checked = head.Number
		c.mu.Unlock()
	}
	return nil
}
