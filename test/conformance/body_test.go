package conformance

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/devnet"
	"facilitator/internal/x402"
)

// desk makes one request: for one facilitator, wire version and call.
type desk struct {
	*testing.T
	*site
	*facilitator // the one that is asked
	version      int
	call         string
}

// body is a request that rows change before it is sent.
type body map[string]any

// absent as a value removes the member.
type absent struct{}

const (
	signature     = "paymentPayload.payload.signature"
	authorization = "paymentPayload.payload.authorization"
	requirements  = "paymentRequirements"
)

// pay is a payment of 0.01 USDC by the payer, valid for five minutes, to a payee
// of its own.
func (d *desk) pay(change ...func(*devnet.Sale)) body {
	d.Helper()
	sale := devnet.Sale{Payer: d.payer, PayTo: d.newKey().Address, Amount: 10_000, Version: d.version}.ForNow(time.Now(), 5*time.Minute)
	for _, c := range change {
		c(&sale)
	}
	signed, err := d.chain.Request(sale)
	if err != nil {
		d.Fatal(err)
	}
	text, err := json.Marshal(signed)
	if err != nil {
		d.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var b body
	if err := dec.Decode(&b); err != nil {
		d.Fatal(err)
	}
	return b
}

// payIn is pay with a test token.
func (d *desk) payIn(token common.Address, name string) body {
	d.Helper()
	return d.pay(func(s *devnet.Sale) { s.Asset, s.Name = token, name })
}

// payFrom is pay by a wallet, as signed by somebody.
func (d *desk) payFrom(wallet common.Address, signer devnet.Key) body {
	d.Helper()
	return d.pay(func(s *devnet.Sale) { s.Payer, s.From = signer, wallet })
}

func (b body) walk(path string) (map[string]any, string) {
	at, keys := map[string]any(b), strings.Split(path, ".")
	for _, key := range keys[:len(keys)-1] {
		sub, ok := at[key].(map[string]any)
		if !ok {
			sub = map[string]any{}
			at[key] = sub
		}
		at = sub
	}
	return at, keys[len(keys)-1]
}

// set changes what stands at a dotted path and returns b.
func (b body) set(path string, value any) body {
	at, key := b.walk(path)
	if value == (absent{}) {
		delete(at, key)
	} else {
		at[key] = value
	}
	return b
}

func (b body) str(path string) string {
	at, key := b.walk(path)
	s, _ := at[key].(string)
	return s
}

// chosen is where a wire version says what the client chose.
func (d *desk) chosen(key string) string {
	if d.version == x402.V1 {
		return "paymentPayload." + key
	}
	return "paymentPayload.accepted." + key
}

// amount is where a wire version says what is asked for.
func (d *desk) amount() string {
	if d.version == x402.V1 {
		return requirements + ".maxAmountRequired"
	}
	return requirements + ".amount"
}

// of spells a network as the wire version does.
func (d *desk) of(v1, v2 string) string {
	if d.version == x402.V1 {
		return v1
	}
	return v2
}

// resign changes the signature's bytes.
func (b body) resign(change func([]byte) []byte) body {
	return b.set(signature, hexutil.Encode(change(hexutil.MustDecode(b.str(signature)))))
}

// signedFor signs again, for a domain of another name and version, which the
// requirements then say too.
func (d *desk) signedFor(b body, key devnet.Key, name, version string) body {
	d.Helper()
	auth := d.authorization(b)
	token := chain.Address(common.HexToAddress(b.str(requirements + ".asset")))
	digest := auth.Digest(evm.DomainSeparator(name, version, d.chain.ChainID(), token))
	sig, err := crypto.Sign(digest[:], key.Private)
	if err != nil {
		d.Fatal(err)
	}
	sig[64] += 27
	return b.set(signature, hexutil.Encode(sig)).set(requirements+".extra", map[string]any{"name": name, "version": version})
}

// authorization reads what the payer signed.
func (d *desk) authorization(b body) evm.Authorization {
	d.Helper()
	number := func(key string) x402.Uint256 {
		u, err := x402.ParseUint256(b.str(authorization + "." + key))
		if err != nil {
			d.Fatal(err)
		}
		return u
	}
	return evm.Authorization{
		From:  chain.Address(common.HexToAddress(b.str(authorization + ".from"))),
		To:    chain.Address(common.HexToAddress(b.str(authorization + ".to"))),
		Value: number("value"), ValidAfter: number("validAfter"), ValidBefore: number("validBefore"),
		Nonce: chain.Hash(common.HexToHash(b.str(authorization + ".nonce"))),
	}
}

// submitted has somebody else settle b, which stays as it is.
func (d *desk) submitted(b body) body {
	d.Helper()
	token := common.HexToAddress(b.str(requirements + ".asset"))
	d.send(d.T, token, d.transfer(b))
	return b
}

// transfer is the call that settles b, as anybody may send it.
func (d *desk) transfer(b body) []byte {
	d.Helper()
	return evm.TransferData(d.authorization(b), hexutil.MustDecode(b.str(signature)), evm.BothOverloads)
}

// cancelled has the payer cancel the authorization of b.
func (d *desk) cancelled(b body, payer devnet.Key) body {
	d.Helper()
	d.send(d.T, d.chain.USDC(), d.cancellation(b, payer))
	return b
}

// cancellation is the call by which a payer cancels the authorization of b.
func (d *desk) cancellation(b body, payer devnet.Key) []byte {
	d.Helper()
	auth := d.authorization(b)
	domain := evm.DomainSeparator("USD Coin", "2", d.chain.ChainID(), chain.Address(d.chain.USDC()))
	from := common.LeftPadBytes(auth.From[:], 32)
	message := crypto.Keccak256(crypto.Keccak256([]byte("CancelAuthorization(address authorizer,bytes32 nonce)")), from, auth.Nonce[:])
	sig, err := crypto.Sign(crypto.Keccak256([]byte{0x19, 0x01}, domain[:], message), payer.Private)
	if err != nil {
		d.Fatal(err)
	}
	data := crypto.Keccak256([]byte("cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)"))[:4]
	for _, word := range [][]byte{from, auth.Nonce[:], common.LeftPadBytes([]byte{sig[64] + 27}, 32), sig[:64]} {
		data = append(data, word...)
	}
	return data
}

// highS is the other signature of the same key over the same digest.
func highS(sig []byte) []byte {
	s := new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(sig[32:64]))
	s.FillBytes(sig[32:64])
	sig[64] ^= 27 ^ 28
	return sig
}

