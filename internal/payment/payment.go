// Package payment is the record: a payment, the transaction that carries it,
// each signed attempt of that transaction, and where each may go next.
package payment

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/big"
	"strings"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// Errors of the record.
var (
	// ErrUnavailable says that the record could not be read or written. Like a
	// node's silence it judges no payment.
	ErrUnavailable = errors.New("record unavailable")
	// ErrNotFound says that there is no such row.
	ErrNotFound = errors.New("not found")
	// ErrNotSent says that nothing was signed and nothing will be: a payment that
	// was claimed is taken back. The text that wraps it is safe to show.
	ErrNotSent = errors.New("nothing was sent")
	// ErrUnscreened says that a source of screening could not tell whether somebody
	// is on it. Like a node's silence it judges no payment.
	ErrUnscreened = errors.New("not screened")
	// ErrTransition says that a row was not in the state that the change leaves:
	// somebody else was faster. Nothing was written.
	ErrTransition = errors.New("not in the expected state")
	// ErrFenced says that the lane's lease has passed to another replica. Nothing
	// was written.
	ErrFenced = errors.New("the lane's lease is lost")
)

// ThrottledError says that a payment may be good and has to wait, for what its
// payer or payee asked for before. It judges no payment.
type ThrottledError struct {
	Wait time.Duration
	// Message is public.
	Message string
}

func (e *ThrottledError) Error() string { return e.Message }

// Key is what makes two requests the same payment (I1): the contract that
// consumes the authorization nonce, and whose nonce it is. Never the
// signature: EVM signatures are malleable.
type Key struct {
	Network  x402.Network
	Contract chain.Address
	Payer    chain.Address
	Nonce    chain.Hash // the authorization nonce
}

// Terms is what a payment was asked to be, and the call that makes it happen.
type Terms struct {
	Key    Key
	Scheme x402.SchemeName
	Asset  chain.Address
	PayTo  chain.Address
	// Amount in atomic units; ValidAfter and ValidBefore in Unix seconds.
	Amount, ValidAfter, ValidBefore x402.Uint256
	// Call is sent as it is, value 0.
	Call chain.Call
	// SignatureHash tells an identical repeat from one that merely names the
	// same authorization. SHA-256.
	SignatureHash chain.Hash
}

// Fingerprint hashes what the payment was asked to be. A request with the same
// key and another fingerprint is another sale, and is refused always (I2).
func (t Terms) Fingerprint() chain.Hash {
	return sha256.Sum256([]byte(strings.Join([]string{
		"x402 payment v1", string(t.Key.Network), t.Key.Contract.String(), t.Key.Payer.String(), t.Key.Nonce.String(),
		string(t.Scheme), t.Asset.String(), t.PayTo.String(), t.Amount.String(),
	}, "\n")))
}

// ID names a payment to the outside: a UUID.
type ID string

// Payment is one authorization and its fate.
type Payment struct {
	ID    ID
	Terms Terms
	// Version of the wire format it was claimed in.
	Version  int
	Resource string
	// Client who settled it: a UUID, empty for a caller without a key.
	Client string
	State  State
	// ClaimedAtBlock is the head when it was claimed: an authorization used at
	// or before it is never our success (I6).
	ClaimedAtBlock uint64
	// Reorged: it was settled once, in a block that is gone.
	Reorged bool
	// Tries counts the transactions that carried it.
	Tries int
	// Reason and Message say why it failed.
	Reason  x402.Reason
	Message string
	// Evidence is what proves the state (I5, I6); nil before there is any.
	Evidence *Evidence
	// TransactionID is the transaction that carries it; 0 before it is signed.
	TransactionID int64
	// TxHash is the hash that settled it, else the newest attempt's; zero before
	// it is signed.
	TxHash chain.Hash
	// Block that includes it; zero before it is included.
	BlockNumber uint64
	BlockHash   chain.Hash

	CreatedAt, UpdatedAt time.Time
	// AnsweredAt is when success was told; zero before (I2).
	AnsweredAt time.Time
	// AnsweredKey is the SHA-256 of the idempotency key of who was told; zero
	// where it gave none.
	AnsweredKey chain.Hash
}

// Sent says whether the authorization may have left the service: a signed
// transaction holds it, even one that was never broadcast as far as we know.
func (p *Payment) Sent() bool { return p.Tries > 0 }

// Settled says whether the chain has paid it.
func (p *Payment) Settled() bool { return p.State == StateIncluded || p.State == StateFinal }

// EvidenceKind says what an Evidence is.
type EvidenceKind string

// Kinds of evidence.
const (
	// EvidenceReceipt: our transaction's receipt and its logs show it paid.
	EvidenceReceipt EvidenceKind = "receipt"
	// EvidenceOtherTransaction: somebody else submitted the very same transfer.
	EvidenceOtherTransaction EvidenceKind = "other_transaction"
	// EvidenceReverted: our transaction was mined and did not pay.
	EvidenceReverted EvidenceKind = "reverted"
	// EvidenceConsumed: the authorization was cancelled, or used for something else.
	EvidenceConsumed EvidenceKind = "authorization_consumed"
	// EvidenceExpired: validBefore passed by the named block, the authorization unused.
	EvidenceExpired EvidenceKind = "expired_unused"
	// EvidenceUnsendable: its call would fail, so nothing was ever signed.
	EvidenceUnsendable EvidenceKind = "would_fail"
	// EvidenceReplaced: the wallet nonce of our transaction was used by somebody
	// else, so it was never mined, and the call would fail now.
	EvidenceReplaced EvidenceKind = "transaction_void"
	// EvidenceNotSent: no lane could take it in time; nothing was ever signed.
	EvidenceNotSent EvidenceKind = "never_signed"
)

