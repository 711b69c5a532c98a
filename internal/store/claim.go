package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/google/uuid"

	"facilitator/internal/payment"
)

const (
	// An existing row is not locked: claims that are told of it hold nothing that
	// a lane might wait for. The rows of payers that have a guard are locked by the
	// statement before this one, so that this one sees all that others promised.
	sqlClaim = `
WITH c AS (
	SELECT *, sum(amount::numeric) OVER (PARTITION BY payer, asset, network ORDER BY place) - amount::numeric AS before
	FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[], $7::text[], $8::bytea[], $9::bytea[],
		$10::text[], $11::text[], $12::text[], $13::bytea[], $14::bytea[], $15::bytea[], $16::smallint[], $17::text[], $18::bigint[], $19::text[], $20::uuid[])
		WITH ORDINALITY AS c(id, network, contract, payer, nonce, fingerprint, scheme, asset, pay_to,
		amount, valid_after, valid_before, call_to, call_data, signature_hash, version, resource, block, most, client, place)
), p AS (
	INSERT INTO payments AS p (id, network, contract, payer, authorization_nonce, fingerprint, scheme, asset, pay_to,
		amount, valid_after, valid_before, call_to, call_data, signature_hash, x402_version, resource,
		claimed_at_block, client, state)
	SELECT c.id, c.network, c.contract, c.payer, c.nonce, c.fingerprint, c.scheme, c.asset, c.pay_to,
		c.amount::numeric, c.valid_after::numeric, c.valid_before::numeric, c.call_to, c.call_data, c.signature_hash, c.version, c.resource,
		c.block, c.client, 'queued'
	FROM c LEFT JOIN payers y ON c.most IS NOT NULL AND y.payer = c.payer AND y.asset = c.asset AND y.network = c.network
	WHERE c.most IS NULL OR y.promised + c.before <= c.most::numeric
	ORDER BY c.place
	ON CONFLICT ON CONSTRAINT payments_authorization DO NOTHING
	RETURNING ` + paymentColumns + `
), counted AS (
	UPDATE payers y SET promised = y.promised + m.amount
	FROM (SELECT c.network, c.asset, c.payer, sum(c.amount::numeric) AS amount FROM p JOIN c ON c.id::text = p.id
		WHERE c.most IS NOT NULL GROUP BY c.network, c.asset, c.payer) m
	WHERE y.payer = m.payer AND y.asset = m.asset AND y.network = m.network
)` + releaseReservation + `
SELECT * FROM p`
	// releaseReservation ends that of a payment which is claimed: it counts as such.
	releaseReservation = `, released AS (
	DELETE FROM reservations r USING p
	WHERE r.payer = p.payer AND r.network = p.network AND r.contract = p.contract AND r.authorization_nonce = p.authorization_nonce
)`
	sqlClaimAgain = `
WITH p AS (
	UPDATE payments AS p
	SET state = 'queued', valid_after = $6::text::numeric, valid_before = $7::text::numeric, call_to = $8, call_data = $9, signature_hash = $10,
		x402_version = $11, resource = $12, client = $15::text::uuid,
		claimed_at_block = $13, reason = NULL, message = NULL, evidence = NULL, updated_at = now()
	WHERE p.network = $1 AND p.contract = $2 AND p.payer = $3 AND p.authorization_nonce = $4
		AND p.state = 'failed' AND p.tries = 0 AND p.fingerprint = $5
		AND ($14::text IS NULL OR $14::text::numeric >=
			(SELECT y.promised FROM payers y WHERE y.payer = p.payer AND y.asset = p.asset AND y.network = p.network))
	RETURNING ` + paymentColumns + `
), counted AS (
	UPDATE payers y SET promised = y.promised + p.amount::numeric FROM p
	WHERE $14::text IS NOT NULL AND y.payer = p.payer AND y.asset = p.asset AND y.network = p.network
)` + releaseReservation + `
SELECT * FROM p`
)

// ClaimPayment records p as queued and returns it with its id, or returns the
// payment that already owns the authorization. Of any number of concurrent
// callers exactly one sees fresh (I1). A payment that failed before anything
// was signed may be claimed again by the same sale; it keeps its id.
//
// payment.ErrCrowded if the guard does not hold any more: nothing was recorded.
// Claims of one payer's balance wait for each other, at any number of replicas.
func (s *Store) ClaimPayment(ctx context.Context, p payment.Payment, g *payment.Guard) (_ payment.Payment, fresh bool, _ error) {
	if p.ClaimedAtBlock > math.MaxInt64 {
		return payment.Payment{}, false, fmt.Errorf("%w: it can't hold block %d", payment.ErrUnavailable, p.ClaimedAtBlock)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return payment.Payment{}, false, fmt.Errorf("payment id: %w", err)
	}
	t, k, fp, most := p.Terms, p.Terms.Key, p.Terms.Fingerprint(), mostOf(g)
	order := strings.Join([]string{"claim", string(k.Payer[:]), string(k.Nonce[:]), string(k.Network), string(k.Contract[:])}, "")
	var promises *purse
	if g != nil {
		promises = &purse{network: k.Network, asset: t.Asset, payer: k.Payer}
	}
	f, err := s.write(ctx, query{sql: sqlClaim, mine: hasID(id), order: order, promises: promises, args: []any{
		[16]byte(id), string(k.Network), k.Contract[:], k.Payer[:], k.Nonce[:], fp[:],
		string(t.Scheme), t.Asset[:], t.PayTo[:], t.Amount.String(), t.ValidAfter.String(), t.ValidBefore.String(),
		t.Call.To[:], t.Call.Data, t.SignatureHash[:], p.Version, p.Resource, p.ClaimedAtBlock, most, optionalText(p.Client),
	}})
	if err != nil || f.ok {
		return f.payment, f.ok, err
	}
	again := func(known *payment.Payment) bool {
		return known.State == payment.StateFailed && !known.Sent() && known.Terms.Fingerprint() == fp
	}
	known, err := s.PaymentByKey(ctx, k)
	if g != nil && errors.Is(err, payment.ErrNotFound) {
		return payment.Payment{}, false, payment.ErrCrowded
	}
	if err != nil || !again(&known) {
		return known, false, err
	}
	f, err = s.write(ctx, query{sql: sqlClaimAgain, order: order, promises: promises, args: []any{
		k.Network, k.Contract[:], k.Payer[:], k.Nonce[:], fp[:], t.ValidAfter.String(), t.ValidBefore.String(),
		t.Call.To[:], t.Call.Data, t.SignatureHash[:], p.Version, p.Resource, p.ClaimedAtBlock, most, optionalText(p.Client),
	}})
	if err != nil || f.ok {
		return f.payment, f.ok, err
	}
	known, err = s.PaymentByKey(ctx, k) // somebody else was faster
	if err == nil && g != nil && again(&known) {
		return payment.Payment{}, false, payment.ErrCrowded
	}
	return known, false, err
}

// optionalText stores an empty text as NULL.
func optionalText(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
