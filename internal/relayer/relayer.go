// Package relayer owns the relayer wallets and everything that leaves them.
//
// It guarantees that
//   - no byte leaves before the attempt that holds it is committed (I3),
//   - a lane's wallet nonces are contiguous rows, and a failed send frees none (I4),
//   - a payment is called paid only on proof, failed only on evidence (I5, I6),
//   - all it knows is in the record: it resumes from rows alone (I9).
//
// A lane is worked by the one replica that holds its lease; every write of the
// lane names the lease's epoch, so a replica that lost it without noticing
// changes nothing.
package relayer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"sync"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/tracing"
	"facilitator/internal/x402"
)

// ErrWrongChain says that a node serves another chain than it is configured for.
var ErrWrongChain = errors.New("wrong chain")

// Node is what the relayer asks of a chain; *evm.Client is one. Errors wrap
// chain.ErrUnavailable or are *evm.RevertError.
type Node interface {
	ChainID(ctx context.Context) (uint64, error)
	Head(ctx context.Context) (chain.Head, error)
	Safe(ctx context.Context) (chain.Head, error)
	Finalized(ctx context.Context) (chain.Head, error)
	HeadByNumber(ctx context.Context, n uint64) (chain.Head, error)
	CanonicalHashes(ctx context.Context, numbers []uint64) (map[uint64]chain.Hash, error)
	SuggestTip(ctx context.Context) (uint64, error)
	Accounts(ctx context.Context, as []chain.Address) ([]evm.Account, error)
	Code(ctx context.Context, a chain.Address) ([]byte, error)
	CallWithCode(ctx context.Context, m evm.Message, accounts []chain.Address) (evm.CallWithCode, error)
	EstimateGas(ctx context.Context, m evm.Message) (uint64, error)
	Look(ctx context.Context, hashes []chain.Hash) (chain.Head, map[chain.Hash]evm.Lookup, error)
}

// Sender hands signed transactions to nodes; *evm.Senders is one.
type Sender interface {
	SendMany(ctx context.Context, raws [][]byte) []evm.Sent
}

// Heads tells of new blocks as they are made; *evm.HeadFeed is one.
type Heads interface {
	Run(ctx context.Context, heads func(chain.Head), log *slog.Logger)
}

// Signer signs for one wallet; Kind is one of few, for metrics. It may be far away
// and fail, so the context bounds each signature. What it returns is the
// transaction asked for, signed by Address.
type Signer interface {
	Address() chain.Address
	Kind() string
	Sign(ctx context.Context, u evm.Unsigned) (evm.Signed, error)
}

// Store is what the relayer needs of the record. Writes of a lane return
// payment.ErrFenced once its lease has passed on.
type Store interface {
	EnsureLane(ctx context.Context, n x402.Network, a chain.Address, role payment.Role, walletNonce uint64) (payment.Lane, error)
	NextWalletNonce(ctx context.Context, lane payment.Lane) (uint64, error)
	AcquireLane(ctx context.Context, lane payment.Lane, holder string, ttl time.Duration) (_ payment.Lane, ok bool, _ error)
	RenewLanes(ctx context.Context, lanes []payment.Lane, ttl time.Duration) ([]int64, error)
	ReleaseLanes(ctx context.Context, lanes []payment.Lane) error
	LaneReorgs(ctx context.Context, n x402.Network) (map[int64]int64, error)
	ReopenReplaced(ctx context.Context, lane payment.Lane, walletNonce uint64) (reopened int64, _ error)
	FillNonce(ctx context.Context, lane payment.Lane, walletNonce uint64, sign func(ctx context.Context, walletNonce uint64) (payment.Attempt, error)) (payment.Carried, error)
	ParkLane(ctx context.Context, lane payment.Lane, reason string) error

	CountQueued(ctx context.Context, n x402.Network) (int, error)
	Take(ctx context.Context, lane payment.Lane, w payment.Work) ([]payment.Carried, error)
	AddAttempt(ctx context.Context, lane payment.Lane, transaction int64, sign func(ctx context.Context, walletNonce uint64) (payment.Attempt, error)) (payment.Attempt, error)
	SignTopUp(ctx context.Context, lane payment.Lane, o payment.TopUp) (payment.Carried, error)

	OpenTransactions(ctx context.Context, lane payment.Lane) ([]payment.Carried, error)
	MarkBroadcast(ctx context.Context, lane payment.Lane, transactions []int64) error
	RecordInclusions(ctx context.Context, lane payment.Lane, ins []payment.Inclusion) error
	RecordReplaced(ctx context.Context, lane payment.Lane, transaction int64) error
	RecordOutcome(ctx context.Context, o payment.Outcome) error
	Withdraw(ctx context.Context, id payment.ID, reason x402.Reason, message string) error

	WatchedBlocks(ctx context.Context, n x402.Network, from, until uint64, most int) ([]chain.Head, error)
	RecordFinal(ctx context.Context, n x402.Network, blocks []chain.Head) error
	RecordReorg(ctx context.Context, n x402.Network, block chain.Head) error
	SpentToday(ctx context.Context, n x402.Network) (*big.Int, error)
}

