package payment

import "facilitator/internal/chain"

// Standing is where a payment is: as little of it as tells whether its callers
// can be answered.
type Standing struct {
	State State
	Tries int
	// TxHash is the hash that settled it, else the newest attempt's.
	TxHash chain.Hash
	// BlockNumber of inclusion; zero before.
	BlockNumber uint64
}

// Stand takes over where the payment is now.
func (p *Payment) Stand(s Standing) {
	p.State, p.Tries, p.TxHash, p.BlockNumber = s.State, s.Tries, s.TxHash, s.BlockNumber
}

// Standing is where the payment was when it was read.
func (p *Payment) Standing() Standing {
	return Standing{State: p.State, Tries: p.Tries, TxHash: p.TxHash, BlockNumber: p.BlockNumber}
}

// Signed says whether the bytes that make the payment are committed.
func (s Standing) Signed() bool {
	switch s.State {
	case StateSigned, StateBroadcast, StateIncluded, StateFinal:
		return true
	case StateQueued, StateFailed:
	}
	return false
}

// SettledUpTo says whether the chain has paid it in a final block, or in one up
// to that number.
func (s Standing) SettledUpTo(block uint64) bool {
	return s.State == StateFinal || s.State == StateIncluded && s.BlockNumber <= block
}

// Wallet is how the record has a lane.
type Wallet struct {
	Role Role
	// Next is the wallet nonce that its next transaction gets.
	Next uint64
	// Open transactions are signed and not mined as far as the record knows.
	Open int
	// Parked says why it takes no work; empty where it does.
	Parked string
	// Held says that a replica works it now.
	Held bool
}
