package evm

import (
	"context"
	"errors"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"
)

// SendOutcome is what a node said of a raw transaction. None of them decides
// anything about a payment: only the chain does.
type SendOutcome string

// The outcomes, the best first: of what several nodes say, the first of these
// counts.
const (
	SendAccepted     SendOutcome = "accepted"
	SendAlreadyKnown SendOutcome = "already_known"           // as good as accepted
	SendNonceTooLow  SendOutcome = "nonce_too_low"           // this wallet nonce is mined, by us or by somebody else
	SendUnderpriced  SendOutcome = "replacement_underpriced" // another transaction of this wallet nonce is in the pool
	SendFeeTooLow    SendOutcome = "fee_too_low"
	SendNoFunds      SendOutcome = "insufficient_funds" // the lane's own
	SendNonceGap     SendOutcome = "nonce_gap"          // this node misses a lower wallet nonce
	SendWouldRevert  SendOutcome = "would_revert"
	SendInvalid      SendOutcome = "invalid" // this node will never take these bytes
	SendUnknown      SendOutcome = "unknown" // it may be in a mempool
	// SendUnavailable says that it may be in a mempool, or that the node can't
	// take it now through nobody's fault: its pool is full, we ask too often.
	SendUnavailable SendOutcome = "unavailable"
)

// SendOutcomes lists them all, the best first.
func SendOutcomes() []SendOutcome {
	return []SendOutcome{
		SendAccepted, SendAlreadyKnown, SendNonceTooLow, SendUnderpriced, SendFeeTooLow, SendNoFunds,
		SendNonceGap, SendWouldRevert, SendInvalid, SendUnknown, SendUnavailable,
	}
}

// rank is an outcome's place in the order of preference.
func (o SendOutcome) rank() int {
	switch o {
	case SendAccepted:
		return 0
	case SendAlreadyKnown:
		return 1
	case SendNonceTooLow:
		return 2
	case SendUnderpriced:
		return 3
	case SendFeeTooLow:
		return 4
	case SendNoFunds:
		return 5
	case SendNonceGap:
		return 6
	case SendWouldRevert:
		return 7
	case SendInvalid:
		return 8
	case SendUnknown:
		return 9
	case SendUnavailable:
	}
	return 10
}

// pooled says whether a node has it.
func (o SendOutcome) pooled() bool { return o == SendAccepted || o == SendAlreadyKnown }

// Sent is what came of one transaction.
type Sent struct {
	Outcome SendOutcome
	// Err is nil exactly for SendAccepted and SendAlreadyKnown.
	Err error
	// Doubtful says that a node may have it that did not say so. Where it is
	// false and Err is not nil, every node that was asked refused it.
	Doubtful bool
}

func (s scrubber) sent(err error) Sent {
	if err == nil {
		return Sent{Outcome: SendAccepted}
	}
	outcome := sendOutcome(err)
	if outcome.pooled() {
		return Sent{Outcome: outcome}
	}
	return Sent{Outcome: outcome, Err: s.unavailable(err), Doubtful: outcome == SendUnavailable || outcome == SendUnknown}
}

// SendRaw hands a signed transaction to the client's first node. The error is nil exactly for
// SendAccepted and SendAlreadyKnown.
func (c *Client) SendRaw(ctx context.Context, raw []byte) (SendOutcome, error) {
	s := c.sendOne(ctx, raw)
	return s.Outcome, s.Err
}

func (c *Client) sendOne(ctx context.Context, raw []byte) Sent {
	n := c.nodes[0]
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	var hash common.Hash
	return n.scrub.sent(n.rpc.CallContext(ctx, &hash, "eth_sendRawTransaction", hexutil.Bytes(raw)))
}

// maxSendBytes bounds the transactions of one batch: geth takes requests of
// 5 MB, and every byte is two digits of it.
const maxSendBytes = 1 << 20

// SendMany hands signed transactions to the client's first node in their order, in one round
// trip unless they are very many, and returns what it said of each. Where a
// trip fails, what it held and what was to follow it are SendUnavailable.
func (c *Client) SendMany(ctx context.Context, raws [][]byte) []Sent {
	sent := make([]Sent, 0, len(raws))
	for len(sent) < len(raws) {
		part := sendable(raws[len(sent):])
		if len(part) == 1 {
			sent = append(sent, c.sendOne(ctx, part[0]))
			continue
		}
		answers, err := c.sendBatch(ctx, part)
		if err != nil {
			for len(sent) < len(raws) {
				sent = append(sent, c.nodes[0].scrub.sent(err))
			}
			break
		}
		sent = append(sent, answers...)
	}
	return sent
}

