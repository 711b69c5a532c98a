package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// paymentColumns in the order scanPayment reads them.
const paymentColumns = `p.id::text, p.network, p.contract, p.payer, p.authorization_nonce, p.scheme, p.asset, p.pay_to,
	p.amount::text, p.valid_after::text, p.valid_before::text, p.call_to, p.call_data, p.signature_hash,
	p.x402_version, p.resource, p.claimed_at_block, p.state, p.tries, p.transaction_id,
	p.tx_hash, p.block_number, p.block_hash, p.reason, p.message, p.evidence, p.created_at, p.updated_at, p.answered_at, p.answered_key`

func scanPayment(row pgx.Row) (payment.Payment, error) {
	var (
		p                                                   payment.Payment
		contract, payer, nonce, asset, payTo, callTo        []byte
		signature, answeredKey, txHash, blockHash, evidence []byte
		amount, after, before                               string
		txID, block                                         *int64
		reason, message                                     *string
		claimedAt                                           int64
		answered                                            *time.Time
	)
	err := row.Scan(&p.ID, &p.Terms.Key.Network, &contract, &payer, &nonce, &p.Terms.Scheme, &asset, &payTo,
		&amount, &after, &before, &callTo, &p.Terms.Call.Data, &signature,
		&p.Version, &p.Resource, &claimedAt, &p.State, &p.Tries, &txID,
		&txHash, &block, &blockHash, &reason, &message, &evidence, &p.CreatedAt, &p.UpdatedAt, &answered, &answeredKey)
	if err != nil {
		return payment.Payment{}, err
	}
	p.Terms.Key.Contract, p.Terms.Key.Payer, p.Terms.Key.Nonce = chain.Address(contract), chain.Address(payer), chain.Hash(nonce)
	p.Terms.Asset, p.Terms.PayTo, p.Terms.Call.To = chain.Address(asset), chain.Address(payTo), chain.Address(callTo)
	p.Terms.SignatureHash, p.AnsweredKey = chain.Hash(signature), optionalHash(answeredKey)
	p.TxHash, p.BlockHash = optionalHash(txHash), optionalHash(blockHash)
	p.ClaimedAtBlock = uint64(claimedAt) //nolint:gosec // CHECKed not negative
	for _, n := range []struct {
		text string
		to   *x402.Uint256
	}{{amount, &p.Terms.Amount}, {after, &p.Terms.ValidAfter}, {before, &p.Terms.ValidBefore}} {
		if *n.to, err = x402.ParseUint256(n.text); err != nil {
			return payment.Payment{}, fmt.Errorf("payment %s: number %q: %w", p.ID, n.text, err)
		}
	}
	if txID != nil {
		p.TransactionID = *txID
	}
	if block != nil {
		p.BlockNumber = uint64(*block) //nolint:gosec // CHECKed not negative
	}
	if reason != nil {
		p.Reason = x402.Reason(*reason)
	}
	if message != nil {
		p.Message = *message
	}
	if answered != nil {
		p.AnsweredAt = *answered
	}
	if evidence != nil {
		p.Evidence = new(payment.Evidence)
		if err := json.Unmarshal(evidence, p.Evidence); err != nil {
			return payment.Payment{}, fmt.Errorf("payment %s: evidence: %w", p.ID, err)
		}
	}
	return p, nil
}

func optionalHash(b []byte) chain.Hash {
	if b == nil {
		return chain.Hash{}
	}
	return chain.Hash(b)
}

// bytesOrNull stores a zero hash as NULL.
func bytesOrNull(h chain.Hash) []byte {
	if h.IsZero() {
		return nil
	}
	return h[:]
}

