package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// maxTries bounds the transactions one payment may cost us (I8).
const maxTries = 3

// reserve reads queued payments that no other lane of this process works on.
// Lanes of other processes are kept apart by the record when they sign.
func (c *Chain) reserve(ctx context.Context, most int) (mine []payment.Payment, release func(), _ error) {
	now := c.Now()
	c.mu.Lock()
	passed := len(c.preparing) + c.deferred.waiting(now)
	c.mu.Unlock()
	queued, err := c.Store.QueuedPayments(ctx, c.Config.Network, most+passed)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range queued {
		if len(mine) < most && !c.preparing[p.ID] && c.deferred.due(p.ID, now) {
			c.preparing[p.ID] = true
			mine = append(mine, p)
		}
	}
	return mine, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, p := range mine {
			delete(c.preparing, p.ID)
		}
	}, err
}

// doubt is a queued payment for which no transaction could be prepared.
type doubt struct {
	payment *payment.Payment
	// err is nil where the payment's own call would fail, or where it had its
	// tries: the chain is to be asked why.
	err error
}

// prepareOrders estimates every payment's own call on the latest state.
func (c *Chain) prepareOrders(ctx context.Context, l *lane, ps []payment.Payment) ([]payment.Order, []doubt) {
	orders := make([]*payment.Order, len(ps))
	doubts := make([]doubt, len(ps))
	var work sync.WaitGroup
	for i := range ps {
		work.Go(func() { orders[i], doubts[i] = c.prepareOrder(ctx, l, &ps[i]) })
	}
	work.Wait()
	var ready []payment.Order
	var doubtful []doubt
	for i, o := range orders {
		if o == nil {
			doubtful = append(doubtful, doubts[i])
			continue
		}
		ready = append(ready, *o)
	}
	return ready, doubtful
}

func (c *Chain) prepareOrder(ctx context.Context, l *lane, p *payment.Payment) (*payment.Order, doubt) {
	if p.Tries >= maxTries {
		return nil, doubt{payment: p}
	}
	call := p.Terms.Call
	gas, err := c.Node.EstimateGas(ctx, evm.Message{From: l.signer.Address(), To: call.To, Data: call.Data, Gas: c.Config.MaxGas})
	if _, reverted := evm.IsRevert(err); reverted {
		return nil, doubt{payment: p}
	}
	if err != nil {
		return nil, doubt{payment: p, err: fmt.Errorf("estimate: %w", err)}
	}
	limit := min(gas+gas*c.Config.GasMarginPercent/100, c.Config.MaxGas)
	fees := c.fees()
	return &payment.Order{Payments: []payment.ID{p.ID}, Sign: func(walletNonce uint64) (payment.Attempt, error) {
		signed, err := l.signer.Sign(ctx, evm.Unsigned{Call: call, WalletNonce: walletNonce, GasLimit: limit, Fees: fees})
		if err != nil {
			return payment.Attempt{}, err
		}
		return payment.Attempt{Hash: signed.Hash, Raw: signed.Raw, GasLimit: limit, Fees: fees}, nil
	}}, doubt{}
}

// explain answers a queued payment whose call would fail now, and leaves one
// alone for a while about which the chain can't tell.
func (c *Chain) explain(ctx context.Context, d doubt) {
	p, err := d.payment, d.err
	var o payment.Outcome
	if err == nil {
		o, err = c.judge(ctx, p, c.Head().Number, lastTry(p))
	}
	if err == nil && o.To == payment.StateQueued && p.Tries >= maxTries {
		o = p.Failed(x402.ReasonExactTransactionFailed, fmt.Sprintf("%d transactions did not pay it", p.Tries), lastTry(p))
	}
	if err == nil && o.To != payment.StateQueued {
		err = c.record(ctx, o)
	}
	if err != nil || o.To == payment.StateQueued {
		c.postpone(ctx, p, err)
	}
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
	c.Moved(p.ID)
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
	}
	return payment.Outcome{}, fmt.Errorf("fate of payment %s: %w: %s", p.ID, chain.ErrUnavailable, fate.Detail)
}

// record writes an outcome and tells who waits. That the payment moved on since
// it was judged is no error.
func (c *Chain) record(ctx context.Context, o payment.Outcome) error {
	err := c.Store.RecordOutcome(ctx, o)
	if errors.Is(err, payment.ErrTransition) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("record payment %s: %w", o.Payment, err)
	}
	c.count(ctx, o)
	c.Moved(o.Payment)
	return nil
}

// count logs and meters an outcome.
func (c *Chain) count(ctx context.Context, o payment.Outcome) {
	c.Metrics.outcomes.WithLabelValues(string(c.Config.Network), string(o.To), string(o.Reason)).Inc()
	attrs := []any{slog.String("payment_id", string(o.Payment)), slog.String("state", string(o.To))}
	if o.To == payment.StateIncluded {
		attrs = append(attrs, slog.String("tx_hash", o.TxHash.String()), slog.Uint64("block", o.Block))
	}
	if o.Reason != "" {
		attrs = append(attrs, slog.String("reason", string(o.Reason)), slog.String("message", o.Message))
	}
	c.Log.InfoContext(ctx, "payment moved", attrs...)
}
