package evm

import (
	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// ViewGas is what reading a balance or an authorization's state may take.
const ViewGas = 50_000

// Watched is a transfer that a call is to make.
type Watched struct {
	Token chain.Address
	Auth  Authorization
}

// Deed is what a call did. A token can take a call and not pay: it keeps a fee, it
// returns false, it takes a used authorization for a good one.
type Deed struct {
	// Told: the token says which authorizations are used and who has how much.
	Told bool
	// Done: the call succeeds in company too, where Multicall3 is its sender.
	Done bool
	// UsedBefore and Used say whether the authorization was used before the call, and
	// whether it is after it.
	UsedBefore, Used bool
	// Before and After are the payee's balance, in atomic units.
	Before, After x402.Uint256
}

// message asks for the state around a call, by way of Multicall3.
func (w *Watched) message(m Message) Message {
	state := Call3{Target: w.Token, AllowFailure: true, Data: AuthorizationStateData(w.Auth.From, w.Auth.Nonce)}
	balance := Call3{Target: w.Token, AllowFailure: true, Data: BalanceOfData(w.Auth.To)}
	call := Call3{Target: m.To, AllowFailure: true, Data: m.Data}
	m.To, m.Data = Multicall3(), Aggregate3Data([]Call3{state, balance, call, balance, state})
	if m.Gas != 0 {
		m.Gas += 6 * ViewGas
	}
	return m
}

// deedOf reads the answer to message. The error is of the third kind (I7).
func deedOf(err error, answer []byte) (*Deed, error) {
	_, reverted := IsRevert(err)
	switch {
	case reverted:
		answer = nil
	case err != nil:
		return nil, err
	case len(answer) == 0:
		return nil, nil //nolint:nilnil // no Multicall3: nothing was seen, and nothing is wrong
	}
	results, ok := DecodeAggregate3(answer)
	if !ok || len(results) != 5 {
		return &Deed{}, nil
	}
	d := &Deed{Done: results[2].Success}
	var told [4]bool
	d.UsedBefore, told[0] = DecodeBool(results[0].Data)
	d.Before, told[1] = DecodeUint256(results[1].Data)
	d.After, told[2] = DecodeUint256(results[3].Data)
	d.Used, told[3] = DecodeBool(results[4].Data)
	d.Told = told == [4]bool{true, true, true, true} && results[0].Success && results[1].Success && results[3].Success && results[4].Success
	return d, nil
}
