package test

import (
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"facilitator/internal/devnet"
)

// backlog is a service with one place in its lane, which a payment has taken on
// a chain that is held: what is claimed now waits, and then goes together.
type backlog struct {
	*service
	chain   *devnet.Chain
	blocker <-chan settleAnswer
}

func newBacklog(t *testing.T, c *devnet.Chain, more string) backlog {
	t.Helper()
	payer := payers(t, c, 1)[0]
	held(t, c)
	s := setup{chain: c, overlay: "chains: {'" + c.Network() + "': {max_in_flight: 1}}", more: more}.start(t)
	body := request(t, c, sale(t, payer))
	b := backlog{service: s, chain: c, blocker: settleLater(t, s, body)}
	eventually(t, "the lane's place is taken", func() bool { return pooled(t, c) == 1 })
	return b
}

// claim has payments wait in the queue, in this order.
func (b backlog) claim(t *testing.T, bodies ...map[string]any) []<-chan settleAnswer {
	t.Helper()
	var answers []<-chan settleAnswer
	for _, body := range bodies {
		answers = append(answers, settleLater(t, b.service, body))
		eventuallyState(t, b.service, body, "queued")
	}
	return answers
}

// release has the lane's place free again.
func (b backlog) release(t *testing.T) {
	t.Helper()
	mine(t, b.chain, 1)
	wantSuccess(t, wait(t, b.blocker))
}

// carriers lists the payments of every transaction, oldest first.
func carriers(t *testing.T, s *service) []int64 {
	t.Helper()
	return queryRows[int64](t, s.databaseURL, `
SELECT (SELECT count(*) FROM payments p WHERE p.transaction_id = t.id) FROM transactions t ORDER BY t.id`)
}

func emptied(t *testing.T, c *devnet.Chain, payer devnet.Key) {
	t.Helper()
	data, err := foreignContract(t, "SilentToken").ABI.Pack("transfer", newKey(t, devnet.RolePayee).Address, big.NewInt(1_000_000_000))
	if err != nil {
		t.Fatal(err)
	}
	foreignRaw(t, c, payer, c.USDC(), data)
}

func cancelled(t *testing.T, c *devnet.Chain, payer devnet.Key, body map[string]any) {
	t.Helper()
	foreignRaw(t, c, payer, c.USDC(), foreignCancel(t, c, badCopy(t, body), payer))
}

// TestABadPaymentDoesNotSpoilItsBatch: its payer makes it fail before the batch
// is signed, which is seen and costs nothing, or after that.
func TestABadPaymentDoesNotSpoilItsBatch(t *testing.T) {
	t.Parallel()
	empty := func(t *testing.T, c *devnet.Chain, payer devnet.Key, _ map[string]any) {
		t.Helper()
		emptied(t, c, payer)
	}
	for _, row := range []struct {
		sentence       string
		spoil          func(*testing.T, *devnet.Chain, devnet.Key, map[string]any)
		signed         bool // before it is spoiled
		reason, reveal string
	}{
		{"emptied before it is signed", empty, false, "invalid_exact_evm_insufficient_balance", "would_fail"},
		{"cancelled before it is signed", cancelled, false, "invalid_exact_evm_nonce_already_used", "authorization_consumed"},
		{"emptied in the pool", empty, true, "invalid_exact_evm_insufficient_balance", "reverted"},
		{"cancelled in the pool", cancelled, true, "invalid_exact_evm_nonce_already_used", "authorization_consumed"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			c := startChain(t, devnet.ChainConfig{})
			keys := payers(t, c, 3)
			b := newBacklog(t, c, "")
			from := height(t, c)
			deals := make([]devnet.Sale, len(keys))
			bodies := make([]map[string]any, len(keys))
			for i, key := range keys {
				deals[i] = sale(t, key)
				bodies[i] = request(t, c, deals[i])
			}
			const bad = 1
			answers := b.claim(t, bodies...)
			if !row.signed {
				row.spoil(t, c, keys[bad], bodies[bad])
			}
			b.release(t)
			eventually(t, "the batch is in the pool", func() bool { return pooled(t, c) == 1 })
			if row.signed {
				row.spoil(t, c, keys[bad], bodies[bad])
			}
			mine(t, c, 1)
			hashes := map[string]bool{}
			for i, answer := range answers {
				r := wait(t, answer)
				if i == bad {
					if r.status != 200 || r.is("success") || r.str("errorReason") != row.reason {
						t.Errorf("the bad one: %d %s", r.status, r.text)
					}
					continue
				}
				hashes[wantSuccess(t, r)] = true
			}
			if len(hashes) != 1 {
				t.Errorf("the good ones were settled by %v", hashes)
			}
			for i, want := range []int{1, 0, 1} {
				if moved := paidTo(t, c, from, deals[i].PayTo); len(moved) != want {
					t.Errorf("payment %d: transfers %+v", i, moved)
				}
			}
			if kind := dig[string](t, recordOf(t, b.service, bodies[bad]), "evidence", "kind"); kind != row.reveal {
				t.Errorf("evidence %s, want %s", kind, row.reveal)
			}
			tries := queryRows[int64](t, b.databaseURL, "SELECT tries FROM payments WHERE state = 'failed'")
			want, carried := []int64{0}, []int64{1, 2}
			if row.signed {
				want, carried = []int64{1}, []int64{1, 3}
			}
			if got := carriers(t, b.service); !slices.Equal(tries, want) || !slices.Equal(got, carried) {
				t.Errorf("the bad one was signed %v times; transactions carry %v, want %v", tries, got, carried)
			}
			checkWallets(t, b.databaseURL, c, 2)
		})
	}
}

