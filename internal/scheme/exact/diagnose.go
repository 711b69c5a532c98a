package exact

import (
	"context"
	"fmt"
	"strings"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/x402"
)

// question is a simulation that failed.
type question struct {
	auth  evm.Authorization
	asset chain.Address
	// name and version as the requirements have them; empty where they don't.
	name, version string
	// recovered: the signature is the payer's by ECDSA, over digest.
	recovered bool
	digest    chain.Hash
	signature []byte
	// at is the block to ask about; 0 is the latest.
	at uint64
}

// diagnose finds out why a transfer fails, in one round trip and in the order of
// the official SDK, and returns the *x402.Rejection; any other error means that
// the chain could not tell (I7).
func (s *Scheme) diagnose(ctx context.Context, q question, revert *evm.RevertError) error {
	s.tokens.Forget(q.asset) // the token may have been upgraded under our cache
	view := func(data []byte) evm.Message {
		return evm.Message{From: s.Sender, To: q.asset, Data: data, Gas: s.MaxGas, Block: q.at}
	}
	results, err := s.client.CallMany(ctx,
		view(evm.AuthorizationStateData(q.auth.From, q.auth.Nonce)),
		view(evm.NameData()), view(evm.VersionData()), view(evm.BalanceOfData(q.auth.From)),
	)
	if err != nil {
		return err
	}
	for _, r := range results {
		if _, reverted := evm.IsRevert(r.Err); r.Err != nil && !reverted {
			return r.Err
		}
	}
	if q.recovered {
		// A payer with code is asked by the token, whatever ECDSA says (EIP-7702).
		code, valid, err := s.client.Wallet(ctx, q.auth.From, q.digest, q.signature, s.MaxGas)
		if err != nil {
			return err
		}
		if len(code) > 0 && !valid {
			return x402.Reject(x402.ReasonExactSignature, "the code the payer delegated to (EIP-7702) does not accept the signature")
		}
	}
	used, ok := evm.DecodeBool(results[0].Data)
	name, named := evm.DecodeString(results[1].Data)
	version, versioned := evm.DecodeString(results[2].Data)
	balance, counted := evm.DecodeUint256(results[3].Data)
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
	return x402.Reject(byText(revert.Message), revert.Message)
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
