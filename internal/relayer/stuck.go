package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// nudge looks after a lane's transactions that wait for a block: their bytes are
// sent again, the fees of the lowest are raised where fees are the cause, and
// wallet nonces that somebody else has used are given up.
func (l *lane) nudge(ctx context.Context, row payment.Lane) error {
	var waiting []*openTx
	for _, t := range l.transactions() {
		l.mu.Lock()
		if !t.closed() {
			waiting = append(waiting, t)
		}
		l.mu.Unlock()
	}
	if len(waiting) == 0 {
		return nil
	}
	if gone := l.passed(waiting); len(gone) > 0 {
		return l.giveUp(ctx, row, gone)
	}
	err := l.raise(ctx, row, waiting[0])
	l.resend(ctx, waiting)
	return errors.Join(err, l.mark(ctx, row, waiting))
}

// resend hands the same bytes to the nodes again: mempools forget, and a
// transaction may have been lost between two of them.
func (l *lane) resend(ctx context.Context, waiting []*openTx) {
	now := l.chain.Now()
	var due []*openTx
	l.mu.Lock()
	for _, t := range waiting {
		if now.Sub(t.sentAt) >= l.chain.Config.ResendInterval {
			due = append(due, t)
		}
	}
	l.mu.Unlock()
	l.send(ctx, due)
}

// mark records that transactions were sent which are not mined soon.
func (l *lane) mark(ctx context.Context, row payment.Lane, waiting []*openTx) error {
	now := l.chain.Now()
	var ids []int64
	var marked []*openTx
	l.mu.Lock()
	for _, t := range waiting {
		if !t.marked && !t.sentAt.IsZero() && now.Sub(t.signedAt) >= markAfter {
			ids, marked = append(ids, t.Transaction.ID), append(marked, t)
		}
	}
	l.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	if err := l.chain.Store.MarkBroadcast(ctx, row, ids); err != nil {
		l.fenced(ctx, row, err)
		return fmt.Errorf("mark broadcast: %w", err)
	}
	l.chain.Crash("broadcast")
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range marked {
		t.marked = true
		t.Transaction.State = payment.TxBroadcast
		for _, p := range t.undecided() {
			p.State = payment.StateBroadcast
		}
	}
	return nil
}

// raise replaces the lowest open transaction by one that pays more, at the same
// wallet nonce, where that can help; and by an empty one where the payments it
// carries can all no longer happen. Those above it wait for it in any case.
func (l *lane) raise(ctx context.Context, row payment.Lane, t *openTx) error {
	c := l.chain
	l.mu.Lock()
	newest := *t.Transaction.Newest()
	age := c.Now().Sub(t.signedAt)
	pointless := l.role == payment.RoleRelayer && len(t.undecided()) == 0
	expired := !pointless && l.role == payment.RoleRelayer && allExpired(t.undecided(), c.Head().Time)
	l.mu.Unlock()
	// One whose time is over is replaced once a final block says so.
	if age < c.Config.BumpAfter || expired || !l.signs() {
		return nil
	}
	cancel := false
	unsigned, err := evm.Rebuild(newest.Raw)
	if err != nil {
		return fmt.Errorf("rebuild %s: %w", newest.Hash, err)
	}
	if pointless && unsigned.Call.To != row.Address {
		cancel = true
		unsigned.Call, unsigned.GasLimit = chain.Call{To: row.Address}, plainGas
	}
	if !c.includes(ctx, l, newest, t.signedAt) {
		return nil
	}
	fees, ok := c.bumped(newest.Fees)
	if !ok {
		l.mu.Lock()
		told := t.capped
		t.capped = true
		l.mu.Unlock()
		if !told {
			c.Log.ErrorContext(ctx, "transaction is stuck and its fees are at the cap", l.attr(),
				slog.Uint64("wallet_nonce", t.Transaction.WalletNonce), slog.Uint64("fee_cap", newest.Fees.FeeCap))
		}
		return nil
	}
	unsigned.Fees = fees
	return l.replace(ctx, row, t, unsigned, cancel)
}

func allExpired(ps []*payment.Payment, now uint64) bool {
	for _, p := range ps {
		if p.Terms.ValidBefore.Cmp(x402.NewUint256(now)) > 0 {
			return false
		}
	}
	return true
}

// patience is how many times StallAfter a chain that includes nobody is waited
// for before paying more is tried all the same.
const patience = 20

// includes says whether paying more can help: the chain makes blocks, and either
// what was offered is below the base fee, or blocks hold others' transactions. A
// chain that stands still is waited for, and one that includes nobody for long.
func (c *Chain) includes(ctx context.Context, l *lane, newest payment.Attempt, since time.Time) bool {
	c.mu.Lock()
	v, now := c.view, c.Now()
	c.mu.Unlock()
	moves := v.moved.After(since) && now.Sub(v.moved) < c.Config.StallAfter
	pays := newest.Fees.FeeCap >= v.head.BaseFee
	if moves && (!pays || v.busy.After(since) || now.Sub(since) >= patience*c.Config.StallAfter) {
		return true
	}
	c.Metrics.frozen.WithLabelValues(l.labels()...).Inc()
	c.Log.DebugContext(ctx, "fee not raised: the chain includes nothing", l.attr(), slog.Bool("makes_blocks", moves))
	return false
}

