package evm

import (
	"context"
	"errors"
	"fmt"

	"facilitator/internal/chain"
	"facilitator/internal/coalesce"
)

// sanctionsGas is far above what a look into a mapping takes.
const sanctionsGas = 200_000

// maxScreened bounds the payments whose addresses share a round trip.
const maxScreened = 24

// Sanctions asks a sanctions oracle, for many callers together. It is safe for
// concurrent use.
type Sanctions struct {
	client *Client
	oracle chain.Address
	group  *coalesce.Group[[]chain.Address, []bool]
}

// NewSanctions asks the contract at oracle.
func NewSanctions(client *Client, oracle chain.Address) *Sanctions {
	s := &Sanctions{client: client, oracle: oracle}
	s.group = coalesce.New(maxScreened, maxShares, s.run).Crowded(crowd, crowdShares)
	return s
}

// Sanctioned answers for each address, in one round trip that others may share.
// The error is always of the third kind (I7): an oracle that reverts, answers
// something else than yes or no, or is not there has told nothing. Whom it was
// told to have in the same trip is true all the same.
func (s *Sanctions) Sanctioned(ctx context.Context, addresses []chain.Address) ([]bool, error) {
	answers, err := s.group.Do(ctx, addresses)
	return answers, unavailable(err)
}

func (s *Sanctions) run(ctx context.Context, asked [][]chain.Address) []coalesce.Result[[]bool] {
	var qs []*query
	var outs []*hexBytes
	for _, addresses := range asked {
		for _, a := range addresses {
			out := new(hexBytes)
			outs = append(outs, out)
			qs = append(qs, callQuery(Message{To: s.oracle, Data: pack(selIsSanctioned, addressWord(a)), Gas: sanctionsGas}, out))
		}
	}
	_ = s.client.askAll(ctx, qs) // each query holds its own outcome
	results := make([]coalesce.Result[[]bool], len(asked))
	next := 0
	for i, addresses := range asked {
		r := &results[i]
		r.Value = make([]bool, len(addresses))
		for k := range addresses {
			yes, err := sanctionsAnswer(qs[next], *outs[next])
			r.Value[k], r.Err = yes, errors.Join(r.Err, err)
			next++
		}
	}
	return results
}

func sanctionsAnswer(q *query, out []byte) (bool, error) {
	if revert, reverted := IsRevert(q.err); reverted {
		return false, fmt.Errorf("%w: the sanctions oracle reverts: %s", chain.ErrUnavailable, revert.Message)
	}
	if q.err != nil {
		return false, q.err
	}
	yes, ok := DecodeBool(out)
	if !ok || len(out) != 32 {
		return false, fmt.Errorf("%w: the sanctions oracle answers neither yes nor no", chain.ErrUnavailable)
	}
	return yes, nil
}
