package payment

// State is where a payment is. The same machine stands as CHECK constraints in
// the migrations, and a test compares the two. docs/state-machine.md draws it.
type State string

// States of a payment.
const (
	// StateQueued: claimed, nothing signed.
	StateQueued State = "queued"
	// StateSigned: a signed transaction that carries it is committed (I3).
	StateSigned State = "signed"
	// StateBroadcast: its bytes went to a node.
	StateBroadcast State = "broadcast"
	// StateIncluded: a canonical block proves it paid (I5).
	StateIncluded State = "included"
	// StateFinal: that block is final.
	StateFinal State = "final"
	// StateFailed: it can no longer happen by us, with evidence (I6).
	StateFailed State = "failed"
)

// States lists every state.
func States() []State {
	return []State{StateQueued, StateSigned, StateBroadcast, StateIncluded, StateFinal, StateFailed}
}

// From returns the states that may be left for to. Every UPDATE names them.
func From(to State) []State {
	switch to {
	case StateQueued:
		// A transaction that reverted although the payment can still succeed; and a
		// failed payment that was never signed, claimed again by a new call; and one
		// whose settlement by somebody else was reorged out.
		return []State{StateBroadcast, StateSigned, StateFailed, StateIncluded}
	case StateSigned:
		return []State{StateQueued}
	case StateBroadcast:
		return []State{StateSigned, StateIncluded} // included: reorged out
	case StateIncluded:
		// From queued: somebody else submitted the same transfer first (I6). From
		// failed: its own transaction was mined after all and proves it paid.
		return []State{StateQueued, StateSigned, StateBroadcast, StateFailed}
	case StateFinal:
		return []State{StateIncluded}
	case StateFailed:
		return []State{StateQueued, StateSigned, StateBroadcast}
	}
	return nil
}

// Facts a row may hold beside its state.
type Facts struct {
	Transaction bool // carried by a transaction
	Block       bool // included in a block, with the hash that settled it
	Reason      bool // says why it failed
	Evidence    bool
}

// Allows says whether a row in state s may hold f.
func (s State) Allows(f Facts) bool {
	switch s {
	case StateQueued:
		return f == Facts{}
	case StateSigned, StateBroadcast:
		return f.Transaction && !f.Block && !f.Reason && !f.Evidence
	case StateIncluded, StateFinal:
		return f.Block && !f.Reason && f.Evidence
	case StateFailed:
		return !f.Block && f.Reason && f.Evidence
	}
	return false
}

// TxState is where a transaction is.
type TxState string

// States of a transaction.
const (
	TxSigned    TxState = "signed"
	TxBroadcast TxState = "broadcast"
	TxIncluded  TxState = "included" // mined, whatever it did
	TxFinal     TxState = "final"
	// TxReplaced: its wallet nonce was consumed by a transaction that is none of ours.
	TxReplaced TxState = "replaced"
)
