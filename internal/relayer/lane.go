package relayer

import (
	"context"
	"fmt"
	"log/slog"
	"math/big"
	"sync"
	"time"

	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
)

// lane is one relayer wallet at work: it takes queued payments, signs their
// transactions and sends them for the first time. The tracker does the rest.
type lane struct {
	chain  *Chain
	signer Signer
	row    payment.Lane
	wake   chan struct{}

	mu      sync.Mutex
	balance *big.Int // wei; nil before it was read
	open    int      // signed and not known to be mined
	poor    bool
}

// idlePoll is how often a lane looks for work that nobody woke it for: another
// replica's, or an earlier process's.
const idlePoll = time.Second

// enter records the lane and compares its rows with the chain (I4).
func (l *lane) enter(ctx context.Context) error {
	c := l.chain
	account, err := c.Node.Account(ctx, l.signer.Address())
	if err != nil {
		return err
	}
	if l.row, err = c.Store.EnsureLane(ctx, c.Config.Network, l.signer.Address(), 0); err != nil {
		return err
	}
	next, err := c.Store.NextWalletNonce(ctx, l.row)
	if err != nil {
		return err
	}
	if account.Nonce > next {
		// Either the wallet is new to us, or somebody else uses it.
		if l.row, err = c.Store.EnsureLane(ctx, c.Config.Network, l.signer.Address(), account.Nonce); err != nil {
			return err
		}
		if next > 0 {
			c.Log.WarnContext(ctx, "wallet was used by somebody else: its next wallet nonce was raised", l.attr(),
				slog.Uint64("from", next), slog.Uint64("to", account.Nonce))
		}
	}
	l.see(ctx, account)
	return nil
}

func (l *lane) attr() slog.Attr { return slog.String("lane", l.signer.Address().String()) }

// look reads the wallet's balance.
func (l *lane) look(ctx context.Context) error {
	account, err := l.chain.Node.Account(ctx, l.signer.Address())
	if err != nil {
		return err
	}
	l.see(ctx, account)
	return nil
}

func (l *lane) see(ctx context.Context, account evm.Account) {
	l.mu.Lock()
	l.balance = account.Balance
	was := l.poor
	l.mu.Unlock()
	poor := l.affordable() == 0
	l.mu.Lock()
	l.poor = poor
	l.mu.Unlock()
	gwei, _ := new(big.Float).Quo(new(big.Float).SetInt(account.Balance), big.NewFloat(1e9)).Float64() //nolint:forbidigo // a gauge, not money
	l.chain.Metrics.balance.WithLabelValues(string(l.row.Network), l.signer.Address().String()).Set(gwei)
	switch {
	case poor && !was:
		l.chain.Log.ErrorContext(ctx, "lane has too little gas to settle: fund the wallet", l.attr(), slog.String("balance_wei", account.Balance.String()))
	case !poor && was:
		l.chain.Log.InfoContext(ctx, "lane has gas again", l.attr(), slog.String("balance_wei", account.Balance.String()))
	}
}

// affordable is how many transactions the balance covers at the caps, open
// ones included.
func (l *lane) affordable() int {
	price := max(l.chain.fees().FeeCap, 1)
	cost := new(big.Int).Mul(new(big.Int).SetUint64(l.chain.Config.MaxGas), new(big.Int).SetUint64(price))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.balance == nil {
		return 0
	}
	n := new(big.Int).Quo(l.balance, cost)
	if !n.IsInt64() {
		return l.chain.Config.MaxInFlight
	}
	return int(min(n.Int64(), int64(l.chain.Config.MaxInFlight)))
}

func (l *lane) canPay() bool { return l.affordable() > 0 }

// free is how many transactions the lane may sign now.
func (l *lane) free() int {
	n := l.affordable()
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(n-l.open, 0)
}

