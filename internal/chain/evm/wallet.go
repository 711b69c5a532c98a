package evm

import (
	"context"
	"fmt"

	"facilitator/internal/chain"
)

// CallWithCode is the outcome of a call, and who has code.
type CallWithCode struct {
	Data []byte
	// CallErr is nil or a *RevertError.
	CallErr error
	// HasCode has every account that was asked about.
	HasCode map[chain.Address]bool
}

// CallWithCode runs eth_call and asks which accounts have code at the latest
// block, in one round trip. The error says that the node could not tell a part
// of it; of what it told, nothing is returned then.
func (c *Client) CallWithCode(ctx context.Context, m Message, accounts []chain.Address) (CallWithCode, error) {
	out := CallWithCode{HasCode: make(map[chain.Address]bool, len(accounts))}
	for _, a := range accounts {
		out.HasCode[a] = false
	}
	var data hexBytes
	codes := make(map[chain.Address]*hexBytes, len(out.HasCode))
	qs := make([]*query, 0, len(out.HasCode)+1)
	for a := range out.HasCode {
		codes[a] = new(hexBytes)
		qs = append(qs, codeQuery(a, codes[a]))
	}
	call := callQuery(m, &data)
	if err := c.askAll(ctx, append(qs, call)); err != nil {
		return CallWithCode{}, err
	}
	for _, q := range qs {
		if q.err != nil {
			return CallWithCode{}, notJudged(q.err)
		}
	}
	if _, judged := IsRevert(call.err); call.err != nil && !judged {
		return CallWithCode{}, call.err
	}
	for a, code := range codes {
		out.HasCode[a] = len(*code) > 0
	}
	out.Data, out.CallErr = data, call.err
	return out, nil
}

// notJudged is the error of a question that is no call: what looks like a
// judgement of the EVM is none (I7).
func notJudged(err error) error {
	if revert, ok := IsRevert(err); ok {
		return fmt.Errorf("%w: %s", chain.ErrUnavailable, revert.Message)
	}
	return err
}

// Wallet reads an account's code and asks it whether it accepts a signature
// (EIP-1271), in one round trip. Code that reverts, burns maxGas or answers
// anything but the magic value does not accept it.
func (c *Client) Wallet(ctx context.Context, a chain.Address, digest chain.Hash, signature []byte, maxGas uint64) (code []byte, valid bool, err error) {
	var gotCode, answer hexBytes
	ask := callQuery(Message{To: a, Data: IsValidSignatureData(digest, signature), Gas: maxGas}, &answer)
	has := codeQuery(a, &gotCode)
	if err := c.ask(ctx, has, ask); err != nil {
		return nil, false, err
	}
	if has.err != nil {
		return nil, false, has.err
	}
	if _, reverted := IsRevert(ask.err); ask.err != nil && !reverted {
		return nil, false, ask.err
	}
	return gotCode, len(gotCode) > 0 && ask.err == nil && IsValidSignatureResult(answer), nil
}
