package evm

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// Unsigned is an EIP-1559 transaction before it is signed.
type Unsigned struct {
	Call chain.Call
	// Value in wei, 0 for what only calls.
	Value       x402.Uint256
	WalletNonce uint64
	GasLimit    uint64
	Fees        chain.Fees
}

// Signed is a transaction as it goes over the wire.
type Signed struct {
	Hash chain.Hash
	Raw  []byte
}

// KeySigner signs with a private key in memory.
type KeySigner struct {
	key     *ecdsa.PrivateKey
	address chain.Address
	chainID uint64
}

// NewKeySigner reads a 32-byte hex key, with or without 0x. The error never
// holds the key (I10).
func NewKeySigner(hexKey string, chainID uint64) (*KeySigner, error) {
	key, err := ParseKey(hexKey)
	if err != nil {
		return nil, err
	}
	return SignerOf(key, chainID), nil
}

// ParseKey reads a 32-byte hex key, with or without 0x. The error never holds the
// key (I10).
func ParseKey(hexKey string) (*ecdsa.PrivateKey, error) {
	key, err := crypto.HexToECDSA(strings.TrimPrefix(hexKey, "0x"))
	if err != nil {
		return nil, errors.New("private key must be 32 bytes of hex, not zero and below the curve's order")
	}
	return key, nil
}

// SignerOf signs with a key.
func SignerOf(key *ecdsa.PrivateKey, chainID uint64) *KeySigner {
	return &KeySigner{key: key, address: chain.Address(crypto.PubkeyToAddress(key.PublicKey)), chainID: chainID}
}

// Address of the wallet.
func (s *KeySigner) Address() chain.Address { return s.address }

// Kind of signer, for metrics.
func (*KeySigner) Kind() string { return "local" }

// Sign signs and encodes a transaction.
func (s *KeySigner) Sign(_ context.Context, u Unsigned) (Signed, error) {
	d := NewDraft(u, s.chainID)
	tx, err := types.SignTx(d.tx, d.signer, s.key)
	if err != nil {
		return Signed{}, fmt.Errorf("sign: %w", err)
	}
	return encode(tx)
}

// ErrNotOurs says that bytes are no transaction that this package signs.
var ErrNotOurs = errors.New("not a signed EIP-1559 call")

// Rebuild reads from signed bytes what was signed, so that a fee bump signs the
// very same call. What Unsigned does not hold, as an access list or the
// creation of a contract, is refused.
func Rebuild(raw []byte) (Unsigned, error) {
	var tx types.Transaction
	if err := tx.UnmarshalBinary(raw); err != nil {
		return Unsigned{}, fmt.Errorf("%w: %w", ErrNotOurs, err)
	}
	if tx.Type() != types.DynamicFeeTxType || tx.To() == nil || len(tx.AccessList()) > 0 {
		return Unsigned{}, ErrNotOurs
	}
	if !tx.GasFeeCap().IsUint64() || !tx.GasTipCap().IsUint64() || tx.Value().BitLen() > 256 {
		return Unsigned{}, fmt.Errorf("%w: absurd fees or value", ErrNotOurs)
	}
	u := Unsigned{
		Call: chain.Call{To: chain.Address(*tx.To()), Data: tx.Data()}, WalletNonce: tx.Nonce(), GasLimit: tx.Gas(),
		Fees: chain.Fees{FeeCap: tx.GasFeeCap().Uint64(), TipCap: tx.GasTipCap().Uint64()},
	}
	tx.Value().FillBytes(u.Value[:])
	return u, nil
}
