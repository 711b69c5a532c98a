package store

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/coalesce"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

const (
	// Of each payer all is summed up once, however many payments of it are looked
	// at, and the payment itself is taken off. It is found by its own index: to look
	// for it among all of its payer would take long. All numbers are of one moment.
	sqlExposure = `
WITH k AS MATERIALIZED (
	SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::boolean[])
		WITH ORDINALITY AS k(network, contract, payer, nonce, asset, reserve, place)
), s AS MATERIALIZED (
	SELECT w.*, coalesce(y.promised, 0) AS mark, o.amount AS open, o.payments, r.amount AS reserved, r.reservations, (o.some || r.some)[1:64] AS some
	FROM (SELECT DISTINCT network, asset, payer, reserve FROM k) w
	LEFT JOIN payers y ON y.payer = w.payer AND y.asset = w.asset AND y.network = w.network
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(p.amount), 0) AS amount, count(*) AS payments,
			(array_agg(p.authorization_nonce || convert_to(p.amount::text, 'UTF8') ORDER BY p.state = 'queued') FILTER (WHERE p.contract = w.asset))[1:64] AS some
		FROM payments p
		WHERE p.payer = w.payer AND p.asset = w.asset AND p.network = w.network AND p.state IN ('queued', 'signed', 'broadcast')) o
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(v.amount), 0) AS amount, count(*) AS reservations,
			(array_agg(v.authorization_nonce || convert_to(v.amount::text, 'UTF8')) FILTER (WHERE v.contract = w.asset))[1:64] AS some
		FROM reservations v
		WHERE w.reserve AND v.payer = w.payer AND v.asset = w.asset AND v.network = w.network AND v.until > now()) r
)
SELECT k.place, s.mark::text, (s.open - CASE WHEN own.counts THEN p.amount ELSE 0 END + s.reserved - coalesce(v.amount, 0))::text,
	s.payments - own.counts::int, s.reservations - (v.payer IS NOT NULL)::int, s.some
FROM k
JOIN s ON s.payer = k.payer AND s.asset = k.asset AND s.network = k.network AND s.reserve = k.reserve
LEFT JOIN payments p ON p.payer = k.payer AND p.authorization_nonce = k.nonce AND p.network = k.network AND p.contract = k.contract
CROSS JOIN LATERAL (SELECT coalesce(p.asset = k.asset AND p.state IN ('queued', 'signed', 'broadcast'), false) AS counts) own
LEFT JOIN reservations v ON k.reserve AND v.payer = k.payer AND v.network = k.network AND v.contract = k.contract AND v.authorization_nonce = k.nonce
	AND v.asset = k.asset AND v.until > now()`
)

// purse is what a payer has of one token.
type purse struct {
	network      x402.Network
	asset, payer chain.Address
}

// look asks for what the record says of a payment before it is judged.
type look struct {
	key     payment.Key
	asset   chain.Address
	reserve bool
}

// Exposure finds the payment that owns the authorization of these terms, and what
// counts as promised to other payments of the payer. It is one round trip, which
// it shares with others that look.
func (s *Store) Exposure(ctx context.Context, t payment.Terms, mode payment.ExposureMode) (payment.Exposure, error) {
	if mode == payment.ExposureOff {
		known, err := s.PaymentByKey(ctx, t.Key)
		switch {
		case errors.Is(err, payment.ErrNotFound):
			return payment.Exposure{}, nil
		case err != nil:
			return payment.Exposure{}, err
		}
		return payment.Exposure{Known: &known}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	e, err := s.looks.Do(ctx, look{key: t.Key, asset: t.Asset, reserve: mode == payment.ExposureReserve})
	return e, unavailable(err)
}

func (s *Store) lookTogether(ctx context.Context, ls []look) []coalesce.Result[payment.Exposure] {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	results := make([]coalesce.Result[payment.Exposure], len(ls))
	var (
		networks                          = make([]string, len(ls))
		contracts, payers, nonces, assets = make([][]byte, len(ls)), make([][]byte, len(ls)), make([][]byte, len(ls)), make([][]byte, len(ls))
		reserve                           = make([]bool, len(ls))
		of                                = make(map[payment.Key][]int, len(ls))
	)
	for i := range ls {
		l := &ls[i]
		networks[i], contracts[i], payers[i], nonces[i] = string(l.key.Network), l.key.Contract[:], l.key.Payer[:], l.key.Nonce[:]
		assets[i], reserve[i] = l.asset[:], l.reserve
		of[l.key] = append(of[l.key], i)
	}
	var batch pgx.Batch
	// What is promised comes first: what is claimed in between is known then, and
	// is not judged on it.
	batch.Queue(sqlExposure, networks, contracts, payers, nonces, assets, reserve).Query(func(rows pgx.Rows) error {
		var place int
		var mark, amount string
		var p payment.Promised
		var some [][]byte
		_, err := pgx.ForEachRow(rows, []any{&place, &mark, &amount, &p.Payments, &p.Reserved, &some}, func() (err error) {
			e := &results[place-1].Value
			e.Promised, e.Mark = p, new(big.Int)
			sum := new(big.Int)
			if _, ok := sum.SetString(amount, 10); !ok {
				return fmt.Errorf("store: sum %q", amount)
			}
			if _, ok := e.Mark.SetString(mark, 10); !ok {
				return fmt.Errorf("store: promised %q", mark)
			}
			e.Promised.Amount = saturated(sum)
			e.Promised.Some, err = promises(some)
			return err
		})
		return err
	})
	batch.Queue(sqlPaymentByKey, networks, contracts, payers, nonces).Query(func(rows pgx.Rows) error {
		defer rows.Close()
		for rows.Next() {
			row := new(paymentRow)
			if err := row.scan(rows); err != nil {
				return err
			}
			p, err := row.payment()
			for _, i := range of[row.key()] {
				results[i].Value.Known, results[i].Err = &p, err
			}
		}
		return rows.Err()
	})
	s.pool.reads.Add(1)
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		for i := range results {
			results[i] = coalesce.Result[payment.Exposure]{Err: err}
		}
	}
	return results
}

// promises reads nonces with amounts behind them.
func promises(texts [][]byte) ([]payment.Promise, error) {
	var list []payment.Promise
	for _, text := range texts {
		var p payment.Promise
		n := copy(p.Nonce[:], text)
		var err error
		if p.Amount, err = x402.ParseUint256(string(text[n:])); err != nil {
			return nil, fmt.Errorf("store: amount %q: %w", text[n:], err)
		}
		list = append(list, p)
	}
	return list, nil
}

// saturated is n, or the largest number where n is more.
func saturated(n *big.Int) (u x402.Uint256) {
	if n.BitLen() > 8*len(u) {
		for i := range u {
			u[i] = 0xff
		}
		return u
	}
	n.FillBytes(u[:])
	return u
}
