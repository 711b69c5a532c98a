package payment_test

import (
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
		if l, err := payment.ParseLevel(text); err == nil {
			t.Errorf("ParseLevel(%q) = %q", text, l)
		}
	}
}