// Config of one chain.
type Config struct {
	Network x402.Network
	ChainID uint64
	// Holder names this process in leases: a UUID.
	Holder   string
	LeaseTTL time.Duration

	MaxInFlight int
	// MaxBatch payments in one transaction, of BatchAssets only.
	MaxBatch    int
	BatchAssets []chain.Address
	// BlockShare of a block's gas that one batch may take, in percent.
	BlockShare uint64
	// Aggregator is Multicall3.
	Aggregator chain.Address

	BlockTime      time.Duration
	PollInterval   time.Duration
	ResendInterval time.Duration
	BumpAfter      time.Duration
	StallAfter     time.Duration
	// MaxClockSkew between our clock and a new block's.
	MaxClockSkew time.Duration
	// PrepareTimeout of taking, simulating and signing once.
	PrepareTimeout time.Duration
	// SignTimeout of one signature.
	SignTimeout time.Duration

	Confirmations uint64
	// FinalityDepth in blocks; 0 asks the node's "finalized" tag.
	FinalityDepth uint64
	// MaxFeePerGas and MaxTip in wei per gas.
	MaxFeePerGas, MaxTip uint64
	// MaxGas of one payment, MaxTxGas of one transaction.
	MaxGas, MaxTxGas uint64
	// GasPerPayment reserved in a batch before receipts tell better.
	GasPerPayment    uint64
	GasMarginPercent uint64
	// MaxSpendPerDay in wei; 0 is no limit.
	MaxSpendPerDay uint64
	// Contracts that must have code.
	Contracts []chain.Address
	Treasury  Treasury
}

// Deps of a Chain; all are required but Heads, TreasurySigner and Claims.
type Deps struct {
	Config  Config
	Node    Node
	Sender  Sender
	Heads   Heads
	Store   Store
	Signers []Signer
	// TreasurySigner signs for the wallet that tops the lanes up.
	TreasurySigner Signer
	Schemes        map[x402.SchemeName]scheme.Scheme
	// Moved is told of every payment whose state changed.
	Moved func(ids ...payment.ID)
	// Ended is told what became of each payment, as soon as it is recorded.
	Ended   func(p *payment.Payment, o payment.Outcome)
	Now     func() time.Time
	Log     *slog.Logger
	Metrics *Metrics
	// Claims know the traces of requests; nil knows none.
	Claims *tracing.Claims
	// Crash is called with the name of each step; the crash suite dies in it.
	Crash func(point string)
}

// Chain settles on one network.
type Chain struct {
	Deps
	lanes    []*lane // relayers
	treasury *lane   // nil without one
	gas      gasRule
	pace     pace          // of the tracker
	wake     chan struct{} // a payment was queued
	room     chan struct{} // a lane has room, or became ready
	look     chan struct{} // something is to be followed, or a block was made
	judges   chan struct{} // bounds the questions asked about single payments
	judging  sync.WaitGroup

	mu       sync.Mutex
	view     view
	prepared bool  // the node was checked once
	fault    error // why the chain could not be prepared; nil where it was
	// lonely: there is no aggregator.
	lonely bool
	spent  *big.Int
	// busy are payments that are being judged: no lane takes them meanwhile.
	busy     map[payment.ID]bool
	deferred deferrals
	// solo are payments that could not share a transaction, or whose gas the rule
	// does not cover.
	solo map[payment.ID]bool
	// checked is a head below which every block that a payment rests on was
	// canonical when it was last looked at; safe and final are the heights of the
	// chain's safe and final blocks.
	checked, safe, final uint64
	// deepWanted is when somebody last waited for more than one block.
	deepWanted time.Time
}

