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
//
// Whose payments are listed, and who was paid, is part of the statement, since each
// has its own index: nobody reads over the rows of others. $1 to $8 are of all.
const (
	listed = ` FROM payments p
WHERE p.id > $1 AND p.id < $2
	AND ($3::timestamptz IS NULL OR p.created_at >= $3) AND ($4::timestamptz IS NULL OR p.created_at < $4)
	AND ($5::text IS NULL OR p.network = $5) AND ($6::text[] IS NULL OR p.state = ANY($6)) AND ($7::bytea IS NULL OR p.payer = $7)`
	oldest = ` ORDER BY p.id LIMIT $8`
	newest = ` ORDER BY p.id DESC LIMIT $8`
	to     = ` AND p.pay_to = $9`
	of     = ` AND p.client = $9`
	ofTo   = ` AND p.client = $9 AND p.pay_to = $10`
	noOnes = ` AND p.client IS NULL`

	sqlListOldest         = `SELECT ` + paymentColumns + listed + oldest
	sqlListNewest         = `SELECT ` + paymentColumns + listed + newest
	sqlListOldestTo       = `SELECT ` + paymentColumns + listed + to + oldest
	sqlListNewestTo       = `SELECT ` + paymentColumns + listed + to + newest
	sqlListOldestOf       = `SELECT ` + paymentColumns + listed + of + oldest
	sqlListNewestOf       = `SELECT ` + paymentColumns + listed + of + newest
	sqlListOldestOfTo     = `SELECT ` + paymentColumns + listed + ofTo + oldest
	sqlListNewestOfTo     = `SELECT ` + paymentColumns + listed + ofTo + newest
	sqlListOldestNoOnes   = `SELECT ` + paymentColumns + listed + noOnes + oldest
	sqlListNewestNoOnes   = `SELECT ` + paymentColumns + listed + noOnes + newest
	sqlListOldestNoOnesTo = `SELECT ` + paymentColumns + listed + noOnes + to + oldest
	sqlListNewestNoOnesTo = `SELECT ` + paymentColumns + listed + noOnes + to + newest
)

// listSQL picks the statement of a list, and returns what it takes beside $1 to $8.
func listSQL(f *payment.Filter) (sql string, args []any) {
	of, to := f.Client != nil && *f.Client != "", f.PayTo != nil
	pick := func(oldest, newest string) string {
		if f.NewestFirst {
			return newest
		}
		return oldest
	}
	switch {
	case of && to:
		return pick(sqlListOldestOfTo, sqlListNewestOfTo), []any{*f.Client, f.PayTo[:]}
	case of:
		return pick(sqlListOldestOf, sqlListNewestOf), []any{*f.Client}
	case f.Client != nil && to:
		return pick(sqlListOldestNoOnesTo, sqlListNewestNoOnesTo), []any{f.PayTo[:]}
	case f.Client != nil:
		return pick(sqlListOldestNoOnes, sqlListNewestNoOnes), nil
	case to:
		return pick(sqlListOldestTo, sqlListNewestTo), []any{f.PayTo[:]}
	}
	return pick(sqlListOldest, sqlListNewest), nil
}

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
	var payer []byte
	if f.Payer != nil {
		payer = f.Payer[:]
	}
	sql, more := listSQL(&f)
	return s.listed(ctx, sql, append([]any{lower, upper, since, until, network, states, payer, f.Limit}, more...)...)
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
