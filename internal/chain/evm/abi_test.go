package evm

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

func TestSelectorsAreThoseOfTheirSignatures(t *testing.T) {
	t.Parallel()
	for signature, selector := range map[string]uint32{
		"transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)": selTransferVRS,
		"transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)":                 selTransferBytes,
		"authorizationState(address,bytes32)":                                                              selAuthorizationState,
		"balanceOf(address)":                                                                               selBalanceOf,
		"name()":                                                                                           selName,
		"version()":                                                                                        selVersion,
		"decimals()":                                                                                       selDecimals,
		"DOMAIN_SEPARATOR()":                                                                               selDomainSeparator,
		"isSanctioned(address)":                                                                            selIsSanctioned,
		"isValidSignature(bytes32,bytes)":                                                                  selIsValidSignature,
		"aggregate3((address,bool,bytes)[])":                                                               selAggregate3,
		"getBlockNumber()":                                                                                 selGetBlockNumber,
	} {
		if want := binary.BigEndian.Uint32(crypto.Keccak256([]byte(signature))); selector != want {
			t.Errorf("%s: 0x%08x, want 0x%08x", signature, selector, want)
		}
	}
}

func TestTopicsAndTypeHashesAreThoseOfTheirSignatures(t *testing.T) {
	t.Parallel()
	for signature, got := range map[string]chain.Hash{
		"Transfer(address,address,uint256)":                                                  EventTransfer(),
		"AuthorizationUsed(address,bytes32)":                                                 EventAuthorizationUsed(),
		"AuthorizationCanceled(address,bytes32)":                                             EventAuthorizationCanceled(),
		"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)": typeHashDomain(),
		"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)": typeHashTransfer(),
	} {
		if want := chain.Hash(crypto.Keccak256([]byte(signature))); got != want {
			t.Errorf("%s: %s, want %s", signature, got, want)
		}
	}
}

func TestMulticall3IsAtItsCanonicalAddress(t *testing.T) {
	t.Parallel()
	if got := Multicall3().String(); got != "0xcA11bde05977b3631167028862bE2a173976CA11" {
		t.Error(got)
	}
}

// referenceABI is the same by go-ethereum, from JSON.
const referenceABI = `[
{"type":"function","name":"vrs","inputs":[{"type":"address"},{"type":"address"},{"type":"uint256"},{"type":"uint256"},{"type":"uint256"},{"type":"bytes32"},{"type":"uint8"},{"type":"bytes32"},{"type":"bytes32"}]},
{"type":"function","name":"bytes","inputs":[{"type":"address"},{"type":"address"},{"type":"uint256"},{"type":"uint256"},{"type":"uint256"},{"type":"bytes32"},{"type":"bytes"}]},
{"type":"function","name":"aggregate3","inputs":[{"name":"calls","type":"tuple[]","components":[{"name":"target","type":"address"},{"name":"allowFailure","type":"bool"},{"name":"callData","type":"bytes"}]}]},
{"type":"function","name":"authorizationState","inputs":[{"type":"address"},{"type":"bytes32"}]},
{"type":"function","name":"balanceOf","inputs":[{"type":"address"}]},
{"type":"function","name":"isValidSignature","inputs":[{"type":"bytes32"},{"type":"bytes"}]},
{"type":"function","name":"texts","inputs":[{"type":"string"}]}
]`

// reference packs arguments by go-ethereum behind a selector of the caller's.
func reference(t *testing.T, selector uint32, method string, args ...any) []byte {
	t.Helper()
	parsed, err := abi.JSON(strings.NewReader(referenceABI))
	if err != nil {
		t.Fatal(err)
	}
	packed, err := parsed.Methods[method].Inputs.Pack(args...)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, selector), packed...)
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.UintN(256))
	}
	return b
}

func randomAuthorization(rng *rand.Rand) Authorization {
	return Authorization{
		From: chain.Address(randomBytes(rng, 20)), To: chain.Address(randomBytes(rng, 20)), Value: x402.Uint256(randomBytes(rng, 32)),
		ValidAfter: x402.Uint256(randomBytes(rng, 32)), ValidBefore: x402.Uint256(randomBytes(rng, 32)), Nonce: chain.Hash(randomBytes(rng, 32)),
	}
}

func (a Authorization) reference() []any {
	return []any{
		common.Address(a.From), common.Address(a.To), a.Value.Big(), a.ValidAfter.Big(), a.ValidBefore.Big(), [32]byte(a.Nonce),
	}
}

func TestCalldataIsWhatGoEthereumPacks(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		a := randomAuthorization(rng)
		signature := randomBytes(rng, 65)
		vrs := append(a.reference(), signature[64], [32]byte(signature[:32]), [32]byte(signature[32:64]))
		if got, want := TransferData(a, signature, BothOverloads), reference(t, selTransferVRS, "vrs", vrs...); !bytes.Equal(got, want) {
			t.Fatalf("v,r,s overload of %+v: %x, want %x", a, got, want)
		}
		want := reference(t, selTransferBytes, "bytes", append(a.reference(), signature)...)
		if got := TransferData(a, signature, BytesOverload); !bytes.Equal(got, want) {
			t.Fatalf("bytes overload with 65 bytes: %x, want %x", got, want)
		}
		long := randomBytes(rng, rng.IntN(300))
		if len(long) == 65 {
			continue
		}
		want = reference(t, selTransferBytes, "bytes", append(a.reference(), long)...)
		if got := TransferData(a, long, BothOverloads); !bytes.Equal(got, want) {
			t.Fatalf("bytes overload with %d bytes: %x, want %x", len(long), got, want)
		}
		want = reference(t, selIsValidSignature, "isValidSignature", [32]byte(a.Nonce), long)
		if got := IsValidSignatureData(a.Nonce, long); !bytes.Equal(got, want) {
			t.Fatalf("isValidSignature with %d bytes: %x, want %x", len(long), got, want)
		}
		want = reference(t, selAuthorizationState, "authorizationState", common.Address(a.From), [32]byte(a.Nonce))
		if got := AuthorizationStateData(a.From, a.Nonce); !bytes.Equal(got, want) {
			t.Fatalf("authorizationState: %x, want %x", got, want)
		}
		want = reference(t, selBalanceOf, "balanceOf", common.Address(a.From))
		if got := BalanceOfData(a.From); !bytes.Equal(got, want) {
			t.Fatalf("balanceOf: %x, want %x", got, want)
		}
	}
}

