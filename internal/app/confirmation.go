package app

import (
	"time"

	"facilitator/internal/payment"
)

// confirmation tells resource servers what success means on a network, and what
// else they may ask for.
func confirmation(byDefault payment.Level, wait time.Duration) map[string]any {
	return map[string]any{"confirmation": map[string]any{
		"default":     byDefault.String(),
		"levels":      []string{"submitted", "mined", "safe", "finalized", "<n blocks>"},
		"waitSeconds": int64((wait + time.Second - 1) / time.Second),
	}}
}
