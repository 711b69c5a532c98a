// Package chain names what the facilitator needs of a chain: addresses, calls,
// receipts, heads and the three answers a node can give. It does no I/O;
// chain/evm speaks to nodes.
package chain

import (
	"encoding/hex"
	"errors"
	"math/big"
	"strings"

	"golang.org/x/crypto/sha3"
)

// ErrUnavailable is the third answer of a node, "could not tell" (I7): it was
// not reached, it timed out, it was busy, or it said something that is no
// judgement of the call. It says nothing about any payment.
var ErrUnavailable = errors.New("node unavailable")

// ErrNotReady says that a network can't settle now, so nothing was begun; the
// text that wraps it says why and is safe to show.
var ErrNotReady = errors.New("not ready to settle")

// Address is a 20-byte account address.
type Address [20]byte

// Hash is a 32-byte hash or word.
type Hash [32]byte

// Ways in which a text can fail to be an address.
var (
	ErrAddressForm     = errors.New("must be 0x and 40 hexadecimal digits")
	ErrAddressChecksum = errors.New("bad address checksum (EIP-55)")
	ErrHashForm        = errors.New("must be 0x and 64 hexadecimal digits")
)

// ParseAddress reads an address in any single letter case, or in mixed case
// with a right EIP-55 checksum.
func ParseAddress(s string) (Address, error) {
	var a Address
	if len(s) != 42 || s[0] != '0' || s[1] != 'x' {
		return a, ErrAddressForm
	}
	if _, err := hex.Decode(a[:], []byte(s[2:])); err != nil {
		return Address{}, ErrAddressForm
	}
	digits := s[2:]
	if strings.ToLower(digits) != digits && strings.ToUpper(digits) != digits && a.String() != s {
		return Address{}, ErrAddressChecksum
	}
	return a, nil
}

// String is the EIP-55 form.
func (a Address) String() string {
	var buf [42]byte
	copy(buf[:], "0x")
	hex.Encode(buf[2:], a[:])
	h := sha3.NewLegacyKeccak256()
	h.Write(buf[2:])
	sum := h.Sum(make([]byte, 0, 32))
	for i := range 40 {
		nibble := sum[i/2] >> 4
		if i%2 == 1 {
			nibble = sum[i/2] & 0xf
		}
		if nibble > 7 && buf[2+i] > '9' {
			buf[2+i] -= 'a' - 'A'
		}
	}
	return string(buf[:])
}

// IsZero says whether a is the zero address.
func (a Address) IsZero() bool { return a == Address{} }

// MarshalText is the EIP-55 form.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (a *Address) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAddress(string(b))
	return err
}

// ParseHash reads 0x and 64 hexadecimal digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 66 || s[0] != '0' || s[1] != 'x' {
		return h, ErrHashForm
	}
	if _, err := hex.Decode(h[:], []byte(s[2:])); err != nil {
		return Hash{}, ErrHashForm
	}
	return h, nil
}

// String is 0x and 64 hexadecimal digits.
func (h Hash) String() string { return "0x" + hex.EncodeToString(h[:]) }

// IsZero says whether every byte is 0.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText is the text form.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (h *Hash) UnmarshalText(b []byte) (err error) {
	*h, err = ParseHash(string(b))
	return err
}

// Call is what a transaction does: value is always 0.
type Call struct {
	To   Address
	Data []byte
}

// Log is one event of a receipt.
type Log struct {
	Address Address
	Topics  []Hash
	Data    []byte
}

// Receipt is a mined transaction.
type Receipt struct {
	TxHash      Hash
	BlockHash   Hash
	BlockNumber uint64
	Succeeded   bool // status 1
	GasUsed     uint64
	// EffectiveGasPrice in wei.
	EffectiveGasPrice uint64
	// L1Fee in wei is what an OP-stack chain takes beside the gas, for having
	// the transaction's bytes on its L1; 0 elsewhere.
	L1Fee uint64
	Logs  []Log
}

// Cost in wei is what the transaction took from its sender.
func (r *Receipt) Cost() *big.Int {
	cost := new(big.Int).SetUint64(r.GasUsed)
	cost.Mul(cost, new(big.Int).SetUint64(r.EffectiveGasPrice))
	return cost.Add(cost, new(big.Int).SetUint64(r.L1Fee))
}

// Head is a block header as far as we read it.
type Head struct {
	Number uint64
	Hash   Hash
	// Time is the block's timestamp, Unix seconds.
	Time uint64
	// BaseFee in wei per gas.
	BaseFee uint64
	// GasUsed by the block's transactions, of GasLimit.
	GasUsed, GasLimit uint64
}

// Fees of an EIP-1559 transaction, in wei per gas.
type Fees struct {
	FeeCap uint64
	TipCap uint64
}
