package store_test

import (
	"testing"

	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// JSON null is not SQL NULL: the CHECK would take it for evidence.
func TestAPaymentIsNotDecidedWithoutEvidence(t *testing.T) {
	t.Parallel()
	r := open(t)
	p := r.claim(t, 1)
	if err := r.RecordOutcome(t.Context(), p.Failed(x402.ReasonExactNonceUsed, "", nil)); err == nil {
		t.Errorf("failed without evidence: %+v", r.payment(t, p.ID))
	}
	r.wantState(t, p.ID, payment.StateQueued)
}
