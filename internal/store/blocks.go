package store

import (
	"context"
	"math"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

const (
	// ofOurs are the transactions of a network in a block.
	ofOurs = `SELECT t.id FROM transactions t JOIN lanes l ON l.id = t.lane_id
	WHERE l.network = $1 AND t.state = 'included' AND t.block_number = $2 AND t.block_hash = $3`
	// Payments are found by way of our transaction in that block, or by their own
	// block where somebody else's transaction made them. The transactions are locked
	// in one order first: of replicas that do the same, one does it.
	sqlFinalOurs = `
WITH mined AS (
	SELECT t.id, t.block_number, t.block_hash FROM transactions t
	JOIN unnest($2::bigint[], $3::bytea[]) AS b(number, hash) ON b.number = t.block_number AND b.hash = t.block_hash
	WHERE t.lane_id = ANY(ARRAY(SELECT id FROM lanes WHERE network = $1)) AND t.block_number = ANY($2) AND t.state = 'included'
	ORDER BY t.id FOR UPDATE OF t
), sealed AS (
	UPDATE transactions t SET state = 'final', updated_at = now() FROM mined m WHERE t.id = m.id AND t.state || '' = 'included'
), done AS (
	UPDATE payments p SET state = 'final', updated_at = now() FROM mined m
	WHERE p.transaction_id = m.id AND p.state = 'included' AND p.block_number = m.block_number AND p.block_hash = m.block_hash
	RETURNING p.id)
INSERT INTO outbox (payment_id, type) SELECT id, 'payment.finalized' FROM done`
	sqlFinalOthers = `
WITH others AS (
	SELECT p.id FROM payments p
	JOIN unnest($2::bigint[], $3::bytea[]) AS b(number, hash) ON b.number = p.block_number AND b.hash = p.block_hash
	WHERE p.network = $1 AND p.state = 'included' AND p.evidence->>'kind' = 'other_transaction' ORDER BY p.id FOR UPDATE OF p
), done AS (
	UPDATE payments p SET state = 'final', updated_at = now() FROM others o WHERE p.id = o.id AND p.state = 'included' RETURNING p.id)
INSERT INTO outbox (payment_id, type) SELECT id, 'payment.finalized' FROM done`
	sqlReorgPayments = `
WITH gone AS (
	UPDATE payments SET state = 'broadcast', block_number = NULL, block_hash = NULL, evidence = NULL, reorged = true, updated_at = now()
	WHERE state = 'included' AND block_number = $2 AND block_hash = $3 AND evidence->>'kind' = 'receipt' AND transaction_id IN (` + ofOurs + `)
	RETURNING id)
INSERT INTO outbox (payment_id, type) SELECT id, 'payment.reorged' FROM gone`
	sqlReorgOthers = `
WITH gone AS (
	UPDATE payments SET state = 'queued', transaction_id = NULL, tx_hash = NULL, block_number = NULL, block_hash = NULL, evidence = NULL, reorged = true, updated_at = now()
	WHERE network = $1 AND state = 'included' AND block_number = $2 AND block_hash = $3 AND evidence->>'kind' = 'other_transaction'
	RETURNING id)
INSERT INTO outbox (payment_id, type) SELECT id, 'payment.reorged' FROM gone`
	sqlReorgTransactions = `
WITH gone AS (
	UPDATE transactions SET state = 'broadcast', block_number = NULL, block_hash = NULL, gas_used = NULL, gas_price = NULL, cost = NULL,
		succeeded = NULL, undecided = false, updated_at = now()
	WHERE lane_id IN (SELECT id FROM lanes WHERE network = $1) AND state = 'included' AND block_number = $2 AND block_hash = $3
	RETURNING lane_id)
UPDATE lanes SET reorgs = reorgs + 1 WHERE id IN (SELECT lane_id FROM gone)`
	sqlWatchedBlocks = `
SELECT block_number, block_hash FROM payments
WHERE network = $1 AND state = 'included' AND evidence->>'kind' = 'other_transaction' AND block_number BETWEEN $2 AND $3
UNION
SELECT t.block_number, t.block_hash FROM transactions t JOIN lanes l ON l.id = t.lane_id
WHERE l.network = $1 AND t.state = 'included' AND t.block_number BETWEEN $2 AND $3
ORDER BY 1 LIMIT $4`
)

// WatchedBlocks lists most blocks at most, lowest first, from one height to
// another, both included, that payments and transactions rest on and that the
// record does not call final yet.
func (s *Store) WatchedBlocks(ctx context.Context, n x402.Network, from, until uint64, most int) ([]chain.Head, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sqlWatchedBlocks, n, int64(min(from, math.MaxInt64)), int64(min(until, math.MaxInt64)), most)
	if err != nil {
		return nil, unavailable(err)
	}
	heads, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (chain.Head, error) {
		var h chain.Head
		var hash []byte
		err := row.Scan(&h.Number, &hash)
		h.Hash = optionalHash(hash)
		return h, err
	})
	return heads, unavailable(err)
}

// RecordFinal makes everything in these blocks final, in one commit.
func (s *Store) RecordFinal(ctx context.Context, n x402.Network, blocks []chain.Head) error {
	numbers, hashes := make([]int64, len(blocks)), make([][]byte, len(blocks))
	for i := range blocks {
		numbers[i], hashes[i] = int64(blocks[i].Number), blocks[i].Hash[:] //nolint:gosec // G115: as they were read
	}
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		for _, sql := range []string{sqlFinalOurs, sqlFinalOthers} {
			if _, err := tx.Exec(ctx, sql, n, numbers, hashes); err != nil {
				return err
			}
		}
		return nil
	})
}

// RecordReorg takes everything in a block that is no longer canonical back to
// broadcast: its bytes are sent again. A payment that somebody else's
// transaction settled has no bytes of ours: it is queued again.
func (s *Store) RecordReorg(ctx context.Context, n x402.Network, block chain.Head) error {
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		for _, sql := range []string{sqlReorgPayments, sqlReorgOthers, sqlReorgTransactions} {
			if _, err := tx.Exec(ctx, sql, n, block.Number, block.Hash[:]); err != nil {
				return err
			}
		}
		return nil
	})
}
