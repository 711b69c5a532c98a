package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"facilitator/internal/payment"
)

// A page begins after the last id of the one before, so that it costs the same
// however far on it is. Ids hold the time at which they were made: in their order
// payments are in the order of claims, as far as the replicas' clocks agree.
const (
	listed = ` FROM payments p
WHERE p.id > $1 AND p.id < $2
	AND ($3::timestamptz IS NULL OR p.created_at >= $3) AND ($4::timestamptz IS NULL OR p.created_at < $4)
	AND ($5::text IS NULL OR p.network = $5) AND ($6::text[] IS NULL OR p.state = ANY($6)) AND ($7::bytea IS NULL OR p.payer = $7)
	AND ($10::text IS NULL OR coalesce(p.client::text, '') = $10)`
	sqlListOldest   = `SELECT ` + paymentColumns + listed + ` AND $8::bytea IS NULL ORDER BY p.id LIMIT $9`
	sqlListNewest   = `SELECT ` + paymentColumns + listed + ` AND $8::bytea IS NULL ORDER BY p.id DESC LIMIT $9`
	sqlListOldestTo = `SELECT ` + paymentColumns + listed + ` AND p.pay_to = $8 ORDER BY p.id LIMIT $9`
	sqlListNewestTo = `SELECT ` + paymentColumns + listed + ` AND p.pay_to = $8 ORDER BY p.id DESC LIMIT $9`
	// Of a client, whoever was paid.
	sqlListOldestOf = `SELECT ` + paymentColumns + listed + ` AND $8::bytea IS NULL AND p.client = $10::text::uuid ORDER BY p.id LIMIT $9`
	sqlListNewestOf = `SELECT ` + paymentColumns + listed + ` AND $8::bytea IS NULL AND p.client = $10::text::uuid ORDER BY p.id DESC LIMIT $9`
)

// clockSlack is how far a replica's clock, which ids are made by, may be from the
// database's, which payments are dated by, before a list by time misses one.
const clockSlack = time.Hour

// ListPayments returns a page. Walking on from its last payment meets every
// payment that was there at the start exactly once, whatever is claimed or
// settled meanwhile.
func (s *Store) ListPayments(ctx context.Context, f payment.Filter) ([]payment.Payment, error) {
	lower, upper := [16]byte{}, [16]byte(bytes.Repeat([]byte{0xff}, 16))
	var since, until *time.Time
	if !f.Since.IsZero() {
		since, lower = &f.Since, idAt(f.Since.Add(-clockSlack))
	}
	if !f.Until.IsZero() {
		until, upper = &f.Until, idAt(f.Until.Add(clockSlack))
	}
	if f.After != "" {
		after, err := uuid.Parse(string(f.After))
		if err != nil {
			return nil, fmt.Errorf("%w: no payment is %q", payment.ErrNotFound, f.After)
		}
		if f.NewestFirst {
			upper = minID(upper, after)
		} else {
			lower = maxID(lower, after)
		}
	}
	var network *string
	if f.Network != "" {
		text := string(f.Network)
		network = &text
	}
	var states []string
	for _, state := range f.States {
		states = append(states, string(state))
	}
	var payer, payTo []byte
	if f.Payer != nil {
		payer = f.Payer[:]
	}
	sql, ofClient := sqlListOldest, f.Client != nil && *f.Client != ""
	switch {
	case f.PayTo != nil && f.NewestFirst:
		payTo, sql = f.PayTo[:], sqlListNewestTo
	case f.PayTo != nil:
		payTo, sql = f.PayTo[:], sqlListOldestTo
	case ofClient && f.NewestFirst:
		sql = sqlListNewestOf
	case ofClient:
		sql = sqlListOldestOf
	case f.NewestFirst:
		sql = sqlListNewest
	}
	return s.listed(ctx, sql, lower, upper, since, until, network, states, payer, payTo, f.Limit, f.Client)
}

// inOrder keeps the planner, which does not see the values of a generic plan, from
// reading all rows of a list to sort them: every list has an index in its order.
const inOrder = `SET LOCAL enable_sort = off`

func (s *Store) listed(ctx context.Context, sql string, args ...any) (page []payment.Payment, _ error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	s.pool.reads.Add(1)
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, inOrder); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		page, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (payment.Payment, error) { return scanPayment(row) })
		return err
	})
	return page, unavailable(err)
}

// idAt is below every id that is made at t or later.
func idAt(t time.Time) (id [16]byte) {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(max(0, t.UnixMilli())))
	copy(id[:6], ms[2:])
	return id
}

func minID(a, b [16]byte) [16]byte {
	if bytes.Compare(a[:], b[:]) < 0 {
		return a
	}
	return b
}

func maxID(a, b [16]byte) [16]byte {
	if bytes.Compare(a[:], b[:]) > 0 {
		return a
	}
	return b
}
