package evm

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"facilitator/internal/chain"
)

// TestWhatNodesSayOfATransaction is a corpus of messages that nodes and
// providers really send.
func TestWhatNodesSayOfATransaction(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		node    string
		code    int
		message string
		want    SendOutcome
	}{
		{"geth", -32000, "already known", SendAlreadyKnown},
		{"geth, older", -32000, "known transaction: 0b7a6d9a", SendAlreadyKnown},
		{"op-geth", -32000, "already known", SendAlreadyKnown},
		{"reth", -32000, "already known", SendAlreadyKnown},
		{"erigon", -32000, "ALREADY_EXISTS: already known", SendAlreadyKnown},
		{"nethermind", -32010, "AlreadyKnown", SendAlreadyKnown},
		{"anvil", -32003, "transaction already imported", SendAlreadyKnown},
		{"besu", -32000, "Known transaction", SendAlreadyKnown},
		{"parity", -32010, "Transaction with the same hash was already imported.", SendAlreadyKnown},

		{"geth", -32000, "nonce too low: next nonce 5, tx nonce 3", SendNonceTooLow},
		{"op-geth", -32000, "nonce too low: address 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266, tx: 0 state: 2", SendNonceTooLow},
		{"reth", -32000, "nonce too low: next nonce 2, tx nonce 1", SendNonceTooLow},
		{"erigon", -32000, "nonce too low", SendNonceTooLow},
		{"nethermind", -32010, "OldNonce, Current nonce: 5, nonce of rejected tx: 3", SendNonceTooLow},
		{"anvil", -32003, "nonce too low", SendNonceTooLow},
		{"besu", -32001, "Nonce too low", SendNonceTooLow},
		{"parity", -32010, "Transaction nonce is too low. Try incrementing the nonce.", SendNonceTooLow},

		{"geth", -32000, "replacement transaction underpriced", SendUnderpriced},
		{"geth, blob pool", -32000, "replacement transaction underpriced: new tx gas fee cap 1 < 2 queued", SendUnderpriced},
		{"reth", -32000, "replacement transaction underpriced", SendUnderpriced},
		{"erigon", -32000, "could not replace existing tx", SendUnderpriced},
		{"erigon, newer", -32000, "INTERNAL_ERROR: could not replace existing tx", SendUnderpriced},
		{"nethermind", -32010, "ReplacementNotAllowed", SendUnderpriced},
		{"anvil", -32003, "replacement transaction underpriced", SendUnderpriced},
		{"parity", -32010, "Transaction gas price is too low. There is another transaction with same nonce in the queue, gas price too low to replace", SendUnderpriced},

		{"geth", -32000, "insufficient funds for gas * price + value: balance 0, tx cost 21000, overshot 21000", SendNoFunds},
		{"op-geth, with L1 fee", -32000, "insufficient funds for gas * price + value + rollup: have 1 want 2", SendNoFunds},
		{"reth", -32000, "insufficient funds for gas * price + value: have 0 want 21000", SendNoFunds},
		{"erigon", -32000, "insufficient funds", SendNoFunds},
		{"nethermind", -32010, "InsufficientFunds, Account balance: 0, cumulative cost: 21000", SendNoFunds},
		{"anvil", -32003, "Insufficient funds for gas * price + value", SendNoFunds},
		{"hardhat", -32000, "Sender doesn't have enough funds to send tx", SendNoFunds},

		{"geth", -32000, "transaction underpriced: gas tip cap 0, minimum needed 1000000", SendFeeTooLow},
		{"geth, pool full of better", -32000, "transaction underpriced", SendFeeTooLow},
		{"geth", -32000, "max fee per gas less than block base fee: address 0xf39F, maxFeePerGas: 1, baseFee: 7", SendFeeTooLow},
		{"reth", -32000, "max fee per gas less than block base fee", SendFeeTooLow},
		{"erigon", -32000, "fee too low", SendFeeTooLow},
		{"erigon", -32000, "INTERNAL_ERROR: underpriced", SendFeeTooLow},
		{"nethermind", -32010, "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 7", SendFeeTooLow},
		{"nethermind", -32010, "FeeTooLowToCompete", SendFeeTooLow},
		{"anvil", -32003, "max fee per gas less than block base fee", SendFeeTooLow},
		{"besu", -32009, "Gas price below configured minimum gas price", SendFeeTooLow},

		{"a provider that simulates", -32000, "execution reverted: FiatTokenV2: authorization is used or canceled", SendWouldRevert},
		{"a sequencer that simulates", 3, "transaction would revert", SendWouldRevert},

		{"geth", -32000, "nonce too high", SendUnknown},
		{"geth", -32000, "txpool is full", SendUnknown},
		{"geth", -32000, "gapped-nonce tx from delegated accounts", SendUnknown},
		{"geth", -32000, "in-flight transaction limit reached for delegated accounts", SendUnknown},
		{"geth", -32000, "intrinsic gas too low: gas 21000, minimum needed 26236", SendUnknown},
		{"geth", -32000, "exceeds block gas limit", SendUnknown},
		{"geth", -32000, "transaction gas limit too high (cap: 16777216, tx: 20000000)", SendUnknown},
		{"geth", -32000, "tx fee (1.10 ether) exceeds the configured cap (1.00 ether)", SendUnknown},
		{"geth", -32000, "invalid chain id for signer: have 1 want 8453", SendUnknown},
		{"geth", -32000, "transaction type not supported", SendUnknown},
		{"erigon", -32000, "pending sub-pool is full", SendUnknown},
		{"erigon", -32000, "spammer", SendUnknown},
		{"nethermind", -32010, "NonceGap, Future nonce. Expected nonce: 5", SendUnknown},
		{"a provider", -32603, "Internal error", SendUnknown},
		{"a provider", -32005, "daily request count exceeded, request rate limited", SendUnknown},
		{"a provider", -32000, "", SendUnknown},
	} {
		t.Run(c.node+" says "+c.message, func(t *testing.T) {
			t.Parallel()
			client := serve(t, node(func(method string, _ []json.RawMessage) (any, *nodeError) {
				if method != "eth_sendRawTransaction" {
					t.Errorf("asked %s", method)
				}
				return nil, &nodeError{Code: c.code, Message: c.message}
			}))
			outcome, err := client.SendRaw(t.Context(), []byte{2})
			if outcome != c.want {
				t.Errorf("outcome %s, want %s", outcome, c.want)
			}
			if accepted := c.want == SendAlreadyKnown; accepted != (err == nil) || !accepted && !errors.Is(err, chain.ErrUnavailable) {
				t.Errorf("error %v", err)
			}
			if _, judged := IsRevert(err); judged {
				t.Errorf("a node's word about a transaction judges a payment: %v", err)
			}
		})
	}
}

func TestAnAcceptedTransactionIsSentAsItIs(t *testing.T) {
	t.Parallel()
	client := serve(t, node(func(_ string, params []json.RawMessage) (any, *nodeError) {
		if len(params) != 1 || string(params[0]) != `"0x02f8ab"` {
			t.Errorf("sent %s", params)
		}
		return "0x" + strings.Repeat("ab", 32), nil
	}))
	if outcome, err := client.SendRaw(t.Context(), []byte{0x02, 0xf8, 0xab}); outcome != SendAccepted || err != nil {
		t.Errorf("%s, %v", outcome, err)
	}
}
