package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/tracing"
	"facilitator/internal/x402"
)

// markAfter is how long a transaction may wait for a block before the record is
// told that it was sent. Most are mined sooner, and spare it the write.
const markAfter = time.Second

// track follows every open transaction of this process's lanes to its end.
func (c *Chain) track(ctx context.Context) {
	poll := time.NewTicker(c.Config.PollInterval)
	defer poll.Stop()
	early := time.NewTimer(0)
	defer early.Stop()
	var last chain.Hash // the block at which receipts were last asked for
	var watched time.Time
	for polled := true; ; {
		err := c.follow(ctx, &last, polled)
		if now := c.Now(); now.Sub(watched) >= healthInterval || c.wantsDepth(now) {
			watched = now
			err = errors.Join(err, c.watchBlocks(ctx))
		}
		early.Stop()
		if err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "tracking failed, it is tried again", slog.Any("error", err))
		} else if next, some := c.nextLook(); some {
			early.Reset(next.Sub(c.Now()))
		}
		select {
		case <-ctx.Done():
			return
		case <-c.look:
			polled = false
		case <-early.C:
			polled = false
		case <-poll.C:
			polled = true
		}
	}
}

// followed is a lane with what is asked about it in one look.
type followed struct {
	lane *lane
	row  payment.Lane
	txs  []*openTx
}

// cheapLook is how many receipts are asked for at every poll. For more than that
// it is first asked whether there is a new block at all.
const cheapLook = 4

// follow asks for the receipts of all open transactions in one round trip, where
// there is a new block or one of them is due, and acts on them. With polled it
// finds out whether there is a new block, unless the node tells by itself.
func (c *Chain) follow(ctx context.Context, last *chain.Hash, polled bool) error {
	var all []followed
	var failures []error
	for _, l := range c.wallets() {
		row, held := l.lease()
		if !held {
			continue
		}
		if err := l.reload(ctx, row); err != nil {
			failures = append(failures, fmt.Errorf("lane %s: %w", row.Address, err))
			continue
		}
		all = append(all, followed{lane: l, row: row, txs: l.transactions()})
	}
	for _, f := range all {
		c.judgeAll(ctx, f)
	}
	hashes, due := c.openHashes(all, polled)
	if len(hashes) == 0 {
		*last = chain.Hash{}
		c.settle(all)
		return errors.Join(failures...)
	}
	if !due && polled && c.unheard() {
		if due = len(hashes) <= cheapLook; !due {
			head, err := c.Node.Head(ctx)
			if err != nil {
				return errors.Join(append(failures, fmt.Errorf("head: %w", err))...)
			}
			c.see(head)
		}
	}
	if due || c.Head().Hash != *last {
		asked := c.asking(all)
		head, found, err := c.Node.Look(ctx, hashes)
		if err != nil {
			return errors.Join(append(failures, fmt.Errorf("receipts: %w", err))...)
		}
		c.see(head)
		*last = head.Hash
		for _, f := range all {
			if err := c.conclude(ctx, f, head, found, asked); err != nil {
				failures = append(failures, err)
				*last = chain.Hash{} // look again, whatever the chain does
			}
			c.judgeAll(ctx, f)
		}
	}
	for _, f := range all {
		failures = append(failures, f.lane.nudge(ctx, f.row))
	}
	c.settle(all)
	return errors.Join(failures...)
}

// asking notes that all that is open is asked about now.
func (c *Chain) asking(all []followed) time.Time {
	now := c.Now()
	for _, f := range all {
		f.lane.mu.Lock()
		for _, t := range f.txs {
			t.again, t.asked = !t.asked.IsZero(), now
		}
		f.lane.mu.Unlock()
	}
	return now
}

// nextLook is when the first of the open transactions is worth asking about,
// where that is before the next poll, and no node tells of blocks by itself.
func (c *Chain) nextLook() (first time.Time, some bool) {
	if !c.unheard() {
		return first, false
	}
	for _, l := range c.wallets() {
		if _, held := l.lease(); !held {
			continue
		}
		l.mu.Lock()
		for _, t := range l.open {
			if t.closed() {
				continue
			}
			if at, ok := c.pace.next(t.signedAt, t.asked); ok && (!some || at.Before(first)) {
				first, some = at, true
			}
		}
		l.mu.Unlock()
	}
	return first, some
}

// unheard says whether the head must be asked for: nobody tells it, or not lately.
func (c *Chain) unheard() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Heads == nil || c.Now().Sub(c.view.seen) > 2*c.Config.BlockTime+c.Config.PollInterval
}

// settle lets lanes work whose past has been gone through.
func (c *Chain) settle(all []followed) {
	for _, f := range all {
		f.lane.mu.Lock()
		if f.lane.epoch == f.row.Epoch && !f.lane.settled && !f.lane.stale {
			f.lane.settled = true
			signal(c.room)
		}
		f.lane.mu.Unlock()
	}
}

