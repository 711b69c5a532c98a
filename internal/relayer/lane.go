package relayer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"sync"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
)

// lane is one wallet. What it has signed and not seen mined stands in open, a
// copy of the rows that the replica with the lease may trust: nobody else writes
// them.
type lane struct {
	chain  *Chain
	signer Signer
	role   payment.Role
	// row is set by Prepare; its epoch is that of lease.
	row payment.Lane

	mu sync.Mutex
	// epoch of the lease, 0 without one; until is its end by our clock.
	epoch int64
	until time.Time
	// settled says that the lane's past is reconciled with the chain: it may sign.
	settled bool
	// working is set while a batch is prepared and sent; restsUntil is when the
	// lane may try again after that failed.
	working    bool
	restsUntil time.Time
	// stale says that open must be read again.
	stale bool
	open  map[int64]*openTx
	// inFlight counts the wallet nonces in open not known to be used, and
	// committedWei is what they may cost at most; it is never changed in place.
	inFlight     int
	committedWei *big.Int
	// balance in wei as last read, less what was mined since; nil before.
	balance *big.Int
	// parked is why the lane can't pay, fault why it can't sign; noted is what the
	// record says of why it takes no work.
	parked, noted string
	fault         signFault
	// nonce is the wallet's transaction count at the latest block, as read at readAt
	// from the state of block nonceHeight or one below.
	nonce, nonceHeight uint64
	readAt             time.Time
	// gapSince is since when the chain waits for a wallet nonce that is not open.
	gapSince time.Time
	// changed is when a transaction of the lane was last seen mined.
	changed time.Time
	// told is what the treasury last complained of; only the health loop has it.
	told string
	// reorgs is the record's count of them, as last seen.
	reorgs int64
}

// openTx is a transaction that is followed.
type openTx struct {
	payment.Carried
	// receipt is set once it is known to be mined; payments of it may still be
	// undecided.
	receipt *chain.Receipt
	// sentAt is when its bytes last went to a node, asked when its receipt was last
	// asked for, looked when that was and there was none; by our clock, zero before.
	sentAt, asked, looked time.Time
	// again: asked was not the first time since signedAt.
	again bool
	// signedAt is since when its newest attempt waits for a block, as far as this
	// process knows.
	signedAt time.Time
	// tookAt is when the lane took its payments, openedAt since when it is open,
	// takenAt when a node first took it; as far as this process knows.
	tookAt, openedAt, takenAt time.Time
	// marked: the record knows that it was sent.
	marked bool
	// passedAt is when the wallet's nonce was first seen beyond it; missedAt is
	// when a receipt was asked for after that and not found.
	passedAt, missedAt time.Time
	// judging is set while its payments are being judged.
	judging bool
	// capped is set once it was said that its fees can't be raised any further.
	capped bool
}

// undecided are the payments that the transaction has not brought to an end.
func (t *openTx) undecided() []*payment.Payment {
	var ps []*payment.Payment
	for i := range t.Payments {
		if p := &t.Payments[i]; p.Open() {
			ps = append(ps, p)
		}
	}
	return ps
}

// closed says whether the wallet nonce is used, whoever used it.
func (t *openTx) closed() bool {
	return t.receipt != nil || t.Transaction.Mined() || t.Transaction.State == payment.TxReplaced
}

func newLane(c *Chain, s Signer, role payment.Role) *lane {
	return &lane{chain: c, signer: s, role: role, open: make(map[int64]*openTx), committedWei: new(big.Int)}
}

func (l *lane) attr() slog.Attr { return slog.String("lane", l.signer.Address().String()) }

func (l *lane) labels() []string {
	return []string{string(l.chain.Config.Network), l.signer.Address().String()}
}

// lease is the lane as writes name it; false where this process holds none.
func (l *lane) lease() (payment.Lane, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := l.row
	row.Epoch = l.epoch
	return row, l.epoch != 0 && l.chain.Now().Before(l.until)
}

// gain takes a lease over; the lane's past is to be read.
func (l *lane) gain(row payment.Lane, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch, l.until, l.settled, l.stale, l.noted = row.Epoch, until, false, true, "?"
	clear(l.open)
	l.count()
	l.chain.Metrics.leased.WithLabelValues(l.labels()...).Set(1)
}

// lose forgets a lease and all that it allowed to know.
func (l *lane) lose(ctx context.Context, epoch int64, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch != epoch || epoch == 0 {
		return
	}
	l.epoch, l.settled = 0, false
	clear(l.open)
	l.count()
	l.chain.Metrics.leased.WithLabelValues(l.labels()...).Set(0)
	l.chain.Log.WarnContext(ctx, "lane's lease is lost", l.attr(), slog.String("reason", why))
}

// fenced loses the lease where err says that it has passed on.
func (l *lane) fenced(ctx context.Context, row payment.Lane, err error) {
	if errors.Is(err, payment.ErrFenced) {
		l.lose(ctx, row.Epoch, "another replica has it")
	}
}

