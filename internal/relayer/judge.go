package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// explain answers a queued payment whose call would fail now, and leaves one
// alone for a while about which the chain can't tell.
func (c *Chain) explain(ctx context.Context, d doubt) {
	p, err := &d.payment, d.err
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.busy, p.ID)
	}()
	var o payment.Outcome
	if err == nil {
		o, err = c.judgeNow(ctx, p, lastTry(p))
	}
	if err == nil && o.To == payment.StateQueued && p.Tries >= maxTries {
		o = p.Failed(x402.ReasonExactTransactionFailed, fmt.Sprintf("%d transactions did not pay it", p.Tries), lastTry(p))
	}
	if err == nil && o.To == payment.StateQueued && d.reverts != "" && c.refusedTwice(p.ID) {
		o = p.Failed(x402.ReasonExactSimulationFailed, "the call succeeds when it is asked and fails when it is sent: "+d.reverts, lastTry(p))
	}
	if err == nil && o.To != payment.StateQueued {
		err = c.record(ctx, p, o)
	}
	switch {
	case err == nil && o.To == payment.StateQueued && c.firstSolo(p.ID):
		// It would succeed by itself: it met others of its payer, or needs more gas
		// than the rule gives.
		c.Wake()
	case err != nil || o.To == payment.StateQueued:
		c.postpone(ctx, p, err)
	}
}

// judgeNow judges by the state of a block that is no older than any that the
// payment was looked at before: one that the tracker saw last may lack the money
// that was there when the payment was verified.
func (c *Chain) judgeNow(ctx context.Context, p *payment.Payment, failed *payment.Evidence) (payment.Outcome, error) {
	head, err := c.Node.Head(ctx)
	if err != nil {
		return payment.Outcome{}, fmt.Errorf("head: %w", err)
	}
	c.see(head)
	if head.Number < p.ClaimedAtBlock {
		return payment.Outcome{}, fmt.Errorf("%w: its latest block is older than the payment", chain.ErrUnavailable)
	}
	return c.judge(ctx, p, head.Number, failed)
}

// firstSolo has a payment go alone from now on; false if it did already.
func (c *Chain) firstSolo(id payment.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.solo[id] {
		return false
	}
	c.solo[id] = true
	return true
}

// refusedTwice says whether a payment was refused as it would be sent, and two
// blocks later again, while its call succeeds on the latest block. A node that
// estimates on a block it is still making may know of a transfer that the latest
// block does not show yet: whoever made that, it is mined by then, or gone.
func (c *Chain) refusedTwice(id payment.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deferred.refuse(id, c.Now(), c.view.head.Number)
}

// lastTry is the evidence of a failure that the latest state shows: the last
// transaction that carried the payment, or that there was none.
func lastTry(p *payment.Payment) *payment.Evidence {
	if !p.Sent() {
		return &payment.Evidence{Kind: payment.EvidenceUnsendable}
	}
	return &payment.Evidence{Kind: payment.EvidenceReverted, TxHash: &p.TxHash}
}

// postpone leaves a payment alone for a while, longer each time. One that was
// never signed is taken back in the end, so that nothing waits for ever that
// nobody waits for.
func (c *Chain) postpone(ctx context.Context, p *payment.Payment, cause error) {
	c.mu.Lock()
	times := c.deferred.add(p.ID, c.Now())
	c.mu.Unlock()
	c.Log.WarnContext(ctx, "payment could not be prepared, it is tried again", slog.String("payment_id", string(p.ID)),
		slog.Int("times", times), slog.Any("error", cause))
	if times < maxDeferrals || p.Sent() {
		return
	}
	err := c.Store.Withdraw(ctx, p.ID, x402.ReasonUnexpectedSettle, "the chain could not tell whether the payment would succeed")
	if err != nil && !errors.Is(err, payment.ErrTransition) {
		c.Log.WarnContext(ctx, "payment not taken back", slog.String("payment_id", string(p.ID)), slog.Any("error", err))
		return
	}
	c.Metrics.takenBack.WithLabelValues(string(c.Config.Network)).Inc()
	c.forget(p.ID)
	c.Moved(p.ID)
}

// forget drops what was noted about a payment beside the record.
func (c *Chain) forget(id payment.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.solo, id)
	delete(c.deferred, id)
	c.Claims.Forget(id)
}

