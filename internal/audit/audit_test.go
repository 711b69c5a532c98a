package audit_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/audit"
	"facilitator/internal/devnet"
)

func kinds(findings []audit.Finding) []string {
	var list []string
	for _, f := range findings {
		list = append(list, f.Kind)
	}
	slices.Sort(list)
	return list
}

func TestHonestBooksFit(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	// A replay and a refusal are no second success.
	replay, refusal := b.answers[0], b.answers[0]
	replay.Replayed = true
	refusal.Success, refusal.Reason = false, "duplicate_settlement"
	b.answers = append(b.answers, replay, refusal)
	r := b.audit(true)
	if len(r.Violations) > 0 || len(r.Warnings) > 0 {
		t.Errorf("violations %v, warnings %v", r.Violations, r.Warnings)
	}
	for name, want := range map[string]int{
		"payments": 3, "payments final": 3, "authorizations used on chain": 3, "atomic units moved": 3 * amount,
		"transactions": 3, "transactions sent by lanes": 3, "attempts": 3, "answers": 5, "answers success": 3, "answers replayed": 1,
	} {
		if r.Counts[name] != want {
			t.Errorf("%s: %d, want %d", name, r.Counts[name], want)
		}
	}
	var text strings.Builder
	if err := r.Write(&text); err != nil || !strings.Contains(text.String(), "0 violations, 0 warnings") {
		t.Errorf("%v: %s", err, text.String())
	}
	if encoded, err := json.Marshal(r); err != nil || !strings.Contains(string(encoded), `"violations":[],"warnings":[]`) {
		t.Errorf("%v: %s", err, encoded)
	}
}

