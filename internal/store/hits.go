package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

const (
	// Replicas add to the same rows: all lock them in one order. What is of the
	// latest payment stays so, whoever writes last.
	sqlAddHits = `
INSERT INTO screening_hits AS h (day, network, source, role, address, kind, hits, first_at, last_at,
	payer, pay_to, asset, authorization_nonce, amount, client, reason)
SELECT day::date, network, source, role, address, kind, hits, first_at, last_at, payer, pay_to, asset, nonce, amount::numeric, nullif(client, '')::uuid, reason
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::bigint[], $8::timestamptz[], $9::timestamptz[],
	$10::bytea[], $11::bytea[], $12::bytea[], $13::bytea[], $14::text[], $15::text[], $16::text[])
	AS n(day, network, source, role, address, kind, hits, first_at, last_at, payer, pay_to, asset, nonce, amount, client, reason)
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (day, network, source, role, address) DO UPDATE SET
	hits = h.hits + excluded.hits, first_at = least(h.first_at, excluded.first_at),
	(last_at, kind, payer, pay_to, asset, authorization_nonce, amount, client, reason) = (
		SELECT * FROM (VALUES
			(h.last_at, h.kind, h.payer, h.pay_to, h.asset, h.authorization_nonce, h.amount, h.client, h.reason),
			(excluded.last_at, excluded.kind, excluded.payer, excluded.pay_to, excluded.asset, excluded.authorization_nonce,
				excluded.amount, excluded.client, excluded.reason)) AS both_of(last_at)
		ORDER BY last_at DESC LIMIT 1)`
	// A page begins after the last row of the one before, in the order of the key.
	sqlHits = `
SELECT h.day::text, h.network, h.source, h.role, h.address, h.kind, h.hits, h.first_at, h.last_at,
	h.payer, h.pay_to, h.asset, h.authorization_nonce, h.amount::text, coalesce(h.client::text, ''), coalesce(c.name, ''), h.reason
FROM screening_hits h LEFT JOIN clients c ON c.id = h.client
WHERE ($1::timestamptz IS NULL OR h.last_at >= $1) AND ($2::timestamptz IS NULL OR h.first_at < $2)
	AND h.day >= coalesce(($1::timestamptz AT TIME ZONE 'utc')::date, '-infinity')
	AND ($3::text IS NULL OR h.network = $3) AND ($4::text IS NULL OR h.source = $4) AND ($5::bytea IS NULL OR h.address = $5)
	AND (h.day, h.network, h.source, h.role, h.address) < ($6::text::date, $7::text, $8::text, $9::text, $10::bytea)
ORDER BY h.day DESC, h.network DESC, h.source DESC, h.role DESC, h.address DESC LIMIT $11`
	sqlForgetHits = `DELETE FROM screening_hits WHERE day < $1::text::date`
)

// AddHits adds to what is recorded of whom screening refused, in one transaction.
func (s *Store) AddHits(ctx context.Context, hits []payment.Hits) error {
	var days, networks, sources, roles, kinds, amounts, clients, reasons []string
	var addresses, payers, payees, assets, nonces [][]byte
	var counts []int64
	var first, last []time.Time
	for i := range hits {
		h := &hits[i]
		days, networks, sources, roles = append(days, h.Day), append(networks, string(h.Network)), append(sources, h.Source), append(roles, h.Role)
		addresses, kinds, counts = append(addresses, hitAddress(h.HitKey)), append(kinds, h.Kind), append(counts, h.Count)
		first, last = append(first, h.FirstAt), append(last, h.LastAt)
		payers, payees, assets = append(payers, h.Payer[:]), append(payees, h.PayTo[:]), append(assets, h.Asset[:])
		nonces, amounts = append(nonces, h.Nonce[:]), append(amounts, h.Amount.String())
		clients, reasons = append(clients, h.Client), append(reasons, h.Reason)
	}
	return s.exec(ctx, sqlAddHits, days, networks, sources, roles, addresses, kinds, counts, first, last,
		payers, payees, assets, nonces, amounts, clients, reasons)
}

// hitAddress is that of a row.
func hitAddress(k payment.HitKey) []byte {
	if k.Rest {
		return []byte{}
	}
	return k.Address[:]
}

// Hits returns a page.
func (s *Store) Hits(ctx context.Context, f payment.HitFilter) (page []payment.Hits, _ error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var since, until *time.Time
	if !f.Since.IsZero() {
		since = &f.Since
	}
	if !f.Until.IsZero() {
		until = &f.Until
	}
	var network, source *string
	if f.Network != "" {
		text := string(f.Network)
		network = &text
	}
	if f.Source != "" {
		source = &f.Source
	}
	var address []byte
	if f.Address != nil {
		address = f.Address[:]
	}
	after := payment.HitKey{Day: "infinity", Rest: true}
	if f.After != nil {
		after = *f.After
	}
	s.pool.reads.Add(1)
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, inOrder); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sqlHits, since, until, network, source, address, after.Day, string(after.Network), after.Source, after.Role, hitAddress(after), f.Limit)
		if err != nil {
			return err
		}
		page, err = pgx.CollectRows(rows, scanHits)
		return err
	})
	return page, unavailable(err)
}

func scanHits(row pgx.CollectableRow) (h payment.Hits, _ error) {
	var address, payer, payTo, asset, nonce []byte
	var amount string
	if err := row.Scan(&h.Day, &h.Network, &h.Source, &h.Role, &address, &h.Kind, &h.Count, &h.FirstAt, &h.LastAt,
		&payer, &payTo, &asset, &nonce, &amount, &h.Client, &h.ClientName, &h.Reason); err != nil {
		return h, err
	}
	if h.Rest = len(address) == 0; !h.Rest {
		h.Address = chain.Address(address)
	}
	h.Payer, h.PayTo, h.Asset, h.Nonce = chain.Address(payer), chain.Address(payTo), chain.Address(asset), chain.Hash(nonce)
	var err error
	if h.Amount, err = x402.ParseUint256(amount); err != nil {
		return h, fmt.Errorf("store: amount of a hit: %w", err)
	}
	return h, nil
}

// ForgetHits deletes what is recorded of days before one, and says how many rows
// there were. Nothing but an operator's command does.
func (s *Store) ForgetHits(ctx context.Context, before time.Time) (rows int64, _ error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, sqlForgetHits, before.Format(time.DateOnly))
	return tag.RowsAffected(), unavailable(err)
}
