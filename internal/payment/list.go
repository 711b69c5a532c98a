package payment

import (
	"slices"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// Filter says which payments are listed, and from where on. The zero value of
// each member asks for nothing.
type Filter struct {
	Network x402.Network
	States  []State
	PayTo   *chain.Address
	Payer   *chain.Address
	// Client who settled them; empty for callers without a key, nil for all.
	Client *string
	// Since and Until bound when payments were claimed; Until itself is outside.
	Since, Until time.Time
	// NewestFirst turns the order around, which is that of claims.
	NewestFirst bool
	// After is the last payment of the page before.
	After ID
	// Limit of a page.
	Limit int
}

// Holds says whether a payment is one of those that the filter asks for, wherever
// its pages begin and end.
func (f Filter) Holds(p *Payment) bool {
	switch t := p.Terms; {
	case f.Network != "" && f.Network != t.Key.Network,
		len(f.States) > 0 && !slices.Contains(f.States, p.State),
		f.PayTo != nil && *f.PayTo != t.PayTo,
		f.Payer != nil && *f.Payer != t.Key.Payer,
		f.Client != nil && *f.Client != p.Client,
		!f.Since.IsZero() && p.CreatedAt.Before(f.Since),
		!f.Until.IsZero() && !p.CreatedAt.Before(f.Until):
		return false
	}
	return true
}
