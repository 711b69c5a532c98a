// Package relayer owns the relayer wallets and everything that leaves them.
//
// It guarantees that
//   - no byte leaves before the attempt that holds it is committed (I3),
//   - a lane's wallet nonces are contiguous rows, and a failed send frees none (I4),
//   - a payment is called paid only on proof, failed only on evidence (I5, I6),
//   - all it knows is in the record: it resumes from rows alone (I9).
//
// Two processes with the same lane are safe, since the record hands out wallet
// nonces; they merely do some work twice.
package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// ErrWrongChain says that a node serves another chain than it is configured for.
var ErrWrongChain = errors.New("wrong chain")

// Node is what the relayer asks of a chain; *evm.Client is one. Errors wrap
// chain.ErrUnavailable or are *evm.RevertError.
type Node interface {
	ChainID(ctx context.Context) (uint64, error)
	Head(ctx context.Context) (chain.Head, error)
	Finalized(ctx context.Context) (chain.Head, error)
	HeadByNumber(ctx context.Context, n uint64) (chain.Head, error)
	CanonicalHashes(ctx context.Context, numbers []uint64) (map[uint64]chain.Hash, error)
	SuggestTip(ctx context.Context) (uint64, error)
	Account(ctx context.Context, a chain.Address) (evm.Account, error)
	Code(ctx context.Context, a chain.Address) ([]byte, error)
	EstimateGas(ctx context.Context, m evm.Message) (uint64, error)
	SendRaw(ctx context.Context, raw []byte) (evm.SendOutcome, error)
	Receipts(ctx context.Context, hashes []chain.Hash) (map[chain.Hash]evm.Lookup, error)
}

// Signer signs for one relayer wallet.
type Signer interface {
	Address() chain.Address
	Sign(ctx context.Context, u evm.Unsigned) (evm.Signed, error)
}

// Store is what the relayer needs of the record.
type Store interface {
	EnsureLane(ctx context.Context, n x402.Network, a chain.Address, walletNonce uint64) (payment.Lane, error)
	NextWalletNonce(ctx context.Context, lane payment.Lane) (uint64, error)
	QueuedPayments(ctx context.Context, n x402.Network, most int) ([]payment.Payment, error)
	CountQueued(ctx context.Context, n x402.Network) (int, error)
	Sign(ctx context.Context, lane payment.Lane, maxOpen int, orders []payment.Order) ([]payment.Carried, error)
	MarkBroadcast(ctx context.Context, transactions []int64) error
	OpenTransactions(ctx context.Context, n x402.Network) ([]payment.Carried, error)
	RecordInclusion(ctx context.Context, in payment.Inclusion) error
	RecordOutcome(ctx context.Context, o payment.Outcome) error
	Withdraw(ctx context.Context, id payment.ID, reason x402.Reason, message string) error
	WatchedBlocks(ctx context.Context, n x402.Network, finalized, recent uint64) ([]chain.Head, error)
	RecordFinal(ctx context.Context, n x402.Network, block chain.Head) error
	RecordReorg(ctx context.Context, n x402.Network, block chain.Head) error
}

// Config of one chain.
type Config struct {
	Network        x402.Network
	ChainID        uint64
	MaxInFlight    int
	MaxQueued      int
	PollInterval   time.Duration
	ResendInterval time.Duration
	Confirmations  uint64
	// FinalityDepth in blocks; 0 asks the node's "finalized" tag.
	FinalityDepth uint64
	// MaxFeePerGas and MaxTip in wei per gas.
	MaxFeePerGas, MaxTip uint64
	MaxGas               uint64
	GasMarginPercent     uint64
	// Contracts that must have code.
	Contracts []chain.Address
}

// Deps of a Chain; all are required.
type Deps struct {
	Config  Config
	Node    Node
	Store   Store
	Signers []Signer
	Schemes map[x402.SchemeName]scheme.Scheme
	// Moved is told of every payment whose state changed.
	Moved   func(ids ...payment.ID)
	Now     func() time.Time
	Log     *slog.Logger
	Metrics *Metrics
	// Crash is called with the name of each step; the crash suite dies in it.
	Crash func(point string)
}