// openHashes are the attempts of all transactions without a receipt; due says
// whether one of them is worth asking about now, without a new block.
func (c *Chain) openHashes(all []followed, polled bool) (hashes []chain.Hash, due bool) {
	now := c.Now()
	for _, f := range all {
		f.lane.mu.Lock()
		for _, t := range f.txs {
			if t.receipt != nil || t.Transaction.State == payment.TxReplaced {
				continue
			}
			at, early := c.pace.next(t.signedAt, t.asked)
			// The past of a lane is gone through before it works.
			due = due || early && !at.After(now) || t.looked.IsZero() && (polled || !f.lane.settled)
			for _, a := range t.Transaction.Attempts {
				hashes = append(hashes, a.Hash)
			}
		}
		f.lane.mu.Unlock()
	}
	return hashes, due
}

// conclude records what a look has shown of a lane's transactions: those that are
// mined, with the payments they paid, in one commit.
func (c *Chain) conclude(ctx context.Context, f followed, head chain.Head, found map[chain.Hash]evm.Lookup, asked time.Time) error {
	l := f.lane
	var ins []payment.Inclusion
	var mined []*openTx
	for _, t := range f.txs {
		receipt, unknown := lookup(&t.Transaction, found)
		l.mu.Lock()
		known := t.receipt != nil
		// A node that is behind the one that told the wallet's nonce does not count.
		if receipt == nil && !unknown && head.Number >= l.nonceHeight {
			t.looked = asked
		}
		l.mu.Unlock()
		if receipt == nil || known {
			continue
		}
		mined = append(mined, t)
		l.mu.Lock() // its payments may be judged expired at this moment
		outcomes := c.paid(t, receipt)
		undecided := unpaidOpen(t, outcomes)
		l.mu.Unlock()
		ins = append(ins, payment.Inclusion{
			Transaction: t.Transaction.ID, Receipt: receipt, Outcomes: outcomes, Undecided: undecided,
		})
	}
	if len(ins) == 0 {
		return nil
	}
	c.Crash("receipt")
	if err := c.Store.RecordInclusions(ctx, f.row, ins); err != nil {
		l.fenced(ctx, f.row, err)
		return fmt.Errorf("record inclusions: %w", err)
	}
	c.Crash("included")
	for i, t := range mined {
		c.included(ctx, l, t, ins[i])
	}
	signal(c.room)
	return nil
}

// lookup returns the receipt of whichever attempt was mined; without one,
// whether the node could not tell about one of them.
func lookup(t *payment.Transaction, found map[chain.Hash]evm.Lookup) (mined *chain.Receipt, unknown bool) {
	for _, a := range t.Attempts {
		seen, asked := found[a.Hash]
		if seen.Receipt != nil {
			return seen.Receipt, false
		}
		unknown = unknown || seen.Unknown || !asked
	}
	return nil, unknown
}

// paid are the outcomes of the payments that a receipt proves paid, even of one
// that was given up: its transaction was mined after all.
func (c *Chain) paid(t *openTx, r *chain.Receipt) []payment.Outcome {
	var outcomes []payment.Outcome
	for i := range t.Payments {
		p := &t.Payments[i]
		s := c.Schemes[p.Terms.Scheme]
		if s != nil && (p.Open() || p.State == payment.StateFailed) && s.Proves(p.Terms, r) {
			outcomes = append(outcomes, p.Paid(payment.EvidenceReceipt, r))
		}
	}
	return outcomes
}

// unpaidOpen says whether outcomes leave an open payment of a transaction out.
func unpaidOpen(t *openTx, outcomes []payment.Outcome) bool {
	paid := make(map[payment.ID]bool, len(outcomes))
	for i := range outcomes {
		paid[outcomes[i].Payment] = true
	}
	return slices.ContainsFunc(t.undecided(), func(p *payment.Payment) bool { return !paid[p.ID] })
}

// included takes over what was recorded of a mined transaction.
func (c *Chain) included(ctx context.Context, l *lane, t *openTx, in payment.Inclusion) {
	c.Metrics.gas.WithLabelValues(string(c.Config.Network)).Add(float64(in.Receipt.GasUsed))
	l.paidGas(in.Receipt)
	l.mu.Lock()
	t.receipt = in.Receipt
	if !t.asked.Before(t.signedAt) { // else it was mined before we knew
		c.pace.learn(t.signedAt, t.asked, !t.again)
	}
	byID := make(map[payment.ID]*payment.Payment, len(t.Payments))
	for i := range t.Payments {
		byID[t.Payments[i].ID] = &t.Payments[i]
	}
	for _, o := range in.Outcomes {
		byID[o.Payment].State = o.To
	}
	undecided, taken := len(t.undecided()), t.takenAt
	if undecided == 0 {
		delete(l.open, t.Transaction.ID)
	}
	l.count()
	l.mu.Unlock()
	if !taken.IsZero() {
		c.passed(phaseInclude, c.Now().Sub(taken))
	}
	if len(t.Payments) > 0 {
		c.Metrics.gasEach.WithLabelValues(string(c.Config.Network)).Observe(float64(in.Receipt.GasUsed) / float64(len(t.Payments)))
	}
	if in.Receipt.Succeeded && undecided == 0 && len(t.Payments) > 0 {
		c.gas.learn(in.Receipt.GasUsed, len(t.Payments))
	}
	for _, o := range in.Outcomes {
		c.trace(ctx, l, t, in.Receipt, o.Payment)
		c.tell(ctx, byID[o.Payment], o)
	}
}

