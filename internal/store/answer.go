package store

import (
	"context"
	"math"

	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
)

const (
	sqlCollect = `
UPDATE payments AS p SET answered_at = coalesce(p.answered_at, now()), answered_by = $2::text::uuid, answered_key = $3
WHERE p.id = $1::text::uuid AND (p.state = 'final' OR p.state = 'included' AND p.block_number <= $4)
	AND (p.answered_by IS NULL OR p.answered_by = $2::text::uuid)
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
	f, err := s.write(ctx, query{sqlCollect, []any{parsed.String(), call, bytesOrNull(key), min(upTo, math.MaxInt64)}, "collect" + parsed.String()})
	if err != nil || f.ok {
		return f.payment, f.ok, err
	}
	p, err := s.PaymentByID(ctx, id)
	return p, false, err
}

// ReturnAnswer gives it back when the answer provably reached nobody, so that
// the next identical call collects it (I2).
func (s *Store) ReturnAnswer(ctx context.Context, id payment.ID, call string) error {
	_, err := s.exec(ctx, sqlReturnAnswer, string(id), call)
	return err
}
