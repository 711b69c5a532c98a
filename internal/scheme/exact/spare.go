package exact

import (
	"context"
	"fmt"
	"math/big"

	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// spare is what the payer has beyond the payment and what is promised to others,
// or a rejection where it has less than both. What was mined and was not recorded
// when the record was read has left the balance and is still promised: before
// anybody is refused, the chain is asked what is, in one more round trip.
func (p *exactPayment) spare(ctx context.Context, seen evm.Simulated, promised payment.Promised) (x402.Uint256, error) {
	spare, err := p.beyond(seen.Balance, seen.Counted, promised)
	if _, refused := x402.AsRejection(err); !refused || len(promised.Some) == 0 {
		return spare, err
	}
	// All of it from the state of one block: balance and promises fit together.
	view := func(data []byte) evm.Message {
		return evm.Message{From: p.scheme.Sender, To: p.asset, Data: data, Gas: p.scheme.MaxGas, Block: seen.AtLeast}
	}
	views := []evm.Message{view(evm.BalanceOfData(p.auth.From))}
	for _, o := range promised.Some {
		views = append(views, view(evm.AuthorizationStateData(p.auth.From, o.Nonce)))
	}
	results, _, err := p.scheme.client.CallsAndCode(ctx, p.auth.From, views...)
	if err != nil {
		return spare, err
	}
	rest := promised.Amount.Big()
	for i, r := range results {
		if _, reverted := evm.IsRevert(r.Err); r.Err != nil && !reverted {
			return spare, r.Err
		}
		if used, ok := evm.DecodeBool(r.Data); i > 0 && ok && used {
			rest.Sub(rest, promised.Some[i-1].Amount.Big())
			if promised.Payments > 0 {
				promised.Payments--
			} else {
				promised.Reserved--
			}
		}
	}
	promised.Amount = x402.Uint256{}
	if rest.Sign() > 0 {
		rest.FillBytes(promised.Amount[:])
	}
	balance, counted := evm.DecodeUint256(results[0].Data)
	return p.beyond(balance, counted, promised)
}

// beyond is what is left of a balance.
func (p *exactPayment) beyond(balance x402.Uint256, counted bool, promised payment.Promised) (spare x402.Uint256, _ error) {
	if !counted {
		return spare, x402.Reject(x402.ReasonExactNotSupported, "the token does not answer balanceOf")
	}
	left := new(big.Int).Sub(balance.Big(), promised.Amount.Big())
	left.Sub(left, p.auth.Value.Big())
	if left.Sign() >= 0 {
		left.FillBytes(spare[:])
		return spare, nil
	}
	joint := ", of which"
	if balance.Cmp(promised.Amount) < 0 {
		joint = ", and"
	}
	message := fmt.Sprintf("the payer has %s%s %s are promised to %s; the payment takes %s", balance, joint, promised.Amount, others(promised), p.auth.Value)
	if promised.IsZero() {
		message = fmt.Sprintf("the payer has %s, the payment takes %s", balance, p.auth.Value)
	}
	return spare, x402.Reject(x402.ReasonExactInsufficientBalance, message)
}

// others names the payments that something is promised to.
func others(p payment.Promised) string {
	what := "payments"
	if p.Payments+p.Reserved == 1 {
		what = "payment"
	}
	switch {
	case p.Reserved == 0:
		return fmt.Sprintf("%d %s under way", p.Payments, what)
	case p.Payments == 0:
		return fmt.Sprintf("%d verified %s", p.Reserved, what)
	default:
		return fmt.Sprintf("%d %s under way or verified", p.Payments+p.Reserved, what)
	}
}
