package store

import (
	"context"
	"fmt"
	"math"

	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
)

const (
	sqlCollect = `
UPDATE payments AS p SET answered_at = coalesce(p.answered_at, now()), answered_by = c.caller, answered_key = c.key
FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bigint[]) AS c(id, caller, key, up_to)
WHERE p.id = c.id AND (p.state = 'final' OR p.state = 'included' AND p.block_number <= c.up_to)
	AND (p.answered_by IS NULL OR p.answered_by = c.caller)
RETURNING ` + paymentColumns
	sqlReturnAnswer = `
UPDATE payments SET answered_at = NULL, answered_by = NULL, answered_key = NULL
WHERE id = $1::text::uuid AND answered_by = $2::text::uuid`
)

// Collect reads a payment, and where it is final, or included up to a block,
// gives the right to tell success to exactly one call (I2): first. A UUID of its
// own names the call: one whose first try ended in doubt may try again. key is
// the hash of the idempotency key it came with, or zero.
func (s *Store) Collect(ctx context.Context, id payment.ID, call string, key chain.Hash, upTo uint64) (_ payment.Payment, first bool, _ error) {
	parsed, err := uuid.Parse(string(id))
	if err != nil {
		return payment.Payment{}, false, payment.ErrNotFound
	}
	// Behind all claims of its group: those lock new rows only, these known ones.
	caller, err := uuid.Parse(call)
	if err != nil {
		return payment.Payment{}, false, fmt.Errorf("call id: %w", err)
	}
	f, err := s.write(ctx, query{
		sql: sqlCollect, order: "collect" + parsed.String(),
		mine: func(r *paymentRow) bool {
			return hasID(parsed)(r) && r.answeredBy != nil && *r.answeredBy == caller.String()
		},
		args: []any{[16]byte(parsed), [16]byte(caller), bytesOrNull(key), min(upTo, math.MaxInt64)},
	})
	if err != nil || f.ok {
		return f.payment, f.ok, err
	}
	p, err := s.PaymentByID(ctx, id)
	return p, false, err
}

// ReturnAnswer gives it back when the answer provably reached nobody, so that
// the next identical call collects it (I2).
func (s *Store) ReturnAnswer(ctx context.Context, id payment.ID, call string) error {
	return s.exec(ctx, sqlReturnAnswer, string(id), call)
}
