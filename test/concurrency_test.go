package test

import (
	"context"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/devnet"
)

func TestIdenticalConcurrentCallsSettleOnce(t *testing.T) {
	t.Parallel()
	const pairs = 50
	c := world.chain
	s := setup{chain: c, overlay: unhurried(c)}.start(t)
	unstick(t, c, s.lanes)
	deals := manySales(t, c, pairs)
	from := height(t, c)
	answers := settleAll(t, append(slices.Clone(deals.bodies), deals.bodies...), 2*pairs, s)
	told := make([]reply, pairs)
	for i := range told {
		other := answers[i+pairs]
		if told[i] = answers[i]; other.is("success") {
			told[i], other = other, told[i]
		}
		wantDuplicate(t, other, wantSuccess(t, told[i]))
	}
	deals.check(t, c, from, told)
	checkBatches(t, s.databaseURL, c, pairs)
	checkQuiet(t, s)
}

func TestManyPaymentsAtOnceAllSettle(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name        string
		count       int
		lanes       int
		concurrency int
		blockTime   time.Duration
	}{
		{"one lane, a block per transaction", 200, 1, 32, 0},
		{"one lane, a block every two seconds", 200, 1, 32, 2 * time.Second},
		{"four lanes, a block per transaction", 64, 4, 32, 0},
		{"four lanes, a block every second", 64, 4, 64, time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := startChain(t, devnet.ChainConfig{})
			deals := manySales(t, c, row.count)
			if row.blockTime > 0 {
				if err := c.SetIntervalMining(t.Context(), row.blockTime); err != nil {
					t.Fatal(err)
				}
			}
			s := setup{chain: c, lanes: newKeys(t, devnet.RoleLane, row.lanes), overlay: unhurried(c)}.start(t)
			unstick(t, c, s.lanes)
			from := height(t, c)
			answers := settleAll(t, deals.bodies, row.concurrency, s)
			for i, r := range answers {
				if strings.Contains(r.text, "underpriced") || strings.Contains(r.text, "nonce") {
					t.Errorf("payment %d: %s", i, r.text)
				}
			}
			deals.check(t, c, from, answers)
			signed := checkBatches(t, s.databaseURL, c, row.count)
			checkQuiet(t, s)
			// What arrives while a block is awaited goes together.
			if row.blockTime > 0 && signed >= row.count {
				t.Errorf("%d payments took %d transactions", row.count, signed)
			}
			used := queryRows[int64](t, s.databaseURL, "SELECT DISTINCT lane_id FROM transactions")
			if row.lanes > 1 && row.blockTime > 0 && len(used) == 1 {
				t.Errorf("all went over one of %d lanes", row.lanes)
			}
		})
	}
}

func TestTwoServicesShareOneLane(t *testing.T) {
	t.Parallel()
	const count = 100
	c := world.chain
	first := setup{chain: c, overlay: unhurried(c)}.start(t)
	second := setup{chain: c, lanes: first.lanes, databaseURL: first.databaseURL, overlay: unhurried(c)}.start(t)
	unstick(t, c, first.lanes)
	deals := manySales(t, c, count)
	from := height(t, c)
	answers := settleAll(t, deals.bodies, 32, first, second)
	deals.check(t, c, from, answers)
	checkBatches(t, first.databaseURL, c, count)
	for i, body := range deals.bodies { // the other one knows
		s := []*service{second, first}[i%2]
		if i < 4 {
			wantDuplicate(t, s.post(t, "/settle", body), answers[i].str("transaction"))
		}
	}
}

func TestWalletThatSomebodyElseUsedSettles(t *testing.T) {
	t.Parallel()
	c := world.chain
	lane := newKey(t, devnet.RoleLane)
	payer := payers(t, c, 1)[0]
	first := setup{chain: c, lanes: []devnet.Key{lane}}
	first.configuration(t) // funds the lane
	use := func(times int) {
		t.Helper()
		for range times {
			spend(t, c, lane)
		}
	}
	use(3)
	s := first.start(t)
	wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer))))
	checkWallets(t, s.databaseURL, c, 1)
	s.stop()

	use(2)
	second := setup{chain: c, lanes: first.lanes, databaseURL: s.databaseURL}.start(t)
	wantSuccess(t, second.post(t, "/settle", request(t, c, sale(t, payer))))
	nonces := queryRows[int64](t, s.databaseURL, "SELECT wallet_nonce FROM transactions ORDER BY id")
	if !slices.Equal(nonces, []int64{3, 6}) {
		t.Errorf("wallet nonces %v, want 3 and 6: others used 0 to 2, then 4 and 5", nonces)
	}
}