// sendable is the first of raws that go together.
func sendable(raws [][]byte) [][]byte {
	size := 0
	for i, raw := range raws {
		if size += len(raw); i > 0 && (i == maxBatch || size > maxSendBytes) {
			return raws[:i]
		}
	}
	return raws
}

func (c *Client) sendBatch(ctx context.Context, raws [][]byte) ([]Sent, error) {
	n := c.nodes[0]
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	batch := make([]rpc.BatchElem, len(raws))
	for i, raw := range raws {
		batch[i] = rpc.BatchElem{Method: "eth_sendRawTransaction", Args: []any{hexutil.Bytes(raw)}, Result: new(common.Hash)}
	}
	if err := n.rpc.BatchCallContext(ctx, batch); err != nil {
		// What a node says of a whole batch, it says of no transaction.
		return nil, n.scrub.unavailable(err)
	}
	sent := make([]Sent, len(raws))
	for i := range batch {
		sent[i] = n.scrub.sent(batch[i].Error)
	}
	return sent, nil
}

// sendOutcome reads a node's error text. Nodes agree on no code, so texts it
// is, in this order; the table test has them by node.
func sendOutcome(err error) SendOutcome {
	coded := rpc.Error(nil)
	if !errors.As(err, &coded) {
		return SendUnavailable
	}
	// "unknown transaction type" is no known transaction.
	msg := strings.ReplaceAll(strings.ToLower(coded.Error()), "unknown transaction", "")
	for _, row := range []struct {
		outcome SendOutcome
		texts   []string
	}{
		{SendAlreadyKnown, []string{
			"already known", "alreadyknown", "already imported", "known transaction", "already exists", "already_exists",
			"already in the pool", "already in mempool", "with same hash",
		}},
		{SendNonceTooLow, []string{"nonce too low", "oldnonce", "nonce is too low", "old nonce"}},
		{SendUnderpriced, []string{
			"replacement transaction underpriced", "replacementnotallowed", "could not replace", "replacement fee too low",
			"gas price too low to replace", "insufficient gas price to replace",
		}},
		{SendUnavailable, []string{
			"pool is full", "out of capacity", "pool size constraints", "account limit exceeded", "future transaction tries to replace pending",
			"spammer", "in-flight transaction limit", "already reserved", "delegatorhaspendingtx", // a sender's share of the pool
			"rate limit", "rate-limit", "ratelimit", "rate exceeded", "request limit", "request count", "too many requests", "compute units", "throughput",
			"syncing", "timeout", "timed out", "deadline exceeded", "overloaded", "at capacity", "temporarily", "try again", "not healthy", "no backend",
		}},
		{SendNoFunds, []string{
			"insufficient funds", "insufficientfunds", "insufficient balance for transfer", "sender doesn't have enough funds",
			"upfront cost exceeds", "up-front cost",
		}},
		{SendInvalid, []string{
			"intrinsic gas", "intrinsicgas", "floor data gas", "block gas limit", "gaslimitexceeded", "gas limit too high", "gas limit is too",
			"gaslimittoohigh", "gaslimitcapexceeded", "gasuintoverflow", "gas uint64 overflow",
			"the configured cap", "fee cap exceeded", "higher than max fee per gas", "exceeds max fee per gas",
			"invalid chain id", "wrong chain", "invalid sender", "failedtoresolvesender", "invalid transaction signature", "invalid signature",
			"type not supported", "notsupportedtxtype", "unsupported transaction type",
			"oversized data", "rlptoolong", "maxtxsizeexceeded", "failed to decode", "rlp:",
		}},
		{SendFeeTooLow, []string{
			"underpriced", "max fee per gas less than block base fee", "feetoolow", "fee too low", "tip too low", "gas price below",
			"below the minimum", "below chain minimum", "lower than the minimum",
		}},
		{SendNonceGap, []string{"nonce too high", "noncegap", "gapped-nonce", "future nonce", "noncetoofarinfuture", "too distant from current sender nonce", "lower nonce exists"}},
		{SendWouldRevert, []string{"execution reverted", "would revert"}},
	} {
		for _, text := range row.texts {
			if strings.Contains(msg, text) {
				return row.outcome
			}
		}
	}
	switch coded.ErrorCode() {
	case 429, -32005: // HTTP's and EIP-1474's for asking too often
		return SendUnavailable
	default:
		return SendUnknown
	}
}
