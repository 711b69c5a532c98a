package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/devnet"
)

// mutantABI is what the test calls, in the words of go-ethereum and nobody else's.
const mutantABI = `[
{"type":"function","name":"vrs","inputs":[{"type":"address"},{"type":"address"},{"type":"uint256"},{"type":"uint256"},{"type":"uint256"},{"type":"bytes32"},{"type":"uint8"},{"type":"bytes32"},{"type":"bytes32"}]},
{"type":"function","name":"whole","inputs":[{"type":"address"},{"type":"address"},{"type":"uint256"},{"type":"uint256"},{"type":"uint256"},{"type":"bytes32"},{"type":"bytes"}]},
{"type":"function","name":"wrapper","inputs":[{"type":"address"},{"type":"bytes"},{"type":"bytes"}]},
{"type":"function","name":"balanceOf","inputs":[{"type":"address"}],"outputs":[{"type":"uint256"}]},
{"type":"function","name":"authorizationState","inputs":[{"type":"address"},{"type":"bytes32"}],"outputs":[{"type":"bool"}]},
{"type":"function","name":"aggregate3","inputs":[{"name":"calls","type":"tuple[]","components":[
 {"name":"target","type":"address"},{"name":"allowFailure","type":"bool"},{"name":"callData","type":"bytes"}]}],
 "outputs":[{"name":"results","type":"tuple[]","components":[{"name":"success","type":"bool"},{"name":"returnData","type":"bytes"}]}]}
]`

// mutantCall is one of aggregate3.
type mutantCall struct {
	Target       common.Address
	AllowFailure bool
	CallData     []byte
}

// mutantPayment is what a request says that is to be paid.
type mutantPayment struct {
	abi                                    abi.ABI
	scheme                                 string
	asset, payTo, from, to                 common.Address
	amount, value, validAfter, validBefore *big.Int
	nonce                                  [32]byte
	signature                              []byte
}

func readMutant(text string) (*mutantPayment, error) {
	type terms struct {
		Scheme, Asset, PayTo      string
		Amount, MaxAmountRequired string
	}
	var r struct {
		X402Version         json.Number
		PaymentRequirements terms
		PaymentPayload      struct {
			X402Version json.Number
			Payload     struct {
				Signature     string
				Authorization struct{ From, To, Value, ValidAfter, ValidBefore, Nonce string }
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, fmt.Errorf("it can't be read: %w", err)
	}
	a, terms2 := r.PaymentPayload.Payload.Authorization, r.PaymentRequirements
	p := &mutantPayment{scheme: terms2.Scheme}
	var err error
	if p.abi, err = abi.JSON(strings.NewReader(mutantABI)); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		text string
		to   *common.Address
	}{{terms2.Asset, &p.asset}, {terms2.PayTo, &p.payTo}, {a.From, &p.from}, {a.To, &p.to}} {
		if !common.IsHexAddress(f.text) {
			return nil, fmt.Errorf("%q is no address", f.text)
		}
		*f.to = common.HexToAddress(f.text)
	}
	amount := terms2.Amount
	if r.PaymentPayload.X402Version == "1" {
		amount = terms2.MaxAmountRequired
	}
	for _, f := range []struct {
		text string
		to   **big.Int
	}{{amount, &p.amount}, {a.Value, &p.value}, {a.ValidAfter, &p.validAfter}, {a.ValidBefore, &p.validBefore}} {
		n, ok := new(big.Int).SetString(f.text, 10)
		if !ok {
			return nil, fmt.Errorf("%q is no number", f.text)
		}
		*f.to = n
	}
	nonce, err := hexutil.Decode(a.Nonce)
	if err != nil || len(nonce) != 32 {
		return nil, fmt.Errorf("nonce %q: %w", a.Nonce, err)
	}
	p.nonce = [32]byte(nonce)
	if p.signature, err = hexutil.Decode(strings.Replace(r.PaymentPayload.Payload.Signature, "0X", "0x", 1)); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	return p, nil
}

// pack packs a call of the token by the selector of its real name.
func (p *mutantPayment) transfer(signature []byte) ([]byte, error) {
	arguments := []any{p.from, p.to, p.value, p.validAfter, p.validBefore, p.nonce}
	const types = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,"
	if len(signature) != 65 {
		packed, err := p.abi.Methods["whole"].Inputs.Pack(append(arguments, signature)...)
		return append(crypto.Keccak256([]byte(types + "bytes)"))[:4], packed...), err
	}
	packed, err := p.abi.Methods["vrs"].Inputs.Pack(append(arguments, signature[64], [32]byte(signature[:32]), [32]byte(signature[32:64]))...)
	return append(crypto.Keccak256([]byte(types + "uint8,bytes32,bytes32)"))[:4], packed...), err
}

// paid makes the payment in an eth_call and looks at authorization and payee
// around it; nil where it is paid.
func (p *mutantPayment) paid(t *testing.T, c *devnet.Chain, sender common.Address) error {
	t.Helper()
	inner := p.signature
	var deployment []mutantCall
	code, err := c.Client().CodeAt(t.Context(), p.from, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, wrapped := bytes.CutSuffix(inner, bytes.Repeat([]byte{0x64, 0x92}, 16)); wrapped {
		values, err := p.abi.Methods["wrapper"].Inputs.Unpack(body)
		if err != nil {
			return fmt.Errorf("its wrapper can't be read: %w", err)
		}
		factory, _ := values[0].(common.Address)
		data, _ := values[1].([]byte)
		inner, _ = values[2].([]byte)
		if len(code) == 0 && factory != (common.Address{}) {
			deployment = []mutantCall{{Target: factory, AllowFailure: true, CallData: data}}
		}
	}
	if len(inner) == 65 && inner[64] < 27 && len(code) == 0 {
		inner = bytes.Clone(inner)
		inner[64] += 27
	}
	transfer, err := p.transfer(inner)
	if err != nil {
		return fmt.Errorf("its call can't be packed: %w", err)
	}
	balance, err := p.abi.Pack("balanceOf", p.to)
	if err != nil {
		return err
	}
	state, err := p.abi.Pack("authorizationState", p.from, p.nonce)
	if err != nil {
		return err
	}
	calls := append([]mutantCall{{p.asset, false, state}, {p.asset, false, balance}}, deployment...)
	calls = append(calls, mutantCall{p.asset, false, transfer}, mutantCall{p.asset, false, balance}, mutantCall{p.asset, false, state})
	data, err := p.abi.Pack("aggregate3", calls)
	if err != nil {
		return err
	}
	multicall := c.Multicall3()
	out, err := c.Client().CallContract(t.Context(), ethereum.CallMsg{From: sender, To: &multicall, Data: data, Gas: gasCap + 200_000}, nil)
	if err != nil {
		return fmt.Errorf("on chain it is refused: %w", err)
	}
	var results []struct {
		Success    bool
		ReturnData []byte
	}
	if err := p.abi.UnpackIntoInterface(&results, "aggregate3", out); err != nil || len(results) != len(calls) {
		return fmt.Errorf("aggregate3: %w", err)
	}
	n := len(results)
	word := func(i int) *big.Int { return new(big.Int).SetBytes(results[i].ReturnData) }
	want := p.value
	if p.from == p.to {
		want = new(big.Int)
	}
	switch got := new(big.Int).Sub(word(n-2), word(1)); {
	case word(0).Sign() != 0:
		return errors.New("its authorization is used already")
	case word(n-1).Sign() == 0:
		return errors.New("its authorization is not used by it")
	case got.Cmp(want) != 0:
		return fmt.Errorf("the payee gets %s, not %s", got, want)
	}
	return nil
}
