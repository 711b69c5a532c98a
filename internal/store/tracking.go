package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

const (
	sqlMarkSent          = `UPDATE attempts SET last_send_at = now() WHERE transaction_id = ANY($1)`
	sqlBroadcastTx       = `UPDATE transactions SET state = 'broadcast', updated_at = now() WHERE id = ANY($1) AND state = 'signed'`
	sqlBroadcastPayments = `UPDATE payments SET state = 'broadcast', updated_at = now() WHERE transaction_id = ANY($1) AND state = 'signed'`
)

// MarkBroadcast records that the bytes of these transactions went to a node.
func (s *Store) MarkBroadcast(ctx context.Context, transactions []int64) error {
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var batch pgx.Batch
		for _, sql := range []string{sqlMarkSent, sqlBroadcastTx, sqlBroadcastPayments} {
			batch.Queue(sql, transactions)
		}
		return tx.SendBatch(ctx, &batch).Close()
	})
}

const (
	sqlOpenTransactions = `
SELECT t.id, t.lane_id, l.network, l.address, t.wallet_nonce, t.state, t.block_number, t.block_hash,
	a.id, a.hash, a.raw, a.gas_limit, a.fee_cap::bigint, a.tip_cap::bigint, a.signed_at, a.last_send_at
FROM transactions t JOIN lanes l ON l.id = t.lane_id JOIN attempts a ON a.transaction_id = t.id
WHERE l.network = $1 AND (t.state IN ('signed', 'broadcast') OR t.id IN (
	SELECT p.transaction_id FROM payments p WHERE p.network = $1 AND p.state IN ('signed', 'broadcast')))
ORDER BY t.lane_id, t.wallet_nonce, a.id LIMIT 4096`
	sqlCarried = `SELECT ` + paymentColumns + ` FROM payments p WHERE p.transaction_id = ANY($1) ORDER BY p.created_at, p.id`
)

// OpenTransactions lists what is signed and not yet mined, and what is mined but
// carries payments that could not be judged yet, with the payments.
func (s *Store) OpenTransactions(ctx context.Context, n x402.Network) ([]payment.Carried, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sqlOpenTransactions, n)
	if err != nil {
		return nil, unavailable(err)
	}
	list, err := collectTransactions(rows)
	if err != nil || len(list) == 0 {
		return nil, unavailable(err)
	}
	index := make(map[int64]int, len(list))
	ids := make([]int64, len(list))
	for i := range list {
		ids[i] = list[i].Transaction.ID
		index[ids[i]] = i
	}
	payments, err := s.manyPayments(ctx, sqlCarried, ids)
	if err != nil {
		return nil, err
	}
	for _, p := range payments {
		c := &list[index[p.TransactionID]]
		c.Payments = append(c.Payments, p)
	}
	return list, nil
}

func collectTransactions(rows pgx.Rows) ([]payment.Carried, error) {
	defer rows.Close()
	var list []payment.Carried
	for rows.Next() {
		var (
			t                  payment.Transaction
			a                  payment.Attempt
			lane, hash, inHash []byte
			block              *int64
			lastSend           *time.Time
		)
		if err := rows.Scan(&t.ID, &t.Lane.ID, &t.Lane.Network, &lane, &t.WalletNonce, &t.State, &block, &inHash,
			&a.ID, &hash, &a.Raw, &a.GasLimit, &a.Fees.FeeCap, &a.Fees.TipCap, &a.SignedAt, &lastSend); err != nil {
			return nil, err
		}
		a.Hash = chain.Hash(hash)
		if lastSend != nil {
			a.LastSendAt = *lastSend
		}
		if last := len(list) - 1; last >= 0 && list[last].Transaction.ID == t.ID {
			list[last].Transaction.Attempts = append(list[last].Transaction.Attempts, a)
			continue
		}
		t.Lane.Address, t.BlockHash = chain.Address(lane), optionalHash(inHash)
		if block != nil {
			t.BlockNumber = uint64(*block) //nolint:gosec // CHECKed not negative
		}
		t.Attempts = []payment.Attempt{a}
		list = append(list, payment.Carried{Transaction: t})
	}
	return list, rows.Err()
}

const (
	sqlIncludeTx = `
UPDATE transactions SET state = 'included', block_number = $2, block_hash = $3, gas_used = $4, gas_price = $5, succeeded = $6, updated_at = now()
WHERE id = $1 AND state IN ('signed', 'broadcast')`
	sqlPay = `
UPDATE payments SET state = 'included', tx_hash = $4, block_number = $5, block_hash = $6, evidence = $7,
	reason = NULL, message = NULL, updated_at = now()
WHERE id = $1::text::uuid AND coalesce(transaction_id, 0) = $2 AND tries = $3
	AND (state IN ('queued', 'signed', 'broadcast') OR state = 'failed' AND transaction_id IS NOT NULL)`
	sqlFail = `
UPDATE payments SET state = 'failed', reason = $4, message = $5, evidence = $6, updated_at = now()
WHERE id = $1::text::uuid AND coalesce(transaction_id, 0) = $2 AND tries = $3 AND state IN ('queued', 'signed', 'broadcast')`
	sqlRequeue = `
UPDATE payments SET state = 'queued', transaction_id = NULL, updated_at = now()
WHERE id = $1::text::uuid AND coalesce(transaction_id, 0) = $2 AND tries = $3 AND state IN ('signed', 'broadcast')`
	sqlOutbox = `INSERT INTO outbox (payment_id, type) VALUES ($1::text::uuid, $2)`
)

