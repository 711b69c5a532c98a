package evm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
)

func vectorBytes(tb testing.TB) []byte {
	tb.Helper()
	b, err := hex.DecodeString(vectorSignature[2:])
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestRecoverTakesCanonicalSignaturesOnly(t *testing.T) {
	t.Parallel()
	digest, payer := hash(t, vectorDigest), address(t, payerText)
	with := func(change func([]byte)) []byte {
		b := vectorBytes(t)
		change(b)
		return b
	}
	order := crypto.S256().Params().N
	half := new(big.Int).Rsh(order, 1)
	setS := func(b []byte, s *big.Int) { s.FillBytes(b[32:64]) }
	for _, c := range []struct {
		name      string
		signature []byte
		want      bool // recovers to the payer
	}{
		{"v 28", vectorBytes(t), true},
		{"v 1", with(func(b []byte) { b[64] = 1 }), true},
		{"the other v", with(func(b []byte) { b[64] = 27 }), false},
		{"v 0 of v 28", with(func(b []byte) { b[64] = 0 }), false},
		{"v 2", with(func(b []byte) { b[64] = 2 }), false},
		{"v 26", with(func(b []byte) { b[64] = 26 }), false},
		{"v 29", with(func(b []byte) { b[64] = 29 }), false},
		{"v of a chain (EIP-155)", with(func(b []byte) { b[64] = 35 }), false},
		{"v 255", with(func(b []byte) { b[64] = 255 }), false},
		{"high s with the v that fits it", with(func(b []byte) {
			setS(b, new(big.Int).Sub(order, new(big.Int).SetBytes(b[32:64])))
			b[64] = 27
		}), false},
		{"s zero", with(func(b []byte) { setS(b, new(big.Int)) }), false},
		{"s is half of the order and one", with(func(b []byte) { setS(b, new(big.Int).Add(half, big.NewInt(1))) }), false},
		{"r zero", with(func(b []byte) { clear(b[:32]) }), false},
		{"r is the order", with(func(b []byte) { order.FillBytes(b[:32]) }), false},
		{"all zero", make([]byte, 65), false},
		{"64 bytes (EIP-2098)", vectorBytes(t)[:64], false},
		{"66 bytes", append(vectorBytes(t), 0), false},
		{"nothing", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := bytes.Clone(c.signature)
			signer, ok := Recover(digest, c.signature)
			if got := ok && signer == payer; got != c.want {
				t.Errorf("recovers to %s, %t", signer, ok)
			}
			if !bytes.Equal(before, c.signature) {
				t.Error("the signature was changed")
			}
		})
	}
}

func TestRecoverRefusesHighSThatCurveLibrariesTake(t *testing.T) {
	t.Parallel()
	digest := hash(t, vectorDigest)
	b := vectorBytes(t)
	new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(b[32:64])).FillBytes(b[32:64])
	b[64] = 0
	pub, err := crypto.SigToPub(digest[:], b)
	if err != nil || crypto.PubkeyToAddress(*pub) != common.HexToAddress(payerText) {
		t.Fatalf("the library recovers %v, %v: this test tests nothing", pub, err)
	}
	b[64] += 27
	if signer, ok := Recover(digest, b); ok {
		t.Errorf("recovers to %s", signer)
	}
}

func TestSAtHalfOfTheOrderIsLow(t *testing.T) {
	t.Parallel()
	half := new(big.Int).Rsh(crypto.S256().Params().N, 1)
	var s [32]byte
	if half.FillBytes(s[:]); highS(s[:]) {
		t.Error("half of the order is called high")
	}
	if half.Add(half, big.NewInt(1)).FillBytes(s[:]); !highS(s[:]) {
		t.Error("half of the order and one is called low")
	}
}

// wrapped is the ERC-6492 form by another hand: fixed offsets, as viem packs it.
func wrapped(data, inner []byte) string {
	w := func(n int) string { return hex.EncodeToString(common.LeftPadBytes(big.NewInt(int64(n)).Bytes(), 32)) }
	pad := func(b []byte) string { return hex.EncodeToString(common.RightPadBytes(b, (len(b)+31)/32*32)) }
	return "0x" + strings.Repeat("0", 24) + strings.ToLower(factoryText[2:]) +
		w(96) + w(128+(len(data)+31)/32*32) + w(len(data)) + pad(data) + w(len(inner)) + pad(inner) + strings.Repeat("6492", 16)
}

const factoryText = "0x0BA5ED0c6AA8c49038F819E587E2633c4A9F428a"

