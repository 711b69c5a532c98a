package evm

import (
	"errors"
	"fmt"
	"math"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
)

// ErrSignature says that what a signer gave is no signature of its wallet over
// the transaction that it was asked to sign.
var ErrSignature = errors.New("not the wallet's signature of this transaction")

// Draft is a transaction that waits for its signature. Whoever makes that, the
// signed transaction is put together here, and only if the signature recovers to
// the wallet: a signer elsewhere is believed nothing.
type Draft struct {
	tx     *types.Transaction
	signer types.Signer
}

// NewDraft encodes a transaction for a chain.
func NewDraft(u Unsigned, chainID uint64) Draft {
	id, to := new(big.Int).SetUint64(chainID), common.Address(u.Call.To)
	return Draft{
		signer: types.LatestSignerForChainID(id),
		tx: types.NewTx(&types.DynamicFeeTx{
			ChainID: id, Nonce: u.WalletNonce, To: &to, Value: u.Value.Big(), Data: u.Call.Data, Gas: u.GasLimit,
			GasFeeCap: new(big.Int).SetUint64(u.Fees.FeeCap), GasTipCap: new(big.Int).SetUint64(u.Fees.TipCap),
		}),
	}
}

// Digest is the hash that is signed.
func (d Draft) Digest() chain.Hash { return chain.Hash(d.signer.Hash(d.tx)) }

// WithSignature is the transaction signed by from with r and s, of which s may be
// in either half of the curve's order: chains accept only the lower one, and
// signers elsewhere don't know that.
func (d Draft) WithSignature(r, s *big.Int, from chain.Address) (Signed, error) {
	if order := crypto.S256().Params().N; s.Cmp(new(big.Int).Rsh(order, 1)) > 0 {
		s = new(big.Int).Sub(order, s)
	}
	// Also keeps FillBytes from a number that is too long.
	if !crypto.ValidateSignatureValues(0, r, s, true) {
		return Signed{}, fmt.Errorf("%w: r or s is out of range", ErrSignature)
	}
	var signature [crypto.SignatureLength]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:64])
	for signature[64] = range byte(2) {
		tx, err := d.tx.WithSignature(d.signer, signature[:])
		if err != nil {
			return Signed{}, fmt.Errorf("%w: %w", ErrSignature, err)
		}
		if sender, err := types.Sender(d.signer, tx); err == nil && chain.Address(sender) == from {
			return encode(tx)
		}
	}
	return Signed{}, fmt.Errorf("%w: it is another key's, or of another transaction", ErrSignature)
}

// Accept checks a whole transaction that somebody else has signed: it must be this
// one to the last field, and from's.
func (d Draft) Accept(raw []byte, from chain.Address) (Signed, error) {
	var tx types.Transaction
	if err := tx.UnmarshalBinary(raw); err != nil {
		return Signed{}, fmt.Errorf("%w: no transaction: %w", ErrSignature, err)
	}
	if tx.Type() != types.DynamicFeeTxType {
		return Signed{}, fmt.Errorf("%w: a transaction of another type", ErrSignature)
	}
	_, r, s := tx.RawSignatureValues()
	signed, err := d.WithSignature(r, s, from)
	if err != nil {
		return Signed{}, err
	}
	if signed.Hash != chain.Hash(tx.Hash()) {
		return Signed{}, fmt.Errorf("%w: the transaction was changed", ErrSignature)
	}
	return signed, nil
}

func encode(tx *types.Transaction) (Signed, error) {
	raw, err := tx.MarshalBinary()
	if err != nil {
		return Signed{}, fmt.Errorf("encode: %w", err)
	}
	return Signed{Hash: chain.Hash(tx.Hash()), Raw: raw}, nil
}

// Probe is a transaction that a signer can be tried with: no chain can ever mine
// it. EIP-2681 forbids its wallet nonce, the largest number there is, for good;
// and all that it would do is send nothing from a wallet to itself.
func Probe(wallet chain.Address) Unsigned {
	return Unsigned{Call: chain.Call{To: wallet}, WalletNonce: math.MaxUint64, GasLimit: 21_000, Fees: chain.Fees{FeeCap: 1}}
}
