// Package verify decides whether a payment may be settled now: routing by
// version, scheme and configured network, the gate of the operator's policy, and
// the scheme's judgement.
package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/phase"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// Network is one chain that payments may be made on.
type Network struct {
	Schemes map[x402.SchemeName]scheme.Scheme
	// Exposure is what of a payer's balance counts as promised to others.
	Exposure payment.ExposureMode
	// Assets that may be paid with, and the least that a payment with each may be of,
	// in atomic units; any if AnyAsset.
	Assets   map[chain.Address]x402.Uint256
	AnyAsset bool
	// Ready is nil while a lane can pay for a settlement; otherwise the error
	// says what is missing. What can't be settled is not verified either.
	Ready func() error
}

// Record is what verify needs of the record.
type Record interface {
	// Exposure finds the payment that owns the authorization of these terms, and
	// what counts as promised to others.
	Exposure(ctx context.Context, t payment.Terms, mode payment.ExposureMode) (payment.Exposure, error)
	// Reserve promises the amount of a payment that nobody claimed for so long, or
	// says payment.ErrCrowded.
	Reserve(ctx context.Context, t payment.Terms, g *payment.Guard, lasts time.Duration) error
}

// Gate is the operator's policy, one for every scheme; policy.Gate is one.
type Gate interface {
	// Pass lets a payment go on to the chain whose signature is its payer's. A
	// refusal is an *x402.Rejection; other errors say that it can't be told now.
	Pass(ctx context.Context, t payment.Terms, contracts []chain.Address) error
	// Ask is what Pass leaves for a payment that would succeed. Its errors are those.
	Ask(ctx context.Context, t payment.Terms, contracts []chain.Address) error
	// Take counts a payment that was found good, and says as Pass does whether that
	// is one too many. However often it is asked, it counts once.
	Take(t payment.Terms) error
	// Taken says whether it was counted, and Refused that the chain does not take it
	// any more.
	Taken(t payment.Terms) bool
	Refused(t payment.Terms)
}

// Verifier is safe for concurrent use.
type Verifier struct {
	networks map[x402.Network]Network
	record   Record
	gate     Gate
	now      func() time.Time
}

// New judges payments on networks. No payment that is not in the record is
// settled past the gate.
func New(networks map[x402.Network]Network, record Record, gate Gate, now func() time.Time) *Verifier {
	return &Verifier{networks: networks, record: record, gate: gate, now: now}
}

// Parse routes a request and reads what it asks to be paid. It proves nothing.
// Errors are *x402.FieldError and *x402.Rejection.
func (v *Verifier) Parse(req *x402.Request) (scheme.Payment, error) {
	n, ok := v.networks[req.Requirements.Network]
	if !ok {
		return nil, x402.Reject(x402.ReasonInvalidNetwork, fmt.Sprintf("network %.64q is not supported here; supported: %s",
			req.Requirements.Network, list(slices.Sorted(maps.Keys(v.networks)))))
	}
	s, ok := n.Schemes[req.Requirements.Scheme]
	if !ok {
		return nil, x402.Reject(x402.ReasonUnsupportedScheme, fmt.Sprintf("scheme %.64q is not supported on %s; supported: %s",
			req.Requirements.Scheme, req.Requirements.Network, list(slices.Sorted(maps.Keys(n.Schemes)))))
	}
	p, err := s.Parse(req)
	if err != nil {
		return nil, err
	}
	t := p.Terms()
	least, listed := n.Assets[t.Asset]
	switch {
	case !listed && !n.AnyAsset:
		return nil, x402.Reject(x402.ReasonInvalidRequirements, fmt.Sprintf("paymentRequirements.asset: %s is not accepted on %s", t.Asset, req.Requirements.Network))
	case t.Amount.Cmp(least) < 0:
		return nil, x402.Reject(x402.ReasonAmountTooLow, fmt.Sprintf("the payment is of %s, the least of this token is %s", t.Amount, least))
	}
	return p, nil
}

func list[T ~string](names []T) string {
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = string(n)
	}
	return strings.Join(texts, ", ")
}

// Verify answers POST /verify: nil where /settle would try to settle now. An
// authorization that the record knows is answered from it before the chain is
// asked. The payer is told as soon as it could be read.
func (v *Verifier) Verify(ctx context.Context, req *x402.Request) (payer string, _ error) {
	p, err := v.Parse(req)
	if err != nil {
		return "", err
	}
	if err := v.check(ctx, p); err != nil {
		return p.Payer(), err
	}
	for range maxLooks {
		err = v.verify(ctx, p, time.Duration(req.Requirements.MaxTimeoutSeconds)*time.Second)
		if !errors.Is(err, payment.ErrCrowded) {
			return p.Payer(), err
		}
	}
	return p.Payer(), fmt.Errorf("%w: %w", payment.ErrNotSent, err)
}

// maxLooks is how often a verification is begun again because other payments of
// the payer were faster. Each time one of them was.
const maxLooks = 16

