package policy

import (
	"context"
	"time"

	"facilitator/internal/chain"
)

// Oracle is a contract on chain that knows sanctioned addresses; *evm.Sanctions
// is one.
type Oracle interface {
	// Sanctioned answers for each address, in one round trip. With an error it may
	// have answered for some: yes is an answer then, and no is none.
	Sanctioned(ctx context.Context, addresses []chain.Address) ([]bool, error)
}

// oracle keeps what an Oracle says of each address.
type oracle struct {
	*source
	asked Oracle
	kept  *cache[chain.Address, bool]
}

func newOracle(o Oracle, ttl time.Duration, now func() time.Time, s *source) *oracle {
	return &oracle{source: s, asked: o, kept: newCache[chain.Address, bool](ttl, now)}
}

func (o *oracle) ask(ctx context.Context, who []party) verdict {
	var unknown []party
	for i := range who {
		sanctioned, known := o.kept.get(who[i].address)
		if sanctioned {
			return verdict{hit: &who[i]}
		}
		if !known {
			unknown = append(unknown, who[i])
		}
	}
	if len(unknown) == 0 {
		return verdict{}
	}
	addresses := make([]chain.Address, len(unknown))
	for i := range unknown {
		addresses[i] = unknown[i].address
	}
	answers, err := o.asked.Sanctioned(ctx, addresses)
	switch {
	case err == nil:
		o.told(ctx, o.kept.now())
	case ctx.Err() == nil:
		o.failed(ctx, err)
	}
	v := verdict{err: err}
	for i, sanctioned := range answers {
		if sanctioned || err == nil {
			o.kept.put(unknown[i].address, sanctioned)
		}
		if sanctioned && v.hit == nil {
			v.hit = &unknown[i]
		}
	}
	return v
}
