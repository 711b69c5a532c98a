package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/payment"
)

const (
	sqlTake = `SELECT ` + paymentColumns + ` FROM payments p
WHERE p.network = $1 AND p.state = 'queued' AND p.id <> ALL($2)
ORDER BY p.created_at, p.id LIMIT $3 FOR UPDATE SKIP LOCKED`
	sqlSign = `
WITH t AS (
	INSERT INTO transactions (lane_id, wallet_nonce, state) VALUES ($1, $2, 'signed') RETURNING id, created_at
), a AS (
	INSERT INTO attempts (transaction_id, hash, raw, gas_limit, fee_cap, tip_cap) SELECT id, $3, $4, $5, $6, $7 FROM t RETURNING id, signed_at
), p AS (
	UPDATE payments SET state = 'signed', transaction_id = t.id, tx_hash = $3, tries = tries + 1, updated_at = now()
	FROM t WHERE payments.id = ANY($8) AND payments.state || '' = 'queued' RETURNING 1
)
SELECT t.id, t.created_at, a.id, a.signed_at, (SELECT count(*) FROM p) FROM t, a`
)

// Take reserves queued payments, has them prepared, allocates the lane's next
// wallet nonces to the orders, signs, and commits payments, transactions and
// attempts together (I3, I4). The payments are locked from the moment they are
// read, so of any number of lanes and replicas each prepares others; a process
// that dies meanwhile leaves them queued. The lane's row is locked while nonces
// are allocated. What does not fit into MaxOpen stays queued. So does what comes
// from the first failed signature on, which is an error only if it is everything:
// a signer that manages few at a time still gets somewhere.
//
// payment.ErrFenced if the lane's lease has passed on; errors of Prepare as they are.
func (s *Store) Take(ctx context.Context, lane payment.Lane, w payment.Work) ([]payment.Carried, error) {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	var signed []payment.Carried
	err := s.txIn(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sqlTake, lane.Network, uuids(w.Except), w.Most)
		if err != nil {
			return err
		}
		queued, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (payment.Payment, error) { return scanPayment(row) })
		if err != nil {
			return err
		}
		orders, err := w.Prepare(ctx, queued)
		if err != nil || len(orders) == 0 {
			return err
		}
		next, open, err := lockNonces(ctx, tx, lane)
		if err != nil {
			return err
		}
		attempts, failed := signAll(ctx, next, orders[:max(0, min(len(orders), w.MaxOpen-open))])
		if len(attempts) == 0 {
			return failed
		}
		for i, a := range attempts {
			t, err := insertOrder(ctx, tx, lane, next+uint64(i), orders[i], a)
			if err != nil {
				return err
			}
			signed = append(signed, t)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(signed) > 0 {
		s.commits.Add(1)
	}
	return signed, nil
}

// lockNonces locks the lane and returns its next wallet nonce and how many of its
// transactions are open.
func lockNonces(ctx context.Context, tx pgx.Tx, lane payment.Lane) (next uint64, open int, _ error) {
	if err := fence(ctx, tx, sqlLockLane, lane); err != nil {
		return 0, 0, err
	}
	// A statement of its own: in read committed it sees what the holder of the
	// lock before us committed.
	err := tx.QueryRow(ctx, sqlNextNonce, lane.ID).Scan(&next, &open)
	return next, open, err
}

// signAll signs orders at the wallet nonces from first on, at the same time: a
// signer may be far away. It returns those before the first that failed, and why.
func signAll(ctx context.Context, first uint64, orders []payment.Order) ([]payment.Attempt, error) {
	attempts, failures := make([]payment.Attempt, len(orders)), make([]error, len(orders))
	var signing sync.WaitGroup
	for i, o := range orders {
		signing.Go(func() { attempts[i], failures[i] = o.Sign(ctx, first+uint64(i)) }) //nolint:gosec // G115: an index
	}
	signing.Wait()
	for i, err := range failures {
		if err != nil {
			return attempts[:i], fmt.Errorf("%w: wallet nonce %d: %w", errSign, first+uint64(i), err)
		}
	}
	return attempts, nil
}

func insertOrder(ctx context.Context, tx pgx.Tx, lane payment.Lane, walletNonce uint64, o payment.Order, attempt payment.Attempt) (payment.Carried, error) {
	ids := make([]payment.ID, len(o.Payments))
	for i := range o.Payments {
		ids[i] = o.Payments[i].ID
	}
	t := payment.Transaction{Lane: lane, WalletNonce: walletNonce, State: payment.TxSigned}
	updated := 0
	if err := tx.QueryRow(ctx, sqlSign, lane.ID, walletNonce, attempt.Hash[:], attempt.Raw, attempt.GasLimit,
		attempt.Fees.FeeCap, attempt.Fees.TipCap, uuids(ids)).Scan(&t.ID, &t.CreatedAt, &attempt.ID, &attempt.SignedAt, &updated); err != nil {
		return payment.Carried{}, err
	}
	if updated != len(ids) {
		return payment.Carried{}, fmt.Errorf("%w: %d of %d payments of an order are queued", payment.ErrTransition, updated, len(ids))
	}
	t.Attempts = []payment.Attempt{attempt}
	carried := payment.Carried{Transaction: t, Payments: o.Payments}
	for i := range carried.Payments {
		p := &carried.Payments[i]
		p.State, p.TransactionID, p.TxHash = payment.StateSigned, t.ID, attempt.Hash
		p.Tries++
	}
	return carried, nil
}