// bumped are the fees of a replacement: at least an eighth more of both, as nodes
// ask for, and what a new transaction would pay. False beyond the cap of the whole
// fee: that of the tip is for new transactions, or none at it could be replaced.
func (c *Chain) bumped(last chain.Fees) (chain.Fees, bool) {
	now := c.fees()
	eighth := func(n uint64) uint64 { return n + n/8 + 1 }
	fees := chain.Fees{FeeCap: max(eighth(last.FeeCap), now.FeeCap), TipCap: max(eighth(last.TipCap), now.TipCap)}
	fees.FeeCap = max(fees.FeeCap, fees.TipCap)
	return fees, fees.FeeCap <= c.Config.MaxFeePerGas
}

// replace commits another attempt before it is sent. All earlier ones are kept:
// any of them may still be mined.
func (l *lane) replace(ctx context.Context, row payment.Lane, t *openTx, u evm.Unsigned, cancel bool) error {
	c := l.chain
	attempt, err := c.Store.AddAttempt(ctx, row, t.Transaction.ID, func(ctx context.Context, walletNonce uint64) (payment.Attempt, error) {
		u.WalletNonce = walletNonce
		return l.sign(ctx, u)
	})
	if err != nil {
		l.inDoubt(ctx, row, err)
		if errors.Is(err, payment.ErrTransition) {
			return nil
		}
		return fmt.Errorf("replace wallet nonce %d: %w", t.Transaction.WalletNonce, err)
	}
	c.Crash("bumped")
	l.mu.Lock()
	t.Transaction.Attempts = append(t.Transaction.Attempts, attempt)
	t.signedAt, t.asked, t.looked = c.Now(), time.Time{}, time.Time{}
	var ids []payment.ID
	for _, p := range t.undecided() {
		p.TxHash = attempt.Hash
		ids = append(ids, p.ID)
	}
	l.count()
	l.mu.Unlock()
	text, counter := "fees raised", c.Metrics.bumps
	if cancel {
		text, counter = "transaction that can do nothing any more is replaced by an empty one", c.Metrics.cancels
	}
	counter.WithLabelValues(l.labels()...).Inc()
	c.Log.WarnContext(ctx, text, l.attr(), slog.Uint64("wallet_nonce", t.Transaction.WalletNonce), //nolint:sloglint // one of two fixed texts
		slog.String("tx_hash", attempt.Hash.String()), slog.Uint64("fee_cap", attempt.Fees.FeeCap), slog.Uint64("tip_cap", attempt.Fees.TipCap))
	l.send(ctx, []*openTx{t})
	c.Moved(ids...)
	return nil
}

// restale has the lane's rows read again.
func (l *lane) restale() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stale = true
}

// passed are transactions whose wallet nonce the chain has used although none of
// their attempts has a receipt: somebody else uses the wallet. That is believed
// once the nonce was seen beyond them, then no receipt, then the nonce again.
func (l *lane) passed(waiting []*openTx) []*openTx {
	l.mu.Lock()
	defer l.mu.Unlock()
	var gone []*openTx
	for _, t := range waiting {
		switch {
		case t.Transaction.WalletNonce >= l.nonce:
			t.passedAt, t.missedAt = time.Time{}, time.Time{}
		case t.passedAt.IsZero():
			t.passedAt = l.chain.Now()
			t.looked = time.Time{} // to be asked about again
		case t.missedAt.IsZero():
			if t.looked.After(t.passedAt) {
				t.missedAt = t.looked
			}
		case l.readAt.After(t.missedAt) && t.looked.After(l.readAt):
			gone = append(gone, t)
		case l.readAt.After(t.missedAt):
			t.looked = time.Time{}
		}
	}
	return gone
}

// giveUp records wallet nonces that somebody else has used. Their payments are
// judged: most can still be made by another transaction.
func (l *lane) giveUp(ctx context.Context, row payment.Lane, gone []*openTx) error {
	c := l.chain
	for _, t := range gone {
		if err := c.Store.RecordReplaced(ctx, row, t.Transaction.ID); err != nil {
			l.fenced(ctx, row, err)
			if errors.Is(err, payment.ErrTransition) {
				l.restale()
				continue
			}
			return fmt.Errorf("record replaced: %w", err)
		}
		c.Metrics.foreign.WithLabelValues(l.labels()...).Inc()
		c.Log.ErrorContext(ctx, "wallet was used by somebody else: a transaction of ours is void and its payments go again", l.attr(),
			slog.Uint64("wallet_nonce", t.Transaction.WalletNonce), slog.String("tx_hash", t.Transaction.Newest().Hash.String()))
		l.mu.Lock()
		t.Transaction.State = payment.TxReplaced
		if len(t.undecided()) == 0 {
			delete(l.open, t.Transaction.ID)
		}
		l.count()
		l.mu.Unlock()
	}
	c.judgeAll(ctx, followed{lane: l, row: row, txs: gone})
	signal(c.room)
	return nil
}