// inDoubt is called after a write that failed: it may have been committed all the
// same, so the rows are read again; unless another replica has the lane.
func (l *lane) inDoubt(ctx context.Context, row payment.Lane, err error) {
	l.fenced(ctx, row, err)
	l.restale()
}

// add follows transactions that were just signed.
func (l *lane) add(signed []payment.Carried, took time.Time) []*openTx {
	now := l.chain.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	added := make([]*openTx, len(signed))
	for i, t := range signed {
		added[i] = &openTx{Carried: t, signedAt: now, openedAt: now, tookAt: took}
		l.open[t.Transaction.ID] = added[i]
	}
	l.count()
	return added
}

// count sums up the open transactions after one has come, gone or changed; l.mu
// is held.
func (l *lane) count() {
	l.inFlight, l.committedWei = 0, new(big.Int)
	for _, t := range l.open {
		if !t.closed() {
			l.inFlight++
			newest := t.Transaction.Newest()
			l.committedWei.Add(l.committedWei, mostWei(newest.GasLimit, newest.Fees.FeeCap))
		}
	}
	l.chain.Metrics.inFlight.WithLabelValues(l.labels()...).Set(float64(l.inFlight))
}

// transactions are those that are followed, by wallet nonce.
func (l *lane) transactions() []*openTx {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*openTx, 0, len(l.open))
	for _, t := range l.open {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *openTx) int { return cmp.Compare(a.Transaction.WalletNonce, b.Transaction.WalletNonce) })
	return list
}

// waitingSince is when the oldest transaction that waits for a block was signed.
func (l *lane) waitingSince() (oldest time.Time, waiting bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.open {
		if !t.closed() && (!waiting || t.signedAt.Before(oldest)) {
			oldest, waiting = t.signedAt, true
		}
	}
	return oldest, waiting
}

// lowestAge is how long the lowest open transaction has been open; false where
// this process holds no lease.
func (l *lane) lowestAge() (age time.Duration, held bool) {
	if _, held = l.lease(); !held {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var lowest *openTx
	for _, t := range l.open {
		if !t.closed() && (lowest == nil || t.Transaction.WalletNonce < lowest.Transaction.WalletNonce) {
			lowest = t
		}
	}
	if lowest == nil {
		return 0, true
	}
	return l.chain.Now().Sub(lowest.openedAt), true
}

// reload reads the lane's past from the record, where that is called for.
func (l *lane) reload(ctx context.Context, row payment.Lane) error {
	l.mu.Lock()
	stale := l.stale
	l.stale = false
	l.mu.Unlock()
	if !stale {
		return nil
	}
	err := l.read(ctx, row)
	if err != nil {
		l.mu.Lock()
		l.stale = true
		l.mu.Unlock()
	}
	return err
}

func (l *lane) read(ctx context.Context, row payment.Lane) error {
	c := l.chain
	accounts, err := c.Node.Accounts(ctx, []chain.Address{l.signer.Address()})
	if err != nil {
		return err
	}
	if err := l.compare(ctx, row, accounts[0]); err != nil {
		return err
	}
	rows, err := c.Store.OpenTransactions(ctx, row)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch != row.Epoch {
		return nil
	}
	now := c.Now() // by our clock: an earlier process may have had another
	if !l.settled {
		c.Log.InfoContext(ctx, "lane taken over", l.attr(), slog.Int64("epoch", row.Epoch), slog.Int("open", len(rows)),
			slog.Uint64("latest_nonce", accounts[0].Nonce), slog.Uint64("pending_nonce", accounts[0].Pending))
	}
	for _, r := range rows {
		t := l.open[r.Transaction.ID]
		switch {
		case t == nil:
			l.open[r.Transaction.ID] = &openTx{Carried: r, signedAt: now, openedAt: now, tookAt: now, marked: r.Transaction.State != payment.TxSigned}
		case t.judging:
			l.stale = true // its judge works on the copy there is; read again when it is done
		default:
			t.Carried, t.receipt, t.signedAt, t.asked = r, nil, now, time.Time{} // it may have been reorganised
		}
	}
	l.count()
	return nil
}

// compare heals the lane's next wallet nonce where somebody else has used the
// wallet (I4).
func (l *lane) compare(ctx context.Context, row payment.Lane, account evm.Account) error {
	c := l.chain
	next, err := c.Store.NextWalletNonce(ctx, row)
	if err != nil {
		return err
	}
	if account.Nonce <= next {
		return l.fillGap(ctx, row, account.Nonce, next)
	}
	// Either the wallet is new to us, or somebody else uses it.
	if _, err := c.Store.EnsureLane(ctx, c.Config.Network, l.signer.Address(), l.role, account.Nonce); err != nil {
		return err
	}
	if next > 0 {
		c.Metrics.foreign.WithLabelValues(l.labels()...).Add(float64(account.Nonce - next))
		c.Log.ErrorContext(ctx, "wallet was used by somebody else: its next wallet nonce was raised", l.attr(),
			slog.Uint64("from", next), slog.Uint64("to", account.Nonce))
	}
	return nil
}
