package exact

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// exactPayment is one request on its way through the checks.
type exactPayment struct {
	scheme *Scheme
	req    *x402.Request

	asset, payTo chain.Address
	// name and version of the EIP-712 domain, as the requirements have them;
	// empty where they don't.
	name, version string
	payerText     string
	auth          evm.Authorization
	signature     evm.Signature

	// digest, recovered and deploy are set by Check.
	digest chain.Hash
	// recovered: the signature is the payer's own by ECDSA.
	recovered bool
	// deploy: the payer's wallet is to be deployed in the same transaction.
	deploy bool
}

var _ scheme.Payment = (*exactPayment)(nil)

// Payer in the spelling of the request.
func (p *exactPayment) Payer() string { return p.payerText }

// Contracts holds the factory of an ERC-6492 signature, called or not.
func (p *exactPayment) Contracts() []chain.Address {
	if p.signature.Factory.IsZero() {
		return nil
	}
	return []chain.Address{p.signature.Factory}
}

// Check makes checks 1 to 10 of the official order.
func (p *exactPayment) Check(ctx context.Context, now time.Time) error {
	req := p.req
	if req.AcceptedScheme != x402.SchemeExact || req.Requirements.Scheme != x402.SchemeExact {
		return x402.Reject(x402.ReasonExactScheme, fmt.Sprintf("the client chose scheme %q, the resource server asks for %q", req.AcceptedScheme, req.Requirements.Scheme))
	}
	separator, err := p.domain(ctx)
	if errors.Is(err, errNoFacts) {
		return x402.Reject(x402.ReasonExactMissingDomain, "extra.name and extra.version are missing and the token does not tell them")
	}
	if err != nil {
		return err
	}
	if req.AcceptedNetwork != req.Requirements.Network {
		return x402.Reject(x402.ReasonExactNetworkMismatch, fmt.Sprintf("the client chose network %q, the resource server asks for %q", req.AcceptedNetwork, req.Requirements.Network))
	}
	p.digest = p.auth.Digest(separator)
	if err := p.checkSignature(ctx); err != nil {
		return err
	}
	if n := len(p.signature.Inner); !p.token().Overloads.Takes(n) {
		return x402.Reject(x402.ReasonExactSimulationFailed, fmt.Sprintf("the token takes signatures of 65 bytes only, this one has %d", n))
	}
	if err := p.checkAuthorization(now); err != nil {
		return err
	}
	facts, err := p.scheme.tokens.Facts(ctx, p.asset)
	if err != nil {
		return err
	}
	if !facts.HasCode {
		return x402.Reject(x402.ReasonAssetNotDeployed, fmt.Sprintf("no contract at %s on %s", p.asset, p.scheme.Network))
	}
	return nil
}

// domain is the EIP-712 domain separator of the requirements' name and version;
// what they leave out comes from the token.
func (p *exactPayment) domain(ctx context.Context) (chain.Hash, error) {
	name, version := p.name, p.version
	if name == "" || version == "" {
		facts, err := p.scheme.tokens.Facts(ctx, p.asset)
		if err != nil {
			return chain.Hash{}, err
		}
		if name == "" && version == "" && !facts.DomainSeparator.IsZero() {
			return facts.DomainSeparator, nil
		}
		if name == "" {
			name = facts.Name
		}
		if version == "" {
			version = facts.Version
		}
		if name == "" || version == "" {
			return chain.Hash{}, errNoFacts
		}
	}
	return evm.DomainSeparator(name, version, p.scheme.ChainID, p.asset), nil
}

// checkSignature mirrors what the token will do. An ECDSA signature of the
// payer passes here; whether the payer has code that would refuse it (EIP-7702)
// is for the simulation to say. Anything else needs the payer's code: none, and
// it is refused; some, and the code is asked (EIP-1271).
func (p *exactPayment) checkSignature(ctx context.Context) error {
	signer, ok := evm.Recover(p.digest, p.signature.Inner)
	p.recovered = ok && signer == p.auth.From
	wrapped := !p.signature.Factory.IsZero()
	if p.recovered && !wrapped {
		return nil
	}
	wallet, err := p.scheme.simulator.Wallet(ctx, evm.WalletQuestion{
		Account: p.auth.From, Digest: p.digest, Signature: p.signature.Inner, MaxGas: p.scheme.MaxGas,
	})
	switch {
	case err != nil:
		return err
	case wallet.Valid:
		// The wallet's own code decides; an ECDSA signature inside is its affair.
		p.recovered = false
		return nil
	case wallet.HasCode:
		return p.rejectSignature(ctx, "the payer's wallet does not accept the signature (EIP-1271)")
	case !wrapped:
		return p.rejectSignature(ctx, "not signed by the payer")
	case !slices.Contains(p.scheme.Factories, p.signature.Factory):
		return x402.Reject(x402.ReasonFactoryNotAllowed, fmt.Sprintf("wallet factory %s is not allowed here", p.signature.Factory))
	case p.recovered: // wrapped for nothing: there is an account and no wallet to deploy
		return nil
	}
	// Nothing but the simulation of deployment and transfer proves this one.
	p.deploy, p.recovered = true, false
	return nil
}