func (l *lane) run(ctx context.Context) {
	for {
		worked, err := l.work(ctx)
		if err != nil && ctx.Err() == nil {
			l.chain.Log.WarnContext(ctx, "lane could not work", l.attr(), slog.Any("error", err))
		}
		if worked && err == nil {
			continue
		}
		idle := time.NewTimer(idlePoll)
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-idle.C:
		}
		idle.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// work takes what is queued and fits, signs and sends it. Payments that can't
// succeed any more are answered and cost nothing.
func (l *lane) work(ctx context.Context) (worked bool, _ error) {
	c := l.chain
	free := l.free()
	if free == 0 || c.Head().BaseFee >= c.Config.MaxFeePerGas {
		return false, nil
	}
	mine, release, err := c.reserve(ctx, free)
	defer release()
	if err != nil || len(mine) == 0 {
		return false, err
	}
	orders, doubtful := c.prepareOrders(ctx, l, mine)
	signed, err := l.sign(ctx, orders)
	// What can be sent is sent before the rest is looked into.
	for _, d := range doubtful {
		c.explain(ctx, d)
	}
	return len(signed)+len(doubtful) > 0, err
}

// sign commits the orders' transactions and sends them.
func (l *lane) sign(ctx context.Context, orders []payment.Order) ([]payment.Carried, error) {
	c := l.chain
	if len(orders) == 0 {
		return nil, nil
	}
	c.Crash("prepared")
	signed, err := c.Store.Sign(ctx, l.row, c.Config.MaxInFlight, orders)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if len(signed) == 0 {
		return nil, nil
	}
	c.Crash("signed")
	l.mu.Lock()
	l.open += len(signed)
	l.mu.Unlock()
	err = c.broadcast(ctx, signed)
	signal(c.sent)
	return signed, err
}

// broadcast hands the newest attempt of each transaction to the node, those of
// one lane in the order of their wallet nonces, and records that it did. What the
// node says decides nothing: the chain does. After a send without an answer the
// lane's others wait for the next time: they could not be mined before it, and a
// node that hangs must not hold the caller for a timeout each.
func (c *Chain) broadcast(ctx context.Context, txs []payment.Carried) error {
	c.markSent(txs) // now, or the tracker would send them too
	byLane := make(map[int64][]payment.Transaction)
	for _, t := range txs {
		byLane[t.Transaction.Lane.ID] = append(byLane[t.Transaction.Lane.ID], t.Transaction)
	}
	var (
		sends sync.WaitGroup
		mu    sync.Mutex
		ids   []int64
	)
	for _, list := range byLane {
		sends.Go(func() {
			for _, t := range list {
				answered := c.send(ctx, t)
				mu.Lock()
				ids = append(ids, t.ID)
				mu.Unlock()
				if !answered {
					return
				}
			}
		})
	}
	sends.Wait()
	c.Crash("sent")
	if err := c.Store.MarkBroadcast(ctx, ids); err != nil {
		return fmt.Errorf("mark broadcast: %w", err)
	}
	c.Crash("broadcast")
	return nil
}

// send says whether the node answered, whatever it said.
func (c *Chain) send(ctx context.Context, t payment.Transaction) (answered bool) {
	attempt := t.Attempts[len(t.Attempts)-1]
	outcome, err := c.Node.SendRaw(ctx, attempt.Raw)
	c.Metrics.sends.WithLabelValues(string(c.Config.Network), string(outcome)).Inc()
	attrs := []any{
		slog.String("tx_hash", attempt.Hash.String()), slog.Uint64("wallet_nonce", t.WalletNonce),
		slog.String("lane", t.Lane.Address.String()), slog.String("outcome", string(outcome)),
	}
	if err != nil {
		c.Log.WarnContext(ctx, "transaction not accepted, it will be sent again", append(attrs, slog.Any("error", err))...)
		return outcome != evm.SendUnavailable
	}
	c.Log.DebugContext(ctx, "transaction sent", attrs...)
	return true
}

func (c *Chain) markSent(txs []payment.Carried) {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range txs {
		c.sentAt[t.Transaction.ID] = now
	}
}