// TestForeignCodeNeverSharesATransaction: what a wallet's or an unknown token's
// code burns must be nobody else's.
func TestForeignCodeNeverSharesATransaction(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	keys := payers(t, c, 3)
	owner, account, buyer := newKey(t, devnet.RolePayer), newKey(t, devnet.RolePayer), newKey(t, devnet.RolePayer)
	wallet := foreignDeploy(t, c, "Wallet1271", owner.Address)
	delegate := foreignDeploy(t, c, "Delegate7702Accepts")
	walletFund(t, c, wallet)
	walletFund(t, c, account.Address)
	if err := c.SetCode(t.Context(), account.Address, types.AddressToDelegation(delegate)); err != nil {
		t.Fatal(err)
	}
	token := foreignToken(t, c, "SilentToken", buyer)

	b := newBacklog(t, c, badAnyAsset)
	var bodies []map[string]any
	add := func(deal devnet.Sale) { bodies = append(bodies, request(t, c, deal)) }
	add(sale(t, keys[0]))
	contract := sale(t, owner)
	contract.From = wallet
	add(contract)
	add(sale(t, keys[1]))
	add(sale(t, account))
	unlisted := sale(t, buyer)
	unlisted.Name, unlisted.Asset = "SilentToken", token
	add(unlisted)
	add(sale(t, keys[2]))
	// One delegates while it waits: the lane looks again.
	late := bodies[len(bodies)-1]
	answers := b.claim(t, bodies...)
	if err := c.SetCode(t.Context(), keys[2].Address, types.AddressToDelegation(delegate)); err != nil {
		t.Fatal(err)
	}
	b.release(t)
	if err := c.SetIntervalMining(t.Context(), 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	hashes := make([]string, len(answers))
	for i, answer := range answers {
		hashes[i] = wantSuccess(t, wait(t, answer))
	}
	if hashes[0] != hashes[2] {
		t.Errorf("two plain payments went apart: %v", hashes)
	}
	for i, what := range map[int]string{1: "a contract wallet", 3: "a delegated account", 4: "an unlisted token", 5: "an account that delegated meanwhile"} {
		if n := len(slices.DeleteFunc(slices.Clone(hashes), func(h string) bool { return h != hashes[i] })); n != 1 {
			t.Errorf("%s shares a transaction: %v", what, hashes)
		}
	}
	if got, _ := recordOf(t, b.service, late)["transaction"].(string); got != hashes[5] {
		t.Errorf("the record says %s, told was %s", got, hashes[5])
	}
	if got := carriers(t, b.service); !slices.Equal(got, []int64{1, 2, 1, 1, 1, 1}) {
		t.Errorf("transactions carry %v", got)
	}
	checkBatches(t, b.databaseURL, c, 7)
}

// TestABatchIsOneCallOfTheAggregator: and one payment is a call of its token.
func TestABatchIsOneCallOfTheAggregator(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	deals := manySales(t, c, 30)
	b := newBacklog(t, c, "chains: {'"+c.Network()+"': {batch: {max_payments: 12}}}")
	answers := b.claim(t, deals.bodies...)
	from := height(t, c)
	b.release(t)
	if err := c.SetIntervalMining(t.Context(), 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	replies := make([]reply, len(answers))
	to := map[common.Address]int{}
	seen := map[string]bool{}
	for i, answer := range answers {
		replies[i] = wait(t, answer)
		hash := wantSuccess(t, replies[i])
		if seen[hash] {
			continue
		}
		seen[hash] = true
		tx, _, err := c.Client().TransactionByHash(t.Context(), common.HexToHash(hash))
		if err != nil {
			t.Fatal(err)
		}
		to[*tx.To()]++
	}
	deals.check(t, c, from, replies)
	if got := carriers(t, b.service); !slices.Equal(got, []int64{1, 12, 12, 6}) || to[c.Multicall3()] != 3 || len(to) != 1 {
		t.Errorf("transactions carry %v and call %v", got, to)
	}
	checkBatches(t, b.databaseURL, c, 31)
}
