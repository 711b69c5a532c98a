// Package exact is scheme "exact" with EIP-3009 on an EVM chain: the payer
// signs a transferWithAuthorization of exactly the asked amount.
//
// Source: official SDK 2.27, exact/eip3009; where we differ is in
// docs/divergences.md.
package exact

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// Config of the scheme on one chain.
type Config struct {
	Network x402.Network
	ChainID uint64
	// Sender is the address simulations run from: a lane of this chain.
	Sender chain.Address
	// Factories that may be called to deploy a payer's wallet (ERC-6492).
	Factories []chain.Address
	// MaxGas of one payment, simulated or sent (I8).
	MaxGas uint64
	// ExpirySlack is how long before validBefore an authorization counts as expired:
	// time to be mined. Official SDK: 6 s.
	ExpirySlack time.Duration
	// Tokens that something is known of; nothing is of others that may be paid with.
	Tokens map[chain.Address]Token
}

// Token is what is known of a token.
type Token struct {
	// WellBehaved: it moves exactly what is signed for or reverts, also where the
	// authorization was used before. Simulations of its payments may share one
	// eth_call, and show all there is to see. Others are watched: what they did to
	// authorization and payee is looked at.
	WellBehaved bool
	Overloads   evm.Overloads
}

// Scheme is safe for concurrent use.
type Scheme struct {
	Config
	client    *evm.Client
	simulator *evm.Simulator
	tokens    *evm.Tokens
	coded     coded
}

var _ scheme.Scheme = (*Scheme)(nil)

// New judges by way of client.
func New(cfg Config, client *evm.Client, tokens *evm.Tokens) *Scheme {
	return &Scheme{Config: cfg, client: client, simulator: evm.NewSimulator(client), tokens: tokens}
}

// Name is "exact".
func (s *Scheme) Name() x402.SchemeName { return x402.SchemeExact }

// Parse reads requirements and authorization. A payload of another asset
// transfer method is refused with unsupported_payload_type.
func (s *Scheme) Parse(req *x402.Request) (scheme.Payment, error) {
	p := &exactPayment{scheme: s, req: req}
	var err error
	if p.asset, err = chain.ParseAddress(req.Requirements.Asset); err != nil {
		return nil, &x402.FieldError{Path: "paymentRequirements.asset", Problem: err.Error()}
	}
	if p.auth.To, err = chain.ParseAddress(req.Requirements.PayTo); err != nil {
		return nil, &x402.FieldError{Path: "paymentRequirements.payTo", Problem: err.Error()}
	}
	p.payTo = p.auth.To
	if p.name, err = req.Requirements.Extra.OptionalString("name"); err != nil {
		return nil, err
	}
	if p.version, err = req.Requirements.Extra.OptionalString("version"); err != nil {
		return nil, err
	}
	switch {
	case req.Payload.Has("authorization"):
	case req.Payload.Has("permit2Authorization"), req.Payload.Has("delegationManager"):
		return nil, x402.Reject(x402.ReasonUnsupportedPayload, "only EIP-3009 authorizations are supported")
	default:
		return nil, x402.Reject(x402.ReasonUnsupportedPayload, "payload holds no authorization")
	}
	if err := p.readAuthorization(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *exactPayment) readAuthorization() error {
	a, err := p.req.Payload.Object("authorization")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		key string
		to  *chain.Address
	}{{"from", &p.auth.From}, {"to", &p.auth.To}} {
		text, err := a.String(f.key)
		if err != nil {
			return err
		}
		if *f.to, err = chain.ParseAddress(text); err != nil {
			return a.Invalid(f.key, err.Error())
		}
		if f.key == "from" {
			p.payerText = text
		}
	}
	if p.auth.From.IsZero() {
		return a.Invalid("from", "must not be the zero address")
	}
	for _, f := range []struct {
		key string
		to  *x402.Uint256
	}{{"value", &p.auth.Value}, {"validAfter", &p.auth.ValidAfter}, {"validBefore", &p.auth.ValidBefore}} {
		if *f.to, err = a.Uint256(f.key); err != nil {
			return err
		}
	}
	nonce, err := a.String("nonce")
	if err != nil {
		return err
	}
	if p.auth.Nonce, err = chain.ParseHash(nonce); err != nil {
		return a.Invalid("nonce", err.Error())
	}
	signature, err := p.req.Payload.String("signature")
	if err != nil {
		return err
	}
	if p.signature, err = evm.ParseSignature(signature); err != nil {
		return p.req.Payload.Invalid("signature", err.Error())
	}
	return nil
}

// Terms of the payment. The nonce is consumed by the token itself.
func (p *exactPayment) Terms() payment.Terms {
	return payment.Terms{
		Key:    payment.Key{Network: p.scheme.Network, Contract: p.asset, Payer: p.auth.From, Nonce: p.auth.Nonce},
		Scheme: x402.SchemeExact, Asset: p.asset, PayTo: p.payTo, Amount: p.req.Requirements.Amount,
		ValidAfter: p.auth.ValidAfter, ValidBefore: p.auth.ValidBefore,
		Call:          p.call(),
		SignatureHash: p.signatureHash(),
	}
}

// signatureHash covers all that the signature field held.
func (p *exactPayment) signatureHash() chain.Hash {
	h := sha256.New()
	h.Write(p.signature.Factory[:])
	inner := sha256.Sum256(p.signature.Inner)
	h.Write(inner[:])
	h.Write(p.signature.FactoryData)
	return chain.Hash(h.Sum(nil))
}

