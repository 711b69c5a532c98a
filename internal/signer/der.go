package signer

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
)

// parseSignature reads the two numbers of an ECDSA signature in DER.
func parseSignature(der []byte) (r, s *big.Int, _ error) {
	var signature struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &signature)
	if err != nil || len(rest) > 0 {
		return nil, nil, fmt.Errorf("%w: malformed DER", evm.ErrSignature)
	}
	return signature.R, signature.S, nil
}

// errNotSecp256k1 says that a public key is of no use for a wallet.
var errNotSecp256k1 = errors.New("its public key is not one of the curve secp256k1")

// parsePublicKey is the address of a public key in DER (SubjectPublicKeyInfo). The
// standard library does not know the curve.
func parsePublicKey(der []byte) (chain.Address, error) {
	var info struct {
		Algorithm struct {
			Algorithm, Curve asn1.ObjectIdentifier
		}
		Key asn1.BitString
	}
	rest, err := asn1.Unmarshal(der, &info)
	if err != nil || len(rest) > 0 ||
		!info.Algorithm.Algorithm.Equal(asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}) || // id-ecPublicKey
		!info.Algorithm.Curve.Equal(asn1.ObjectIdentifier{1, 3, 132, 0, 10}) { // secp256k1
		return chain.Address{}, errNotSecp256k1
	}
	key, err := crypto.UnmarshalPubkey(info.Key.RightAlign()) // checks that it is a point of the curve
	if err != nil {
		return chain.Address{}, errNotSecp256k1
	}
	return chain.Address(crypto.PubkeyToAddress(*key)), nil
}
