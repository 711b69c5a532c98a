package store

import (
	"context"
	"encoding/json"
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
	p.tx_hash, p.block_number, p.block_hash, p.reason, p.message, p.evidence, p.created_at, p.updated_at, p.answered_at, p.answered_key, p.answered_by::text, p.reorged, p.client::text`

// paymentRow is a row as the driver reads it: nothing in it can be refused.
type paymentRow struct {
	p                                                   payment.Payment
	contract, payer, nonce, asset, payTo, callTo        []byte
	signature, answeredKey, txHash, blockHash, evidence []byte
	amount, after, before                               string
	txID, block                                         *int64
	reason, message                                     *string
	claimedAt                                           int64
	answered                                            *time.Time
	answeredBy, client                                  *string
}

// hasID says whether a row is the payment with that id.
func hasID(id uuid.UUID) func(*paymentRow) bool {
	text := payment.ID(id.String())
	return func(r *paymentRow) bool { return r.p.ID == text }
}

func (r *paymentRow) scan(row pgx.Row) error {
	p := &r.p
	return row.Scan(&p.ID, &p.Terms.Key.Network, &r.contract, &r.payer, &r.nonce, &p.Terms.Scheme, &r.asset, &r.payTo,
		&r.amount, &r.after, &r.before, &r.callTo, &p.Terms.Call.Data, &r.signature,
		&p.Version, &p.Resource, &r.claimedAt, &p.State, &p.Tries, &r.txID,
		&r.txHash, &r.block, &r.blockHash, &r.reason, &r.message, &r.evidence, &p.CreatedAt, &p.UpdatedAt, &r.answered, &r.answeredKey, &r.answeredBy, &p.Reorged, &r.client)
}

func (r *paymentRow) key() payment.Key {
	return payment.Key{
		Network: r.p.Terms.Key.Network, Contract: chain.Address(r.contract), Payer: chain.Address(r.payer), Nonce: chain.Hash(r.nonce),
	}
}

func (r *paymentRow) payment() (payment.Payment, error) {
	p := r.p
	p.Terms.Key = r.key()
	p.Terms.Asset, p.Terms.PayTo, p.Terms.Call.To = chain.Address(r.asset), chain.Address(r.payTo), chain.Address(r.callTo)
	p.Terms.SignatureHash, p.AnsweredKey = chain.Hash(r.signature), optionalHash(r.answeredKey)
	p.TxHash, p.BlockHash = optionalHash(r.txHash), optionalHash(r.blockHash)
	p.ClaimedAtBlock = uint64(r.claimedAt) //nolint:gosec // CHECKed not negative
	for _, n := range []struct {
		text string
		to   *x402.Uint256
	}{{r.amount, &p.Terms.Amount}, {r.after, &p.Terms.ValidAfter}, {r.before, &p.Terms.ValidBefore}} {
		var err error
		if *n.to, err = x402.ParseUint256(n.text); err != nil {
			return payment.Payment{}, fmt.Errorf("payment %s: number %q: %w", p.ID, n.text, err)
		}
	}
	if r.txID != nil {
		p.TransactionID = *r.txID
	}
	if r.block != nil {
		p.BlockNumber = uint64(*r.block) //nolint:gosec // CHECKed not negative
	}
	if r.reason != nil {
		p.Reason = x402.Reason(*r.reason)
	}
	if r.message != nil {
		p.Message = *r.message
	}
	if r.client != nil {
		p.Client = *r.client
	}
	if r.answered != nil {
		p.AnsweredAt = *r.answered
	}
	if r.evidence != nil {
		p.Evidence = new(payment.Evidence)
		if err := json.Unmarshal(r.evidence, p.Evidence); err != nil {
			return payment.Payment{}, fmt.Errorf("payment %s: evidence: %w", p.ID, err)
		}
	}
	return p, nil
}

func scanPayment(row pgx.Row) (payment.Payment, error) {
	var r paymentRow
	if err := r.scan(row); err != nil {
		return payment.Payment{}, err
	}
	return r.payment()
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

const (
	sqlPaymentByKey = `SELECT ` + paymentColumns + `
FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[]) AS k(network, contract, payer, nonce)
JOIN payments p ON p.network = k.network AND p.contract = k.contract AND p.payer = k.payer AND p.authorization_nonce = k.nonce`
	sqlPaymentByID      = `SELECT ` + paymentColumns + ` FROM payments p WHERE p.id = ANY($1::uuid[])`
	sqlPaymentsByTxHash = `SELECT ` + paymentColumns + ` FROM payments p
WHERE p.network = $1 AND (p.tx_hash = $2 AND p.evidence->>'kind' = 'other_transaction' OR p.transaction_id = (SELECT a.transaction_id FROM attempts a WHERE a.hash = $2))
ORDER BY p.created_at, p.id LIMIT 100`
	sqlPaymentsByNonce = `SELECT ` + paymentColumns + ` FROM payments p
WHERE p.network = $1 AND p.payer = $2 AND p.authorization_nonce = $3 ORDER BY p.created_at, p.id LIMIT 100`
)

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
	return s.lookUp(ctx, query{
		sql: sqlPaymentByKey, args: []any{string(k.Network), k.Contract[:], k.Payer[:], k.Nonce[:]},
		mine: func(r *paymentRow) bool { return r.key() == k },
	})
}

// PaymentByID finds a payment, or payment.ErrNotFound.
func (s *Store) PaymentByID(ctx context.Context, id payment.ID) (payment.Payment, error) {
	parsed, err := uuid.Parse(string(id))
	if err != nil {
		return payment.Payment{}, payment.ErrNotFound
	}
	return s.lookUp(ctx, query{sql: sqlPaymentByID, args: []any{[16]byte(parsed)}, mine: hasID(parsed)})
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

const sqlCountQueued = `SELECT count(*) FROM payments WHERE network = $1 AND state = 'queued'`

// CountQueued counts the payments for which nothing is signed.
func (s *Store) CountQueued(ctx context.Context, n x402.Network) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	count := 0
	err := s.pool.QueryRow(ctx, sqlCountQueued, n).Scan(&count)
	return count, unavailable(err)
}

const sqlStandings = `
SELECT id::text, state, tries, tx_hash, block_number FROM payments WHERE id = ANY($1)`

// uuids are ids as the database's own type, which costs it no reading; what is none
// is left out.
func uuids(ids []payment.ID) [][16]byte {
	list := make([][16]byte, 0, len(ids))
	for _, id := range ids {
		if parsed, err := uuid.Parse(string(id)); err == nil {
			list = append(list, parsed)
		}
	}
	return list
}

// Standings reads where many payments are.
func (s *Store) Standings(ctx context.Context, ids []payment.ID) (map[payment.ID]payment.Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sqlStandings, uuids(ids))
	if err != nil {
		return nil, unavailable(err)
	}
	standings := make(map[payment.ID]payment.Standing, len(ids))
	var (
		id    payment.ID
		state payment.State
		tries int
		hash  []byte
		block *int64
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &state, &tries, &hash, &block}, func() error {
		standing := payment.Standing{State: state, Tries: tries, TxHash: optionalHash(hash)}
		if block != nil {
			standing.BlockNumber = uint64(*block) //nolint:gosec // CHECKed not negative
		}
		standings[id] = standing
		return nil
	})
	return standings, unavailable(err)
}
