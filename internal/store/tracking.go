package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

const (
	sqlMarkSent          = `UPDATE attempts SET last_send_at = now() WHERE transaction_id = ANY($1)`
	sqlBroadcastTx       = `UPDATE transactions SET state = 'broadcast', updated_at = now() WHERE id = ANY($1) AND state || '' = 'signed'`
	sqlBroadcastPayments = `UPDATE payments SET state = 'broadcast', updated_at = now() WHERE transaction_id = ANY($1) AND state || '' = 'signed'`
)

// MarkBroadcast records that the bytes of these transactions went to a node.
func (s *Store) MarkBroadcast(ctx context.Context, lane payment.Lane, transactions []int64) error {
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := fence(ctx, tx, sqlCheckLane, lane); err != nil {
			return err
		}
		var batch pgx.Batch
		for _, sql := range []string{sqlMarkSent, sqlBroadcastTx, sqlBroadcastPayments} {
			batch.Queue(sql, transactions)
		}
		return tx.SendBatch(ctx, &batch).Close()
	})
}

const (
	sqlOpenTransactions = `
SELECT t.id, t.wallet_nonce, t.state, t.block_number, t.block_hash, t.created_at,
	a.id, a.hash, a.raw, a.gas_limit, a.fee_cap::bigint, a.tip_cap::bigint, a.signed_at, a.last_send_at
FROM transactions t JOIN attempts a ON a.transaction_id = t.id
WHERE t.lane_id = $1 AND (t.state IN ('signed', 'broadcast') OR t.undecided)
ORDER BY t.wallet_nonce, a.id LIMIT 4096`
	sqlCarried = `SELECT ` + paymentColumns + ` FROM payments p WHERE p.transaction_id = ANY($1) ORDER BY p.created_at, p.id`
)

// OpenTransactions lists what a lane has signed that is not yet mined, and what
// is mined or replaced but carries payments that could not be judged yet, with
// the payments, in the order of their wallet nonces.
func (s *Store) OpenTransactions(ctx context.Context, lane payment.Lane) ([]payment.Carried, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sqlOpenTransactions, lane.ID)
	if err != nil {
		return nil, unavailable(err)
	}
	list, err := collectTransactions(rows, lane)
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