// New wires a chain; Run starts it.
func New(d Deps) *Chain {
	c := &Chain{
		Deps: d, wake: make(chan struct{}, 1), room: make(chan struct{}, 1), look: make(chan struct{}, 1),
		judges: make(chan struct{}, maxJudges), pace: newPace(d.Config.PollInterval), fault: errors.New("the node was not asked yet"), spent: new(big.Int),
		busy: make(map[payment.ID]bool), deferred: make(deferrals), solo: make(map[payment.ID]bool),
	}
	for _, s := range d.Signers {
		c.lanes = append(c.lanes, newLane(c, s, payment.RoleRelayer))
	}
	if d.TreasurySigner != nil {
		c.treasury = newLane(c, d.TreasurySigner, payment.RoleTreasury)
	}
	c.Metrics.watch(c)
	return c
}

// wallets are the lanes and the treasury.
func (c *Chain) wallets() []*lane {
	if c.treasury == nil {
		return c.lanes
	}
	return append(c.lanes[:len(c.lanes):len(c.lanes)], c.treasury)
}

// Prepare checks the node against the configuration and records the wallets. An
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
	for _, l := range c.wallets() {
		if l.row, err = c.Store.EnsureLane(ctx, c.Config.Network, l.signer.Address(), l.role, 0); err != nil {
			return err
		}
	}
	if err := c.refresh(ctx); err != nil {
		return err
	}
	c.checkProfile(ctx)
	return c.checkAggregator(ctx)
}

// checkAggregator has every payment go alone where the chain has no Multicall3.
func (c *Chain) checkAggregator(ctx context.Context) error {
	if c.Config.MaxBatch == 1 || len(c.Config.BatchAssets) == 0 {
		return nil
	}
	code, err := c.Node.Code(ctx, c.Config.Aggregator)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lonely = len(code) == 0
	if c.lonely {
		c.Log.WarnContext(ctx, "the chain has no Multicall3: every payment goes alone")
	}
	return nil
}

// Wake tells that a payment was queued.
func (c *Chain) Wake() { signal(c.wake) }

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // already awake
	}
}

// Ready is nil while the network can settle; otherwise the error wraps
// chain.ErrNotReady, says why, and is safe to show to callers.
func (c *Chain) Ready() error {
	c.mu.Lock()
	fault, seen, head := c.fault, c.view.seen, c.view.head
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
	case head.BaseFee >= c.Config.MaxFeePerGas:
		return c.notReady("the chain's base fee is above the configured cap")
	case c.overspent():
		return c.notReady("the day's gas budget is spent")
	case c.stalled():
		return c.notReady("the chain makes no blocks")
	}
	why := "no relayer wallet has enough gas"
	for _, l := range c.lanes {
		switch {
		case l.affordable() == 0:
		case l.signs():
			return nil
		default:
			why = "no relayer wallet with gas has a signer that signs"
		}
	}
	return c.notReady(why)
}

func (c *Chain) notReady(why string) error {
	return fmt.Errorf("%w on %s: %s", chain.ErrNotReady, c.Config.Network, why)
}

// Run settles until ctx ends, and then gives its lanes back. It returns early
// only on a misconfiguration that showed up after the start.
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
	for _, loop := range []func(context.Context){c.watchHealth, c.keepLeases, c.track, c.finalize, c.dispatch} {
		loops.Go(func() { loop(ctx) })
	}
	if c.Heads != nil {
		loops.Go(func() { c.Heads.Run(ctx, c.pushed, c.Log) })
	}
	loops.Wait()
	c.judging.Wait()
	c.releaseLanes(ctx)
	return nil
}

func (c *Chain) isPrepared() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.prepared
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