func TestSignaturesAreReadAndUnwrapped(t *testing.T) {
	t.Parallel()
	factory := address(t, factoryText)
	for _, c := range []struct {
		name, text string
		want       Signature
	}{
		{"plain", vectorSignature, Signature{Inner: vectorBytes(t)}},
		{"upper case digits", "0x" + strings.ToUpper(vectorSignature[2:]), Signature{Inner: vectorBytes(t)}},
		{"one byte", "0x00", Signature{Inner: []byte{0}}},
		{"as long as may be", "0x" + strings.Repeat("ab", MaxSignature), Signature{Inner: bytes.Repeat([]byte{0xab}, MaxSignature)}},
		{"wrapped", wrapped([]byte{0x12, 0x34}, vectorBytes(t)), Signature{Inner: vectorBytes(t), Factory: factory, FactoryData: []byte{0x12, 0x34}}},
		{"wrapped, factory without data", wrapped(nil, []byte{1}), Signature{Inner: []byte{1}, Factory: factory, FactoryData: []byte{}}},
		{"the magic in the middle", "0x" + strings.Repeat("6492", 16) + "00", Signature{Inner: append(bytes.Repeat([]byte{0x64, 0x92}, 16), 0)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseSignature(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("signature (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheWrapperIsLaidOutAsOtherImplementationsHaveIt(t *testing.T) {
	t.Parallel()
	text := wrapped([]byte{0x12, 0x34}, vectorBytes(t))
	words := len(text[2:]) / 64
	// factory, 0x60, 0xa0, length 2, data, length 0x41, 3 words of signature, magic
	if words != 10 || !strings.HasSuffix(text[:2+3*64], "a0") || !strings.HasSuffix(text[:2+2*64], "60") {
		t.Errorf("%d words: %s", words, text)
	}
}

func TestMalformedSignaturesAreRefused(t *testing.T) {
	t.Parallel()
	good := wrapped([]byte{0x12, 0x34}, vectorBytes(t))
	magic := strings.Repeat("6492", 16)
	set := func(at int, word string) string { return good[:2+64*at] + word + good[2+64*(at+1):] }
	ff := strings.Repeat("f", 64)
	word := func(n int64) string { return hex.EncodeToString(common.LeftPadBytes(big.NewInt(n).Bytes(), 32)) }
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"nothing", "", ErrSignatureLength},
		{"no bytes", "0x", ErrSignatureLength},
		{"a byte too long", "0x" + strings.Repeat("ab", MaxSignature+1), ErrSignatureLength},
		{"no 0x", vectorSignature[2:], ErrSignatureHex},
		{"half a byte", vectorSignature[:131], ErrSignatureHex},
		{"no hex", "0xzz", ErrSignatureHex},
		{"spaces", " 0x00", ErrSignatureHex},
		{"magic alone", "0x" + magic, ErrSignatureWrap},
		{"too short to be wrapped", "0x" + strings.Repeat("0", 190) + magic, ErrSignatureWrap},
		{"factory is no address", set(0, ff), ErrSignatureWrap},
		{"offset of the data overflows", set(1, ff), ErrSignatureWrap},
		{"offset of the data beyond the end", set(1, word(9*32)), ErrSignatureWrap},
		{"offset of the signature overflows", set(2, ff), ErrSignatureWrap},
		{"offset of the signature beyond the end", set(2, word(9*32)), ErrSignatureWrap},
		{"length of the data overflows", set(3, ff), ErrSignatureWrap},
		{"length of the data beyond the end", set(3, word(6*32)), ErrSignatureWrap},
		{"length of the signature overflows", set(5, ff), ErrSignatureWrap},
		{"length of the signature beyond the end", set(5, word(97)), ErrSignatureWrap},
		{"no signature inside", wrapped([]byte{0x12}, nil), ErrSignatureWrap},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got, err := ParseSignature(c.text); !errors.Is(err, c.want) || got.Inner != nil {
				t.Errorf("ParseSignature = %+v, %v", got, err)
			}
		})
	}
}

// FuzzParseSignature: whatever the text, no panic, and what comes out is bounded
// and never empty; what is not wrapped comes out as it went in.
func FuzzParseSignature(f *testing.F) {
	inner := vectorBytes(f)
	for _, seed := range []string{
		"", "0x", "0x0", vectorSignature, wrapped([]byte{0x12, 0x34}, inner), wrapped(nil, inner),
		"0x" + strings.Repeat("6492", 16), "0x" + strings.Repeat("00", 96) + strings.Repeat("6492", 16),
		"0x" + strings.Repeat("ff", 96) + strings.Repeat("6492", 16), strings.Repeat("0", 200),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSignature(text)
		if err != nil {
			if !errors.Is(err, ErrSignatureHex) && !errors.Is(err, ErrSignatureLength) && !errors.Is(err, ErrSignatureWrap) {
				t.Errorf("unnamed error %v", err)
			}
			return
		}
		if n := len(s.Inner); n == 0 || n > MaxSignature || len(s.FactoryData) > MaxSignature {
			t.Errorf("%d bytes inside, %d for the factory", n, len(s.FactoryData))
		}
		if !strings.HasSuffix(strings.ToLower(text), strings.Repeat("6492", 16)) {
			if s.Factory != (chain.Address{}) || !strings.EqualFold(hex.EncodeToString(s.Inner), text[2:]) {
				t.Errorf("plain %q came out as %+v", text, s)
			}
		}
		TransferData(Authorization{}, s.Inner, BothOverloads)
		Recover(chain.Hash{}, s.Inner)
	})
}
