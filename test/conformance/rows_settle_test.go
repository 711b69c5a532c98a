package conformance

import (
	"math/big"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

const pending = "settlement_pending"

// settlements are rows about payments that were settled before, or still are.
func settlements() []row {
	settle, sent := []string{callSettle}, []string{callSettle, callSimulated}
	// held asks while no block is made.
	held := func(d *desk, ask func() string) string {
		do(d.T, d.chain.SetAutomine(d.Context(), false))
		defer func() { do(d.T, d.release()) }()
		return ask()
	}
	// again asks until it is no longer under way.
	again := func(ask func() string) string {
		word := ask()
		for range 20 {
			if word != pending {
				break
			}
			word = ask()
		}
		return word
	}
	pays := func(d *desk) body { return d.pay() }
	return []row{
		{
			name: "it was settled here before", want: "duplicate_settlement",
			make: func(d *desk) body { b := d.pay(); d.settled(b); return b },
		},
		{
			name: "its transaction is not mined in time", want: pending, hasty: true, alone: true, calls: settle, make: pays,
			around: func(d *desk, _ body, ask func() string) string { return held(d, ask) },
		},
		{
			name: "it is repeated after settlement_pending", want: accepted, hasty: true, alone: true, calls: settle, make: pays,
			around: func(d *desk, _ body, ask func() string) string { held(d, ask); return again(ask) },
		},
		{
			name: "it is repeated after settlement_pending, for another payee", want: wrongRecipient,
			hasty: true, alone: true, calls: settle, make: pays,
			around: func(d *desk, b body, ask func() string) string {
				held(d, ask)
				b.set(requirements+".payTo", d.newKey().Address.Hex())
				return again(ask)
			},
		},
		{
			name: "it is verified while it is under way", want: "duplicate_settlement",
			hasty: true, alone: true, calls: []string{callVerify}, make: pays,
			around: func(d *desk, b body, ask func() string) string {
				return held(d, func() string {
					if _, _, err := d.answer(d.Context(), callSettle, b); err != nil {
						d.Fatal(err)
					}
					return ask()
				})
			},
		},
		{
			name: "the payer cancels before the transaction is mined", want: nonceUsed, alone: true, calls: sent, make: pays,
			around: func(d *desk, b body, ask func() string) string {
				return d.race(ask, d.newKey().Address, d.chain.USDC(), d.cancellation(b, d.payer))
			},
		},
		{
			name: "somebody else submits it before the transaction is mined", want: accepted, alone: true, calls: sent, make: pays,
			around: func(d *desk, b body, ask func() string) string {
				return d.race(ask, d.newKey().Address, d.chain.USDC(), d.transfer(b))
			},
		},
		{
			name: "the payer spends the money before the transaction is mined", want: poor, alone: true, calls: sent,
			make: func(d *desk) body {
				payer := d.newKey()
				d.fund(d.T, payer.Address)
				return d.pay(func(s *devnet.Sale) { s.Payer = payer })
			},
			around: func(d *desk, b body, ask func() string) string {
				payer := common.HexToAddress(b.str(authorization + ".from"))
				all := d.pack(d.T, "PlainToken", "transfer", d.newKey().Address, big.NewInt(1_000_000_000))
				return d.race(ask, payer, d.chain.USDC(), all)
			},
		},
		{
			name: "the node does not answer", want: "503", hasty: true, alone: true,
			calls: []string{callVerify}, make: pays,
			around: func(d *desk, _ body, ask func() string) string {
				d.node.silent.Store(true)
				defer d.node.silent.Store(false)
				return ask()
			},
		},
	}
}
