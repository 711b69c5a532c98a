package payment_test

import (
	"errors"
	"testing"

	"facilitator/internal/payment"
)

func TestParseLevel(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", "submitted": "submitted", "mined": "mined", "1": "mined", "12": "12", "safe": "safe", "finalized": "finalized", "10000": "10000",
	} {
		l, err := payment.ParseLevel(text)
		if err != nil || l.String() != want {
			t.Errorf("ParseLevel(%q) = %q, %v", text, l, err)
		}
	}
	for _, text := range []string{"0", "-1", "+2", "012", "10001", "Mined", "final", " mined", "1.5"} {
		if l, err := payment.ParseLevel(text); !errors.Is(err, payment.ErrLevel) {
			t.Errorf("ParseLevel(%q) = %q, %v", text, l, err)
		}
	}
	if l, err := payment.ParseLevel("preconfirmed"); !errors.Is(err, payment.ErrNoPreconfirmations) {
		t.Errorf("preconfirmed: %q, %v", l, err)
	}
}