func (v *Verifier) verify(ctx context.Context, p scheme.Payment, timeout time.Duration) error {
	seen, err := v.Look(ctx, p)
	if err == nil {
		err = standing(seen.Known)
	}
	if err != nil {
		return err
	}
	_, guard, err := v.simulate(ctx, p, &seen)
	t := p.Terms()
	if _, refused := x402.AsRejection(err); refused {
		// It may have been claimed, and even settled, since the look: then the chain's
		// refusal is about our own transaction.
		if now, lookErr := v.Look(ctx, p); lookErr == nil {
			err = cmp.Or(standing(now.Known), err)
		}
	}
	if err != nil || v.networks[t.Key.Network].Exposure != payment.ExposureReserve || t.Amount.IsZero() {
		return err
	}
	return v.record.Reserve(ctx, t, guard, reservedFor(t, timeout, v.now()))
}

// standing is why a payment that the record knows is not verified; nil where it
// may be settled.
func standing(known *payment.Payment) error {
	switch {
	case known == nil:
		return nil
	case known.State != payment.StateFailed:
		return x402.Reject(x402.ReasonDuplicateSettlement, "this authorization is already settled or being settled")
	case known.Sent():
		return x402.Reject(known.Reason, known.Message)
	default: // nothing of it ever left the service
		return nil
	}
}

// maxReserved keeps times within what clocks can tell.
const maxReserved = 10 * 365 * 24 * time.Hour

// reservedFor is how long a verified payment may still be settled: as long as the
// resource server said, if it did, and while the authorization is valid.
func reservedFor(t payment.Terms, timeout time.Duration, now time.Time) time.Duration {
	lasts := maxReserved
	if timeout > 0 {
		lasts = min(lasts, timeout)
	}
	end, fits := t.ValidBefore.Uint64()
	if fits && end < uint64(now.Add(lasts).Unix()) { //nolint:gosec // G115: a time of ours
		lasts = time.Unix(int64(end), 0).Sub(now) //nolint:gosec // G115: it is before a time of ours
	}
	return max(lasts, 0)
}

// Look is the one look at the record: who owns the authorization, and what its
// payer has promised to others.
func (v *Verifier) Look(ctx context.Context, p scheme.Payment) (payment.Exposure, error) {
	t := p.Terms()
	var seen payment.Exposure
	var err error
	phase.Run(ctx, phase.Record, func(ctx context.Context) {
		seen, err = v.record.Exposure(ctx, t, v.networks[t.Key.Network].Exposure)
	})
	return seen, err
}

// Judge makes every check, the gate's among them, of a payment that was not in the
// record when it was seen. The state it asked last is that of block atLeast or a later one. A claim
// that keeps to the guard promises no more than the payer had then.
func (v *Verifier) Judge(ctx context.Context, p scheme.Payment, seen *payment.Exposure) (atLeast uint64, _ *payment.Guard, _ error) {
	if err := v.check(ctx, p); err != nil {
		return 0, nil, err
	}
	return v.simulate(ctx, p, seen)
}

// CheckOnly makes the checks that need no look at the payment on chain: what
// tells a request that differs from the recorded one what is wrong with it.
func (v *Verifier) CheckOnly(ctx context.Context, p scheme.Payment) error {
	return p.Check(ctx, v.now())
}

func (v *Verifier) check(ctx context.Context, p scheme.Payment) error {
	var err error
	phase.Run(ctx, phase.Policy, func(ctx context.Context) { err = p.Check(ctx, v.now()) })
	return err
}

func (v *Verifier) simulate(ctx context.Context, p scheme.Payment, seen *payment.Exposure) (atLeast uint64, _ *payment.Guard, _ error) {
	t := p.Terms()
	if err := v.networks[t.Key.Network].Ready(); err != nil {
		return 0, nil, err
	}
	var outlook scheme.Outlook
	var err error
	phase.Run(ctx, phase.Screen, func(ctx context.Context) { err = v.gate.Pass(ctx, t, p.Contracts()) })
	if err != nil {
		return 0, nil, err
	}
	phase.Run(ctx, phase.Chain, func(ctx context.Context) { outlook, err = p.Simulate(ctx, seen.Promised) })
	if _, refused := x402.AsRejection(err); refused {
		v.broken(ctx, p, t)
	}
	if err == nil {
		phase.Run(ctx, phase.Hook, func(ctx context.Context) { err = v.gate.Ask(ctx, t, p.Contracts()) })
	}
	if err == nil {
		err = v.gate.Take(t)
	}
	return outlook.AtLeast, seen.Guard(outlook.Spare), err
}

// broken notes that the chain refuses what it took before, unless it was claimed
// meanwhile: then the refusal is about our own transaction.
func (v *Verifier) broken(ctx context.Context, p scheme.Payment, t payment.Terms) {
	if !v.gate.Taken(t) {
		return
	}
	if now, err := v.Look(ctx, p); err == nil && standing(now.Known) == nil {
		v.gate.Refused(t)
	}
}
