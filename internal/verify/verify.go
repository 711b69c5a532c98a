// Package verify decides whether a payment may be settled now: routing by
// version, scheme and configured network, policy, and the scheme's judgement.
package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// Network is one chain that payments may be made on.
type Network struct {
	Schemes map[x402.SchemeName]scheme.Scheme
	// Assets that may be paid with; any if AnyAsset.
	Assets   []chain.Address
	AnyAsset bool
	// Ready is nil while a lane can pay for a settlement; otherwise the error
	// says what is missing. What can't be settled is not verified either.
	Ready func() error
}

// Record is what verify needs of the record.
type Record interface {
	// PaymentByKey or payment.ErrNotFound.
	PaymentByKey(ctx context.Context, k payment.Key) (payment.Payment, error)
}

// Verifier is safe for concurrent use.
type Verifier struct {
	networks map[x402.Network]Network
	record   Record
	now      func() time.Time
}

// New judges payments on networks.
func New(networks map[x402.Network]Network, record Record, now func() time.Time) *Verifier {
	return &Verifier{networks: networks, record: record, now: now}
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
	if asset := p.Terms().Asset; !n.AnyAsset && !slices.Contains(n.Assets, asset) {
		return nil, x402.Reject(x402.ReasonInvalidRequirements, fmt.Sprintf("paymentRequirements.asset: %s is not accepted on %s", asset, req.Requirements.Network))
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
	return p.Payer(), v.verify(ctx, p)
}

func (v *Verifier) verify(ctx context.Context, p scheme.Payment) error {
	if err := p.Check(ctx, v.now()); err != nil {
		return err
	}
	known, err := v.record.PaymentByKey(ctx, p.Terms().Key)
	switch {
	case errors.Is(err, payment.ErrNotFound):
	case err != nil:
		return err
	case known.State != payment.StateFailed:
		return x402.Reject(x402.ReasonDuplicateSettlement, "this authorization is already settled or being settled")
	case known.Sent():
		return x402.Reject(known.Reason, known.Message)
	}
	_, err = v.simulate(ctx, p)
	return err
}

// Judge makes every check of a payment that is not in the record yet. The state
// it asked last is that of block atLeast or a later one.
func (v *Verifier) Judge(ctx context.Context, p scheme.Payment) (atLeast uint64, _ error) {
	if err := p.Check(ctx, v.now()); err != nil {
		return 0, err
	}
	return v.simulate(ctx, p)
}

// CheckOnly makes the checks that need no look at the payment on chain: what
// tells a request that differs from the recorded one what is wrong with it.
func (v *Verifier) CheckOnly(ctx context.Context, p scheme.Payment) error {
	return p.Check(ctx, v.now())
}

func (v *Verifier) simulate(ctx context.Context, p scheme.Payment) (atLeast uint64, _ error) {
	if err := v.networks[p.Terms().Key.Network].Ready(); err != nil {
		return 0, err
	}
	return p.Simulate(ctx)
}
