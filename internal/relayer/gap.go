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
)

// fillGap notices that the chain waits for a wallet nonce that is not open
// although later ones are signed: somebody else had used it, which a
// reorganisation has undone (I4).
func (l *lane) fillGap(ctx context.Context, row payment.Lane, nonce, next uint64) error {
	c := l.chain
	now := c.Now()
	l.mu.Lock()
	lowest := next
	for _, t := range l.open {
		if !t.closed() {
			lowest = min(lowest, t.Transaction.WalletNonce)
		}
	}
	if nonce >= lowest {
		l.gapSince = time.Time{}
	} else if l.gapSince.IsZero() {
		l.gapSince = now
	}
	lasting := !l.gapSince.IsZero() && now.Sub(l.gapSince) >= healthInterval
	l.mu.Unlock()
	if !lasting {
		return nil
	}
	// Was it one of ours, its bytes are sent again.
	reopened, err := c.Store.ReopenReplaced(ctx, row, nonce)
	if err != nil {
		l.fenced(ctx, row, err)
		return err
	}
	if reopened > 0 {
		c.Log.WarnContext(ctx, "wallet nonces that somebody else had used are free again: their transactions are sent again", l.attr(),
			slog.Uint64("wallet_nonce", nonce), slog.Int64("transactions", reopened))
		l.restale()
		return nil
	}
	if lowest < next {
		return l.fill(ctx, row, nonce)
	}
	return nil
}

// fill sends an empty transaction at a wallet nonce that never was a row, for the
// sake of those above it.
func (l *lane) fill(ctx context.Context, row payment.Lane, nonce uint64) error {
	c := l.chain
	if !l.signs() {
		return nil
	}
	fees := c.fees()
	filled, err := c.Store.FillNonce(ctx, row, nonce, func(ctx context.Context, walletNonce uint64) (payment.Attempt, error) {
		return l.sign(ctx, evm.Unsigned{Call: chain.Call{To: row.Address}, WalletNonce: walletNonce, GasLimit: plainGas, Fees: fees})
	})
	if errors.Is(err, payment.ErrTransition) {
		return nil // a row of ours has it: its block vanished, which is noticed elsewhere
	}
	if err != nil {
		l.inDoubt(ctx, row, err)
		return fmt.Errorf("fill wallet nonce %d: %w", nonce, err)
	}
	c.Metrics.filled.WithLabelValues(l.labels()...).Inc()
	c.Log.WarnContext(ctx, "a wallet nonce that somebody else had used is free again and stops the lane: it is filled by an empty transaction",
		l.attr(), slog.Uint64("wallet_nonce", nonce), slog.String("tx_hash", filled.Transaction.Newest().Hash.String()))
	l.send(ctx, l.add([]payment.Carried{filled}, c.Now()))
	signal(c.look)
	return nil
}
