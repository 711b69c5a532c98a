package signer

import (
	"context"
	"fmt"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
)

// service is a key management service with one key.
type service interface {
	// publicKey in DER.
	publicKey(ctx context.Context) ([]byte, error)
	// signDigest in DER.
	signDigest(ctx context.Context, digest chain.Hash) ([]byte, error)
	Close() error
}

// kms has its key in a service that signs digests.
type kms struct{ service }

func (k kms) sign(ctx context.Context, _ evm.Unsigned, d evm.Draft, from chain.Address) (evm.Signed, error) {
	der, err := k.signDigest(ctx, d.Digest())
	if err != nil {
		return evm.Signed{}, err
	}
	r, s, err := parseSignature(der)
	if err != nil {
		return evm.Signed{}, err
	}
	return d.WithSignature(r, s, from)
}

// newKMS asks whose key it is. A service that does not answer is no reason not to
// start where the address is known: each signature proves it.
func newKMS(ctx context.Context, kind string, s service, chainID uint64, known chain.Address) (*Wallet, error) {
	w := &Wallet{kind: kind, address: known, chainID: chainID, holder: kms{s}}
	der, err := s.publicKey(ctx)
	switch {
	case err != nil && known != chain.Address{}:
		return w, nil
	case err != nil:
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	if w.address, err = parsePublicKey(der); err != nil {
		return nil, err
	}
	if known != w.address && known != (chain.Address{}) {
		return nil, fmt.Errorf("it is the key of %s, not of the address that is configured", w.address)
	}
	return w, nil
}
