package relayer

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
)

// queuePoll is how often the queue is looked at for payments that nobody here
// was told of: those of replicas without a lane, or of an earlier process.
const queuePoll = 200 * time.Millisecond

// restAfterFailure is how long a lane that could not work is left alone.
const restAfterFailure = time.Second

// laneHead is how long what arrives waits for a lane that signs and sends: then
// another one takes it. It is far beyond what a signer and a node that are well need.
const laneHead = 500 * time.Millisecond

// dispatch hands the queue to the lanes. A lane takes all that waits, up to one
// batch. After a full batch the next lane goes on at once; after less than that
// nothing was left, and what arrives while it is signed and sent makes the next
// batch. So batches grow with the load and nobody waits for a timer.
func (c *Chain) dispatch(ctx context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	poll := time.NewTicker(queuePoll)
	defer poll.Stop()
	for ctx.Err() == nil {
		if l := c.idleLane(); l != nil {
			most := c.mostPayments(l)
			taken, done := l.start(ctx, &working, most)
			if taken >= most {
				continue
			}
			if taken > 0 {
				wait(done, laneHead)
			}
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-c.room:
		case <-poll.C:
		}
	}
}

// idleLane is the lane with most room that may work; nil if there is none.
func (c *Chain) idleLane() *lane {
	if c.Head().BaseFee >= c.Config.MaxFeePerGas || c.overspent() || c.stalled() {
		return nil
	}
	var best *lane
	least := 0
	for _, l := range c.lanes {
		if _, held := l.lease(); !held {
			continue
		}
		l.mu.Lock()
		open, idle := l.inFlight, l.settled && !l.working && l.fault.reason == "" && !c.Now().Before(l.restsUntil)
		l.mu.Unlock()
		if idle && open < c.Config.MaxInFlight && (best == nil || open < least) && l.affordable() > 0 {
			best, least = l, open
		}
	}
	return best
}

