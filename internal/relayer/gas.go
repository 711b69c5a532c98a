package relayer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/big"
	"sync"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
)

// batchBase is the gas of a batch before its first payment: the transaction
// itself and the aggregator's own work.
const batchBase = 60_000

// gasRule says how much gas transactions get: by rule, and by what receipts have
// shown. A limit that is too low is noticed by the simulation, which has the same.
type gasRule struct {
	mu sync.Mutex
	// alone and shared are the most gas that a payment has used lately.
	alone, shared uint64
}

// learn takes what a mined transaction that paid n payments has used.
func (g *gasRule) learn(used uint64, n int) {
	const forget = 1000 // an outlier is forgotten after some thousand transactions
	g.mu.Lock()
	defer g.mu.Unlock()
	if n == 1 {
		g.alone = max(used, g.alone-g.alone/forget)
		return
	}
	g.shared = max((used-min(used, batchBase/2))/uint64(n), g.shared-g.shared/forget) //nolint:gosec // G115: a number of payments
}

// perPayment is what a payment of a batch gets.
func (g *gasRule) perPayment(rule uint64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(rule, g.shared*3/2)
}

func (g *gasRule) direct(rule uint64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(batchBase+rule, g.alone*3/2)
}

func (g *gasRule) batch(rule uint64, n int) uint64 {
	return batchBase + g.perPayment(rule)*uint64(n) //nolint:gosec // G115: a number of payments
}

// mostPayments is how many payments one transaction of a lane may carry: by
// configuration, by the gas of a transaction and of a block, and by what the
// lane's balance covers at the cap.
func (c *Chain) mostPayments(l *lane) int {
	c.mu.Lock()
	head, lonely := c.view.head, c.lonely
	c.mu.Unlock()
	if lonely {
		return 1
	}
	limit := c.Config.MaxTxGas
	if head.GasLimit > 0 {
		limit = min(limit, head.GasLimit/100*c.Config.BlockShare)
	}
	limit = min(limit, l.affordable())
	each := c.gas.perPayment(c.Config.GasPerPayment)
	if limit < batchBase+2*each {
		return 1
	}
	return min(c.Config.MaxBatch, int((limit-batchBase)/each)) //nolint:gosec // G115: below MaxBatch
}

// overspent says whether the day's budget would not bear what is open.
func (c *Chain) overspent() bool {
	if c.Config.MaxSpendPerDay == 0 {
		return false
	}
	c.mu.Lock()
	total := new(big.Int).Set(c.spent)
	c.mu.Unlock()
	for _, l := range c.lanes {
		total.Add(total, l.committed())
	}
	return total.Cmp(new(big.Int).SetUint64(c.Config.MaxSpendPerDay)) >= 0
}

// paidGas notes what a mined transaction has cost, until the record is asked.
func (l *lane) paidGas(r *chain.Receipt) {
	cost := r.Cost()
	l.mu.Lock()
	l.changed = l.chain.Now()
	if l.balance != nil {
		l.balance = new(big.Int).Sub(l.balance, cost)
	}
	l.mu.Unlock()
	c := l.chain
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spent = new(big.Int).Add(c.spent, cost)
}

// committed is what the open transactions may cost at most, in wei; not to be
// changed.
func (l *lane) committed() *big.Int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committedWei
}

func mostWei(gas, price uint64) *big.Int {
	return new(big.Int).Mul(new(big.Int).SetUint64(gas), new(big.Int).SetUint64(price))
}

// affordable is the gas that a further transaction may have, at the fee it would
// offer; 0 where the balance does not cover a payment at the cap.
func (l *lane) affordable() uint64 {
	price := max(l.chain.fees().FeeCap, 1)
	committed := l.committed()
	l.mu.Lock()
	balance := l.balance
	l.mu.Unlock()
	if balance == nil {
		return 0
	}
	left := new(big.Int).Sub(balance, committed)
	gas := left.Quo(left, new(big.Int).SetUint64(price))
	switch {
	case gas.Sign() <= 0:
		return 0
	case !gas.IsUint64():
		return l.chain.Config.MaxTxGas
	case gas.Uint64() < l.chain.Config.MaxGas:
		return 0
	default:
		return gas.Uint64()
	}
}

// lookAtWallets reads balances and nonces of all wallets at once.
func (c *Chain) lookAtWallets(ctx context.Context) error {
	wallets := c.wallets()
	addresses := make([]chain.Address, len(wallets))
	for i, l := range wallets {
		addresses[i] = l.signer.Address()
	}
	asked := c.Now()
	accounts, err := c.Node.Accounts(ctx, addresses)
	if err != nil {
		return err
	}
	var failures []error
	for i, l := range wallets {
		l.mu.Lock()
		l.balance, l.nonce, l.nonceHeight, l.readAt = accounts[i].Balance, accounts[i].Nonce, accounts[i].Height, asked
		l.mu.Unlock()
		if row, held := l.lease(); held {
			failures = append(failures, l.compare(ctx, row, accounts[i]))
		}
		failures = append(failures, l.park(ctx))
	}
	return errors.Join(failures...)
}

// park notes whether a lane has gas for its next transaction, and in the record
// why it takes no work. What is open may hold back more for a while: that is load,
// and no reason to call anybody.
func (l *lane) park(ctx context.Context) error {
	c := l.chain
	l.mu.Lock()
	was, balance := l.parked, new(big.Int).Set(l.balance)
	l.mu.Unlock()
	reason := ""
	if l.role == payment.RoleRelayer && balance.Cmp(mostWei(c.Config.MaxGas, max(c.fees().FeeCap, 1))) < 0 {
		reason = "too little gas money for the next transaction"
	}
	c.Metrics.balance.WithLabelValues(l.labels()...).Set(gwei(balance))
	if l.role == payment.RoleRelayer {
		c.Metrics.runway.WithLabelValues(l.labels()...).Set(l.runway(balance))
	}
	l.mu.Lock()
	l.parked = reason
	noted, idle := l.noted, cmp.Or(reason, l.fault.reason)
	l.mu.Unlock()
	c.Metrics.parked.WithLabelValues(l.labels()...).Set(float64(min(len(idle), 1)))
	switch reason {
	case was:
	case "":
		c.Log.InfoContext(ctx, "lane has gas money again", l.attr(), slog.String("balance_wei", balance.String()))
	default:
		c.Log.ErrorContext(ctx, "lane is parked: fund the wallet", l.attr(), slog.String("reason", reason), slog.String("balance_wei", balance.String()))
	}
	row, held := l.lease()
	if !held || noted == idle {
		return nil
	}
	if err := c.Store.ParkLane(ctx, row, idle); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noted = idle
	return nil
}

// runway is how many more settlements the balance pays for at today's fees.
func (l *lane) runway(balance *big.Int) float64 {
	c := l.chain
	head := c.Head()
	price := max(head.BaseFee+c.fees().TipCap, 1)
	c.gas.mu.Lock()
	gas := max(c.gas.alone, c.gas.shared)
	c.gas.mu.Unlock()
	if gas == 0 {
		gas = c.Config.GasPerPayment
	}
	return gwei(balance) * 1e9 / (float64(max(gas, 1)) * float64(price))
}

// gwei is for gauges, never for decisions.
func gwei(wei *big.Int) float64 {
	f, _ := new(big.Float).Quo(new(big.Float).SetInt(wei), big.NewFloat(1e9)).Float64() //nolint:forbidigo // a gauge, not money
	return f
}