// Chain settles on one network.
type Chain struct {
	Deps
	lanes []*lane
	wake  chan struct{} // a payment was queued
	sent  chan struct{} // a transaction was signed

	mu        sync.Mutex
	head      chain.Head
	headSeen  time.Time // by our clock
	tip       uint64
	queued    int
	prepared  bool  // the node was checked once
	fault     error // why the chain could not be prepared; nil where it was
	preparing map[payment.ID]bool
	deferred  deferrals
	// checked is a head below which every block that a payment rests on was
	// canonical when it was last looked at.
	checked uint64
	// headSet is when head was last taken over.
	headSet time.Time
	// sentAt is when a transaction's bytes last went to the node, by our clock.
	sentAt map[int64]time.Time
}

// New wires a chain; Run starts it.
func New(d Deps) *Chain {
	c := &Chain{
		Deps: d, wake: make(chan struct{}, 1), sent: make(chan struct{}, 1),
		fault: errors.New("the node was not asked yet"), preparing: make(map[payment.ID]bool), deferred: make(deferrals), sentAt: make(map[int64]time.Time),
	}
	for _, s := range d.Signers {
		c.lanes = append(c.lanes, &lane{chain: c, signer: s, wake: make(chan struct{}, 1)})
	}
	return c
}

// Prepare checks the node against the configuration and records the lanes. An
// error that wraps chain.ErrUnavailable or payment.ErrUnavailable may heal: Run
// tries again. Any other is a misconfiguration.
func (c *Chain) Prepare(ctx context.Context) error {
	err := c.prepare(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.prepared, c.fault = err == nil, err
	return err
}

func (c *Chain) prepare(ctx context.Context) error {
	id, err := c.Node.ChainID(ctx)
	if err != nil {
		return err
	}
	if id != c.Config.ChainID {
		return fmt.Errorf("%w: the node serves chain %d, not %d", ErrWrongChain, id, c.Config.ChainID)
	}
	for _, contract := range c.Config.Contracts {
		code, err := c.Node.Code(ctx, contract)
		if err != nil {
			return err
		}
		if len(code) == 0 {
			return fmt.Errorf("%w: no contract at %s", ErrWrongChain, contract)
		}
	}
	if err := c.refresh(ctx); err != nil {
		return err
	}
	for _, l := range c.lanes {
		if err := l.enter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// refresh reads head, tip and queue length.
func (c *Chain) refresh(ctx context.Context) error {
	head, err := c.Node.Head(ctx)
	if err != nil {
		return err
	}
	c.see(head) // whatever else fails, the node has answered
	tip, err := c.Node.SuggestTip(ctx)
	if err != nil {
		// Not every node suggests one; the cap is what we are willing to pay.
		tip = c.Config.MaxTip
		c.Log.DebugContext(ctx, "node suggests no tip, the cap is used", slog.Any("error", err))
	}
	queued, err := c.Store.CountQueued(ctx, c.Config.Network)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tip, c.queued = tip, queued
	c.Metrics.queued.WithLabelValues(string(c.Config.Network)).Set(float64(queued))
	return nil
}

func (c *Chain) see(h chain.Head) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headSeen = c.Now()
	// A lower head is a lagging node at first, and the truth if it lasts: the
	// chain was rolled back, or the higher head was a lie.
	if h.Number >= c.head.Number || c.headSeen.Sub(c.headSet) > staleHead {
		c.head, c.headSet = h, c.headSeen
	}
	c.Metrics.head.WithLabelValues(string(c.Config.Network)).Set(float64(h.Number))
}

// Head is the latest block seen.
func (c *Chain) Head() chain.Head {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.head
}

// DefaultLevel is how settled a payment must be where its caller does not say.
func (c *Chain) DefaultLevel() payment.Level { return payment.Blocks(max(1, c.Config.Confirmations)) }

// SettledUpTo is the highest block in which an included payment is settled at a
// level; 0 where only a final one is. Blocks are counted up to a head below which
// the including block was canonical when it was last looked at.
func (c *Chain) SettledUpTo(l payment.Level) uint64 {
	if l.IsDefault() {
		l = c.DefaultLevel()
	}
	depth := l.Depth()
	switch depth {
	case 0: // safe is not asked of the node: what is final is safe
		return 0
	case 1:
		return math.MaxInt64
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.checked+1 < depth {
		return 0
	}
	return c.checked + 1 - depth
}

// Wake tells that a payment was queued.
func (c *Chain) Wake() { signal(c.wake) }

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // already awake
	}
}

// healthInterval is how often balances, tip, queue and the node are looked at.
const healthInterval = 2 * time.Second

// staleHead is how long a node may be silent before nothing is settled by it.
const staleHead = 5 * healthInterval

// Ready is nil while the network can settle; otherwise the error wraps
// chain.ErrNotReady, says why, and is safe to show to callers.
func (c *Chain) Ready() error {
	c.mu.Lock()
	fault, seen, queued, head := c.fault, c.headSeen, c.queued, c.head
	c.mu.Unlock()
	switch {
	case errors.Is(fault, payment.ErrUnavailable):
		return c.notReady("the record can't be reached")
	case errors.Is(fault, ErrWrongChain):
		return c.notReady("the node is not of this chain, or contracts are missing")
	case fault != nil:
		return c.notReady("the chain's node can't be reached")
	case c.Now().Sub(seen) > staleHead:
		return c.notReady("the chain's node has not answered for a while")
	case queued >= c.Config.MaxQueued:
		return c.notReady("too many payments are queued")
	case head.BaseFee >= c.Config.MaxFeePerGas:
		return c.notReady("the chain's base fee is above the configured cap")
	}
	for _, l := range c.lanes {
		if l.canPay() {
			return nil
		}
	}
	return c.notReady("no relayer wallet has enough gas")
}

func (c *Chain) notReady(why string) error {
	return fmt.Errorf("%w on %s: %s", chain.ErrNotReady, c.Config.Network, why)
}

// fees of the next transaction: head-room of twice the base fee plus the tip,
// within the caps.
func (c *Chain) fees() chain.Fees {
	c.mu.Lock()
	defer c.mu.Unlock()
	tip := min(c.tip, c.Config.MaxTip, c.Config.MaxFeePerGas)
	return chain.Fees{FeeCap: min(2*c.head.BaseFee+tip, c.Config.MaxFeePerGas), TipCap: tip}
}

// Run settles until ctx ends. It returns early only on a misconfiguration that
// showed up after the start.
func (c *Chain) Run(ctx context.Context) error {
	for !c.isPrepared() {
		if err := c.Prepare(ctx); err != nil {
			if errors.Is(err, ErrWrongChain) {
				return fmt.Errorf("%s: %w", c.Config.Network, err)
			}
			c.Log.WarnContext(ctx, "chain not usable yet", slog.Any("error", err))
			if !sleep(ctx, healthInterval) {
				return nil
			}
		}
	}
	var loops sync.WaitGroup
	loops.Go(func() { c.watchHealth(ctx) })
	loops.Go(func() { c.track(ctx) })
	for _, l := range c.lanes {
		loops.Go(func() { l.run(ctx) })
	}
	loops.Go(func() { c.spread(ctx) })
	loops.Wait()
	return nil
}

func (c *Chain) isPrepared() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.prepared
}

// spread passes a wake-up on to every lane; each takes what it can.
func (c *Chain) spread(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			for _, l := range c.lanes {
				signal(l.wake)
			}
		}
	}
}

func (c *Chain) watchHealth(ctx context.Context) {
	for sleep(ctx, healthInterval) {
		// One failed look is no fault: what was seen before stands until it is stale.
		err := c.refresh(ctx)
		for _, l := range c.lanes {
			err = errors.Join(err, l.look(ctx))
		}
		if err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "chain not looked at", slog.Any("error", err))
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
