package evm

import (
	"context"

	"facilitator/internal/chain"
)

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