// rejectSignature adds what is likely wrong: another domain than the token's
// makes a good signature look bad.
func (p *exactPayment) rejectSignature(ctx context.Context, message string) error {
	if p.name == "" || p.version == "" {
		p.scheme.tokens.Forget(p.asset) // it may have been upgraded under our cache
	}
	facts, err := p.scheme.tokens.Facts(ctx, p.asset)
	if err == nil && facts.HasCode {
		if hint := p.domainMismatch(facts); hint != "" {
			message += "; " + hint
		}
	}
	return x402.Reject(x402.ReasonExactSignature, message)
}

// domainMismatch tells expected and given values, or "" where they agree.
func (p *exactPayment) domainMismatch(facts evm.Token) string {
	switch {
	case p.name != "" && facts.Name != "" && p.name != facts.Name:
		return mismatch("extra.name", facts.Name, p.name)
	case p.version != "" && facts.Version != "" && p.version != facts.Version:
		return mismatch("extra.version", facts.Version, p.version)
	default:
		return ""
	}
}

func mismatch(field, expected, given string) string {
	return fmt.Sprintf("%s: expected %.64q (the token's own), given %.64q", field, expected, given)
}

// checkAuthorization compares what was signed with what is asked.
func (p *exactPayment) checkAuthorization(now time.Time) error {
	slack := uint64(p.scheme.ExpirySlack / time.Second) //nolint:gosec // G115: configured, not negative
	unix := x402.NewUint256(uint64(max(now.Unix(), 0)))
	deadline := x402.NewUint256(uint64(max(now.Unix(), 0)) + slack)
	switch a := p.auth; {
	case a.To != p.payTo:
		return x402.Reject(x402.ReasonExactRecipient, fmt.Sprintf("signed for %s, to be paid to %s", a.To, p.payTo))
	case a.ValidBefore.Cmp(deadline) < 0:
		return x402.Reject(x402.ReasonExactValidBefore, fmt.Sprintf("valid before %s, it is %s and %d s are needed to settle", a.ValidBefore, unix, slack))
	case a.ValidAfter.Cmp(unix) > 0:
		return x402.Reject(x402.ReasonExactValidAfter, fmt.Sprintf("valid after %s, it is %s", a.ValidAfter, unix))
	case a.Value != p.req.Requirements.Amount:
		reason := x402.ReasonExactValue
		if p.req.Version == x402.V1 {
			reason = x402.ReasonExactValueV1
		}
		return x402.Reject(reason, fmt.Sprintf("signed for %s, asked for %s", a.Value, p.req.Requirements.Amount))
	}
	return nil
}

// Simulate runs the very call that would be sent (check 11), in one round trip
// with those of other payments, and asks why if it fails. What runs in one
// eth_call with others is asked about by itself before it is called failing.
func (p *exactPayment) Simulate(ctx context.Context, promised payment.Promised) (scheme.Outlook, error) {
	s, call := p.scheme, p.call()
	tried := evm.Simulation{
		Message: evm.Message{From: s.Sender, To: call.To, Data: call.Data, Gas: s.MaxGas},
		Payer:   p.auth.From, Payee: p.payTo,
		Sharable: p.recovered && p.token().WellBehaved && !s.coded.has(p.auth.From),
	}
	if !p.token().WellBehaved {
		tried.Watched = &evm.Watched{Token: p.asset, Auth: p.auth}
	}
	if !promised.IsZero() {
		tried.BalanceOf = p.asset
	}
	seen, err := s.simulator.Simulate(ctx, tried)
	outlook := scheme.Outlook{AtLeast: seen.AtLeast}
	if err == nil && !seen.OK {
		err = s.diagnose(ctx, question{
			auth: p.auth, asset: p.asset, call: call, name: p.name, version: p.version,
			digest: p.digest, signature: p.signature.Inner, recovered: p.recovered,
		})
	}
	if err == nil && seen.Deed != nil {
		err = p.judge(seen.Deed)
	}
	if err == nil && !promised.IsZero() {
		outlook.Spare, err = p.spare(ctx, seen, promised)
	}
	return outlook, err
}

// judge refuses a transfer that a token takes and does not make as it was signed:
// its transaction would succeed, and prove nothing (I5).
func (p *exactPayment) judge(d *evm.Deed) error {
	received := new(big.Int).Sub(d.After.Big(), d.Before.Big())
	want := p.auth.Value.Big()
	if p.auth.From == p.auth.To {
		want = new(big.Int)
	}
	switch {
	case !d.Told:
		return x402.Reject(x402.ReasonExactNotSupported, "the token does not answer authorizationState (EIP-3009) and balanceOf")
	case d.UsedBefore:
		return x402.Reject(x402.ReasonExactNonceUsed, "the authorization was used or cancelled before")
	case !d.Done:
		return x402.Reject(x402.ReasonExactSimulationFailed, "the token makes the transfer for some senders only, or with just some gas")
	case received.Cmp(want) != 0:
		return x402.Reject(x402.ReasonExactTransferMismatch, fmt.Sprintf("the token would take the call and give the payee %s, of %s", received, p.auth.Value))
	case !d.Used:
		return x402.Reject(x402.ReasonExactTransferMismatch, "the token would take the call and not use the authorization up")
	}
	return nil
}