// compact is a signature as EIP-2098 has it.
func compact(sig []byte) []byte {
	sig[32] |= (sig[64] - 27) << 7
	return sig[:64]
}

// wrap wraps a signature by ERC-6492.
func wrap(factory common.Address, data []byte) func([]byte) []byte {
	word := func(n int) []byte { return common.BigToHash(big.NewInt(int64(n))).Bytes() }
	padded := func(b []byte) []byte {
		return append(word(len(b)), common.RightPadBytes(b, (len(b)+31)/32*32)...)
	}
	return func(inner []byte) []byte {
		first := padded(data)
		return bytes.Join([][]byte{
			common.LeftPadBytes(factory[:], 32), word(96), word(96 + len(first)), first, padded(inner),
			bytes.Repeat([]byte{0x64, 0x92}, 16),
		}, nil)
	}
}

// plan is a wallet that a factory would make, with money on it already.
type plan struct {
	owner           devnet.Key
	factory, wallet common.Address
	data            []byte // the call that makes it
}

func (d *desk) plan(contract string, factory common.Address) plan {
	d.Helper()
	p := plan{owner: d.newKey(), factory: factory}
	salt := [32]byte{1}
	p.data = d.pack(d.T, contract, "deploy", p.owner.Address, salt)
	ask := d.pack(d.T, contract, "predict", p.owner.Address, salt)
	var word hexutil.Bytes
	call := map[string]any{"to": factory, "data": hexutil.Bytes(ask)}
	do(d.T, d.chain.RPC().CallContext(d.Context(), &word, "eth_call", call, "latest"))
	p.wallet = common.BytesToAddress(word)
	d.fund(d.T, p.wallet)
	return p
}

// pays is a payment by the planned wallet, as signed by somebody.
func (p plan) pays(d *desk, signer devnet.Key) body {
	d.Helper()
	return d.payFrom(p.wallet, signer).resign(wrap(p.factory, p.data))
}

// settled has the facilitator that is asked settle b.
func (d *desk) settled(b body) {
	d.Helper()
	word, text, err := d.answer(d.Context(), callSettle, b)
	if err != nil || word != accepted {
		d.Fatalf("settle: %s %v", text, err)
	}
}

// release mines what waits, and goes on mining.
func (d *desk) release() error {
	if err := d.chain.Mine(d.Context(), 1); err != nil {
		return err
	}
	return d.chain.SetAutomine(d.Context(), true)
}

// race asks while no block is made, has somebody send a transaction that comes
// first, and mines both.
func (d *desk) race(ask func() string, from, to common.Address, data []byte) string {
	d.Helper()
	do(d.T, d.chain.SetAutomine(d.Context(), false))
	before := d.sent()
	answered := make(chan string, 1)
	go func() {
		defer close(answered) // also if ask ends the test
		answered <- ask()
	}()
	eventually(d.T, "the payment's transaction is in the pool", func() bool { return d.sent() > before })
	hash := d.submit(d.T, from, to, data)
	do(d.T, d.release())
	receipt, err := d.chain.Client().TransactionReceipt(d.Context(), hash)
	if err != nil || receipt.Status != types.ReceiptStatusSuccessful || receipt.TransactionIndex != 0 {
		d.Fatalf("their transaction did not come first: %+v (%v)", receipt, err)
	}
	return <-answered
}

// sent counts the transactions of the facilitator that is asked, mined or not.
func (d *desk) sent() (n uint64) {
	d.Helper()
	for _, wallet := range d.wallets {
		count, err := d.chain.Client().PendingNonceAt(d.Context(), wallet)
		do(d.T, err)
		n += count
	}
	return n
}
