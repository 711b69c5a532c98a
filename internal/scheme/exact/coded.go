package exact

import (
	"sync"

	"facilitator/internal/chain"
)

// mostCoded bounds the payers that are remembered to have code.
const mostCoded = 16_384

// coded remembers payers who were seen to have code (EIP-7702): theirs runs in
// their payments, which get a call of their own.
type coded struct {
	mu     sync.Mutex
	payers map[chain.Address]bool
}

func (c *coded) add(a chain.Address) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.payers == nil || len(c.payers) >= mostCoded {
		c.payers = make(map[chain.Address]bool)
	}
	c.payers[a] = true
}

func (c *coded) has(a chain.Address) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.payers[a]
}
