package test

import (
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/devnet"
)

// bumpSoon has a service raise fees at once, to more than a local node asks for.
var bumpSoon = []string{
	"FACILITATOR_CHAINS_EIP155_8453_BUMP_AFTER=500ms",
	"FACILITATOR_CHAINS_EIP155_8453_FEES_MAX_FEE_PER_GAS=100000000000",
	"FACILITATOR_CHAINS_EIP155_8453_FEES_MAX_PRIORITY_FEE_PER_GAS=20000000000",
}

// bumpingSoon is the same as YAML.
const bumpingSoon = `chains: {'eip155:8453': {bump_after: 500ms, fees: {max_fee_per_gas: 100_000_000_000, max_priority_fee_per_gas: 20_000_000_000}}}`

// priceOut raises the base fee of a chain that is held above what was offered
// so far, and lets it make blocks.
func priceOut(t *testing.T, c *devnet.Chain) {
	t.Helper()
	if err := c.RPC().CallContext(t.Context(), nil, "anvil_setNextBlockBaseFeePerGas", hexutil.Uint64(30_000_000_000)); err != nil {
		t.Fatal(err)
	}
	if err := c.SetIntervalMining(t.Context(), 250*time.Millisecond); err != nil {
		t.Fatal(err)
	}
}