// Evidence is what a state rests on: a transaction, a block, a text.
type Evidence struct {
	Kind        EvidenceKind `json:"kind"`
	TxHash      *chain.Hash  `json:"transaction,omitempty"`
	BlockNumber uint64       `json:"blockNumber,omitempty"`
	BlockHash   *chain.Hash  `json:"blockHash,omitempty"`
	// BlockTime in Unix seconds.
	BlockTime uint64 `json:"blockTime,omitempty"`
	Detail    string `json:"detail,omitempty"`
}

// ReceiptEvidence points at a receipt.
func ReceiptEvidence(kind EvidenceKind, r *chain.Receipt, detail string) *Evidence {
	return &Evidence{Kind: kind, TxHash: &r.TxHash, BlockNumber: r.BlockNumber, BlockHash: &r.BlockHash, Detail: detail}
}

// EventType names an outbox event.
type EventType string

// Outbox events, written with the state change they tell of.
const (
	EventSettled   EventType = "payment.settled"
	EventFailed    EventType = "payment.failed"
	EventReorged   EventType = "payment.reorged"
	EventReversed  EventType = "payment.reversed" // failed after it was settled
	EventFinalized EventType = "payment.finalized"
)

// Role is what a wallet is for.
type Role string

// Roles.
const (
	RoleRelayer  Role = "relayer"
	RoleTreasury Role = "treasury" // tops the relayers up
)

// Lane is one wallet of ours on one chain.
type Lane struct {
	ID      int64
	Network x402.Network
	Address chain.Address
	// Epoch names the lease under which a write is made; 0 where none is held.
	Epoch int64
}

// Transaction is one wallet nonce of a lane, carrying one or many payments.
type Transaction struct {
	ID          int64
	Lane        Lane
	WalletNonce uint64
	State       TxState
	Attempts    []Attempt // oldest first, never empty
	// BlockNumber and BlockHash of inclusion; zero before.
	BlockNumber uint64
	BlockHash   chain.Hash
	CreatedAt   time.Time
}

// Newest is the attempt signed last.
func (t *Transaction) Newest() *Attempt { return &t.Attempts[len(t.Attempts)-1] }

// Mined says whether a block holds the transaction, whatever it did.
func (t *Transaction) Mined() bool { return t.State == TxIncluded || t.State == TxFinal }

// Attempt is one signed version of a transaction.
type Attempt struct {
	ID       int64
	Hash     chain.Hash
	Raw      []byte
	GasLimit uint64
	Fees     chain.Fees
	SignedAt time.Time
	// LastSendAt is when its bytes last went to a node; zero before the first time.
	LastSendAt time.Time
}

// Work is what a lane asks of the queue.
type Work struct {
	// Most payments to take.
	Most int
	// MaxOpen transactions the lane may have.
	MaxOpen int
	// Except are payments to leave alone.
	Except []ID
	// Prepare makes orders of the payments taken, which nobody else can take
	// meanwhile. Those without an order stay queued.
	Prepare func(ctx context.Context, ps []Payment) ([]Order, error)
	// Timeout of all of it.
	Timeout time.Duration
}

// Order asks for one transaction that carries these payments.
type Order struct {
	Payments []Payment
	// Sign makes the transaction at the wallet nonce the record allocates.
	Sign func(ctx context.Context, walletNonce uint64) (Attempt, error)
}

// TopUp asks for one transaction that sends gas money to a lane.
type TopUp struct {
	To chain.Address
	// Wei to send, and DayLimit of all that the treasury sends on a day (UTC).
	Wei, DayLimit *big.Int
	Sign          func(ctx context.Context, walletNonce uint64) (Attempt, error)
}

// Inclusion is what a mined transaction did.
type Inclusion struct {
	Transaction int64
	Receipt     *chain.Receipt
	Outcomes    []Outcome
	// Undecided: payments of it are still to be judged.
	Undecided bool
}

// Outcome is what became of one payment. To is StateIncluded (paid, by the
// transaction that Evidence names), StateFailed (Reason and Evidence say why)
// or StateQueued (this transaction did not pay it, another one still can).
type Outcome struct {
	Payment ID
	// Transaction and Tries are the payment's as they were judged: if it has
	// moved on since, the outcome is not about it any more and is not written.
	Transaction int64
	Tries       int
	To          State
	TxHash      chain.Hash // what settled it
	Block       uint64
	InBlock     chain.Hash
	Reason      x402.Reason
	Message     string
	Evidence    *Evidence
}

// Paid is the outcome of a payment that receipt proves settled.
func (p *Payment) Paid(kind EvidenceKind, r *chain.Receipt) Outcome {
	return Outcome{
		Payment: p.ID, Transaction: p.TransactionID, Tries: p.Tries,
		To: StateIncluded, TxHash: r.TxHash, Block: r.BlockNumber, InBlock: r.BlockHash, Evidence: ReceiptEvidence(kind, r, ""),
	}
}

// Failed is the outcome of a payment that can't happen any more.
func (p *Payment) Failed(reason x402.Reason, message string, evidence *Evidence) Outcome {
	return Outcome{
		Payment: p.ID, Transaction: p.TransactionID, Tries: p.Tries,
		To: StateFailed, Reason: reason, Message: message, Evidence: evidence,
	}
}

// Requeued is the outcome of a payment that another transaction can still make.
func (p *Payment) Requeued() Outcome {
	return Outcome{Payment: p.ID, Transaction: p.TransactionID, Tries: p.Tries, To: StateQueued}
}

// Open says whether a transaction carries the payment and nothing is decided.
func (p *Payment) Open() bool { return p.State == StateSigned || p.State == StateBroadcast }

// Carried is an open or watched transaction with the payments it carries.
type Carried struct {
	Transaction Transaction
	Payments    []Payment
}
