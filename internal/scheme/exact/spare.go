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
	now, rest, told, unavailable := p.unpaid(ctx, seen.AtLeast, promised)
	switch {
	case unavailable != nil:
		return spare, unavailable
	case !told: // no Multicall3, or a token that does not answer: it stays as it was read
		return spare, err
	}
	return p.beyond(now, true, rest)
}

// unpaid reads the payer's balance, and what is left of the promises, in one call:
// from two, a node that gets a block between them tells numbers that don't fit
// together.
func (p *exactPayment) unpaid(ctx context.Context, at uint64, promised payment.Promised) (balance x402.Uint256, left payment.Promised, told bool, _ error) {
	calls := []evm.Call3{{Target: p.asset, Data: evm.BalanceOfData(p.auth.From)}}
	for _, o := range promised.Some {
		calls = append(calls, evm.Call3{Target: p.asset, AllowFailure: true, Data: evm.AuthorizationStateData(p.auth.From, o.Nonce)})
	}
	out, err := p.scheme.client.Call(ctx, evm.Message{
		From: p.scheme.Sender, To: evm.Multicall3(), Data: evm.Aggregate3Data(calls), Gas: evm.ViewGas * uint64(len(calls)+1), Block: at,
	})
	if _, judged := evm.IsRevert(err); err != nil && !judged {
		return balance, left, false, err
	}
	results, ok := evm.DecodeAggregate3(out)
	if !ok || len(results) != len(calls) {
		return balance, left, false, nil
	}
	balance, told = evm.DecodeUint256(results[0].Data)
	left, rest := promised, promised.Amount.Big()
	for i, o := range promised.Some {
		if used, ok := evm.DecodeBool(results[i+1].Data); !ok || !used {
			continue
		}
		rest.Sub(rest, o.Amount.Big())
		if left.Payments > 0 {
			left.Payments--
		} else {
			left.Reserved--
		}
	}
	left.Amount = x402.Uint256{}
	if rest.Sign() > 0 {
		rest.FillBytes(left.Amount[:])
	}
	return balance, left, told, nil
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
