package test

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

const whyExposed = "invalid_exact_evm_insufficient_balance"

// exposureModes are all there are; promises says whether payments that are under
// way count, and reserves whether verified ones do.
func exposureModes(t *testing.T, f func(t *testing.T, mode string, promises, reserves bool)) {
	t.Helper()
	for _, mode := range []string{"off", "in_flight", "reserve"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f(t, mode, mode != "off", mode == "reserve")
		})
	}
}

// exposed is two replicas with one record and one lane.
func exposed(t *testing.T, c *devnet.Chain, mode string) []*service {
	t.Helper()
	more := fmt.Sprintf("chains: {'%s': {exposure: %s}}", c.Network(), mode)
	first := setup{chain: c, overlay: unhurried(c), more: more}.start(t)
	second := setup{chain: c, lanes: first.lanes, databaseURL: first.databaseURL, overlay: unhurried(c), more: more}.start(t)
	return []*service{first, second}
}

// owner is a payer with so much USDC.
func owner(t *testing.T, c *devnet.Chain, amount int64) devnet.Key {
	t.Helper()
	key := newKey(t, devnet.RolePayer)
	if err := c.FundUSDC(t.Context(), big.NewInt(amount), key.Address); err != nil {
		t.Fatal(err)
	}
	return key
}

// overdraft is many payments of 10,000 by one payer to one payee.
func overdraft(t *testing.T, c *devnet.Chain, payer devnet.Key, n int) (payee common.Address, bodies []map[string]any) {
	t.Helper()
	deal := sale(t, payer)
	for range n {
		bodies = append(bodies, request(t, c, deal))
	}
	return deal.PayTo, bodies
}