const sqlClaim = `
INSERT INTO payments AS p (id, network, contract, payer, authorization_nonce, fingerprint, scheme, asset, pay_to,
	amount, valid_after, valid_before, call_to, call_data, signature_hash, x402_version, resource,
	claimed_at_block, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::numeric, $11::text::numeric, $12::text::numeric, $13, $14, $15, $16, $17, $18, 'queued')
ON CONFLICT ON CONSTRAINT payments_authorization DO UPDATE
SET state = 'queued', valid_after = excluded.valid_after, valid_before = excluded.valid_before, call_to = excluded.call_to, call_data = excluded.call_data, signature_hash = excluded.signature_hash,
	x402_version = excluded.x402_version, resource = excluded.resource,
	claimed_at_block = excluded.claimed_at_block, reason = NULL, message = NULL, evidence = NULL, updated_at = now()
WHERE p.state = 'failed' AND p.tries = 0 AND p.fingerprint = excluded.fingerprint
RETURNING ` + paymentColumns

// ClaimPayment records p as queued and returns it with its id, or returns the
// payment that already owns the authorization. Of any number of concurrent
// callers exactly one sees fresh (I1). A payment that failed before anything
// was signed may be claimed again by the same sale; it keeps its id.
func (s *Store) ClaimPayment(ctx context.Context, p payment.Payment) (_ payment.Payment, fresh bool, _ error) {
	id, err := uuid.NewV7()
	if err != nil {
		return payment.Payment{}, false, fmt.Errorf("payment id: %w", err)
	}
	t, k, fp := p.Terms, p.Terms.Key, p.Terms.Fingerprint()
	var out payment.Payment
	err = s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		fresh = true
		out, err = scanPayment(tx.QueryRow(ctx, sqlClaim, id.String(), k.Network, k.Contract[:], k.Payer[:], k.Nonce[:], fp[:],
			t.Scheme, t.Asset[:], t.PayTo[:], t.Amount.String(), t.ValidAfter.String(), t.ValidBefore.String(),
			t.Call.To[:], t.Call.Data, t.SignatureHash[:], p.Version, p.Resource, p.ClaimedAtBlock))
		if errors.Is(err, pgx.ErrNoRows) {
			fresh = false
			out, err = scanPayment(tx.QueryRow(ctx, sqlPaymentByKey, k.Network, k.Contract[:], k.Payer[:], k.Nonce[:]))
		}
		return err
	})
	return out, fresh && err == nil, err
}

const (
	sqlPaymentByKey = `SELECT ` + paymentColumns + ` FROM payments p
WHERE p.network = $1 AND p.contract = $2 AND p.payer = $3 AND p.authorization_nonce = $4`
	sqlPaymentByID      = `SELECT ` + paymentColumns + ` FROM payments p WHERE p.id = $1::text::uuid`
	sqlPaymentsByTxHash = `SELECT ` + paymentColumns + ` FROM payments p
WHERE p.network = $1 AND (p.tx_hash = $2 OR p.transaction_id = (SELECT a.transaction_id FROM attempts a WHERE a.hash = $2))
ORDER BY p.created_at, p.id LIMIT 100`
	sqlPaymentsByNonce = `SELECT ` + paymentColumns + ` FROM payments p
WHERE p.network = $1 AND p.payer = $2 AND p.authorization_nonce = $3 ORDER BY p.created_at, p.id LIMIT 100`
	sqlQueuedPayments = `SELECT ` + paymentColumns + ` FROM payments p
WHERE p.network = $1 AND p.state = 'queued' ORDER BY p.created_at, p.id LIMIT $2`
)

func (s *Store) onePayment(ctx context.Context, sql string, args ...any) (payment.Payment, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	p, err := scanPayment(s.pool.QueryRow(ctx, sql, args...))
	if errors.Is(err, pgx.ErrNoRows) {
		return payment.Payment{}, payment.ErrNotFound
	}
	return p, unavailable(err)
}

func (s *Store) manyPayments(ctx context.Context, sql string, args ...any) ([]payment.Payment, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	ps, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (payment.Payment, error) { return scanPayment(row) })
	return ps, unavailable(err)
}

