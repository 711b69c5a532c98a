package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/coalesce"
	"facilitator/internal/payment"
)

const (
	// No row is changed: it is locked all the same. All locks are taken in one
	// order, before any other of the transaction.
	sqlLockPayers = `
INSERT INTO payers AS y (network, asset, payer, promised)
SELECT DISTINCT k.network, k.asset, k.payer, 0 FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS k(network, asset, payer)
ORDER BY k.payer, k.asset, k.network
ON CONFLICT (payer, asset, network) DO UPDATE SET promised = y.promised WHERE false`
	// Of identical ones one row is written. What is known as claimed is not
	// reserved: it would count twice.
	sqlReserve = `
WITH k AS (
	SELECT DISTINCT ON (payer, network, contract, nonce, asset, amount) *
	FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::text[], $7::text[], $8::bigint[])
		WITH ORDINALITY AS k(network, contract, payer, nonce, asset, amount, most, seconds, place)
), c AS (
	SELECT DISTINCT ON (payer, network, contract, nonce) *,
		sum(amount::numeric) OVER (PARTITION BY payer, asset, network ORDER BY place) - amount::numeric AS before
	FROM k ORDER BY payer, network, contract, nonce, place
), made AS (
	INSERT INTO reservations AS r (network, contract, payer, authorization_nonce, asset, amount, until)
	SELECT c.network, c.contract, c.payer, c.nonce, c.asset, c.amount::numeric, now() + c.seconds * interval '1 second'
	FROM c LEFT JOIN payers y ON y.payer = c.payer AND y.asset = c.asset AND y.network = c.network
	WHERE (c.most IS NULL OR coalesce(y.promised, 0) + c.before <= c.most::numeric) AND NOT EXISTS (
		SELECT 1 FROM payments p WHERE p.payer = c.payer AND p.authorization_nonce = c.nonce AND p.network = c.network AND p.contract = c.contract
			AND (p.state <> 'failed' OR p.tries > 0))
	ON CONFLICT (payer, network, contract, authorization_nonce)
		DO UPDATE SET asset = excluded.asset, amount = excluded.amount, until = excluded.until
	RETURNING r.*
), counted AS (
	UPDATE payers y SET promised = y.promised + m.amount
	FROM (SELECT network, asset, payer, sum(amount) AS amount FROM made GROUP BY network, asset, payer) m
	WHERE y.payer = m.payer AND y.asset = m.asset AND y.network = m.network
)
SELECT k.place FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::text[])
	WITH ORDINALITY AS k(network, contract, payer, nonce, asset, amount, place)
JOIN made m ON m.payer = k.payer AND m.network = k.network AND m.contract = k.contract AND m.authorization_nonce = k.nonce
	AND m.asset = k.asset AND m.amount = k.amount::numeric`
	// Twice as many as may have been added, so that they never pile up.
	sqlSweepReservations = `
DELETE FROM reservations WHERE (payer, network, contract, authorization_nonce) IN (
	SELECT payer, network, contract, authorization_nonce FROM reservations WHERE until <= now() ORDER BY until LIMIT $1 FOR UPDATE SKIP LOCKED)`
)

// reservation is a payment that is to be promised without a claim.
type reservation struct {
	look
	amount string
	most   *string
	lasts  time.Duration
}

// Reserve promises the amount of a payment that was verified, until it is claimed
// or so long. It replaces an earlier reservation of the same authorization.
// payment.ErrCrowded if the guard does not hold any more, or if somebody claimed
// the payment meanwhile.
func (s *Store) Reserve(ctx context.Context, t payment.Terms, g *payment.Guard, lasts time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	made, err := s.reserves.Do(ctx, reservation{look: look{key: t.Key, asset: t.Asset}, amount: t.Amount.String(), most: mostOf(g), lasts: lasts})
	if err == nil && !made {
		err = payment.ErrCrowded
	}
	return unavailable(err)
}

// mostOf is NULL without a guard.
func mostOf(g *payment.Guard) *string {
	if g == nil {
		return nil
	}
	most := g.Most.String()
	return &most
}

func (s *Store) reserveTogether(ctx context.Context, rs []reservation) []coalesce.Result[bool] {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	results := make([]coalesce.Result[bool], len(rs))
	var (
		networks, amounts                 = make([]string, len(rs)), make([]string, len(rs))
		contracts, payers, nonces, assets = make([][]byte, len(rs)), make([][]byte, len(rs)), make([][]byte, len(rs)), make([][]byte, len(rs))
		mosts                             = make([]*string, len(rs))
		seconds                           = make([]int64, len(rs))
	)
	purses := make([]purse, len(rs))
	for i := range rs {
		r := &rs[i]
		purses[i] = purse{network: r.key.Network, asset: r.asset, payer: r.key.Payer}
		networks[i], contracts[i], payers[i], nonces[i] = string(r.key.Network), r.key.Contract[:], r.key.Payer[:], r.key.Nonce[:]
		assets[i], amounts[i], mosts[i], seconds[i] = r.asset[:], r.amount, r.most, int64(r.lasts/time.Second)
	}
	var batch pgx.Batch
	lockPayers(&batch, purses)
	batch.Queue(sqlReserve, networks, contracts, payers, nonces, assets, amounts, mosts, seconds).Query(func(rows pgx.Rows) error {
		var place int
		_, err := pgx.ForEachRow(rows, []any{&place}, func() error {
			results[place-1].Value = true
			return nil
		})
		return err
	})
	batch.Queue(sqlSweepReservations, 2*len(rs))
	err := s.pool.SendBatch(ctx, &batch).Close()
	if err == nil {
		s.commits.Add(1)
		return results
	}
	for i := range results {
		results[i] = coalesce.Result[bool]{Err: err}
	}
	return results
}

// lockPayers queues the locks of all purses that queries promise something of.
func lockPayers(batch *pgx.Batch, purses []purse) {
	if len(purses) == 0 {
		return
	}
	networks, assets, payers := make([]string, len(purses)), make([][]byte, len(purses)), make([][]byte, len(purses))
	for i := range purses {
		p := &purses[i]
		networks[i], assets[i], payers[i] = string(p.network), p.asset[:], p.payer[:]
	}
	batch.Queue(sqlLockPayers, networks, assets, payers)
}
