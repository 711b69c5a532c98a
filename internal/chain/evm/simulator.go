package evm

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/chain"
	"facilitator/internal/coalesce"
)

const (
	// maxShared bounds the calls that share a round trip.
	maxShared = 64
	// maxShares bounds how many such round trips are under way at a time.
	maxShares = 4
)

// Simulator runs eth_calls of many callers together: while some are under way,
// those that come wait and then share one round trip. Each call has its own
// copy of the state and its own gas, so none can tell that it had company. It
// is safe for concurrent use.
type Simulator struct {
	group *coalesce.Group[Message, atHeight]
}

type atHeight struct {
	data    []byte
	atLeast uint64
}

// NewSimulator runs calls by way of client.
func NewSimulator(client *Client) *Simulator {
	run := func(ctx context.Context, ms []Message) []coalesce.Result[atHeight] {
		return client.callTogether(ctx, ms)
	}
	return &Simulator{group: coalesce.New(maxShared, maxShares, run)}
}

// CallLatest is Client.CallLatest, in company. If ctx ends first, the error is
// of the third kind and wraps its cause.
func (s *Simulator) CallLatest(ctx context.Context, m Message) (data []byte, atLeast uint64, _ error) {
	out, err := s.group.Do(ctx, m)
	if _, judged := IsRevert(err); err != nil && !judged && !errors.Is(err, chain.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", chain.ErrUnavailable, err)
	}
	return out.data, out.atLeast, err
}

// callTogether asks for the height before the calls, so that it is at most that
// of every call's state.
func (c *Client) callTogether(ctx context.Context, ms []Message) []coalesce.Result[atHeight] {
	var height hexutil.Uint64
	outs := make([]hexBytes, len(ms))
	number := &query{method: "eth_blockNumber", result: &height}
	qs := append(make([]*query, 0, len(ms)+1), number)
	for i, m := range ms {
		qs = append(qs, callQuery(m, &outs[i]))
	}
	err := c.ask(ctx, qs...)
	if err == nil && number.err != nil {
		err = notJudged(number.err)
	}
	results := make([]coalesce.Result[atHeight], len(ms))
	for i := range ms {
		if err != nil {
			results[i].Err = err
			continue
		}
		results[i] = coalesce.Result[atHeight]{Value: atHeight{data: outs[i], atLeast: uint64(height)}, Err: qs[i+1].err}
	}
	return results
}
