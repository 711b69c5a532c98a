package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

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
	for id, until := range c.deferred {
		if !now.Before(until) {
			delete(c.deferred, id)
		}
	}
	passed := len(c.preparing) + len(c.deferred)
	c.mu.Unlock()
	queued, err := c.Store.QueuedPayments(ctx, c.Config.Network, most+passed)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range queued {
		_, later := c.deferred[p.ID]
		if len(mine) < most && !c.preparing[p.ID] && !later {
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

// prepareOrders estimates every payment's own call on the latest state. One
// that would fail is answered with the reason; one the node can't tell about
// stays queued.
func (c *Chain) prepareOrders(ctx context.Context, l *lane, ps []payment.Payment) ([]payment.Order, error) {
	orders := make([]*payment.Order, len(ps))
	var work errgroup.Group
	for i := range ps {
		work.Go(func() (err error) {
			orders[i], err = c.prepareOrder(ctx, l, &ps[i])
			if orders[i] == nil {
				c.postpone(ps[i].ID)
			}
			return err
		})
	}
	err := work.Wait()
	ready := make([]payment.Order, 0, len(orders))
	for _, o := range orders {
		if o != nil {
			ready = append(ready, *o)
		}
	}
	if len(ready) > 0 && err != nil {
		c.Log.WarnContext(ctx, "payment not prepared", slog.Any("error", err))
		err = nil
	}
	return ready, err
}

// deferral is how long a payment that could not be prepared is left alone.
const deferral = time.Second

func (c *Chain) postpone(id payment.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deferred[id] = c.Now().Add(deferral)
}

func (c *Chain) prepareOrder(ctx context.Context, l *lane, p *payment.Payment) (*payment.Order, error) {
	if p.Tries >= maxTries {
		return nil, c.record(ctx, payment.Failed(p.ID, x402.ReasonExactTransactionFailed,
			fmt.Sprintf("%d transactions did not pay it", p.Tries), lastTry(p, "no more tries")))
	}
	call := p.Terms.Call
	gas, err := c.Node.EstimateGas(ctx, evm.Message{From: l.signer.Address(), To: call.To, Data: call.Data, Gas: c.Config.MaxGas})
	_, reverted := evm.IsRevert(err)
	switch {
	case reverted:
		return nil, c.explain(ctx, p)
	case err != nil:
		return nil, fmt.Errorf("estimate payment %s: %w", p.ID, err)
	}
	limit := min(gas+gas*c.Config.GasMarginPercent/100, c.Config.MaxGas)
	fees := c.fees()
	return &payment.Order{Payments: []payment.ID{p.ID}, Sign: func(walletNonce uint64) (payment.Attempt, error) {
		signed, err := l.signer.Sign(ctx, evm.Unsigned{Call: call, WalletNonce: walletNonce, GasLimit: limit, Fees: fees})
		if err != nil {
			return payment.Attempt{}, err
		}
		return payment.Attempt{Hash: signed.Hash, Raw: signed.Raw, GasLimit: limit, Fees: fees}, nil
	}}, nil
}

// lastTry is the evidence of a failure that the latest state shows: the last
// transaction that carried the payment, or that there was none.
func lastTry(p *payment.Payment, detail string) *payment.Evidence {
	if !p.Sent() {
		return &payment.Evidence{Kind: payment.EvidenceUnsendable, Detail: detail}
	}
	return &payment.Evidence{Kind: payment.EvidenceReverted, TxHash: &p.TxHash, Detail: detail}
}

// explain answers a payment whose call would fail now.
func (c *Chain) explain(ctx context.Context, p *payment.Payment) error {
	outcome, err := c.judge(ctx, p, func(why *x402.Rejection) *payment.Evidence { return lastTry(p, why.Error()) })
	if err != nil {
		return err
	}
	if outcome.To == payment.StateQueued {
		return nil // it would succeed after all: next time
	}
	return c.record(ctx, outcome)
}

// judge finds out what becomes of a payment that a transaction of ours did not
// make, or would not make: paid by somebody else's very same transfer, failed
// for good with evidence, or still possible (StateQueued). An error means that
// the chain could not tell.
func (c *Chain) judge(ctx context.Context, p *payment.Payment, failed func(*x402.Rejection) *payment.Evidence) (payment.Outcome, error) {
	s := c.Schemes[p.Terms.Scheme]
	if s == nil {
		return payment.Outcome{}, fmt.Errorf("payment %s is of scheme %q, which is not configured", p.ID, p.Terms.Scheme)
	}
	fate, err := s.Fate(ctx, p.Terms, p.ClaimedAtBlock+1)
	if err != nil {
		return payment.Outcome{}, fmt.Errorf("fate of payment %s: %w", p.ID, err)
	}
	switch fate.Kind {
	case scheme.FatePaid:
		return payment.Paid(p.ID, payment.EvidenceOtherTransaction, fate.Receipt), nil
	case scheme.FateConsumed:
		return payment.Failed(p.ID, x402.ReasonExactNonceUsed, fate.Detail,
			payment.ReceiptEvidence(payment.EvidenceConsumed, fate.Receipt, fate.Detail)), nil
	case scheme.FateUnexplained:
		return payment.Outcome{}, fmt.Errorf("payment %s: %w: the authorization is used, but the node has no log of it", p.ID, chain.ErrUnavailable)
	case scheme.FateUnused:
	}
	err = s.Simulate(ctx, p.Terms)
	if rejection, refused := x402.AsRejection(err); refused {
		return payment.Failed(p.ID, rejection.Reason, rejection.Message, failed(rejection)), nil
	}
	if err != nil {
		return payment.Outcome{}, fmt.Errorf("simulate payment %s: %w", p.ID, err)
	}
	return payment.Requeued(p.ID), nil
}

// record writes an outcome and tells who waits. That somebody else wrote one
// first is no error.
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
