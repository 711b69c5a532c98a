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

		{"reth", -32003, "insufficient funds for gas * price + value + rollup: have 0 want 9", SendNoFunds},
		{"besu", -32004, "Upfront cost exceeds account balance", SendNoFunds},
		{"besu, newer", -32004, "transaction up-front cost 0x2 exceeds transaction sender account balance 0x1", SendNoFunds},
		{"Alchemy", -32000, "insufficient funds for gas * price + value: balance 0, tx cost 21000, overshot 21000", SendNoFunds},

		{"geth 1.17", -32000, "transaction gas price below minimum: gas tip cap 0, minimum needed 1", SendFeeTooLow},
		{"reth", -32003, "transaction feeCap 7 below chain minimum", SendFeeTooLow},
		{"Infura", -32000, "transaction underpriced", SendFeeTooLow},

		{"Alchemy", -32000, "already known", SendAlreadyKnown},
		{"QuickNode, on erigon", -32000, "ALREADY_EXISTS", SendAlreadyKnown},
		{"erigon", -32000, "existing txn with same hash", SendAlreadyKnown},
		{"reth's pool", -32603, "already imported", SendAlreadyKnown},
		{"hardhat", -32000, "Known transaction: 0x0b7a6d9a", SendAlreadyKnown},

		{"Infura", -32000, "nonce too low", SendNonceTooLow},
		{"Arbitrum's sequencer", -32000, "nonce too low: address 0xf39F, tx: 3 state: 5", SendNonceTooLow},
		{"hardhat", -32000, "Nonce too low. Expected nonce to be 1 but got 0.", SendNonceTooLow},

		{"reth's pool", -32603, "insufficient gas price to replace existing transaction", SendUnderpriced},
		{"besu", -32000, "Replacement transaction underpriced", SendUnderpriced},
		{"Alchemy", -32000, "replacement transaction underpriced", SendUnderpriced},

		{"geth", -32000, "txpool is full", SendUnavailable},
		{"geth", -32000, "out of capacity", SendUnavailable},
		{"geth", -32000, "account limit exceeded: pooled 16 txs", SendUnavailable},
		{"geth", -32000, "future transaction tries to replace pending", SendUnavailable},
		{"geth", -32000, "in-flight transaction limit reached for delegated accounts", SendUnavailable},
		{"geth", -32000, "address already reserved", SendUnavailable},
		{"geth", -32002, "request timed out", SendUnavailable},
		{"reth", -32003, "txpool is full", SendUnavailable},
		{"reth's pool", -32603, "transaction discarded outright due to pool size constraints", SendUnavailable},
		{"reth's pool", -32603, "rejected due to 0xf39F being identified as a spammer", SendUnavailable},
		{"erigon", -32000, "pending sub-pool is full", SendUnavailable},
		{"erigon", -32000, "spammer", SendUnavailable},
		{"nethermind", -32010, "DelegatorHasPendingTx", SendUnavailable},
		{"nethermind", -32010, "Syncing", SendUnavailable},
		{"besu", -32000, "Transaction pool is full", SendUnavailable},
		{"Infura", -32005, "daily request count exceeded, request rate limited", SendUnavailable},
		{"Infura", -32005, "project ID request rate exceeded", SendUnavailable},
		{"Alchemy", 429, "Your app has exceeded its compute units per second capacity.", SendUnavailable},
		{"Alchemy", 429, "", SendUnavailable},
		{"QuickNode", -32007, "50/second request limit reached - reduce calls per second or upgrade your account", SendUnavailable},
		{"a provider", -32005, "limit exceeded", SendUnavailable},
		{"Ankr", -32029, "Too many requests, reason: call rate limit exhausted", SendUnavailable},
		{"OP proxyd", -32016, "over rate limit", SendUnavailable},
		{"OP proxyd", -32017, "sender is over rate limit", SendUnavailable},
		{"OP proxyd", -32015, "gateway timeout", SendUnavailable},
		{"OP proxyd", -32018, "backend is currently not healthy to serve traffic", SendUnavailable},
		{"OP proxyd", -32011, "no backends available for method", SendUnavailable},

		{"geth", -32000, "intrinsic gas too low: gas 21000, minimum needed 26236", SendInvalid},
		{"geth", -32000, "insufficient gas for floor data gas cost: gas 21000, minimum needed 40000", SendInvalid},
		{"geth", -32000, "exceeds block gas limit", SendInvalid},
		{"geth", -32000, "transaction gas limit too high (cap: 16777216, tx: 20000000)", SendInvalid},
		{"geth", -32000, "tx fee (1.10 ether) exceeds the configured cap (1.00 ether)", SendInvalid},
		{"geth", -32000, "max priority fee per gas higher than max fee per gas: address 0xf39F, maxPriorityFeePerGas: 2, maxFeePerGas: 1", SendInvalid},
		{"geth", -32000, "invalid chain id for signer: have 1 want 8453", SendInvalid},
		{"geth", -32000, "invalid sender", SendInvalid},
		{"geth", -32000, "transaction type not supported", SendInvalid},
		{"geth", -32000, "oversized data: transaction size 200000, limit 131072", SendInvalid},
		{"geth", -32000, "rlp: value size exceeds available input length", SendInvalid},
		{"reth", -32000, "failed to decode signed transaction", SendInvalid},
		{"reth", -32003, "exceeds block gas limit", SendInvalid},
		{"anvil", -32003, "intrinsic gas too low", SendInvalid},
		{"erigon", -32000, "IntrinsicGas", SendInvalid},
		{"erigon", -32000, "RLPTooLong", SendInvalid},
		{"nethermind", -32010, "GasLimitExceeded, Gas limit: 100, gas limit of rejected tx: 101", SendInvalid},
		{"nethermind", -32010, "TxGasLimitCapExceeded", SendInvalid},
		{"nethermind", -32010, "NotSupportedTxType", SendInvalid},
		{"besu", -32003, "Intrinsic gas exceeds gas limit", SendInvalid},
		{"besu", -32005, "Transaction gas limit exceeds block gas limit", SendInvalid},
		{"besu", -32000, "Wrong chainId", SendInvalid},

		{"geth", -32000, "nonce too high", SendNonceGap},
		{"geth", -32000, "gapped-nonce tx from delegated accounts", SendNonceGap},
		{"nethermind", -32010, "NonceGap, Future nonce. Expected nonce: 5", SendNonceGap},
		{"nethermind", -32010, "NonceTooFarInFuture", SendNonceGap},
		{"besu", -32006, "Nonce too high", SendNonceGap},
		{"besu", -32000, "Transaction nonce is too distant from current sender nonce", SendNonceGap},
		{"besu", -32000, "An invalid transaction with a lower nonce exists", SendNonceGap},
		{"Arbitrum's sequencer", -32000, "nonce too high: address 0xf39F, tx: 7 state: 5", SendNonceGap},

		{"a provider", -32603, "Internal error", SendUnknown},
		{"a provider", -32000, "", SendUnknown},
		{"a provider", -32602, "unknown transaction type: 2", SendUnknown},
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
