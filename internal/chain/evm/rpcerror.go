package evm

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"facilitator/internal/chain"
	"facilitator/internal/redact"
)

// RevertError says that the EVM ran the call and it failed: a judgement.
type RevertError struct {
	// Data is what the contract returned, if the node told.
	Data []byte
	// Message is the node's or the contract's text, for people.
	Message string
}

func (e *RevertError) Error() string { return "reverted: " + e.Message }

// IsRevert returns the RevertError in err, if the call was judged.
func IsRevert(err error) (*RevertError, bool) {
	r := (*RevertError)(nil)
	ok := errors.As(err, &r)
	return r, ok
}

// Texts by which nodes say that the EVM ran a call and it failed, where they
// do not use error code 3 (geth, anvil, reth and erigon do).
func isExecutionText(msg string) bool {
	for _, text := range []string{
		"execution reverted", "vm execution error", "reverted", // nethermind, parity, older geth
		"out of gas", "gas required exceeds", "invalid opcode", "opcode 0xfe", "invalid jump",
		"stack underflow", "stack overflow", "stack limit reached", "write protection", "evmerror", "evm error", "outofgas",
		"gas uint64 overflow", "return data out of bounds", "max call depth exceeded",
	} {
		if strings.Contains(msg, text) {
			return true
		}
	}
	return false
}

// classify turns what the RPC library returned into nil, a *RevertError or an
// error wrapping chain.ErrUnavailable.
func (s scrubber) classify(err error) error {
	if err == nil {
		return nil
	}
	coded := rpc.Error(nil)
	if !errors.As(err, &coded) {
		return s.unavailable(err)
	}
	msg := strings.ToLower(coded.Error())
	const executionReverted = 3 // geth's own code, taken over by others
	if coded.ErrorCode() != executionReverted && !isExecutionText(msg) {
		return s.unavailable(err)
	}
	revert := &RevertError{Message: s.text(coded)}
	if data := rpc.DataError(nil); errors.As(err, &data) {
		revert.Data = revertData(data.ErrorData())
	}
	if text := decodeRevert(revert.Data); text != "" {
		revert.Message = text
	}
	return revert
}

// revertData finds the returned bytes: a hex string, or Nethermind's
// "Reverted 0x...".
func revertData(v any) []byte {
	s, ok := v.(string)
	if !ok {
		return nil
	}
	if i := strings.Index(s, "0x"); i >= 0 {
		if b, err := hexutil.Decode(s[i:]); err == nil {
			return b
		}
	}
	return nil
}

func (s scrubber) unavailable(err error) error {
	if errors.Is(err, chain.ErrUnavailable) {
		return err
	}
	// A context's end stays visible: the caller's own deadline is not a fault
	// of the node.
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", chain.ErrUnavailable, context.Canceled)
	}
	return fmt.Errorf("%w: %s", chain.ErrUnavailable, s.text(err))
}

// scrubber keeps a node's URL, and every part of it that may be a credential,
// out of every message (I10): nodes repeat their callers' keys in errors.
type scrubber struct{ secrets redact.Secrets }

func newScrubber(nodeURL string) scrubber { return scrubber{secrets: redact.Of(nodeURL)} }

// text is an error's message without URLs, secrets and the node's HTTP bodies.
func (s scrubber) text(err error) string {
	const most = 300
	var text string
	switch wrapped, status := (*url.Error)(nil), (rpc.HTTPError{}); {
	case errors.As(err, &status):
		text = fmt.Sprintf("HTTP status %d", status.StatusCode)
	case errors.As(err, &wrapped):
		text = wrapped.Err.Error()
	default:
		text = err.Error()
	}
	text = s.secrets.Text(text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
