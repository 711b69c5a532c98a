package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

const (
	sqlEnsureLane = `
INSERT INTO lanes (network, address, role, nonce_floor) VALUES ($1, $2, $3, $4)
ON CONFLICT (network, address) DO UPDATE SET role = excluded.role, nonce_floor = greatest(lanes.nonce_floor, excluded.nonce_floor)
RETURNING id`
	sqlNextNonce = `
SELECT greatest(l.nonce_floor, coalesce((SELECT max(t.wallet_nonce) + 1 FROM transactions t WHERE t.lane_id = l.id), 0)),
	(SELECT count(*) FROM transactions t WHERE t.lane_id = l.id AND t.state IN ('signed', 'broadcast'))
FROM lanes l WHERE l.id = $1`
	sqlAcquireLane = `
UPDATE lanes SET holder = $2::text::uuid, epoch = epoch + 1, lease_until = now() + $3::interval
WHERE id = $1 AND (holder IS NULL OR lease_until < now())
RETURNING epoch`
	sqlRenewLanes = `
UPDATE lanes l SET lease_until = now() + $3::interval
FROM unnest($1::bigint[], $2::bigint[]) AS held(id, epoch)
WHERE l.id = held.id AND l.epoch = held.epoch AND l.holder IS NOT NULL
RETURNING l.id`
	sqlReleaseLanes = `
UPDATE lanes l SET holder = NULL, lease_until = NULL
FROM unnest($1::bigint[], $2::bigint[]) AS held(id, epoch)
WHERE l.id = held.id AND l.epoch = held.epoch`
	sqlParkLane = `UPDATE lanes SET parked = nullif(left($3, 200), '') WHERE id = $1 AND epoch = $2`
)

// EnsureLane records a wallet. walletNonce is its transaction count on chain:
// the lane never signs below it.
func (s *Store) EnsureLane(ctx context.Context, n x402.Network, a chain.Address, role payment.Role, walletNonce uint64) (payment.Lane, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	lane := payment.Lane{Network: n, Address: a}
	err := s.pool.QueryRow(ctx, sqlEnsureLane, n, a[:], role, walletNonce).Scan(&lane.ID)
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

// AcquireLane leases a lane that nobody holds, or whose holder has let the lease
// run out, for ttl by the database's clock. The lane returned has the new epoch.
func (s *Store) AcquireLane(ctx context.Context, lane payment.Lane, holder string, ttl time.Duration) (_ payment.Lane, ok bool, _ error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := s.pool.QueryRow(ctx, sqlAcquireLane, lane.ID, holder, ttl).Scan(&lane.Epoch)
	if errors.Is(err, pgx.ErrNoRows) {
		return lane, false, nil
	}
	return lane, err == nil, unavailable(err)
}

// RenewLanes prolongs leases and returns the ids of the lanes that are still held.
func (s *Store) RenewLanes(ctx context.Context, lanes []payment.Lane, ttl time.Duration) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	ids, epochs := leases(lanes)
	rows, err := s.pool.Query(ctx, sqlRenewLanes, ids, epochs, ttl)
	if err != nil {
		return nil, unavailable(err)
	}
	held, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	return held, unavailable(err)
}

// ReleaseLanes gives leases back, so that another replica need not wait for
// their end.
func (s *Store) ReleaseLanes(ctx context.Context, lanes []payment.Lane) error {
	ids, epochs := leases(lanes)
	return s.exec(ctx, sqlReleaseLanes, ids, epochs)
}

// ParkLane records why a lane takes no work; an empty reason says that it does.
func (s *Store) ParkLane(ctx context.Context, lane payment.Lane, reason string) error {
	return s.exec(ctx, sqlParkLane, lane.ID, lane.Epoch, reason)
}