// call is a plain transferWithAuthorization, or for a wallet that is not
// deployed yet one aggregate3 that deploys it and transfers: both or, for all
// that it costs, nothing. The deployment may fail (somebody else may be
// faster), the transfer may not.
func (p *exactPayment) call() chain.Call {
	transfer := evm.TransferData(p.auth, p.canonical(), p.token().Overloads)
	if !p.deploy {
		return chain.Call{To: p.asset, Data: transfer}
	}
	return chain.Call{To: evm.Multicall3(), Data: evm.Aggregate3Data([]evm.Call3{
		{Target: p.signature.Factory, AllowFailure: true, Data: p.signature.FactoryData},
		{Target: p.asset, Data: transfer},
	})}
}

// token is what is known of the asset.
func (p *exactPayment) token() Token { return p.scheme.Tokens[p.asset] }

// canonical lifts v 0/1 of an ECDSA signature to the 27/28 that tokens ask
// for. What a wallet's code is to judge is left as it came.
func (p *exactPayment) canonical() []byte {
	inner := p.signature.Inner
	if !p.recovered || inner[64] >= 27 {
		return inner
	}
	lifted := append([]byte(nil), inner...)
	lifted[64] += 27
	return lifted
}

// authorization rebuilds what was signed from the record.
func authorization(t payment.Terms) evm.Authorization {
	return evm.Authorization{
		From: t.Key.Payer, To: t.PayTo, Value: t.Amount,
		ValidAfter: t.ValidAfter, ValidBefore: t.ValidBefore, Nonce: t.Key.Nonce,
	}
}

// Proves says whether a receipt shows these terms paid (I5).
func (s *Scheme) Proves(t payment.Terms, r *chain.Receipt) bool {
	return r.Succeeded && evm.Proves(r.Logs, t.Asset, authorization(t))
}

// Fate says what the chain at block at holds of an authorization since block
// since (I6). authorizationState alone is not "paid": cancelling and
// receiveWithAuthorization set the same bit.
func (s *Scheme) Fate(ctx context.Context, t payment.Terms, since, at uint64) (scheme.Fate, error) {
	state := evm.Message{
		From: s.Sender, To: t.Asset, Data: evm.AuthorizationStateData(t.Key.Payer, t.Key.Nonce), Gas: s.MaxGas, Block: at,
	}
	out, err := s.client.Call(ctx, state)
	if _, judged := evm.IsRevert(err); judged {
		out, err = nil, nil
	}
	if err != nil {
		return scheme.Fate{}, err
	}
	spent, told := evm.DecodeBool(out)
	switch {
	case !told:
		return scheme.Fate{Kind: scheme.FateUnexplained, Detail: "the token does not answer authorizationState"}, nil
	case !spent:
		return s.prospect(ctx, t, at)
	}
	since = min(since, at)
	used, err := s.receiptsWith(ctx, evm.EventAuthorizationUsed(), t, since, at)
	if err != nil {
		return scheme.Fate{}, err
	}
	for _, r := range used {
		if s.Proves(t, r) {
			return scheme.Fate{Kind: scheme.FatePaid, Receipt: r}, nil
		}
	}
	if len(used) > 0 {
		return scheme.Fate{Kind: scheme.FateConsumed, Receipt: used[0], Detail: "the authorization was used for another transfer"}, nil
	}
	canceled, err := s.receiptsWith(ctx, evm.EventAuthorizationCanceled(), t, since, at)
	if err != nil {
		return scheme.Fate{}, err
	}
	if len(canceled) > 0 {
		return scheme.Fate{Kind: scheme.FateConsumed, Receipt: canceled[0], Detail: "the payer cancelled the authorization"}, nil
	}
	return scheme.Fate{Kind: scheme.FateUnexplained, Detail: "the authorization is used, but no log tells by whom"}, nil
}

// prospect runs the recorded call of an unused authorization.
func (s *Scheme) prospect(ctx context.Context, t payment.Terms, at uint64) (scheme.Fate, error) {
	err := s.diagnose(ctx, question{auth: authorization(t), asset: t.Asset, call: t.Call, at: at})
	refusal, refused := x402.AsRejection(err)
	switch {
	case err == nil:
		return scheme.Fate{Kind: scheme.FateUnused}, nil
	case !refused:
		return scheme.Fate{}, err
	case refusal.Reason == x402.ReasonExactNonceUsed:
		return scheme.Fate{}, fmt.Errorf("%w: the node's answers do not fit together", chain.ErrUnavailable)
	}
	return scheme.Fate{Kind: scheme.FateRefused, Refusal: refusal}, nil
}

func (s *Scheme) receiptsWith(ctx context.Context, event chain.Hash, t payment.Terms, since, at uint64) ([]*chain.Receipt, error) {
	hashes, err := s.client.TransactionsWithLog(ctx, t.Asset, evm.AuthorizationTopics(event, t.Key.Payer, t.Key.Nonce), since, at)
	if err != nil || len(hashes) == 0 {
		return nil, err
	}
	found, err := s.client.Receipts(ctx, hashes)
	if err != nil {
		return nil, err
	}
	receipts := make([]*chain.Receipt, 0, len(hashes))
	for _, h := range hashes {
		if found[h].Receipt == nil {
			return nil, fmt.Errorf("%w: a log without its receipt", chain.ErrUnavailable)
		}
		receipts = append(receipts, found[h].Receipt)
	}
	return receipts, nil
}

// errNoFacts keeps a token that tells nothing apart from a node that does not.
var errNoFacts = errors.New("token tells no EIP-712 domain")