// wait until done is closed, at most for d.
func wait(done <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// start works a batch and returns how many payments it took; done is closed when
// they are sent.
func (l *lane) start(ctx context.Context, working *sync.WaitGroup, most int) (taken int, done <-chan struct{}) {
	count, ended := make(chan int, 1), make(chan struct{})
	l.mu.Lock()
	l.working = true
	l.mu.Unlock()
	working.Go(func() {
		took := 0
		err := l.work(ctx, most, func(n int) {
			took = n
			count <- n
		})
		l.mu.Lock()
		l.working = false
		if err != nil {
			// What failed fails again at once: a signer or a record that is away.
			l.restsUntil = l.chain.Now().Add(restAfterFailure)
		}
		l.mu.Unlock()
		close(ended)
		if took > 0 && err == nil { // else nothing changed, and looking again would find nothing new
			signal(l.chain.room)
		}
		select {
		case count <- 0: // the queue was not reached
		default:
		}
		if err != nil && ctx.Err() == nil {
			l.chain.Log.WarnContext(ctx, "lane could not work", l.attr(), slog.Any("error", err))
		}
	})
	return <-count, ended
}

// work takes what is queued and fits, signs and sends it. Payments that can't
// succeed any more are answered and cost nothing.
func (l *lane) work(ctx context.Context, most int, taken func(int)) error {
	c := l.chain
	row, held := l.lease()
	if !held {
		return nil
	}
	l.mu.Lock()
	room := c.Config.MaxInFlight - l.inFlight
	l.mu.Unlock()
	var doubts []doubt
	var took time.Time
	signed, err := c.Store.Take(ctx, row, payment.Work{
		Most: most, MaxOpen: c.Config.MaxInFlight, Except: c.excepted(), Timeout: c.Config.PrepareTimeout,
		Prepare: func(ctx context.Context, ps []payment.Payment) ([]payment.Order, error) {
			taken(len(ps))
			if len(ps) == 0 {
				return nil, nil
			}
			took = c.Now()
			c.waited(ps, took)
			var orders []payment.Order
			orders, doubts = l.prepare(ctx, ps, room)
			c.setBusy(doubts)
			if len(orders) > 0 {
				c.Crash("prepared")
			}
			return orders, nil
		},
	})
	// What can be sent is sent before the rest is looked into.
	if err == nil && len(signed) > 0 {
		c.Crash("signed")
		c.passed(phaseSign, c.Now().Sub(took))
		l.deliver(ctx, signed, took)
	}
	for _, d := range doubts {
		c.judge1(ctx, func(ctx context.Context) { c.explain(ctx, d) })
	}
	if err != nil {
		l.inDoubt(ctx, row, err)
	}
	return err
}

// deliver sends transactions for the first time and has them followed.
func (l *lane) deliver(ctx context.Context, signed []payment.Carried, took time.Time) {
	c := l.chain
	txs := l.add(signed, took)
	var ids []payment.ID
	for _, t := range signed {
		c.Metrics.batch.WithLabelValues(string(c.Config.Network)).Observe(float64(len(t.Payments)))
		for i := range t.Payments {
			ids = append(ids, t.Payments[i].ID)
		}
	}
	begun := c.Now()
	l.send(ctx, txs)
	c.passed(phaseBroadcast, c.Now().Sub(begun))
	c.Crash("sent")
	signal(c.look)
	c.Moved(ids...)
}

// send hands the newest attempt of each transaction to the nodes, in the order
// of their wallet nonces. What nodes say decides nothing: the chain does.
func (l *lane) send(ctx context.Context, txs []*openTx) {
	if len(txs) == 0 {
		return
	}
	c := l.chain
	raws := make([][]byte, len(txs))
	attempts := make([]payment.Attempt, len(txs)) // the tracker may change a transaction while it is sent
	nonces := make([]uint64, len(txs))
	before := make([]bool, len(txs)) // a node has had this very attempt
	now := c.Now()
	l.mu.Lock()
	for i, t := range txs {
		before[i] = t.takenAt.After(t.signedAt)
		t.sentAt = now // before it is, or the tracker would send it too
		attempts[i], nonces[i] = *t.Transaction.Newest(), t.Transaction.WalletNonce
		raws[i] = attempts[i].Raw
	}
	l.mu.Unlock()
	outcomes := c.Sender.SendMany(ctx, raws)
	for i := range min(len(txs), len(outcomes)) {
		sent := outcomes[i]
		c.Metrics.sends.WithLabelValues(string(c.Config.Network), string(sent.Outcome)).Inc()
		if sent.Outcome == evm.SendAccepted && before[i] {
			c.Metrics.drops.WithLabelValues(l.labels()...).Inc()
		}
		if sent.Err == nil {
			l.took(txs[i], c.Now())
		}
		attrs := []any{
			l.attr(), slog.String("tx_hash", attempts[i].Hash.String()), slog.Uint64("wallet_nonce", nonces[i]),
			slog.String("outcome", string(sent.Outcome)),
		}
		if sent.Err != nil {
			c.Log.WarnContext(ctx, "transaction not accepted, it will be sent again", append(attrs, slog.Any("error", sent.Err))...)
			continue
		}
		c.Log.DebugContext(ctx, "transaction sent", attrs...)
	}
}

// took notes that a node has the newest attempt of a transaction.
func (l *lane) took(t *openTx, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !t.takenAt.After(t.signedAt) {
		t.takenAt = at
	}
}

// waited meters how long payments were queued that a lane takes for the first
// time; the record's clock may differ from ours.
func (c *Chain) waited(ps []payment.Payment, now time.Time) {
	for i := range ps {
		if !ps[i].Sent() {
			c.passed(phaseQueue, max(0, now.Sub(ps[i].CreatedAt)))
		}
	}
}

// passed meters a phase of the lanes.
func (c *Chain) passed(phase string, took time.Duration) {
	c.Metrics.phases.WithLabelValues(string(c.Config.Network), phase).Observe(took.Seconds())
}

// excepted are the payments that no lane is to take now.
func (c *Chain) excepted() []payment.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(slices.Collect(maps.Keys(c.busy)), c.deferred.waiting(c.Now())...)
}

func (c *Chain) setBusy(doubts []doubt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range doubts {
		c.busy[d.payment.ID] = true
	}
}

// judge1 asks about a single payment beside the loops, of which a slow node must
// not hold up any; not too many at a time.
func (c *Chain) judge1(ctx context.Context, ask func(ctx context.Context)) {
	c.judging.Go(func() {
		select {
		case c.judges <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-c.judges }()
		ask(ctx)
	})
}

// maxJudges bounds the payments that are asked about at a time.
const maxJudges = 8