// spend uses a wallet without the service's knowledge.
func spend(t *testing.T, c *devnet.Chain, wallet devnet.Key) {
	t.Helper()
	nonce, err := c.Client().NonceAt(t.Context(), wallet.Address, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := new(big.Int).SetUint64(c.ChainID())
	tx, err := types.SignNewTx(wallet.Private, types.LatestSignerForChainID(id), &types.DynamicFeeTx{
		ChainID: id, Nonce: nonce, GasTipCap: big.NewInt(1), GasFeeCap: big.NewInt(10_000_000_000), Gas: 21_000, To: &wallet.Address, Value: new(big.Int),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Client().SendTransaction(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the wallet's own transaction is mined", func() bool {
		next, err := c.Client().NonceAt(t.Context(), wallet.Address, nil)
		return err == nil && next > nonce
	})
}

// TestAuthorizationServesOneSale offers the signature of a payment as the
// payment of something else, at every point of its way.
func TestAuthorizationServesOneSale(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	keys := payers(t, c, 3)
	held(t, c)
	chain := "chains: {'" + c.Network() + "': {max_in_flight: 1, finality_depth: 2, allow_any_asset: true}}"
	s := setup{chain: c, overlay: chain}.start(t)
	from := height(t, c)
	thief := newKey(t, devnet.RolePayee).Address
	deals := make([]devnet.Sale, len(keys))
	bodies := make([]map[string]any, len(keys))
	for i := range keys {
		deals[i] = sale(t, keys[i])
		bodies[i] = request(t, c, deals[i])
	}
	misuse := func(body map[string]any, state string) {
		t.Helper()
		if got := recordOf(t, s, body)["state"]; got != state {
			t.Fatalf("the payment is %v, want %s", got, state)
		}
		for name, other := range misuses(t, body, thief) {
			r := s.post(t, "/settle", other)
			if r.status != http.StatusOK || r.is("success") || r.str("errorReason") == "" || r.str("errorReason") == "settlement_pending" {
				t.Errorf("%s, while the payment is %s: %d %s", name, state, r.status, r.text)
			}
			if v := s.post(t, "/verify", other); v.status != http.StatusOK || v.is("isValid") {
				t.Errorf("%s, verified while the payment is %s: %d %s", name, state, v.status, v.text)
			}
		}
	}

	first := settleLater(t, s, bodies[0])
	eventuallyState(t, s, bodies[0], "broadcast")
	second := settleLater(t, s, bodies[1]) // the lane has no place for it
	eventuallyState(t, s, bodies[1], "queued")
	misuse(bodies[0], "broadcast")
	misuse(bodies[1], "queued")

	mine(t, c, 1)
	wantSuccess(t, wait(t, first))
	misuse(bodies[0], "included")
	eventuallyState(t, s, bodies[1], "broadcast")
	mine(t, c, 3)
	wantSuccess(t, wait(t, second))
	eventuallyState(t, s, bodies[0], "final")
	misuse(bodies[0], "final")

	third := settleLater(t, s, bodies[2])
	eventuallyState(t, s, bodies[2], "broadcast")
	if err := c.IncreaseTime(t.Context(), time.Hour); err != nil { // mined too late: it reverts
		t.Fatal(err)
	}
	if r := wait(t, third); r.is("success") || r.str("errorReason") == "settlement_pending" {
		t.Fatalf("an expired payment: %s", r.text)
	}
	misuse(bodies[2], "failed")

	for i, want := range []int{1, 1, 0} {
		if moved := paidTo(t, c, from, deals[i].PayTo); len(moved) != want {
			t.Errorf("payment %d: transfers %+v, want %d", i, moved, want)
		}
	}
	if moved := paidTo(t, c, from, thief); len(moved) > 0 {
		t.Errorf("the thief got %+v", moved)
	}
	checkWallets(t, s.databaseURL, c, 3)
}

// misuses are requests that name the authorization of body but are not body.
func misuses(t *testing.T, body map[string]any, thief common.Address) map[string]map[string]any {
	t.Helper()
	const requirements, payload = "paymentRequirements", "paymentPayload"
	change := func(do func(asked, accepted, authorization, signed map[string]any)) map[string]any {
		var other map[string]any
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &other); err != nil {
			t.Fatal(err)
		}
		do(dig[map[string]any](t, other, requirements), dig[map[string]any](t, other, payload, "accepted"),
			dig[map[string]any](t, other, payload, "payload", "authorization"), dig[map[string]any](t, other, payload, "payload"))
		return other
	}
	return map[string]map[string]any{
		"another payTo is asked": change(func(asked, accepted, _, _ map[string]any) {
			asked["payTo"], accepted["payTo"] = thief, thief
		}),
		"another payTo is asked and said to be signed": change(func(asked, accepted, authorization, _ map[string]any) {
			asked["payTo"], accepted["payTo"], authorization["to"] = thief, thief, thief
		}),
		"another amount is asked": change(func(asked, accepted, _, _ map[string]any) {
			asked["amount"], accepted["amount"] = "20000", "20000"
		}),
		"another amount is asked and said to be signed": change(func(asked, accepted, authorization, _ map[string]any) {
			asked["amount"], accepted["amount"], authorization["value"] = "1", "1", "1"
		}),
		"another asset is asked": change(func(asked, accepted, _, _ map[string]any) {
			other := common.HexToAddress("0xcA11bde05977b3631167028862bE2a173976CA11").Hex()
			asked["asset"], accepted["asset"] = other, other
		}),
		"the signature is malleated": change(func(_, _, _, signed map[string]any) {
			signed["signature"] = malleated(t, dig[string](t, signed, "signature"))
		}),
		"the signature is malleated and another payTo asked": change(func(asked, accepted, _, signed map[string]any) {
			asked["payTo"], accepted["payTo"] = thief, thief
			signed["signature"] = malleated(t, dig[string](t, signed, "signature"))
		}),
	}
}

// malleated is the other signature of the same message by the same key.
func malleated(t *testing.T, signature string) string {
	t.Helper()
	raw, err := hexutil.Decode(signature)
	if err != nil || len(raw) != 65 {
		t.Fatalf("signature %s: %v", signature, err)
	}
	order := crypto.S256().Params().N
	new(big.Int).Sub(order, new(big.Int).SetBytes(raw[32:64])).FillBytes(raw[32:64])
	raw[64] = 27 + 28 - raw[64]
	return hexutil.Encode(raw)
}

// unhurried resends as seldom as in production and lets callers wait for long.
func unhurried(c *devnet.Chain) string {
	return "settle: {wait: 1m}\nchains: {'" + c.Network() + "': {resend_interval: 3s}}"
}

// unstick clears the pool of a lane of which the node has forgotten to mine a
// transaction, until the test ends: the service sends it again. What anvil takes
// while it mines the wallet nonce before can be queued for ever behind that
// nonce, whatever is mined later; other nodes look again at every block.
func unstick(t *testing.T, c *devnet.Chain, lanes []devnet.Key) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() {
		look := time.NewTicker(250 * time.Millisecond)
		defer look.Stop()
		stuck := make(map[common.Address]common.Hash)
		for {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
			for _, lane := range lanes {
				before := stuck[lane.Address]
				now := nextQueued(ctx, c, lane.Address)
				if stuck[lane.Address] = now; now != (common.Hash{}) && now == before {
					_ = c.RPC().CallContext(ctx, nil, "anvil_removePoolTransactions", lane.Address) // it is looked at again
				}
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		watch.Wait()
	})
}

// nextQueued is a wallet's transaction that waits for a wallet nonce below its
// own although its own is the next; zero where there is none.
func nextQueued(ctx context.Context, c *devnet.Chain, wallet common.Address) common.Hash {
	var pool struct {
		Queued map[common.Address]map[string]struct{ Hash common.Hash }
	}
	next, err := c.Client().NonceAt(ctx, wallet, nil)
	if err != nil || c.RPC().CallContext(ctx, &pool, "txpool_content") != nil {
		return common.Hash{}
	}
	return pool.Queued[wallet][strconv.FormatUint(next, 10)].Hash
}

// sales are many payments to one payee, each of another amount.
type sales struct {
	payee  common.Address
	bodies []map[string]any
	nonces []string
}

func manySales(t *testing.T, c *devnet.Chain, n int) sales {
	t.Helper()
	keys := payers(t, c, 10)
	out := sales{payee: newKey(t, devnet.RolePayee).Address}
	for i := range n {
		deal := devnet.Sale{Payer: keys[i%len(keys)], PayTo: out.payee, Amount: uint64(10_000 + i)}.ForNow(time.Now(), 10*time.Minute)
		body := request(t, c, deal)
		out.bodies = append(out.bodies, body)
		out.nonces = append(out.nonces, dig[string](t, body, "paymentPayload", "payload", "authorization", "nonce"))
	}
	return out
}

// check fails the test unless every payment was answered success with the
// hash of the transaction that used its authorization, and the chain moved
// each amount exactly once.
func (d sales) check(t *testing.T, c *devnet.Chain, from uint64, answers []reply) {
	t.Helper()
	used := make(map[string]string) // authorization nonce → transaction
	logs, err := c.Client().FilterLogs(t.Context(), ethereum.FilterQuery{
		FromBlock: new(big.Int).SetUint64(from), Addresses: []common.Address{c.USDC()},
		Topics: [][]common.Hash{{crypto.Keccak256Hash([]byte("AuthorizationUsed(address,bytes32)"))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range logs {
		used[l.Topics[2].Hex()] = l.TxHash.Hex()
	}
	for i, r := range answers {
		if hash := wantSuccess(t, r); used[d.nonces[i]] != hash {
			t.Errorf("payment %d was answered %s, and used in %q", i, hash, used[d.nonces[i]])
		}
	}
	amounts := make(map[int64]int)
	for _, m := range paidTo(t, c, from, d.payee) {
		amounts[m.Value.Int64()]++
	}
	want := make(map[int64]int)
	for i := range d.bodies {
		want[int64(10_000+i)] = 1
	}
	if !maps.Equal(amounts, want) {
		t.Errorf("%d amounts moved, want %d, each once: %v", len(amounts), len(want), amounts)
	}
}

// settleAll sends every body, to the services in turn, so many at a time.
func settleAll(t *testing.T, bodies []map[string]any, concurrency int, services ...*service) []reply {
	t.Helper()
	answers := make([]reply, len(bodies))
	errs := make([]error, len(bodies))
	next := make(chan int)
	var callers sync.WaitGroup
	for range concurrency {
		callers.Go(func() {
			for i := range next {
				answers[i], errs[i] = services[i%len(services)].tryPost(t.Context(), "/settle", bodies[i])
			}
		})
	}
	for i := range bodies {
		next <- i
	}
	close(next)
	callers.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	return answers
}

// checkQuiet fails the test if the service logged an error, if a node found
// anything underpriced, or if it refused a transaction's wallet nonce when it
// first saw it. One that is sent again may have been mined meanwhile.
func checkQuiet(t *testing.T, s *service) {
	t.Helper()
	sent := make(map[string]bool)
	for line := range strings.Lines(s.log.String()) {
		var event struct {
			Level, Outcome string
			TxHash         string `json:"tx_hash"`
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		refused := strings.HasPrefix(event.Outcome, "nonce") && !sent[event.TxHash]
		if event.Level == "ERROR" || refused || strings.Contains(line, "underpriced") {
			t.Errorf("logged: %s", line)
		}
		if event.Outcome != "" {
			sent[event.TxHash] = true
		}
	}
	if len(sent) == 0 {
		t.Error("the service logged no sending")
	}
}