// trace puts what was done for a payment into the trace of its request.
func (c *Chain) trace(ctx context.Context, l *lane, t *openTx, r *chain.Receipt, id payment.ID) {
	l.mu.Lock()
	m := tracing.Mined{
		Took: t.tookAt, Sent: t.takenAt, Seen: c.Now(), Network: string(c.Config.Network), Lane: l.signer.Address().String(), TxHash: r.TxHash.String(),
		WalletNonce: t.Transaction.WalletNonce, Block: r.BlockNumber, Payments: len(t.Payments), Attempts: len(t.Transaction.Attempts),
	}
	if m.Sent.IsZero() {
		m.Sent = t.openedAt
	}
	l.mu.Unlock()
	c.Claims.Settled(ctx, id, m)
}

// judgeAll asks what became of payments that their transaction, whose wallet
// nonce is used, did not pay.
func (c *Chain) judgeAll(ctx context.Context, f followed) {
	for _, t := range f.txs {
		f.lane.mu.Lock()
		ready := t.closed() && !t.judging && (t.receipt != nil || t.Transaction.State == payment.TxReplaced)
		ready = ready && f.lane.open[t.Transaction.ID] == t && slices.ContainsFunc(t.undecided(), func(p *payment.Payment) bool { return c.isDue(p.ID) })
		if ready {
			t.judging = true
		}
		f.lane.mu.Unlock()
		if ready {
			c.judge1(ctx, func(ctx context.Context) { c.judgeUnpaid(ctx, f.lane, t) })
		}
	}
}

// judgeUnpaid judges the undecided payments of one transaction. What the chain
// can't tell about now stays for a later look.
func (c *Chain) judgeUnpaid(ctx context.Context, l *lane, t *openTx) {
	l.mu.Lock()
	undecided := t.undecided()
	receipt := t.receipt
	l.mu.Unlock()
	left := len(undecided)
	for _, p := range undecided {
		if !c.isDue(p.ID) {
			continue
		}
		o, err := c.unpaid(ctx, p, t, receipt)
		if err == nil {
			err = c.record(ctx, p, o)
		}
		if err != nil {
			c.putOff(p.ID)
			c.Log.WarnContext(ctx, "payment not judged, it is tried again", slog.String("payment_id", string(p.ID)), slog.Any("error", err))
			continue
		}
		left--
		l.mu.Lock()
		p.State = o.To
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.judging = false
	if left == 0 {
		delete(l.open, t.Transaction.ID)
		l.count()
	}
}

func (c *Chain) isDue(id payment.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deferred.due(id, c.Now())
}

func (c *Chain) putOff(id payment.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deferred.add(id, c.Now())
}

// unpaid judges a payment that its transaction did not pay. Status 1 alone is not
// paid, and status 0 alone is not failed (I5, I6).
func (c *Chain) unpaid(ctx context.Context, p *payment.Payment, t *openTx, r *chain.Receipt) (payment.Outcome, error) {
	if r == nil {
		return c.judgeNow(ctx, p, &payment.Evidence{Kind: payment.EvidenceReplaced, TxHash: &p.TxHash})
	}
	if !r.Succeeded || len(t.Payments) > 1 {
		const detail = "its transaction did not pay it, as others before"
		o, err := c.judge(ctx, p, r.BlockNumber, payment.ReceiptEvidence(payment.EvidenceReverted, r, ""))
		if err == nil && o.To == payment.StateQueued && p.Tries >= maxTries {
			o = p.Failed(x402.ReasonExactTransactionFailed, detail, payment.ReceiptEvidence(payment.EvidenceReverted, r, detail))
		}
		return o, err
	}
	// The call ran to its end and the token shows no transfer for it. Unless
	// somebody else's transaction made it, it is not to be had from this token.
	s := c.Schemes[p.Terms.Scheme]
	if s == nil {
		return payment.Outcome{}, fmt.Errorf("scheme %q is not configured", p.Terms.Scheme)
	}
	fate, err := s.Fate(ctx, p.Terms, p.ClaimedAtBlock+1, r.BlockNumber)
	if err != nil {
		return payment.Outcome{}, fmt.Errorf("fate: %w", err)
	}
	if fate.Kind == scheme.FatePaid {
		return p.Paid(payment.EvidenceOtherTransaction, fate.Receipt), nil
	}
	const detail = "the transaction succeeded, but the token shows no transfer of this authorization"
	return p.Failed(x402.ReasonExactTransferMismatch, detail, payment.ReceiptEvidence(payment.EvidenceReverted, r, detail)), nil
}