// verifyAll verifies all at once, at the services in turn.
func verifyAll(t *testing.T, bodies []map[string]any, services []*service) []reply {
	t.Helper()
	answers := make([]reply, len(bodies))
	var callers sync.WaitGroup
	for i, body := range bodies {
		callers.Go(func() {
			var err error
			if answers[i], err = services[i%len(services)].tryPost(t.Context(), "/verify", body); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	return answers
}

// wantExposed wants a refusal that speaks of the payer's balance, by /settle.
func wantExposed(t *testing.T, r reply) {
	t.Helper()
	if r.status != 200 || r.is("success") || r.str("errorReason") != whyExposed || r.str("transaction") != "" {
		t.Errorf("want %s, got %d %s", whyExposed, r.status, r.text)
	}
}

// wantNoGasLost fails the test if a mined transaction paid nobody.
func wantNoGasLost(t *testing.T, s *service, payments int) {
	t.Helper()
	if n := queryRows[int64](t, s.databaseURL, "SELECT count(*) FROM transactions WHERE NOT succeeded")[0]; n != 0 {
		t.Errorf("%d transactions reverted", n)
	}
	if n := queryRows[int64](t, s.databaseURL, "SELECT count(*) FROM payments WHERE tries > 0")[0]; n > int64(payments) {
		t.Errorf("%d payments were signed, want %d at most", n, payments)
	}
}

// TestDuplicateSettlementRace: one payload, verified and settled many times at
// once at two replicas, buys once.
func TestDuplicateSettlementRace(t *testing.T) {
	t.Parallel()
	exposureModes(t, func(t *testing.T, mode string, _, _ bool) {
		t.Helper()
		const calls = 24
		c := world.chain
		services := exposed(t, c, mode)
		unstick(t, c, services[0].lanes)
		from := height(t, c)
		payee, one := overdraft(t, c, owner(t, c, 10_000), 1)
		bodies := slices.Repeat(one, calls)
		var settled []reply
		var both sync.WaitGroup
		both.Go(func() { settled = settleAll(t, bodies, calls, services...) })
		for _, r := range verifyAll(t, bodies, services) {
			// One that is verified before it is claimed is valid, and buys nothing.
			if r.status != 200 || !r.is("isValid") && r.str("invalidReason") != "duplicate_settlement" {
				t.Errorf("verify: %d %s", r.status, r.text)
			}
		}
		both.Wait()
		won := 0
		for _, r := range settled {
			if r.is("success") {
				won++
			} else if r.str("errorReason") != "duplicate_settlement" {
				t.Errorf("settle: %d %s", r.status, r.text)
			}
		}
		if moved := paidTo(t, c, from, payee); won != 1 || len(moved) != 1 {
			t.Errorf("%d successes, transfers %+v", won, moved)
		}
		if left := queryRows[int64](t, services[0].databaseURL, "SELECT count(*) FROM reservations")[0]; left != 0 {
			t.Errorf("%d reservations of what is settled", left)
		}
		wantNoGasLost(t, services[0], 1)
	})
}

// TestAllowanceOverdraft: a payer with money for three signs ten and has them all
// settled at once, at two replicas.
func TestAllowanceOverdraft(t *testing.T) {
	t.Parallel()
	exposureModes(t, func(t *testing.T, mode string, promises, _ bool) {
		t.Helper()
		const signed, funded = 10, 3
		c := startChain(t, devnet.ChainConfig{})
		payer := owner(t, c, funded*10_000+5)
		services := exposed(t, c, mode)
		s := services[0]
		held(t, c)
		from := height(t, c)
		payee, bodies := overdraft(t, c, payer, signed)
		var answers []<-chan settleAnswer
		for i, body := range bodies {
			answers = append(answers, settleLater(t, services[i%2], body))
		}
		claimed := funded
		if !promises {
			claimed = signed
		}
		eventually(t, "as many are claimed as may be", func() bool {
			return queryRows[int64](t, s.databaseURL, "SELECT count(*) FROM payments")[0] >= int64(claimed)
		})
		refused := 0
		if promises {
			// Nothing is mined: the others are refused for what is under way.
			eventually(t, "the others are refused", func() bool {
				answers = slices.DeleteFunc(answers, func(answer <-chan settleAnswer) bool {
					if len(answer) == 0 {
						return false
					}
					r := wait(t, answer)
					wantExposed(t, r)
					if says := r.str("errorMessage"); says != "the payer has 30005, of which 30000 are promised to 3 payments under way; the payment takes 10000" {
						t.Errorf("it is told %q", says)
					}
					refused++
					return true
				})
				return refused >= signed-funded
			})
		}
		if err := c.SetIntervalMining(t.Context(), 100_000_000); err != nil {
			t.Fatal(err)
		}
		won, lost := 0, refused
		for _, answer := range answers {
			if wait(t, answer).is("success") {
				won++
			} else {
				lost++
			}
		}
		if moved := paidTo(t, c, from, payee); len(moved) != won || won > funded || lost != signed-won || promises && won != funded {
			t.Errorf("%d successes, %d refused, transfers %+v", won, lost, moved)
		}
		if promises {
			wantNoGasLost(t, s, funded)
			if n := badCount(t.Context(), t, s.databaseURL, "payments"); n != funded {
				t.Errorf("%d payments were claimed", n)
			}
		}
	})
}

// TestAllowanceOverdraftWhileBlocksAreMade: what is settled meanwhile does not
// make room twice.
func TestAllowanceOverdraftWhileBlocksAreMade(t *testing.T) {
	t.Parallel()
	exposureModes(t, func(t *testing.T, mode string, promises, _ bool) {
		t.Helper()
		const signed, funded = 30, 7
		c := world.chain
		services := exposed(t, c, mode)
		unstick(t, c, services[0].lanes)
		from := height(t, c)
		payee, bodies := overdraft(t, c, owner(t, c, funded*10_000), signed)
		won := 0
		for _, r := range settleAll(t, bodies, signed, services...) {
			switch {
			case r.is("success"):
				won++
			case promises:
				wantExposed(t, r)
			}
		}
		if moved := paidTo(t, c, from, payee); len(moved) != won || won > funded || promises && won != funded {
			t.Errorf("%d successes, transfers %+v", won, moved)
		}
		if promises {
			wantNoGasLost(t, services[0], funded)
		}
	})
}

// TestVerificationsPromiseNoMoreThanThereIs: ten verifications at two replicas of
// a payer with money for three, then the settlements.
func TestVerificationsPromiseNoMoreThanThereIs(t *testing.T) {
	t.Parallel()
	exposureModes(t, func(t *testing.T, mode string, promises, reserves bool) {
		t.Helper()
		const signed, funded = 10, 3
		c := world.chain
		services := exposed(t, c, mode)
		unstick(t, c, services[0].lanes)
		from := height(t, c)
		payee, bodies := overdraft(t, c, owner(t, c, funded*10_000), signed)
		var good, bad []map[string]any
		for i, r := range verifyAll(t, bodies, services) {
			switch {
			case r.is("isValid"):
				good = append(good, bodies[i])
			case !reserves || r.str("invalidReason") != whyExposed || !strings.Contains(r.str("invalidMessage"), "promised to 3 verified payments"):
				t.Errorf("verify: %d %s", r.status, r.text)
			default:
				bad = append(bad, bodies[i])
			}
		}
		reserved := int64(0)
		if reserves {
			reserved = funded
		}
		if rows := queryRows[int64](t, services[0].databaseURL, "SELECT count(*) FROM reservations")[0]; rows != reserved {
			t.Errorf("%d rows are reserved, want %d", rows, reserved)
		}
		if reserves {
			if len(good) != funded {
				t.Fatalf("%d verified, want %d", len(good), funded)
			}
			// What is reserved is nobody else's, and stays the own one's.
			for _, r := range settleAll(t, bad, len(bad), services...) {
				wantExposed(t, r)
			}
			for _, r := range verifyAll(t, good, services) {
				if !r.is("isValid") {
					t.Errorf("verified again: %d %s", r.status, r.text)
				}
			}
			for _, r := range settleAll(t, good, len(good), services...) {
				wantSuccess(t, r)
			}
			good = nil
		}
		settleAll(t, good, signed, services...)
		if moved := paidTo(t, c, from, payee); len(moved) > funded || promises && len(moved) == 0 {
			t.Errorf("transfers %+v", moved)
		}
		if promises {
			wantNoGasLost(t, services[0], funded)
		}
	})
}

// TestAReservationThatIsOverMakesRoom for another payment.
func TestAReservationThatIsOverMakesRoom(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := exposed(t, c, "reserve")[0]
	_, bodies := overdraft(t, c, owner(t, c, 10_000), 2)
	if r := s.post(t, "/verify", bodies[0]); !r.is("isValid") {
		t.Fatalf("verify: %d %s", r.status, r.text)
	}
	wantInvalid(t, s, bodies[1], whyExposed)
	ends := queryRows[bool](t, s.databaseURL, "SELECT until BETWEEN now() + interval '280 seconds' AND now() + interval '300 seconds' FROM reservations")
	if !slices.Equal(ends, []bool{true}) {
		t.Errorf("it does not end with the resource server's timeout: %v", ends)
	}
	queryRows[int64](t, s.databaseURL, "UPDATE reservations SET until = now() RETURNING 1::bigint")
	if r := s.post(t, "/verify", bodies[1]); !r.is("isValid") {
		t.Errorf("after it was over: %d %s", r.status, r.text)
	}
	wantInvalid(t, s, bodies[0], whyExposed)
}

// TestAPaymentUnderWayIsTakenOffTheBalance until it is settled, then it is gone
// from the balance itself.
func TestAPaymentUnderWayIsTakenOffTheBalance(t *testing.T) {
	t.Parallel()
	exposureModes(t, func(t *testing.T, mode string, promises, _ bool) {
		t.Helper()
		c := startChain(t, devnet.ChainConfig{})
		payer := owner(t, c, 15_000)
		services := exposed(t, c, mode)
		s := services[0]
		held(t, c)
		_, bodies := overdraft(t, c, payer, 2)
		small := sale(t, payer)
		small.Amount = 5_000
		first := settleLater(t, services[1], bodies[0])
		eventuallyState(t, s, bodies[0], "broadcast")
		r := s.post(t, "/verify", bodies[1])
		if promises {
			wantInvalid(t, s, bodies[1], whyExposed)
			if says := r.str("invalidMessage"); says != "the payer has 15000, of which 10000 are promised to 1 payment under way; the payment takes 10000" {
				t.Errorf("it is told %q", says)
			}
		} else if !r.is("isValid") {
			t.Errorf("verify: %d %s", r.status, r.text)
		}
		wantInvalid(t, s, bodies[0], "duplicate_settlement")
		if err := c.SetAutomine(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		mine(t, c, 1)
		wantSuccess(t, wait(t, first))
		r = s.post(t, "/verify", bodies[1])
		if r.str("invalidReason") != whyExposed || !strings.Contains(r.str("invalidMessage"), "has 5000, the payment takes 10000") {
			t.Errorf("once it is settled: %d %s", r.status, r.text)
		}
		body := request(t, c, small)
		if r := s.post(t, "/verify", body); !r.is("isValid") {
			t.Errorf("what is left: %d %s", r.status, r.text)
		}
		wantSuccess(t, s.post(t, "/settle", body))
	})
}

// TestAPayerWithEnoughIsNeverHeldUp: all its payments settle, however many are
// under way at once.
func TestAPayerWithEnoughIsNeverHeldUp(t *testing.T) {
	t.Parallel()
	exposureModes(t, func(t *testing.T, mode string, _, _ bool) {
		t.Helper()
		const many = 48
		c := startChain(t, devnet.ChainConfig{})
		payer := owner(t, c, many*10_000)
		services := exposed(t, c, mode)
		unstick(t, c, services[0].lanes)
		if err := c.SetIntervalMining(t.Context(), 200_000_000); err != nil {
			t.Fatal(err)
		}
		from := height(t, c)
		payee, bodies := overdraft(t, c, payer, many)
		for i, r := range verifyAll(t, bodies, services) {
			if !r.is("isValid") {
				t.Errorf("verify %d: %d %s", i, r.status, r.text)
			}
		}
		for _, r := range settleAll(t, bodies, many, services...) {
			wantSuccess(t, r)
		}
		if moved := paidTo(t, c, from, payee); len(moved) != many {
			t.Errorf("%d transfers", len(moved))
		}
	})
}

// TestAnAccountThatIsEmptiedAfterVerifyCostsNoGas: the settlement is refused.
func TestAnAccountThatIsEmptiedAfterVerifyCostsNoGas(t *testing.T) {
	t.Parallel()
	exposureModes(t, func(t *testing.T, mode string, _, _ bool) {
		t.Helper()
		c := world.chain
		s := exposed(t, c, mode)[0]
		payer := payers(t, c, 1)[0]
		payee, bodies := overdraft(t, c, payer, 1)
		if r := s.post(t, "/verify", bodies[0]); !r.is("isValid") {
			t.Fatalf("verify: %d %s", r.status, r.text)
		}
		emptied(t, c, payer)
		eventually(t, "it shows", func() bool { return received(t, c, payer.Address) == 0 })
		wantExposed(t, s.post(t, "/settle", bodies[0]))
		if n := badCount(t.Context(), t, s.databaseURL, "payments"); n != 0 || received(t, c, payee) != 0 {
			t.Errorf("%d payments were claimed", n)
		}
		if n := badCount(t.Context(), t, s.databaseURL, "attempts"); n != 0 {
			t.Errorf("%d transactions were signed", n)
		}
	})
}