// TestCookedBooks breaks one promise a time.
func TestCookedBooks(t *testing.T) {
	t.Parallel()
	const reopen = `state = 'broadcast', block_number = NULL, block_hash = NULL`
	for _, test := range []struct {
		name     string
		cook     func(*books)
		want     []string
		warnings []string
	}{
		{name: "the money moved twice", want: []string{"paid_twice"}, cook: func(b *books) { b.payAgain() }},
		{name: "two rows of one authorization", want: []string{"open_payment", "two_payments"}, cook: func(b *books) {
			b.exec("ALTER TABLE payments DROP CONSTRAINT payments_authorization")
			b.insertPayment("00000000-0000-4000-8000-000000000001", &b.payments[0])
		}},
		{name: "a payment is called paid and never was", want: []string{"missing_transfer"}, cook: func(b *books) {
			e := b.authorize(devnet.Keys("nobody", 1)[0], 9)
			b.insertPayment(e.id, &e)
			b.exec(`UPDATE payments p SET (state, transaction_id, tx_hash, block_number, block_hash, evidence) =
				(SELECT state, transaction_id, tx_hash, block_number, block_hash, evidence FROM payments WHERE id = $2) WHERE id = $1`, e.id, b.payments[0].id)
		}},
		{name: "the payee is another", want: []string{"missing_transfer", "success_without_transfer"}, cook: func(b *books) {
			b.exec("UPDATE payments SET pay_to = '\\x00000000000000000000000000000000000000bb' WHERE id = $1", b.payments[1].id)
		}},
		{name: "another amount", want: []string{"missing_transfer", "success_without_transfer"}, cook: func(b *books) {
			b.exec("UPDATE payments SET amount = amount + 1 WHERE id = $1", b.payments[1].id)
		}},
		{name: "paid by another payment's transaction", want: []string{"wrong_transaction"}, cook: func(b *books) {
			b.exec("UPDATE payments SET tx_hash = $2 WHERE id = $1", b.payments[1].id, b.payments[0].hash[:])
		}},
		{name: "a hash that is no attempt of its transaction", want: []string{"wrong_transaction"}, cook: func(b *books) {
			b.exec("UPDATE payments SET transaction_id = $2 WHERE id = $1", b.payments[1].id, b.payments[0].tx)
		}},
		{name: "a block that is not canonical", want: []string{"wrong_block", "wrong_block"}, cook: func(b *books) {
			b.exec("UPDATE payments SET block_hash = $2 WHERE id = $1", b.payments[1].id, b.payments[1].hash[:])
			b.exec("UPDATE transactions SET block_hash = $2 WHERE id = $1", b.payments[1].tx, b.payments[1].hash[:])
		}},
		{name: "failed although we paid it", want: []string{"failed_but_paid"}, cook: func(b *books) {
			b.exec(`UPDATE payments SET state = 'failed', block_number = NULL, block_hash = NULL, reason = 'x', evidence = '{"kind": "expired_unused"}'
				WHERE id = $1`, b.payments[1].id)
		}},
		{name: "success of what the chain does not have", want: []string{"open_payment", "success_without_transfer"}, cook: func(b *books) {
			e := b.authorize(devnet.Keys("nobody", 1)[0], 9)
			b.insertPayment(e.id, &e)
			b.answers = append(b.answers, audit.Answer{Key: e.key, Success: true, Transaction: b.payments[0].hash.Hex()})
		}},
		{name: "success that was reversed, and told of", warnings: []string{"success_reversed"}, cook: func(b *books) {
			e := b.authorize(devnet.Keys("nobody", 1)[0], 9)
			b.insertPayment(e.id, &e)
			b.exec(`UPDATE payments SET state = 'failed', reason = 'x', evidence = '{}' WHERE id = $1`, e.id)
			b.exec("ALTER TABLE outbox DROP CONSTRAINT outbox_type_check")
			b.exec("INSERT INTO outbox (payment_id, type) VALUES ($1, 'payment.reversed')", e.id)
			b.answers = append(b.answers, audit.Answer{Key: e.key, Success: true, Transaction: b.payments[0].hash.Hex()})
		}},
		{name: "success with a hash of another payment", want: []string{"success_with_wrong_hash"}, cook: func(b *books) {
			b.answers[1].Transaction = b.payments[0].hash.Hex()
		}},
		{name: "success of nobody's payment", want: []string{"success_unrecorded"}, cook: func(b *books) {
			b.answers[1].Key.Nonce = common.Hash{1}
		}},
		{name: "two successes", want: []string{"two_successes"}, cook: func(b *books) {
			b.answers = append(b.answers, b.answers[2])
		}},
		{name: "a gap in the wallet nonces", want: []string{"not_mined", "transaction_count", "wallet_nonce_gap"}, cook: func(b *books) {
			b.exec("INSERT INTO transactions (lane_id, wallet_nonce, state) VALUES ($1, 4, 'replaced')", b.laneID)
		}},
		{name: "a wallet nonce twice", want: []string{"broken_attempt", "foreign_transaction", "transaction_count", "wallet_nonce_twice"}, warnings: []string{"unknown_transaction"}, cook: func(b *books) {
			b.exec("ALTER TABLE transactions DROP CONSTRAINT transactions_lane_id_wallet_nonce_key")
			b.exec("UPDATE transactions SET wallet_nonce = 1 WHERE id = $1", b.payments[2].tx)
		}},
		{name: "a transaction that was lost from the record", want: []string{"transaction_count", "unrecorded_payment"}, warnings: []string{"unknown_transaction"}, cook: func(b *books) {
			b.answers = b.answers[:2]
			b.exec("DELETE FROM payments WHERE id = $1", b.payments[2].id)
			b.exec("DELETE FROM attempts WHERE transaction_id = $1", b.payments[2].tx)
			b.exec("DELETE FROM transactions WHERE id = $1", b.payments[2].tx)
		}},
		{name: "mined by somebody else's word", want: []string{"not_mined", "transaction_count"}, cook: func(b *books) {
			b.exec(`INSERT INTO transactions (lane_id, wallet_nonce, state, block_number, block_hash, succeeded)
				SELECT lane_id, 3, state, block_number, block_hash, succeeded FROM transactions WHERE id = $1`, b.payments[2].tx)
		}},
		{name: "replaced, but it was ours", want: []string{"not_replaced"}, cook: func(b *books) {
			b.exec("UPDATE transactions SET state = 'replaced', block_number = NULL, block_hash = NULL, succeeded = NULL WHERE id = $1", b.payments[2].tx)
		}},
		{name: "bytes of another wallet nonce", want: []string{"broken_attempt"}, cook: func(b *books) {
			raw, err := b.sign(7, b.payments[1].call).MarshalBinary()
			b.must(err)
			hash := b.sign(7, b.payments[1].call).Hash()
			b.exec("INSERT INTO attempts (transaction_id, hash, raw, gas_limit, fee_cap, tip_cap) VALUES ($1, $2, $3, 1, 1, 1)", b.payments[1].tx, hash[:], raw)
		}},
		{name: "an open payment", want: []string{"open_payment", "open_transaction"}, cook: func(b *books) {
			b.exec("UPDATE payments SET "+reopen+", evidence = NULL WHERE id = $1", b.payments[2].id)
			b.exec("UPDATE transactions SET "+reopen+", succeeded = NULL WHERE id = $1", b.payments[2].tx)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBooks(t)
			b.exec("ALTER TABLE transactions DROP CONSTRAINT transactions_state_check")
			test.cook(b)
			r := b.audit(true)
			if got := kinds(r.Violations); !slices.Equal(got, test.want) {
				t.Errorf("violations %v, want %v: %v", got, test.want, r.Violations)
			}
			if got := kinds(r.Warnings); !slices.Equal(got, test.warnings) {
				t.Errorf("warnings %v, want %v: %v", got, test.warnings, r.Warnings)
			}
		})
	}
}

func TestOpenWorkIsNoViolationWhileItGoesOn(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.exec(`UPDATE payments SET state = 'broadcast', block_number = NULL, block_hash = NULL, evidence = NULL WHERE id = $1`, b.payments[2].id)
	b.exec(`UPDATE transactions SET state = 'broadcast', block_number = NULL, block_hash = NULL, succeeded = NULL WHERE id = $1`, b.payments[2].tx)
	r := b.audit(false)
	if len(r.Violations) > 0 || len(r.Warnings) > 0 {
		t.Errorf("violations %v, warnings %v", r.Violations, r.Warnings)
	}
	if n := r.Counts["payments open and on chain"]; n != 1 {
		t.Errorf("%d payments are open and on chain, want 1", n)
	}
}

func TestForeignUseOfAWalletIsTold(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.send(3, common.FromHex("0x313ce567")) // decimals()
	b.exec("UPDATE lanes SET nonce_floor = 4 WHERE id = $1", b.laneID)
	r := b.audit(true)
	if got := kinds(r.Warnings); len(r.Violations) > 0 || !slices.Equal(got, []string{"unknown_transaction"}) {
		t.Errorf("violations %v, warnings %v", r.Violations, r.Warnings)
	}
}
