package payment

import (
	"errors"
	"math/big"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// ErrCrowded says that other payments of the same payer were promised after this
// one was judged. Nothing was written: it is to be judged again.
var ErrCrowded = errors.New("other payments of the payer were faster")

// ExposureMode says what of a payer's balance counts as promised to others.
type ExposureMode string

// Modes.
const (
	ExposureOff      ExposureMode = "off"       // nothing
	ExposureInFlight ExposureMode = "in_flight" // payments that are claimed and not decided
	ExposureReserve  ExposureMode = "reserve"   // those, and payments that were verified and not settled
)

// Promised is what a payer owes to other payments in the same token.
type Promised struct {
	// Amount of all of them, in atomic units; the largest number where it is more.
	Amount x402.Uint256
	// Payments that are claimed, and Reserved ones that are only verified.
	Payments, Reserved int
	// Some of them, those first that were sent. The authorization of any may be used
	// on chain before the record knows, or since it was read: then the balance has
	// lost the amount, and it must not be taken off twice. It is the token that
	// consumes these.
	Some []Promise
}

// Promise is what one payment was promised.
type Promise struct {
	Nonce  chain.Hash // the authorization nonce
	Amount x402.Uint256
}

// IsZero says whether nothing is promised.
func (p Promised) IsZero() bool { return p.Amount.IsZero() }

// Exposure is what the record says of a payment before it is judged, as of one
// moment.
type Exposure struct {
	// Known is the payment that owns the authorization; nil if none does.
	Known *Payment
	// Promised to others.
	Promised Promised
	// Mark is all that was ever promised of the payer's balance; nil where nobody
	// counts it.
	Mark *big.Int
}

// Guard lets a claim or a reservation pass only while what it was judged on still
// holds; nil lets it pass always.
type Guard struct {
	// Most that may ever have been promised of the payer's balance before it.
	Most *big.Int
}

// Guard for a payment that was judged on e, whose payer has spare beyond it and
// all that was promised then.
func (e *Exposure) Guard(spare x402.Uint256) *Guard {
	if e.Mark == nil {
		return nil
	}
	return &Guard{Most: new(big.Int).Add(e.Mark, spare.Big())}
}
