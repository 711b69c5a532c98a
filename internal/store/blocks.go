package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

const (
	// ofOurs are the transactions of a network in a block.
	ofOurs = `SELECT t.id FROM transactions t JOIN lanes l ON l.id = t.lane_id
	WHERE l.network = $1 AND t.state = 'included' AND t.block_number = $2 AND t.block_hash = $3`
	// Payments are found by way of our transaction in that block, or by their own
	// block where somebody else's transaction made them.
	sqlFinalPayments = `
WITH done AS (
	UPDATE payments SET state = 'final', updated_at = now()
	WHERE state = 'included' AND block_number = $2 AND block_hash = $3 AND transaction_id IN (` + ofOurs + `)
	RETURNING id)
INSERT INTO outbox (payment_id, type) SELECT id, 'payment.finalized' FROM done`
	sqlFinalOthers = `
WITH done AS (
	UPDATE payments SET state = 'final', updated_at = now()
	WHERE network = $1 AND state = 'included' AND block_number = $2 AND block_hash = $3 AND evidence->>'kind' = 'other_transaction'
	RETURNING id)
INSERT INTO outbox (payment_id, type) SELECT id, 'payment.finalized' FROM done`
	sqlFinalTransactions = `
UPDATE transactions SET state = 'final', updated_at = now()
WHERE lane_id IN (SELECT id FROM lanes WHERE network = $1) AND state = 'included' AND block_number = $2 AND block_hash = $3`
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
WHERE network = $1 AND state = 'included' AND evidence->>'kind' = 'other_transaction' AND (block_number <= $2 OR block_number >= $3)
UNION
SELECT t.block_number, t.block_hash FROM transactions t JOIN lanes l ON l.id = t.lane_id
WHERE l.network = $1 AND t.state = 'included' AND (t.block_number <= $2 OR t.block_number >= $3)
ORDER BY 1 LIMIT 256`
)

// WatchedBlocks lists blocks that payments and transactions rest on and that the
// record does not call final yet, lowest first: those up to finalized, and those
// from recent on, which may still be reorganised.
func (s *Store) WatchedBlocks(ctx context.Context, n x402.Network, finalized, recent uint64) ([]chain.Head, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sqlWatchedBlocks, n, finalized, recent)
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

// RecordFinal makes everything in a block final.
func (s *Store) RecordFinal(ctx context.Context, n x402.Network, block chain.Head) error {
	return s.inBlock(ctx, n, block, sqlFinalPayments, sqlFinalOthers, sqlFinalTransactions)
}

// RecordReorg takes everything in a block that is no longer canonical back to
// broadcast: its bytes are sent again. A payment that somebody else's
// transaction settled has no bytes of ours: it is queued again.
func (s *Store) RecordReorg(ctx context.Context, n x402.Network, block chain.Head) error {
	return s.inBlock(ctx, n, block, sqlReorgPayments, sqlReorgOthers, sqlReorgTransactions)
}

func (s *Store) inBlock(ctx context.Context, n x402.Network, block chain.Head, statements ...string) error {
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		for _, sql := range statements {
			if _, err := tx.Exec(ctx, sql, n, block.Number, block.Hash[:]); err != nil {
				return err
			}
		}
		return nil
	})
}