func collectTransactions(rows pgx.Rows, lane payment.Lane) ([]payment.Carried, error) {
	defer rows.Close()
	var list []payment.Carried
	for rows.Next() {
		var (
			t            payment.Transaction
			a            payment.Attempt
			hash, inHash []byte
			block        *int64
			lastSend     *time.Time
		)
		if err := rows.Scan(&t.ID, &t.WalletNonce, &t.State, &block, &inHash, &t.CreatedAt,
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
		t.Lane, t.BlockHash = lane, optionalHash(inHash)
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
UPDATE transactions SET state = 'included', block_number = $2, block_hash = $3, gas_used = $4, gas_price = $5, cost = $6::text::numeric,
	succeeded = $7, undecided = $8, updated_at = now()
WHERE id = $1 AND state IN ('signed', 'broadcast')`
	sqlReplaceTx = `
UPDATE transactions SET state = 'replaced', updated_at = now(),
	undecided = EXISTS (SELECT 1 FROM payments WHERE transaction_id = $1 AND state IN ('signed', 'broadcast'))
WHERE id = $1 AND state IN ('signed', 'broadcast')`
	sqlDecided = `
UPDATE transactions SET undecided = false, updated_at = now() WHERE id = $1 AND undecided
	AND NOT EXISTS (SELECT 1 FROM payments WHERE transaction_id = $1 AND state IN ('signed', 'broadcast'))`
	sqlSpend = `
INSERT INTO spending AS s (network, day, wei) VALUES ($1, (now() AT TIME ZONE 'utc')::date, $2::text::numeric)
ON CONFLICT (network, day) DO UPDATE SET wei = s.wei + excluded.wei`
	// In the order of the clients, so that no two wait for each other.
	sqlSpendOfClients = `
INSERT INTO client_spending AS s (client, day, wei, payments)
SELECT coalesce(p.client, '00000000-0000-0000-0000-000000000000'), (now() AT TIME ZONE 'utc')::date, sum(div(t.cost, p.payments)), count(*)
FROM (SELECT client, transaction_id, count(*) OVER (PARTITION BY transaction_id) AS payments
	FROM payments WHERE transaction_id = ANY($1::bigint[])) p
JOIN transactions t ON t.id = p.transaction_id GROUP BY 1 ORDER BY 1
ON CONFLICT (client, day) DO UPDATE SET wei = s.wei + excluded.wei, payments = s.payments + excluded.payments`
	sqlPay = `
WITH paid AS (
	UPDATE payments p SET state = 'included', tx_hash = $4, block_number = $5, block_hash = $6, evidence = $7,
		reason = NULL, message = NULL, updated_at = now()
	FROM unnest($1::uuid[], $2::integer[]) AS j(id, tries)
	WHERE p.id = j.id AND p.tries = j.tries AND coalesce(p.transaction_id, 0) = $3
		AND (p.state IN ('queued', 'signed', 'broadcast') OR p.state = 'failed' AND $3 <> 0)
	RETURNING p.id), told AS (
	INSERT INTO outbox (payment_id, type) SELECT id, 'payment.settled' FROM paid)
SELECT count(*) FROM paid`
	sqlFail = `
WITH failed AS (
	UPDATE payments SET state = 'failed', reason = $4, message = $5, evidence = $6, updated_at = now()
	WHERE id = $1::text::uuid AND coalesce(transaction_id, 0) = $2 AND tries = $3 AND state IN ('queued', 'signed', 'broadcast')
	RETURNING id, reorged), told AS (
	INSERT INTO outbox (payment_id, type) SELECT id, CASE WHEN reorged THEN 'payment.reversed' ELSE 'payment.failed' END FROM failed)
SELECT count(*) FROM failed`
	sqlRequeue = `
WITH requeued AS (
	UPDATE payments SET state = 'queued', transaction_id = NULL, updated_at = now()
	WHERE id = $1::text::uuid AND coalesce(transaction_id, 0) = $2 AND tries = $3 AND state IN ('signed', 'broadcast')
	RETURNING id)
SELECT count(*) FROM requeued`
)

// RecordInclusions writes what mined transactions of a lane did, with their
// payments' outcomes and what they cost, in one commit. Rows that have moved on
// since they were judged are left as they are.
func (s *Store) RecordInclusions(ctx context.Context, lane payment.Lane, ins []payment.Inclusion) error {
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := fence(ctx, tx, sqlCheckLane, lane); err != nil {
			return err
		}
		var batch pgx.Batch
		spent, mined := new(big.Int), []int64(nil)
		for _, in := range ins {
			r, cost := in.Receipt, in.Receipt.Cost()
			batch.Queue(sqlIncludeTx, in.Transaction, r.BlockNumber, r.BlockHash[:], r.GasUsed, r.EffectiveGasPrice, cost.String(), r.Succeeded, in.Undecided).
				Exec(func(tag pgconn.CommandTag) error {
					if tag.RowsAffected() == 1 {
						spent.Add(spent, cost)
						mined = append(mined, in.Transaction)
					}
					return nil
				})
		}
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return err
		}
		batch = pgx.Batch{}
		if spent.Sign() > 0 {
			batch.Queue(sqlSpend, lane.Network, spent.String())
			batch.Queue(sqlSpendOfClients, mined)
		}
		for _, in := range ins {
			if err := queueOutcomes(&batch, in.Outcomes, nil); err != nil {
				return err
			}
		}
		return tx.SendBatch(ctx, &batch).Close()
	})
}

// RecordReplaced writes that the wallet nonce of an open transaction was
// consumed by one that is none of ours. Its payments are to be judged.
// payment.ErrTransition if it is not open any more.
func (s *Store) RecordReplaced(ctx context.Context, lane payment.Lane, transaction int64) error {
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := fence(ctx, tx, sqlCheckLane, lane); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, sqlReplaceTx, transaction)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return payment.ErrTransition
		}
		return nil
	})
}

// RecordOutcome writes the fate of one payment. payment.ErrTransition if it has
// moved on since it was judged.
func (s *Store) RecordOutcome(ctx context.Context, o payment.Outcome) error {
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var batch pgx.Batch
		changed := 0
		if err := queueOutcomes(&batch, []payment.Outcome{o}, &changed); err != nil {
			return err
		}
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return err
		}
		if changed != 1 {
			return payment.ErrTransition
		}
		if o.Transaction == 0 {
			return nil
		}
		_, err := tx.Exec(ctx, sqlDecided, o.Transaction)
		return err
	})
}

// queueOutcomes queues the writes of outcomes, those that one receipt pays in one
// statement. changed counts the rows, where it is not nil.
func queueOutcomes(batch *pgx.Batch, outcomes []payment.Outcome, changed *int) error {
	type paidBy struct {
		transaction int64
		kind        payment.EvidenceKind
		hash        chain.Hash
	}
	type group struct {
		first *payment.Outcome
		ids   []payment.ID
		tries []int
	}
	var order []*group
	paid := make(map[paidBy]*group)
	count := func(row pgx.Row) error {
		n := 0
		if err := row.Scan(&n); err != nil {
			return err
		}
		if changed != nil {
			*changed += n
		}
		return nil
	}
	for i := range outcomes {
		o := &outcomes[i]
		switch o.To {
		case payment.StateIncluded:
			key := paidBy{transaction: o.Transaction, hash: o.TxHash}
			if o.Evidence != nil {
				key.kind = o.Evidence.Kind
			}
			g := paid[key]
			if g == nil {
				g = &group{first: o}
				paid[key] = g
				order = append(order, g)
			}
			g.ids, g.tries = append(g.ids, o.Payment), append(g.tries, o.Tries)
		case payment.StateFailed:
			evidence, err := evidenceOf(o)
			if err != nil {
				return err
			}
			batch.Queue(sqlFail, string(o.Payment), o.Transaction, o.Tries, o.Reason, o.Message, evidence).QueryRow(count)
		case payment.StateQueued:
			batch.Queue(sqlRequeue, string(o.Payment), o.Transaction, o.Tries).QueryRow(count)
		case payment.StateSigned, payment.StateBroadcast, payment.StateFinal:
			return fmt.Errorf("store: %s is no outcome", o.To)
		}
	}
	for _, g := range order {
		o := g.first
		evidence, err := evidenceOf(o)
		if err != nil {
			return err
		}
		ids := uuids(g.ids)
		if len(ids) != len(g.ids) {
			return errors.New("store: an outcome is of no payment")
		}
		batch.Queue(sqlPay, ids, g.tries, o.Transaction, o.TxHash[:], o.Block, o.InBlock[:], evidence).QueryRow(count)
	}
	return nil
}

// evidenceOf is NULL without evidence, which no decided payment may be.
func evidenceOf(o *payment.Outcome) ([]byte, error) {
	if o.Evidence == nil {
		return nil, nil
	}
	evidence, err := json.Marshal(o.Evidence)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return evidence, nil
}

// Only one that was settled before is an event: the others never were.
const sqlWithdraw = `
WITH withdrawn AS (
	UPDATE payments SET state = 'failed', reason = $2, message = $3, evidence = $4, updated_at = now()
	WHERE id = $1::text::uuid AND state || '' = 'queued' AND tries = 0
	RETURNING id, reorged), told AS (
	INSERT INTO outbox (payment_id, type) SELECT id, 'payment.reversed' FROM withdrawn WHERE reorged)
SELECT count(*) FROM withdrawn`

// Withdraw fails a payment for which nothing was ever signed, so that the
// caller can be told that nothing happened and nothing will.
// payment.ErrTransition if a lane was faster.
func (s *Store) Withdraw(ctx context.Context, id payment.ID, reason x402.Reason, message string) error {
	evidence, err := json.Marshal(payment.Evidence{Kind: payment.EvidenceNotSent})
	if err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	return s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		n := 0
		if err := tx.QueryRow(ctx, sqlWithdraw, string(id), reason, message, evidence).Scan(&n); err != nil {
			return err
		}
		if n != 1 {
			return payment.ErrTransition
		}
		return nil
	})
}

const sqlSpent = `SELECT coalesce((SELECT wei FROM spending WHERE network = $1 AND day = (now() AT TIME ZONE 'utc')::date), 0)::text`

// SpentToday is what a network's gas has cost since midnight UTC, in wei.
func (s *Store) SpentToday(ctx context.Context, n x402.Network) (*big.Int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var text string
	if err := s.pool.QueryRow(ctx, sqlSpent, n).Scan(&text); err != nil {
		return nil, unavailable(err)
	}
	wei, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return nil, errors.New("store: spending is no number")
	}
	return wei, nil
}
