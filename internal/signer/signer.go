// Package signer signs for wallets whose keys are in a keystore file, at a remote
// signer or in a key management service.
//
// What comes from outside is believed nothing: evm.Draft puts the transaction
// together, and only if the signature is the wallet's and of that transaction.
// Errors and metrics never hold a key or a password (I10).
package signer

import (
	"context"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
)

// Wallet signs with a key that never enters this process.
type Wallet struct {
	kind    string
	address chain.Address
	chainID uint64
	holder  holder
}

// holder has the key.
type holder interface {
	// sign has d, which is u encoded, signed for the wallet from, and checks it.
	sign(ctx context.Context, u evm.Unsigned, d evm.Draft, from chain.Address) (evm.Signed, error)
	Close() error
}

// Address of the wallet.
func (w *Wallet) Address() chain.Address { return w.address }

// Kind of signer, for metrics.
func (w *Wallet) Kind() string { return w.kind }

// Sign has a transaction signed, for as long as ctx lasts. The error wraps
// evm.ErrSignature where the answer was no signature of the wallet over it.
func (w *Wallet) Sign(ctx context.Context, u evm.Unsigned) (evm.Signed, error) {
	return w.holder.sign(ctx, u, evm.NewDraft(u, w.chainID), w.address)
}

// Close drops connections.
func (w *Wallet) Close() error { return w.holder.Close() }
