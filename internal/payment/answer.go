package payment

import (
	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// Wishes are what one /settle call asks for beside the payment.
type Wishes struct {
	// IdempotencyKey is the caller's own; a success that was told with it is told
	// to it again. Empty without.
	IdempotencyKey string
	// Client who calls: a UUID, empty without a key. What one client settles is told
	// to no other.
	Client string
	// Admit says why a payment that is not in the record yet is not to be claimed;
	// nil is no reason. Its error is what the caller is told.
	Admit func() error
	// Level that the payment must have reached before success is told.
	Level Level
}

// Answer is what one /settle call is told, unless it ends in an error.
type Answer struct {
	// PaymentID and TxHash of the payment; empty and zero before there is one.
	PaymentID ID
	TxHash    chain.Hash
	// Payer in the spelling of the request.
	Payer string
	// Success is said to one call of a payment (I2), which Call names.
	Success bool
	Call    string
	// Replayed: Success was told before, to a call with the same idempotency key.
	Replayed bool
	// Reason and Message where Success is false: settlement_pending,
	// duplicate_settlement or why the payment failed.
	Reason  x402.Reason
	Message string
}