// PaymentByKey finds the payment that owns an authorization, or payment.ErrNotFound.
func (s *Store) PaymentByKey(ctx context.Context, k payment.Key) (payment.Payment, error) {
	return s.onePayment(ctx, sqlPaymentByKey, k.Network, k.Contract[:], k.Payer[:], k.Nonce[:])
}

// PaymentByID finds a payment, or payment.ErrNotFound.
func (s *Store) PaymentByID(ctx context.Context, id payment.ID) (payment.Payment, error) {
	parsed, err := uuid.Parse(string(id))
	if err != nil {
		return payment.Payment{}, payment.ErrNotFound
	}
	return s.onePayment(ctx, sqlPaymentByID, parsed.String())
}

// PaymentsByTransaction lists the payments that a hash settled, or that the
// transaction of this attempt carries.
func (s *Store) PaymentsByTransaction(ctx context.Context, n x402.Network, hash chain.Hash) ([]payment.Payment, error) {
	return s.manyPayments(ctx, sqlPaymentsByTxHash, n, hash[:])
}

// PaymentsByNonce lists the payments of a payer's authorization nonce, one for
// each contract that knows such a nonce.
func (s *Store) PaymentsByNonce(ctx context.Context, n x402.Network, payer chain.Address, nonce chain.Hash) ([]payment.Payment, error) {
	return s.manyPayments(ctx, sqlPaymentsByNonce, n, payer[:], nonce[:])
}

// QueuedPayments lists the oldest payments for which nothing is signed.
func (s *Store) QueuedPayments(ctx context.Context, n x402.Network, most int) ([]payment.Payment, error) {
	return s.manyPayments(ctx, sqlQueuedPayments, n, most)
}

const sqlCountQueued = `SELECT count(*) FROM payments WHERE network = $1 AND state = 'queued'`

// CountQueued counts the payments for which nothing is signed.
func (s *Store) CountQueued(ctx context.Context, n x402.Network) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	count := 0
	err := s.pool.QueryRow(ctx, sqlCountQueued, n).Scan(&count)
	return count, unavailable(err)
}

const sqlStates = `SELECT id::text, state FROM payments WHERE id = ANY($1::text[]::uuid[])`

// States reads where many payments are.
func (s *Store) States(ctx context.Context, ids []payment.ID) (map[payment.ID]payment.State, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sqlStates, ids)
	if err != nil {
		return nil, unavailable(err)
	}
	states := make(map[payment.ID]payment.State, len(ids))
	var id payment.ID
	var state payment.State
	_, err = pgx.ForEachRow(rows, []any{&id, &state}, func() error {
		states[id] = state
		return nil
	})
	return states, unavailable(err)
}

const (
	sqlTakeAnswer = `
UPDATE payments SET answered_at = coalesce(answered_at, now()), answered_by = $2::text::uuid, answered_key = $3
WHERE id = $1::text::uuid AND state IN ('included', 'final') AND (answered_by IS NULL OR answered_by = $2::text::uuid)`
	sqlReturnAnswer = `
UPDATE payments SET answered_at = NULL, answered_by = NULL, answered_key = NULL
WHERE id = $1::text::uuid AND answered_by = $2::text::uuid`
)

// TakeAnswer gives the right to tell success to exactly one call (I2), which a
// UUID of its own names: a call whose first try ended in doubt may try again.
// key is the hash of the idempotency key it came with, or zero.
func (s *Store) TakeAnswer(ctx context.Context, id payment.ID, call string, key chain.Hash) (bool, error) {
	n, err := s.exec(ctx, sqlTakeAnswer, string(id), call, bytesOrNull(key))
	return n == 1, err
}

// ReturnAnswer gives it back when the answer provably reached nobody, so that
// the next identical call collects it (I2).
func (s *Store) ReturnAnswer(ctx context.Context, id payment.ID, call string) error {
	_, err := s.exec(ctx, sqlReturnAnswer, string(id), call)
	return err
}

func (s *Store) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, sql, args...)
	return tag.RowsAffected(), unavailable(err)
}
