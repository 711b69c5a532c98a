package evm

import (
	"bytes"
	"errors"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
)

// MaxSignature bounds a signature's bytes: a wallet's WebAuthn or multi-owner
// signature has a few hundred, and every byte is paid for as calldata (I8).
const MaxSignature = 8192

// Ways in which a signature's text is not one.
var (
	ErrSignatureHex    = errors.New("must be 0x and hexadecimal digits")
	ErrSignatureLength = errors.New("must be 1 to 8192 bytes")
	ErrSignatureWrap   = errors.New("is wrapped by ERC-6492 but can't be unwrapped")
)

// Signature is a payer's signature, unwrapped where ERC-6492 wraps it.
type Signature struct {
	// Inner is what the token or the wallet is given.
	Inner []byte
	// Factory and FactoryData deploy the wallet (ERC-6492). Factory is zero
	// where the signature is not wrapped.
	Factory     chain.Address
	FactoryData []byte
}

// ParseSignature reads a hex signature and unwraps ERC-6492:
// abi.encode(address factory, bytes factoryCalldata, bytes signature) and 32
// bytes of magic.
func ParseSignature(s string) (Signature, error) {
	if len(s) > 2+2*MaxSignature {
		return Signature{}, ErrSignatureLength
	}
	b, err := hexutil.Decode(s)
	if errors.Is(err, hexutil.ErrEmptyString) || (err == nil && len(b) == 0) {
		return Signature{}, ErrSignatureLength
	}
	if err != nil {
		return Signature{}, ErrSignatureHex
	}
	magic := bytes.Repeat([]byte{0x64, 0x92}, 16)
	body, wrapped := bytes.CutSuffix(b, magic)
	if !wrapped {
		return Signature{Inner: b}, nil
	}
	if len(body) < 96 || !bytes.Equal(body[:12], make([]byte, 12)) {
		return Signature{}, ErrSignatureWrap
	}
	data, okData := dynamicBytes(body, 32)
	inner, okInner := dynamicBytes(body, 64)
	if !okData || !okInner || len(inner) == 0 {
		return Signature{}, ErrSignatureWrap
	}
	return Signature{Inner: inner, Factory: chain.Address(body[12:32]), FactoryData: data}, nil
}

// dynamicBytes reads the bytes value whose offset is the word at at.
func dynamicBytes(b []byte, at int) ([]byte, bool) {
	offset, ok := smallWord(b[at : at+32])
	if !ok || offset > len(b)-32 {
		return nil, false
	}
	n, ok := smallWord(b[offset : offset+32])
	if !ok || n > len(b)-offset-32 {
		return nil, false
	}
	return b[offset+32 : offset+32+n], true
}

// Recover returns who signed digest with a canonical 65-byte ECDSA signature:
// v 0, 1, 27 or 28 and low s, as tokens demand (EIP-2). Any other signature
// recovers to nobody.
func Recover(digest chain.Hash, signature []byte) (chain.Address, bool) {
	if len(signature) != 65 {
		return chain.Address{}, false
	}
	rsv := [65]byte(signature)
	if rsv[64] >= 27 {
		rsv[64] -= 27
	}
	if rsv[64] > 1 || highS(rsv[32:64]) {
		return chain.Address{}, false
	}
	pub, err := crypto.Ecrecover(digest[:], rsv[:])
	if err != nil {
		return chain.Address{}, false
	}
	return chain.Address(crypto.Keccak256(pub[1:])[12:]), true
}

// highS says whether s is above half of secp256k1's order.
func highS(s []byte) bool {
	half := [32]byte{
		0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
	}
	return bytes.Compare(s, half[:]) > 0
}
