package store_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"facilitator/internal/payment"
)

// TestTheDatabaseAndTheCodeHaveTheSameStateMachine writes every state with
// every combination of facts past the store: the CHECK constraint must take
// exactly what payment.State.Allows allows.
func TestTheDatabaseAndTheCodeHaveTheSameStateMachine(t *testing.T) {
	t.Parallel()
	r := open(t)
	carrier := r.sign(t, r.lane(t, 1, 0), r.claim(t, 1).ID).ID
	const insert = `
INSERT INTO payments (id, network, contract, payer, authorization_nonce, fingerprint, scheme, asset, pay_to, amount, valid_after,
	valid_before, call_to, call_data, signature_hash, x402_version, resource, claimed_at_block, state,
	transaction_id, tx_hash, block_number, block_hash, reason, evidence)
SELECT gen_random_uuid(), network, contract, payer, decode(md5(random()::text) || md5(random()::text), 'hex'), fingerprint, scheme, asset,
	pay_to, amount, valid_after, valid_before, call_to, call_data, signature_hash, x402_version, resource, claimed_at_block, $1,
	$2, $3, $4, $5, $6, $7
FROM payments LIMIT 1`
	const update = `
UPDATE payments SET state = $1, transaction_id = $2, tx_hash = $3, block_number = $4, block_hash = $5, reason = $6, evidence = $7
WHERE id = $8::text::uuid`
	target := r.claim(t, 2).ID
	states := append(payment.States(), "paid")
	for _, s := range states {
		for n := range 16 {
			f := payment.Facts{Transaction: n&1 != 0, Block: n&2 != 0, Reason: n&4 != 0, Evidence: n&8 != 0}
			args := []any{s, nil, nil, nil, nil, nil, nil}
			set := func(is bool, at int, v any) {
				if is {
					args[at] = v
				}
			}
			set(f.Transaction, 1, carrier)
			set(f.Transaction || f.Block, 2, make([]byte, 32))
			set(f.Block, 3, 7)
			set(f.Block, 4, make([]byte, 32))
			set(f.Reason, 5, "invalid_payload")
			set(f.Evidence, 6, `{"kind":"receipt"}`)
			_, inserted := r.conn.Exec(t.Context(), insert, args...)
			_, updated := r.conn.Exec(t.Context(), update, append(args, string(target))...)
			for verb, err := range map[string]error{"INSERT": inserted, "UPDATE": updated} {
				if err != nil && !isCheck(err) {
					t.Fatalf("%s of %s with %+v fails for another reason: %v", verb, s, f, err)
				}
				if taken := err == nil; taken != s.Allows(f) {
					t.Errorf("%s of %s with %+v is taken: %t, Allows says %t", verb, s, f, taken, s.Allows(f))
				}
			}
		}
	}
}

// isCheck says whether the database refused a row for one of the constraints on
// its state.
func isCheck(err error) bool {
	pg := (*pgconn.PgError)(nil)
	return errors.As(err, &pg) && pg.Code == "23514" && (pg.ConstraintName == "payments_state_machine" || pg.ConstraintName == "payments_state_check")
}

func TestHalfABlockIsNoBlock(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.settledBy(t, 1, r.lane(t, 1, 0), 7)
	for _, sql := range []string{
		"UPDATE payments SET block_hash = NULL WHERE id = $1::text::uuid",
		"UPDATE payments SET block_number = NULL WHERE id = $1::text::uuid",
		"UPDATE payments SET tx_hash = NULL WHERE id = $1::text::uuid",
		"UPDATE payments SET state = 'signed', evidence = NULL, block_hash = NULL WHERE id = $1::text::uuid",
		"UPDATE payments SET state = 'broadcast', evidence = NULL, block_hash = NULL, block_number = NULL, tx_hash = NULL WHERE id = $1::text::uuid",
	} {
		if _, err := r.conn.Exec(t.Context(), sql, string(id)); !isCheck(err) {
			t.Errorf("%s: %v", sql, err)
		}
	}
}
