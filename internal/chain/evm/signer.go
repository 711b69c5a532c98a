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
)

// Unsigned is an EIP-1559 transaction of value 0 before it is signed.
type Unsigned struct {
	Call        chain.Call
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
		ChainID: s.chainID, Nonce: u.WalletNonce, To: &to, Data: u.Call.Data, Gas: u.GasLimit,
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