// RecordInclusion writes what a mined transaction did, with all its payments'
// outcomes, at once. payment.ErrTransition if somebody else wrote it first.
func (s *Store) RecordInclusion(ctx context.Context, in payment.Inclusion) error {
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		r := in.Receipt
		tag, err := tx.Exec(ctx, sqlIncludeTx, in.Transaction, r.BlockNumber, r.BlockHash[:], r.GasUsed, r.EffectiveGasPrice, r.Succeeded)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return payment.ErrTransition
		}
		for _, o := range in.Outcomes {
			// A payment that moved on since it was judged is not this outcome's.
			if err := applyOutcome(ctx, tx, o); err != nil && !errors.Is(err, payment.ErrTransition) {
				return err
			}
		}
		return nil
	})
}

// RecordOutcome writes the fate of one payment. payment.ErrTransition if it has
// moved on since it was judged.
func (s *Store) RecordOutcome(ctx context.Context, o payment.Outcome) error {
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error { return applyOutcome(ctx, tx, o) })
}

func applyOutcome(ctx context.Context, tx pgx.Tx, o payment.Outcome) error {
	var evidence []byte // NULL without, which only a queued payment may be
	if o.Evidence != nil {
		var err error
		if evidence, err = json.Marshal(o.Evidence); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
	}
	sql, args := "", []any{string(o.Payment), o.Transaction, o.Tries}
	event := payment.EventSettled
	switch o.To {
	case payment.StateIncluded:
		sql, args = sqlPay, append(args, o.TxHash[:], o.Block, o.InBlock[:], evidence)
	case payment.StateFailed:
		sql, args, event = sqlFail, append(args, o.Reason, o.Message, evidence), payment.EventFailed
	case payment.StateQueued:
		sql, event = sqlRequeue, ""
	case payment.StateSigned, payment.StateBroadcast, payment.StateFinal:
		return fmt.Errorf("store: %s is no outcome", o.To)
	}
	tag, err := tx.Exec(ctx, sql, args...)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return payment.ErrTransition
	}
	if event == "" {
		return nil
	}
	_, err = tx.Exec(ctx, sqlOutbox, string(o.Payment), event)
	return err
}

const (
	sqlWithdraw = `
UPDATE payments SET state = 'failed', reason = $2, message = $3, evidence = $4, updated_at = now()
WHERE id = $1::text::uuid AND state = 'queued' AND tries = 0`
)

// Withdraw fails a payment for which nothing was ever signed, so that the
// caller can be told that nothing happened and nothing will.
// payment.ErrTransition if a lane was faster.
func (s *Store) Withdraw(ctx context.Context, id payment.ID, reason x402.Reason, message string) error {
	evidence, err := json.Marshal(payment.Evidence{Kind: payment.EvidenceNotSent})
	if err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	n, err := s.exec(ctx, sqlWithdraw, string(id), reason, message, evidence)
	if err == nil && n != 1 {
		return payment.ErrTransition
	}
	return err
}

const (
	sqlFinalPayments = `
WITH done AS (
	UPDATE payments SET state = 'final', updated_at = now()
	WHERE network = $1 AND state = 'included' AND block_number = $2 AND block_hash = $3
	RETURNING id)
INSERT INTO outbox (payment_id, type) SELECT id, 'payment.finalized' FROM done`
	sqlFinalTransactions = `
UPDATE transactions SET state = 'final', updated_at = now()
WHERE lane_id IN (SELECT id FROM lanes WHERE network = $1) AND state = 'included' AND block_number = $2 AND block_hash = $3`
	sqlReorgPayments = `
WITH gone AS (
	UPDATE payments SET state = 'broadcast', block_number = NULL, block_hash = NULL, evidence = NULL, updated_at = now()
	WHERE network = $1 AND state = 'included' AND block_number = $2 AND block_hash = $3 AND evidence->>'kind' = 'receipt'
	RETURNING id)
INSERT INTO outbox (payment_id, type) SELECT id, 'payment.reorged' FROM gone`
	sqlReorgOthers = `
WITH gone AS (
	UPDATE payments SET state = 'queued', transaction_id = NULL, tx_hash = NULL, block_number = NULL, block_hash = NULL, evidence = NULL, updated_at = now()
	WHERE network = $1 AND state = 'included' AND block_number = $2 AND block_hash = $3 AND evidence->>'kind' = 'other_transaction'
	RETURNING id)
INSERT INTO outbox (payment_id, type) SELECT id, 'payment.reorged' FROM gone`
	sqlReorgTransactions = `
UPDATE transactions SET state = 'broadcast', block_number = NULL, block_hash = NULL, gas_used = NULL, gas_price = NULL, succeeded = NULL, updated_at = now()
WHERE lane_id IN (SELECT id FROM lanes WHERE network = $1) AND state = 'included' AND block_number = $2 AND block_hash = $3`
	sqlWatchedBlocks = `
SELECT block_number, block_hash FROM payments
WHERE network = $1 AND state = 'included' AND (block_number <= $2 OR block_number >= $3)
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
	return s.inBlock(ctx, n, block, sqlFinalTransactions, sqlFinalPayments)
}

// RecordReorg takes everything in a block that is no longer canonical back to
// broadcast: its bytes are sent again. A payment that somebody else's
// transaction settled has no bytes of ours: it is queued again.
func (s *Store) RecordReorg(ctx context.Context, n x402.Network, block chain.Head) error {
	return s.inBlock(ctx, n, block, sqlReorgTransactions, sqlReorgPayments, sqlReorgOthers)
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
