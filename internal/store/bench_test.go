package store_test

import (
	"testing"

	"facilitator/internal/payment"
)

// BenchmarkExposure is the one round trip that a lone verification makes, in a
// record that holds other payers' payments.
func BenchmarkExposure(b *testing.B) {
	r := open(b)
	for n := range 1000 {
		p := sale(n)
		p.Terms.Key.Payer[0] = byte(n)
		if _, _, err := r.ClaimPayment(b.Context(), p, nil); err != nil {
			b.Fatal(err)
		}
	}
	fresh := sale(1001).Terms
	for b.Loop() {
		if _, err := r.Exposure(b.Context(), fresh, payment.ExposureInFlight); err != nil {
			b.Fatal(err)
		}
	}
}
