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
	var whole map[string]any // whose keys are matched as they are spelled
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&whole); err != nil {
		return nil, fmt.Errorf("it can't be read: %w", err)
	}
	at := func(path string) any {
		var v any = whole
		for key := range strings.SplitSeq(path, ".") {
			object, _ := v.(map[string]any)
			v = object[key]
		}
		return v
	}
	textAt := func(path string) string {
		s, _ := at(path).(string)
		return s
	}
	const authorization, terms = "paymentPayload.payload.authorization.", "paymentRequirements."
	p := &mutantPayment{scheme: textAt(terms + "scheme")}
	var err error
	if p.abi, err = abi.JSON(strings.NewReader(mutantABI)); err != nil {
		return nil, err
	}
	for path, to := range map[string]*common.Address{
		terms + "asset": &p.asset, terms + "payTo": &p.payTo, authorization + "from": &p.from, authorization + "to": &p.to,
	} {
		if !common.IsHexAddress(textAt(path)) {
			return nil, fmt.Errorf("%s: %q is no address", path, textAt(path))
		}
		*to = common.HexToAddress(textAt(path))
	}
	amount := terms + "amount"
	version := at("paymentPayload.x402Version")
	if version == nil {
		version = at("x402Version")
	}
	if version == json.Number("1") {
		amount = terms + "maxAmountRequired"
	}
	for path, to := range map[string]**big.Int{
		amount: &p.amount, authorization + "value": &p.value, authorization + "validAfter": &p.validAfter, authorization + "validBefore": &p.validBefore,
	} {
		n, ok := new(big.Int).SetString(textAt(path), 10)
		if !ok {
			return nil, fmt.Errorf("%s: %q is no number", path, textAt(path))
		}
		*to = n
	}
	nonce, err := hexutil.Decode(textAt(authorization + "nonce"))
	if err != nil || len(nonce) != 32 {
		return nil, fmt.Errorf("nonce: %w", err)
	}
	p.nonce = [32]byte(nonce)
	if p.signature, err = hexutil.Decode(strings.Replace(textAt("paymentPayload.payload.signature"), "0X", "0x", 1)); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	return p, nil
}

// transfer is the call of the token, by the selector of its real name.
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
	hasKey := len(code) == 0 || bytes.HasPrefix(code, []byte{0xef, 0x01, 0x00}) // EIP-7702
	if len(inner) == 65 && inner[64] < 27 && hasKey {
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
