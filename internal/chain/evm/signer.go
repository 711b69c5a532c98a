package evm

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/ethereum/go-ethereum/common"
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
	signer  types.Signer
	chainID *big.Int
}

// NewKeySigner reads a 32-byte hex key, with or without 0x. The error never
// holds the key (I10).
func NewKeySigner(hexKey string, chainID uint64) (*KeySigner, error) {
	key, err := crypto.HexToECDSA(strings.TrimPrefix(hexKey, "0x"))
	if err != nil {
		return nil, errors.New("private key must be 32 bytes of hex, not zero and below the curve's order")
	}
	id := new(big.Int).SetUint64(chainID)
	return &KeySigner{
		key: key, address: chain.Address(crypto.PubkeyToAddress(key.PublicKey)),
		signer: types.LatestSignerForChainID(id), chainID: id,
	}, nil
}

// Address of the wallet.
func (s *KeySigner) Address() chain.Address { return s.address }

// Sign signs and encodes a transaction.
func (s *KeySigner) Sign(_ context.Context, u Unsigned) (Signed, error) {
	to := common.Address(u.Call.To)
	tx, err := types.SignNewTx(s.key, s.signer, &types.DynamicFeeTx{
		ChainID: s.chainID, Nonce: u.WalletNonce, To: &to, Value: u.Value.Big(), Data: u.Call.Data, Gas: u.GasLimit,
		GasFeeCap: new(big.Int).SetUint64(u.Fees.FeeCap), GasTipCap: new(big.Int).SetUint64(u.Fees.TipCap),
	})
	if err != nil {
		return Signed{}, fmt.Errorf("sign: %w", err)
	}
	raw, err := tx.MarshalBinary()
	if err != nil {
		return Signed{}, fmt.Errorf("encode: %w", err)
	}
	return Signed{Hash: chain.Hash(tx.Hash()), Raw: raw}, nil
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
