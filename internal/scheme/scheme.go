// Package scheme is the seam where a way to pay plugs in.
package scheme

import (
	"context"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// Scheme judges the payments of one scheme on one network. Verify and settle
// use the same judgement, and the relayer asks the same scheme what became of a
// payment it sent.
type Scheme interface {
	Name() x402.SchemeName

	// Parse reads what a request asks to be paid. It proves nothing and does no
	// I/O. Errors are *x402.FieldError and *x402.Rejection.
	Parse(req *x402.Request) (Payment, error)

	// Proves says whether a successful receipt shows these terms paid (I5).
	Proves(t payment.Terms, r *chain.Receipt) bool

	// Fate says what the chain at block at holds of an authorization since block
	// since (I6). Unused comes with what the payment's own call would do there.
	// All of it is read from the state of that one block, so that a lagging node
	// fails instead of mixing two times.
	Fate(ctx context.Context, t payment.Terms, since, at uint64) (Fate, error)
}

// Payment is a parsed request.
type Payment interface {
	// Terms of the payment. The call is set once Check has passed.
	Terms() payment.Terms

	// Payer in the spelling of the request.
	Payer() string

	// Contracts that the payment names and that its settlement may call, the asset
	// aside: a factory for the payer's wallet.
	Contracts() []chain.Address

	// Check makes the checks that precede a look at the payment's state on
	// chain, in the official order. It asks the chain only where a signature
	// can't be judged without (a wallet's code) or the token's facts are not
	// known yet. A refusal is an *x402.Rejection.
	Check(ctx context.Context, now time.Time) error

	// Simulate asks the chain whether the payment would succeed now, and if not,
	// why not. Where something is promised to other payments of the payer, its
	// balance must cover these too.
	Simulate(ctx context.Context, promised payment.Promised) (Outlook, error)
}

// Outlook is what the chain said of a payment.
type Outlook struct {
	// AtLeast: the state asked is that of this block or a later one. It is told
	// with a refusal too.
	AtLeast uint64
	// Spare is what the payer is known to have beyond the payment and all that is
	// promised; 0 where nobody looked.
	Spare x402.Uint256
}

// FateKind is what became of an authorization.
type FateKind string

// Fates.
const (
	FateUnused   FateKind = "unused"   // and the call would succeed
	FateRefused  FateKind = "refused"  // unused, and the call would fail
	FatePaid     FateKind = "paid"     // used for the very transfer of these terms
	FateConsumed FateKind = "consumed" // cancelled, or used for another transfer
	// FateUnexplained: used, and the node has no log that tells by whom.
	FateUnexplained FateKind = "unexplained"
)

// Fate is a FateKind with its proof.
type Fate struct {
	Kind FateKind
	// Receipt of the transaction that consumed it; nil where unused or unexplained.
	Receipt *chain.Receipt
	// Refusal says why the call would fail, where it would.
	Refusal *x402.Rejection
	Detail  string
}