const (
	sqlLockOpen      = `SELECT wallet_nonce FROM transactions WHERE id = $1 AND lane_id = $2 AND state IN ('signed', 'broadcast') FOR UPDATE`
	sqlInsertAttempt = `
INSERT INTO attempts (transaction_id, hash, raw, gas_limit, fee_cap, tip_cap) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, signed_at`
	sqlNewestHash = `UPDATE payments SET tx_hash = $2, updated_at = now() WHERE transaction_id = $1 AND state IN ('signed', 'broadcast')`
)

// AddAttempt signs another version of an open transaction at the same wallet
// nonce and commits it; the earlier ones are kept, since any may be mined.
// payment.ErrTransition if the transaction is not open any more.
func (s *Store) AddAttempt(ctx context.Context, lane payment.Lane, transaction int64, sign func(ctx context.Context, walletNonce uint64) (payment.Attempt, error)) (payment.Attempt, error) {
	var a payment.Attempt
	err := s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := fence(ctx, tx, sqlLockLane, lane); err != nil {
			return err
		}
		var walletNonce uint64
		err := tx.QueryRow(ctx, sqlLockOpen, transaction, lane.ID).Scan(&walletNonce)
		if errors.Is(err, pgx.ErrNoRows) {
			return payment.ErrTransition
		}
		if err != nil {
			return err
		}
		if a, err = sign(ctx, walletNonce); err != nil {
			return fmt.Errorf("%w: wallet nonce %d: %w", errSign, walletNonce, err)
		}
		if err := tx.QueryRow(ctx, sqlInsertAttempt, transaction, a.Hash[:], a.Raw, a.GasLimit,
			a.Fees.FeeCap, a.Fees.TipCap).Scan(&a.ID, &a.SignedAt); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, sqlNewestHash, transaction, a.Hash[:])
		return err
	})
	return a, err
}

const (
	sqlSentToday = `
SELECT coalesce(sum(value), 0) + $2::text::numeric <= $3::text::numeric FROM transactions
WHERE lane_id = $1 AND created_at >= date_trunc('day', now() AT TIME ZONE 'utc') AT TIME ZONE 'utc'`
	sqlSignTopUp = `
WITH t AS (
	INSERT INTO transactions (lane_id, wallet_nonce, state, value) VALUES ($1, $2, 'signed', $8::text::numeric) RETURNING id, created_at
), a AS (
	INSERT INTO attempts (transaction_id, hash, raw, gas_limit, fee_cap, tip_cap) SELECT id, $3, $4, $5, $6, $7 FROM t RETURNING id, signed_at
)
SELECT t.id, t.created_at, a.id, a.signed_at FROM t, a`
)

// SignTopUp commits a transaction of a treasury that sends gas money, one at a
// time. payment.ErrTransition if one is open, or the day's limit would be passed.
func (s *Store) SignTopUp(ctx context.Context, lane payment.Lane, o payment.TopUp) (payment.Carried, error) {
	t := payment.Transaction{Lane: lane, State: payment.TxSigned}
	err := s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		next, open, err := lockNonces(ctx, tx, lane)
		if err != nil {
			return err
		}
		within := false
		if err := tx.QueryRow(ctx, sqlSentToday, lane.ID, o.Wei.String(), o.DayLimit.String()).Scan(&within); err != nil {
			return err
		}
		if open > 0 || !within {
			return payment.ErrTransition
		}
		a, err := o.Sign(ctx, next)
		if err != nil {
			return fmt.Errorf("%w: wallet nonce %d: %w", errSign, next, err)
		}
		t.WalletNonce = next
		if err := tx.QueryRow(ctx, sqlSignTopUp, lane.ID, next, a.Hash[:], a.Raw, a.GasLimit, a.Fees.FeeCap, a.Fees.TipCap,
			o.Wei.String()).Scan(&t.ID, &t.CreatedAt, &a.ID, &a.SignedAt); err != nil {
			return err
		}
		t.Attempts = []payment.Attempt{a}
		return nil
	})
	return payment.Carried{Transaction: t}, err
}

// txIn runs f in one transaction within the time ctx has.
func (s *Store) txIn(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	return unavailable(pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return f(ctx, tx) }))
}
