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

// The outcomes.
const (
	SendAccepted     SendOutcome = "accepted"
	SendAlreadyKnown SendOutcome = "already_known" // as good as accepted
	SendNonceTooLow  SendOutcome = "nonce_too_low" // this wallet nonce is mined, by us or by somebody else
	SendUnderpriced  SendOutcome = "replacement_underpriced"
	SendFeeTooLow    SendOutcome = "fee_too_low"
	SendNoFunds      SendOutcome = "insufficient_funds" // the lane's own
	SendWouldRevert  SendOutcome = "would_revert"
	SendUnavailable  SendOutcome = "unavailable" // it may still have reached a mempool
	SendUnknown      SendOutcome = "unknown"     // likewise
)

// SendRaw hands a signed transaction to the node. The error is nil exactly for
// SendAccepted and SendAlreadyKnown.
func (c *Client) SendRaw(ctx context.Context, raw []byte) (SendOutcome, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var hash common.Hash
	err := c.rpc.CallContext(ctx, &hash, "eth_sendRawTransaction", hexutil.Bytes(raw))
	if err == nil {
		return SendAccepted, nil
	}
	outcome := sendOutcome(err)
	if outcome == SendAlreadyKnown {
		return outcome, nil
	}
	return outcome, c.scrub.unavailable(err)
}

// sendOutcome reads a node's error text. Nodes agree on no code, so texts it
// is; the table test holds messages of geth, reth, erigon, nethermind and anvil.
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
		{SendAlreadyKnown, []string{"already known", "alreadyknown", "already imported", "known transaction", "already exists", "already in the pool"}},
		{SendNonceTooLow, []string{"nonce too low", "oldnonce", "nonce is too low", "old nonce"}},
		{SendUnderpriced, []string{"replacement transaction underpriced", "replacementnotallowed", "could not replace", "replacement fee too low", "gas price too low to replace"}},
		{SendNoFunds, []string{"insufficient funds", "insufficientfunds", "insufficient balance for transfer", "sender doesn't have enough funds"}},
		{SendFeeTooLow, []string{"underpriced", "max fee per gas less than block base fee", "feetoolow", "fee too low", "tip too low", "gas price below", "below the minimum", "lower than the minimum"}},
		{SendWouldRevert, []string{"execution reverted", "would revert"}},
	} {
		for _, text := range row.texts {
			if strings.Contains(msg, text) {
				return row.outcome
			}
		}
	}
	return SendUnknown
}