// judge finds out from the state of block at what becomes of a payment that a
// transaction of ours did not make, or would not make: paid by somebody else's
// very same transfer, failed for good with evidence, or still possible
// (StateQueued). An error means that the chain could not tell.
func (c *Chain) judge(ctx context.Context, p *payment.Payment, at uint64, failed *payment.Evidence) (payment.Outcome, error) {
	s := c.Schemes[p.Terms.Scheme]
	if s == nil {
		return payment.Outcome{}, fmt.Errorf("payment %s is of scheme %q, which is not configured", p.ID, p.Terms.Scheme)
	}
	fate, err := s.Fate(ctx, p.Terms, p.ClaimedAtBlock+1, at)
	if err != nil {
		return payment.Outcome{}, fmt.Errorf("fate of payment %s: %w", p.ID, err)
	}
	switch fate.Kind {
	case scheme.FatePaid:
		return p.Paid(payment.EvidenceOtherTransaction, fate.Receipt), nil
	case scheme.FateConsumed:
		return p.Failed(x402.ReasonExactNonceUsed, fate.Detail,
			payment.ReceiptEvidence(payment.EvidenceConsumed, fate.Receipt, fate.Detail)), nil
	case scheme.FateRefused:
		evidence := *failed
		evidence.Detail = fate.Refusal.Error()
		return p.Failed(fate.Refusal.Reason, fate.Refusal.Message, &evidence), nil
	case scheme.FateUnused:
		return p.Requeued(), nil
	case scheme.FateUnexplained:
		return c.judgeBelow(ctx, s, p, at, fate.Detail)
	}
	return payment.Outcome{}, fmt.Errorf("fate of payment %s: %w: %s", p.ID, chain.ErrUnavailable, fate.Detail)
}

// judgeBelow looks for who used an authorization below the payment's claim: a
// reorganisation may have put it there. What was used before the claim is never
// our success (I6), unless the payment was settled in the fork that is gone.
func (c *Chain) judgeBelow(ctx context.Context, s scheme.Scheme, p *payment.Payment, at uint64, detail string) (payment.Outcome, error) {
	fate, err := s.Fate(ctx, p.Terms, p.ClaimedAtBlock-min(p.ClaimedAtBlock, reorgWindow), at)
	if err != nil {
		return payment.Outcome{}, fmt.Errorf("fate of payment %s: %w", p.ID, err)
	}
	switch {
	case fate.Kind == scheme.FatePaid && p.Reorged:
		return p.Paid(payment.EvidenceOtherTransaction, fate.Receipt), nil
	case fate.Kind == scheme.FatePaid, fate.Kind == scheme.FateConsumed:
		if fate.Detail == "" {
			fate.Detail = "the authorization was used before this settlement"
		}
		return p.Failed(x402.ReasonExactNonceUsed, fate.Detail, payment.ReceiptEvidence(payment.EvidenceConsumed, fate.Receipt, fate.Detail)), nil
	}
	return payment.Outcome{}, fmt.Errorf("fate of payment %s: %w: %s", p.ID, chain.ErrUnavailable, detail)
}

// record writes an outcome and tells who waits. That the payment moved on since
// it was judged is no error.
func (c *Chain) record(ctx context.Context, p *payment.Payment, o payment.Outcome) error {
	err := c.Store.RecordOutcome(ctx, o)
	if errors.Is(err, payment.ErrTransition) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("record payment %s: %w", o.Payment, err)
	}
	c.tell(ctx, p, o)
	return nil
}

// tell logs and meters an outcome and wakes who waits.
func (c *Chain) tell(ctx context.Context, p *payment.Payment, o payment.Outcome) {
	c.Metrics.outcomes.WithLabelValues(string(c.Config.Network), string(o.To), string(o.Reason)).Inc()
	attrs := []any{slog.String("payment_id", string(o.Payment)), slog.String("state", string(o.To))}
	if o.To == payment.StateIncluded {
		attrs = append(attrs, slog.String("tx_hash", o.TxHash.String()), slog.Uint64("block", o.Block))
	}
	if o.Reason != "" {
		attrs = append(attrs, slog.String("reason", string(o.Reason)), slog.String("message", o.Message))
	}
	c.Log.InfoContext(ctx, "payment moved", attrs...)
	if o.To == payment.StateQueued {
		c.Wake()
	} else {
		c.forget(o.Payment)
	}
	c.Ended(p, o)
	c.Moved(o.Payment)
}
