package policy

import (
	"context"
	"time"

	"facilitator/internal/chain"
)

// Oracle is a contract on chain that knows sanctioned addresses; *evm.Sanctions
// is one.
type Oracle interface {
	// Sanctioned answers for each address, in one round trip.
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
	if err != nil {
		if ctx.Err() == nil {
			o.failed(ctx, err)
		}
		return verdict{err: err}
	}
	o.told(ctx, o.kept.now())
	var v verdict
	for i := range unknown {
		o.kept.put(unknown[i].address, answers[i])
		if answers[i] && v.hit == nil {
			v.hit = &unknown[i]
		}
	}
	return v
}
