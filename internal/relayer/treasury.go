package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// Treasury says when a lane is topped up, in wei.
type Treasury struct {
	// Below which a lane gets money, UpTo which it gets, MaxPerDay (UTC) in all.
	Below, UpTo, MaxPerDay uint64
}

// plainGas bounds a transaction that runs no contract. Some chains count the
// bytes' storage elsewhere as gas; what is not used is not paid.
const plainGas = 200_000

// topUp sends gas money to the poorest lane that is below the mark, one
// transaction at a time. They are rows like any other: they survive a crash, are
// sent again and bumped.
func (c *Chain) topUp(ctx context.Context) error {
	t := c.treasury
	if t == nil {
		return nil
	}
	row, held := t.lease()
	t.mu.Lock()
	free, balance, changed := t.settled && len(t.open) == 0, t.balance, t.changed
	t.mu.Unlock()
	if !held || !free || balance == nil || !t.signs() {
		return nil
	}
	poorest, has := c.poorest(changed)
	if poorest == nil || has.Cmp(wei(c.Config.Treasury.Below)) >= 0 {
		t.told = ""
		return nil
	}
	amount := new(big.Int).Sub(wei(c.Config.Treasury.UpTo), has)
	fees := c.fees()
	if need := new(big.Int).Add(amount, mostWei(plainGas, fees.FeeCap)); balance.Cmp(need) < 0 {
		t.tellOnce(ctx, "treasury has too little to top a lane up", poorest.attr(),
			slog.String("balance_wei", balance.String()), slog.String("needed_wei", need.String()))
		return nil
	}
	to := poorest.signer.Address()
	signed, err := c.Store.SignTopUp(ctx, row, payment.TopUp{
		To: to, Wei: amount, DayLimit: wei(c.Config.Treasury.MaxPerDay),
		Sign: func(ctx context.Context, walletNonce uint64) (payment.Attempt, error) {
			return t.sign(ctx, evm.Unsigned{Call: chain.Call{To: to}, Value: x402.NewUint256(amount.Uint64()), WalletNonce: walletNonce, GasLimit: plainGas, Fees: fees})
		},
	})
	if errors.Is(err, payment.ErrTransition) {
		t.tellOnce(ctx, "treasury's daily limit is reached, a lane stays poor", poorest.attr())
		return nil
	}
	if err != nil {
		t.inDoubt(ctx, row, err)
		return fmt.Errorf("top up: %w", err)
	}
	c.Metrics.topUps.WithLabelValues(poorest.labels()...).Inc()
	c.Log.InfoContext(ctx, "lane topped up", poorest.attr(), slog.String("wei", amount.String()))
	t.send(ctx, t.add([]payment.Carried{signed}, c.Now()))
	signal(c.look)
	return nil
}

// tellOnce logs what keeps the treasury from paying, until it is another thing.
func (l *lane) tellOnce(ctx context.Context, what string, attrs ...any) {
	if l.told == what {
		return
	}
	l.told = what
	l.chain.Log.ErrorContext(ctx, what, attrs...) //nolint:sloglint // one of two fixed texts
}

// poorest is the lane with the least money, of those looked at since a time.
func (c *Chain) poorest(since time.Time) (*lane, *big.Int) {
	var poorest *lane
	var least *big.Int
	for _, l := range c.lanes {
		l.mu.Lock()
		balance, fresh := l.balance, l.readAt.After(since)
		l.mu.Unlock()
		if fresh && balance != nil && (least == nil || balance.Cmp(least) < 0) {
			poorest, least = l, balance
		}
	}
	return poorest, least
}

func wei(n uint64) *big.Int { return new(big.Int).SetUint64(n) }
