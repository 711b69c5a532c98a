package evm

import (
	"context"
	"fmt"

	"facilitator/internal/chain"
	"facilitator/internal/coalesce"
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

// WalletQuestion asks whether an account accepts a signature (EIP-1271).
type WalletQuestion struct {
	Account   chain.Address
	Digest    chain.Hash
	Signature []byte
	// MaxGas that its code may burn.
	MaxGas uint64
}

// WalletAnswer says whether there is code, and whether it accepts the signature.
// Code that reverts, burns all gas or answers anything but the magic value does
// not.
type WalletAnswer struct{ HasCode, Valid bool }

// walletQueries are the two calls of a question.
type walletQueries struct {
	code, valid  *query
	bytes, magic hexBytes
}

func newWalletQueries(q WalletQuestion) *walletQueries {
	w := new(walletQueries)
	w.code = codeQuery(q.Account, &w.bytes)
	w.valid = callQuery(Message{To: q.Account, Data: IsValidSignatureData(q.Digest, q.Signature), Gas: q.MaxGas}, &w.magic)
	return w
}

func (w *walletQueries) answer() (WalletAnswer, error) {
	if w.code.err != nil {
		return WalletAnswer{}, notJudged(w.code.err)
	}
	if _, reverted := IsRevert(w.valid.err); w.valid.err != nil && !reverted {
		return WalletAnswer{}, w.valid.err
	}
	has := len(w.bytes) > 0
	return WalletAnswer{HasCode: has, Valid: has && w.valid.err == nil && IsValidSignatureResult(w.magic)}, nil
}

// walletsTogether reads accounts' code and asks them, in one round trip.
func (c *Client) walletsTogether(ctx context.Context, questions []WalletQuestion) []coalesce.Result[WalletAnswer] {
	asked := make([]*walletQueries, len(questions))
	qs := make([]*query, 0, 2*len(questions))
	for i, q := range questions {
		asked[i] = newWalletQueries(q)
		qs = append(qs, asked[i].code, asked[i].valid)
	}
	err := c.ask(ctx, qs...)
	results := make([]coalesce.Result[WalletAnswer], len(questions))
	for i, w := range asked {
		if results[i].Err = err; err == nil {
			results[i].Value, results[i].Err = w.answer()
		}
	}
	return results
}