func TestAggregate3IsWhatGoEthereumPacks(t *testing.T) {
	t.Parallel()
	type call struct {
		Target       common.Address
		AllowFailure bool
		CallData     []byte
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for n := range 30 {
		calls, theirs := make([]Call3, n), make([]call, n)
		for i := range calls {
			calls[i] = Call3{Target: chain.Address(randomBytes(rng, 20)), AllowFailure: rng.UintN(2) == 1, Data: randomBytes(rng, rng.IntN(400))}
			theirs[i] = call{Target: common.Address(calls[i].Target), AllowFailure: calls[i].AllowFailure, CallData: calls[i].Data}
		}
		want := reference(t, selAggregate3, "aggregate3", theirs)
		if got := Aggregate3Data(calls); !bytes.Equal(got, want) {
			t.Fatalf("%d calls: %x, want %x", n, got, want)
		}
	}
}

func TestStringsAreReadAsGoEthereumPacksThem(t *testing.T) {
	t.Parallel()
	for _, want := range []string{"", "USD Coin", "USD₮0", strings.Repeat("x", 31), strings.Repeat("x", 32), strings.Repeat("x", 1000)} {
		packed := reference(t, 0, "texts", want)[4:]
		if got, ok := DecodeString(packed); !ok || got != want {
			t.Errorf("%q came back as %q, %t", want, got, ok)
		}
		for cut := range 64 + len(want) { // what follows is padding
			if got, ok := DecodeString(packed[:cut]); ok {
				t.Fatalf("%q cut to %d bytes is read as %q", want, cut, got)
			}
		}
	}
}

func TestStringsThatAreNoneAreNotRead(t *testing.T) {
	t.Parallel()
	w := func(n int64) []byte { return common.LeftPadBytes(big.NewInt(n).Bytes(), 32) }
	for name, b := range map[string][]byte{
		"nothing":                  nil,
		"bytes32, as MKR has":      common.RightPadBytes([]byte("MKR"), 32),
		"offset beyond the end":    append(w(64), w(1)...),
		"length beyond the end":    append(w(32), w(1)...),
		"length that overflows":    append(w(32), bytes.Repeat([]byte{0xff}, 32)...),
		"offset that overflows":    append(bytes.Repeat([]byte{0xff}, 32), w(0)...),
		"length of 2^31":           append(w(32), w(1<<31)...),
		"offset just past the end": append(w(33), w(0)...),
	} {
		if got, ok := DecodeString(b); ok {
			t.Errorf("%s: read as %q", name, got)
		}
	}
}

func TestWordsAreReadStrictly(t *testing.T) {
	t.Parallel()
	one, two, huge := x402.NewUint256(1), x402.NewUint256(2), x402.Uint256{0: 1, 31: 1}
	for _, c := range []struct {
		name      string
		data      []byte
		value, ok bool
	}{
		{"false", make([]byte, 32), false, true},
		{"true", one[:], true, true},
		{"two is no bool", two[:], false, false},
		{"a number with a one in it is no bool", huge[:], false, false},
		{"nothing is no bool", nil, false, false},
		{"31 bytes are no bool", one[1:], false, false},
	} {
		if value, ok := DecodeBool(c.data); value != c.value || ok != c.ok {
			t.Errorf("%s: %t, %t", c.name, value, ok)
		}
	}
	if u, ok := DecodeUint256(append(one[:], 9)); !ok || u != one {
		t.Errorf("DecodeUint256 = %s, %t", u, ok)
	}
	if _, ok := DecodeUint256(make([]byte, 31)); ok {
		t.Error("31 bytes are read as a word")
	}
}

func TestOnlyTheMagicValueAcceptsASignature(t *testing.T) {
	t.Parallel()
	magic := []byte{0x16, 0x26, 0xba, 0x7e}
	for name, c := range map[string]struct {
		answer []byte
		want   bool
	}{
		"padded":          {common.RightPadBytes(magic, 32), true},
		"and more":        {append(common.RightPadBytes(magic, 32), 1), true},
		"bare":            {magic, false},
		"not alone":       {append(magic[:4:4], bytes.Repeat([]byte{1}, 28)...), false},
		"nothing":         {nil, false},
		"cut":             {magic[:3], false},
		"true":            {common.LeftPadBytes([]byte{1}, 32), false},
		"magic, but last": {common.LeftPadBytes(magic, 32), false},
		"failure":         {bytes.Repeat([]byte{0xff}, 32), false},
	} {
		if got := IsValidSignatureResult(c.answer); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
