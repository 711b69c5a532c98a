package payment

import (
	"context"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// HitKey says which refusals by screening are counted together.
type HitKey struct {
	// Day of UTC, as time.DateOnly has it.
	Day     string
	Network x402.Network
	// Source that has them, by its configured name, and Role that they had in the
	// payments.
	Source, Role string
	// Address that the source has; the zero address where Rest is set.
	Address chain.Address
	// Rest: it counts everybody beyond those that a replica tells apart on a day.
	Rest bool
}

// Hits are the payments of one day that were refused because a source of screening
// has somebody they deal with.
type Hits struct {
	HitKey
	// Kind of the source.
	Kind            string
	Count           int64
	FirstAt, LastAt time.Time
	// What follows is of the latest.
	Payer, PayTo, Asset chain.Address
	Nonce               chain.Hash
	Amount              x402.Uint256
	// Client who asked: a UUID, empty for a caller without a key; and its name, where
	// hits are read.
	Client, ClientName string
	// Reason that a hook gave.
	Reason string
}

// HitFilter says which hits are listed, the newest day first. The zero value of
// each member asks for nothing.
type HitFilter struct {
	Network x402.Network
	Source  string
	Address *chain.Address
	// Since and Until bound when payments were refused; Until itself is outside.
	Since, Until time.Time
	// After is the last of the page before.
	After *HitKey
	// Limit of a page.
	Limit int
}

type clientKey struct{}

// WithClient says on whose behalf a payment is judged: the id of a client.
func WithClient(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, clientKey{}, id)
}

// ClientOf is who asked for it; empty for a caller without a key.
func ClientOf(ctx context.Context) string {
	id, _ := ctx.Value(clientKey{}).(string)
	return id
}