const (
	sqlLaneReorgs = `SELECT id, reorgs FROM lanes WHERE network = $1`
	sqlReopen     = `
UPDATE transactions SET state = 'broadcast', updated_at = now() WHERE lane_id = $1 AND wallet_nonce >= $2 AND state = 'replaced'`
	sqlLowerFloor = `
UPDATE lanes l SET nonce_floor = $2 WHERE l.id = $1 AND l.nonce_floor > $2
	AND NOT EXISTS (SELECT 1 FROM transactions t WHERE t.lane_id = l.id AND t.wallet_nonce >= $2)`
)

// LaneReorgs counts, for each lane of a network, how often a reorganisation has
// opened transactions again.
func (s *Store) LaneReorgs(ctx context.Context, n x402.Network) (map[int64]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sqlLaneReorgs, n)
	if err != nil {
		return nil, unavailable(err)
	}
	counts := make(map[int64]int64)
	var id, count int64
	_, err = pgx.ForEachRow(rows, []any{&id, &count}, func() error {
		counts[id] = count
		return nil
	})
	return counts, unavailable(err)
}

// ReopenReplaced takes back that somebody else had consumed a lane's wallet nonces
// from walletNonce on: the chain has forgotten it, and a gap would stop the lane.
// Where the lane has signed nothing since, its next wallet nonce is lowered.
func (s *Store) ReopenReplaced(ctx context.Context, lane payment.Lane, walletNonce uint64) (reopened int64, _ error) {
	err := s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := fence(ctx, tx, sqlCheckLane, lane); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, sqlReopen, lane.ID, walletNonce)
		if err != nil {
			return err
		}
		reopened = tag.RowsAffected()
		_, err = tx.Exec(ctx, sqlLowerFloor, lane.ID, walletNonce)
		return err
	})
	return reopened, err
}

const sqlHasNonce = `SELECT EXISTS (SELECT 1 FROM transactions WHERE lane_id = $1 AND wallet_nonce = $2)`

// FillNonce commits a transaction without payments at a wallet nonce below the
// lane's next one that never was a row: somebody else had used it and the chain
// has forgotten it, while the lane went on above it (I4). payment.ErrTransition if
// there is such a row, or the lane's next transaction takes that wallet nonce.
func (s *Store) FillNonce(ctx context.Context, lane payment.Lane, walletNonce uint64, sign func(ctx context.Context, walletNonce uint64) (payment.Attempt, error)) (payment.Carried, error) {
	var filled payment.Carried
	err := s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		next, _, err := lockNonces(ctx, tx, lane)
		if err != nil {
			return err
		}
		taken := walletNonce >= next
		if !taken {
			if err := tx.QueryRow(ctx, sqlHasNonce, lane.ID, walletNonce).Scan(&taken); err != nil {
				return err
			}
		}
		if taken {
			return payment.ErrTransition
		}
		empty := payment.Order{Sign: sign}
		attempts, err := signAll(ctx, walletNonce, []payment.Order{empty})
		if err != nil {
			return err
		}
		filled, err = insertOrder(ctx, tx, lane, walletNonce, empty, attempts[0])
		return err
	})
	return filled, err
}

func leases(lanes []payment.Lane) (ids, epochs []int64) {
	for _, l := range lanes {
		ids, epochs = append(ids, l.ID), append(epochs, l.Epoch)
	}
	return ids, epochs
}

const (
	sqlLockLane  = `SELECT true FROM lanes WHERE id = $1 AND epoch = $2 AND holder IS NOT NULL FOR UPDATE`
	sqlCheckLane = `SELECT true FROM lanes WHERE id = $1 AND epoch = $2`
)

// fence returns payment.ErrFenced unless the lane's epoch is the current one.
func fence(ctx context.Context, tx pgx.Tx, sql string, lane payment.Lane) error {
	var held bool
	err := tx.QueryRow(ctx, sql, lane.ID, lane.Epoch).Scan(&held)
	if errors.Is(err, pgx.ErrNoRows) {
		return payment.ErrFenced
	}
	return err
}
