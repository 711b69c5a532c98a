package test

import (
	"testing"

	"facilitator/internal/devnet"
)

// onBoth runs a test on the local chain and on the fork.
func onBoth(t *testing.T, f func(t *testing.T, c *devnet.Chain)) {
	t.Helper()
	t.Run("local", func(t *testing.T) { t.Parallel(); f(t, world.chain) })
	t.Run("fork", func(t *testing.T) { t.Parallel(); f(t, world.fork) })
}

func TestVerifyAndSettleMoveMoneyOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, c *devnet.Chain) {
		for _, version := range []int{1, 2} {
			s := setup{chain: c}.start(t)
			deal := sale(t, payers(t, c, 1)[0])
			deal.Version = version
			body := request(t, c, deal)

			verified := s.post(t, "/verify", body)
			if verified.status != 200 || !verified.is("isValid") || verified.str("payer") != deal.Payer.Address.Hex() {
				t.Fatalf("v%d verify: %d %s", version, verified.status, verified.text)
			}
			settled := s.post(t, "/settle", body)
			if settled.status != 200 || !settled.is("success") || len(settled.str("transaction")) != 66 {
				t.Fatalf("v%d settle: %d %s", version, settled.status, settled.text)
			}
			if got := received(t, c, deal.PayTo); got != 10_000 {
				t.Fatalf("v%d: payee has %d, want 10000", version, got)
			}
			again := s.post(t, "/settle", body)
			if again.is("success") || again.str("errorReason") != "duplicate_settlement" || again.str("transaction") != settled.str("transaction") {
				t.Fatalf("v%d repeat: %d %s", version, again.status, again.text)
			}
		}
	})
}
