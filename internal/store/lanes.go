package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

const (
	sqlEnsureLane = `
INSERT INTO lanes (network, address, nonce_floor) VALUES ($1, $2, $3)
ON CONFLICT (network, address) DO UPDATE SET nonce_floor = greatest(lanes.nonce_floor, excluded.nonce_floor)
RETURNING id`
	sqlNextNonce = `
SELECT greatest(l.nonce_floor, coalesce((SELECT max(t.wallet_nonce) + 1 FROM transactions t WHERE t.lane_id = l.id), 0)),
	(SELECT count(*) FROM transactions t WHERE t.lane_id = l.id AND t.state IN ('signed', 'broadcast'))
FROM lanes l WHERE l.id = $1`
	sqlLockLane = `SELECT id FROM lanes WHERE id = $1 FOR UPDATE`
	sqlLockWork = `
SELECT id::text FROM payments WHERE id = ANY($1::text[]::uuid[]) AND state = 'queued' ORDER BY id FOR UPDATE`
	sqlInsertTransaction = `
INSERT INTO transactions (lane_id, wallet_nonce, state) VALUES ($1, $2, 'signed') RETURNING id`
	sqlInsertAttempt = `
INSERT INTO attempts (transaction_id, hash, raw, gas_limit, fee_cap, tip_cap) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, signed_at`
	sqlSignPayments = `
UPDATE payments SET state = 'signed', transaction_id = $2, tx_hash = $3, tries = tries + 1, updated_at = now()
WHERE id = ANY($1::text[]::uuid[]) AND state = 'queued'`
)

// EnsureLane records a relayer wallet. walletNonce is its transaction count on
// chain: the lane never signs below it.
func (s *Store) EnsureLane(ctx context.Context, n x402.Network, a chain.Address, walletNonce uint64) (payment.Lane, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	lane := payment.Lane{Network: n, Address: a}
	err := s.pool.QueryRow(ctx, sqlEnsureLane, n, a[:], walletNonce).Scan(&lane.ID)
	return lane, unavailable(err)
}

// NextWalletNonce returns the wallet nonce the lane's next transaction gets.
func (s *Store) NextWalletNonce(ctx context.Context, lane payment.Lane) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var next uint64
	var open int
	err := s.pool.QueryRow(ctx, sqlNextNonce, lane.ID).Scan(&next, &open)
	return next, unavailable(err)
}

// Sign allocates the lane's next wallet nonces to orders, signs, and commits
// payments, transactions and attempts together (I3, I4). The lane's row is
// locked throughout, so of two replicas with the same lane one waits. An order
// none of whose payments is queued any more takes no nonce and is left out of
// the result; so is what does not fit into maxOpen.
func (s *Store) Sign(ctx context.Context, lane payment.Lane, maxOpen int, orders []payment.Order) ([]payment.Carried, error) {
	var signed []payment.Carried
	err := s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sqlLockLane, lane.ID); err != nil {
			return err
		}
		// A statement of its own: in read committed it sees what the holder of
		// the lock before us committed.
		var next uint64
		var open int
		if err := tx.QueryRow(ctx, sqlNextNonce, lane.ID).Scan(&next, &open); err != nil {
			return err
		}
		for _, o := range orders {
			if open >= maxOpen {
				break
			}
			t, err := signOrder(ctx, tx, lane, next, o)
			if errors.Is(err, payment.ErrTransition) {
				continue
			}
			if err != nil {
				return err
			}
			signed = append(signed, t)
			next++
			open++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return signed, nil
}

func signOrder(ctx context.Context, tx pgx.Tx, lane payment.Lane, walletNonce uint64, o payment.Order) (payment.Carried, error) {
	rows, err := tx.Query(ctx, sqlLockWork, o.Payments)
	if err != nil {
		return payment.Carried{}, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[payment.ID])
	if err != nil {
		return payment.Carried{}, err
	}
	if len(ids) != len(o.Payments) {
		return payment.Carried{}, payment.ErrTransition
	}
	attempt, err := o.Sign(walletNonce)
	if err != nil {
		return payment.Carried{}, fmt.Errorf("%w: wallet nonce %d: %w", errSign, walletNonce, err)
	}
	t := payment.Transaction{Lane: lane, WalletNonce: walletNonce, State: payment.TxSigned}
	if err := tx.QueryRow(ctx, sqlInsertTransaction, lane.ID, walletNonce).Scan(&t.ID); err != nil {
		return payment.Carried{}, err
	}
	if err := tx.QueryRow(ctx, sqlInsertAttempt, t.ID, attempt.Hash[:], attempt.Raw, attempt.GasLimit,
		attempt.Fees.FeeCap, attempt.Fees.TipCap).Scan(&attempt.ID, &attempt.SignedAt); err != nil {
		return payment.Carried{}, err
	}
	t.Attempts = []payment.Attempt{attempt}
	if _, err := tx.Exec(ctx, sqlSignPayments, ids, t.ID, attempt.Hash[:]); err != nil {
		return payment.Carried{}, err
	}
	return payment.Carried{Transaction: t}, nil
}
