package exact

import (
	"context"
	"fmt"
	"strings"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/x402"
)

// question is a transfer that does not succeed, or did not in company.
type question struct {
	auth  evm.Authorization
	asset chain.Address
	// call is what would be sent.
	call chain.Call
	// name and version as the requirements have them; empty where they don't.
	name, version string
	// recovered: the signature is the payer's by ECDSA, over digest.
	recovered bool
	digest    chain.Hash
	signature []byte
	// at is the block to ask about; 0 is the latest.
	at uint64
}

// findings are what one round trip told about a question, in the order of ask.
type findings struct {
	call, state, name, version, balance evm.Result
	paused, payerBlocked, payeeBlocked  evm.Result
	wallet, parts                       evm.Result
	code                                []byte
}

// diagnose finds out in one round trip whether a transfer fails, and why, in the
// order of the official SDK. It returns nil where it succeeds after all, an
// *x402.Rejection, or an error that says that the chain could not tell (I7).
func (s *Scheme) diagnose(ctx context.Context, q question) error {
	s.tokens.Forget(q.asset) // the token may have been upgraded under our cache
	f, err := s.ask(ctx, q)
	if err != nil || f.call.Err == nil {
		return err
	}
	if len(f.code) > 0 {
		s.coded.add(q.auth.From)
	}
	revert, _ := evm.IsRevert(f.call.Err)
	// A payer with code is asked by the token, whatever ECDSA says (EIP-7702).
	if q.recovered && len(f.code) > 0 && (f.wallet.Err != nil || !evm.IsValidSignatureResult(f.wallet.Data)) {
		return x402.Reject(x402.ReasonExactSignature, "the code the payer delegated to (EIP-7702) does not accept the signature")
	}
	used, ok := evm.DecodeBool(f.state.Data)
	name, named := evm.DecodeString(f.name.Data)
	version, versioned := evm.DecodeString(f.version.Data)
	balance, counted := evm.DecodeUint256(f.balance.Data)
	switch {
	case !ok:
		return x402.Reject(x402.ReasonExactNotSupported, "the token does not answer authorizationState (EIP-3009)")
	case used:
		return x402.Reject(x402.ReasonExactNonceUsed, "the authorization was used or cancelled before")
	case q.name != "" && named && name != q.name:
		return x402.Reject(x402.ReasonExactTokenName, mismatch("extra.name", name, q.name))
	case q.version != "" && versioned && version != q.version:
		return x402.Reject(x402.ReasonExactTokenVersion, mismatch("extra.version", version, q.version))
	case counted && balance.Cmp(q.auth.Value) < 0:
		return x402.Reject(x402.ReasonExactInsufficientBalance, fmt.Sprintf("the payer has %s, the payment takes %s", balance, q.auth.Value))
	}
	text := f.inner(revert.Message)
	return x402.Reject(byText(text), f.explain(text))
}

// inner is what the part of an aggregated call said that failed, in place of the
// aggregator's own words.
func (f *findings) inner(text string) string {
	parts, ok := evm.DecodeAggregate3(f.parts.Data)
	if f.parts.Err != nil || !ok || len(parts) != 2 || parts[1].Success {
		return text
	}
	text = evm.RevertText(parts[1].Data)
	if !parts[0].Success {
		text = "the wallet was not deployed (" + evm.RevertText(parts[0].Data) + "): " + text
	}
	return text
}

// ask makes the round trip. What reverts is told as it is; the error says that
// the node could not tell one of the answers.
func (s *Scheme) ask(ctx context.Context, q question) (f findings, _ error) {
	view := func(to chain.Address, data []byte) evm.Message {
		return evm.Message{From: s.Sender, To: to, Data: data, Gas: s.MaxGas, Block: q.at}
	}
	asked := []struct {
		message evm.Message
		to      *evm.Result
	}{
		{view(q.call.To, q.call.Data), &f.call},
		{view(q.asset, evm.AuthorizationStateData(q.auth.From, q.auth.Nonce)), &f.state},
		{view(q.asset, evm.NameData()), &f.name},
		{view(q.asset, evm.VersionData()), &f.version},
		{view(q.asset, evm.BalanceOfData(q.auth.From)), &f.balance},
		{view(q.asset, evm.PausedData()), &f.paused},
		{view(q.asset, evm.IsBlacklistedData(q.auth.From)), &f.payerBlocked},
		{view(q.asset, evm.IsBlacklistedData(q.auth.To)), &f.payeeBlocked},
		{view(q.auth.From, evm.IsValidSignatureData(q.digest, q.signature)), &f.wallet},
	}
	if forgiving, ok := evm.Forgiving(q.call.Data); ok && q.call.To == evm.Multicall3() {
		asked = append(asked, struct {
			message evm.Message
			to      *evm.Result
		}{view(q.call.To, forgiving), &f.parts})
	}
	messages := make([]evm.Message, len(asked))
	for i := range asked {
		messages[i] = asked[i].message
	}
	results, code, err := s.client.CallsAndCode(ctx, q.auth.From, messages...)
	if err != nil {
		return f, err
	}
	f.code = code
	for i, r := range results {
		if _, reverted := evm.IsRevert(r.Err); r.Err != nil && !reverted {
			return f, r.Err
		}
		*asked[i].to = r
	}
	return f, nil
}

// explain adds to the token's own words what it says of itself, if it is a token
// that can be paused or refuses accounts.
func (f *findings) explain(text string) string {
	yes := func(r evm.Result) bool {
		is, ok := evm.DecodeBool(r.Data)
		return r.Err == nil && ok && is
	}
	switch {
	case yes(f.paused):
		return "the token is paused: " + text
	case yes(f.payerBlocked):
		return "the token refuses the payer: " + text
	case yes(f.payeeBlocked):
		return "the token refuses the payee: " + text
	default:
		return text
	}
}

// byText is the last resort: the token's own words. The rows are those of the
// official SDK's broadcast-error mapping that the state above can't tell, which
// at simulation time means the chain's clock and the signature.
func byText(message string) x402.Reason {
	switch m := strings.ToLower(message); {
	case strings.Contains(m, "authorization is expired"):
		return x402.ReasonExactValidBefore
	case strings.Contains(m, "authorization is not yet valid"):
		return x402.ReasonExactValidAfter
	default:
		return x402.ReasonExactSimulationFailed
	}
}
