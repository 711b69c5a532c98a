package x402

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/big"
	"strconv"
)

// Uint256 is an unsigned 256-bit integer, big-endian: amounts in atomic units,
// times in Unix seconds. It is comparable with == and is an ABI word as it is.
type Uint256 [32]byte

// ErrNotUint256 says that a text is not a decimal number of 256 bits.
var ErrNotUint256 = errors.New("must be a decimal integer below 2^256")

// ParseUint256 reads plain decimal digits: no sign, no hex, no spaces.
func ParseUint256(s string) (Uint256, error) {
	if s == "" || len(s) > 78 {
		return Uint256{}, ErrNotUint256
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return Uint256{}, ErrNotUint256
		}
	}
	if len(s) < 20 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return Uint256{}, ErrNotUint256
		}
		return NewUint256(n), nil
	}
	n, ok := new(big.Int).SetString(s, 10)
	if !ok || n.BitLen() > 256 {
		return Uint256{}, ErrNotUint256
	}
	var u Uint256
	n.FillBytes(u[:])
	return u, nil
}

// NewUint256 widens n.
func NewUint256(n uint64) Uint256 {
	var u Uint256
	binary.BigEndian.PutUint64(u[24:], n)
	return u
}

// Uint64 returns the value and whether it fits.
func (u Uint256) Uint64() (uint64, bool) {
	for _, b := range u[:24] {
		if b != 0 {
			return 0, false
		}
	}
	return binary.BigEndian.Uint64(u[24:]), true
}

// Cmp orders a and b: -1, 0 or +1.
func (u Uint256) Cmp(v Uint256) int { return bytes.Compare(u[:], v[:]) }

// IsZero says whether u is 0.
func (u Uint256) IsZero() bool { return u == Uint256{} }

// Big returns a new big.Int.
func (u Uint256) Big() *big.Int { return new(big.Int).SetBytes(u[:]) }

// String is the decimal form.
func (u Uint256) String() string {
	if n, ok := u.Uint64(); ok {
		return strconv.FormatUint(n, 10)
	}
	return u.Big().String()
}
