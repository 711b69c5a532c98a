package test

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/devnet"
)

const (
	whyPoor  = "eip155:8453: no relayer wallet has enough gas"
	whySpent = "eip155:8453: the day's gas budget is spent"
)

// holding sets a wallet's gas money.
func holding(t *testing.T, c *devnet.Chain, wallet common.Address, wei int64) {
	t.Helper()
	if err := c.RPC().CallContext(t.Context(), nil, "anvil_setBalance", wallet, hexutil.EncodeBig(big.NewInt(wei))); err != nil {
		t.Fatal(err)
	}
}

func money(t *testing.T, c *devnet.Chain, wallet common.Address) *big.Int {
	t.Helper()
	wei, err := c.Client().BalanceAt(t.Context(), wallet, nil)
	if err != nil {
		t.Fatal(err)
	}
	return wei
}

// unready waits until the service says why it is not ready; empty: until it is.
func unready(t *testing.T, s *service, why string) {
	t.Helper()
	eventually(t, "/readyz says "+why, func() bool {
		r := s.get(t, "/readyz")
		return why == "" && r.status == 200 || why != "" && r.status == 503 && strings.Contains(r.text, why)
	})
}

// signers lists which wallets signed, in order.
func signers(t *testing.T, s *service) []common.Address {
	t.Helper()
	var list []common.Address
	for _, a := range queryRows[[]byte](t, s.databaseURL, "SELECT l.address FROM transactions t JOIN lanes l ON l.id = t.lane_id ORDER BY t.id") {
		list = append(list, common.BytesToAddress(a))
	}
	return list
}

// parked says by the metrics whether a lane takes no work for want of money.
func parked(t *testing.T, s *service, wallet devnet.Key) bool {
	t.Helper()
	return s.metric(t, "facilitator_lane_parked", wallet.Address.Hex()) == 1
}

// parkedFor is what the record says about that.
func parkedFor(t *testing.T, s *service, wallet devnet.Key) string {
	t.Helper()
	return queryRows[string](t, s.databaseURL, "SELECT coalesce(parked, '') FROM lanes WHERE address = $1", wallet.Address[:])[0]
}

func TestALaneWithoutGasMoneyIsParkedAndAnotherWorks(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	payer := payers(t, c, 1)[0]
	lanes := newKeys(t, devnet.RoleLane, 2)
	const rich = 1e18
	holding(t, c, lanes[1].Address, rich)
	s := setup{chain: c, lanes: lanes, unfunded: true}.start(t)
	pay := func() { t.Helper(); wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer)))) }
	pay()
	eventually(t, "the poor lane is parked", func() bool { return parked(t, s, lanes[0]) })
	if parked(t, s, lanes[1]) || !strings.Contains(s.log.String(), "lane is parked: fund the wallet") {
		t.Error("the rich lane is parked too, or the log does not tell")
	}
	pay()

	holding(t, c, lanes[1].Address, 1)
	unready(t, s, whyPoor)
	body := request(t, c, sale(t, payer))
	if r := s.post(t, "/settle", body); r.status != 503 || !strings.Contains(r.str("error"), whyPoor) || r.header.Get("Retry-After") == "" {
		t.Errorf("without gas money: %d %s", r.status, r.text)
	}

	holding(t, c, lanes[0].Address, rich)
	unready(t, s, "")
	wantSuccess(t, s.post(t, "/settle", body))
	eventually(t, "the funded lane is not parked any more", func() bool { return !parked(t, s, lanes[0]) && parked(t, s, lanes[1]) })
	eventually(t, "the record says why the drained lane is parked", func() bool {
		return strings.Contains(parkedFor(t, s, lanes[1]), "too little gas money")
	})
	if got, want := signers(t, s), []common.Address{lanes[1].Address, lanes[1].Address, lanes[0].Address}; !slices.Equal(got, want) {
		t.Errorf("signed by %v, want %v", got, want)
	}
	checkWallets(t, s.databaseURL, c, 3)
}

// TestTheDaysBudgetStopsSigningAndLosesNothing: what is signed is finished, what
// waits can be asked for again, and a higher limit has it go on.
func TestTheDaysBudgetStopsSigningAndLosesNothing(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	keys := payers(t, c, 3)
	limit := func(wei int64) string {
		return fmt.Sprintf("settle: {wait: 3s}\nchains: {'%s': {max_in_flight: 1, gas: {max_spend_per_day: %d}}}", c.Network(), wei)
	}
	bodies := make([]map[string]any, len(keys))
	for i, key := range keys {
		bodies[i] = request(t, c, sale(t, key))
	}
	held(t, c)
	s := setup{chain: c, overlay: limit(1e16)}.start(t)
	from := height(t, c)
	first := settleLater(t, s, bodies[0])
	eventually(t, "one is in the pool", func() bool { return pooled(t, c) == 1 })
	second := settleLater(t, s, bodies[1])
	eventuallyState(t, s, bodies[1], "queued")
	queryRows[string](t, s.databaseURL, `INSERT INTO spending (network, day, wei) VALUES ($1, (now() AT TIME ZONE 'utc')::date, 1e16) RETURNING network`, c.Network())
	unready(t, s, whySpent)
	if r := s.post(t, "/settle", bodies[2]); r.status != 503 || !strings.Contains(r.str("error"), whySpent) {
		t.Errorf("with the budget spent: %d %s", r.status, r.text)
	}
	if err := c.SetAutomine(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	mine(t, c, 1)
	wantSuccess(t, eventuallyCollected(t, s, first, bodies[0]))
	if r := wait(t, second); r.status != 503 {
		t.Errorf("what was queued: %d %s", r.status, r.text)
	}
	if n := badCount(t.Context(), t, s.databaseURL, "attempts"); n != 1 {
		t.Errorf("%d transactions were signed", n)
	}
	cost := queryRows[string](t, s.databaseURL, "SELECT (s.wei - 1e16 = t.cost)::text FROM spending s, transactions t")
	if !slices.Equal(cost, []string{"true"}) {
		t.Errorf("what the transaction cost is not what was counted: %v", cost)
	}
	s.stop()

	again := setup{chain: c, lanes: s.lanes, databaseURL: s.databaseURL, overlay: limit(1e18)}.start(t)
	unready(t, again, "")
	for _, body := range bodies[1:] {
		wantSuccess(t, eventuallySettled(t, again, body))
	}
	for i, body := range bodies {
		payee := common.HexToAddress(dig[string](t, body, "paymentRequirements", "payTo"))
		if moved := paidTo(t, c, from, payee); len(moved) != 1 {
			t.Errorf("payment %d: transfers %+v", i, moved)
		}
	}
	checkBatches(t, s.databaseURL, c, 3)
}

// eventuallyCollected is what a call is told, or one that repeats it.
func eventuallyCollected(t *testing.T, s *service, answer <-chan settleAnswer, body any) reply {
	t.Helper()
	r := wait(t, answer)
	if r.str("errorReason") == "settlement_pending" {
		r = collect(t, s, body)
	}
	return r
}

func TestTheTreasuryTopsLanesUpWithinItsDay(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	payer := payers(t, c, 1)[0]
	lanes, treasury := newKeys(t, devnet.RoleLane, 2), newKey(t, devnet.RoleLane)
	const below, upTo, day, funds = 1e17, 4e17, 6e17, 5e18
	holding(t, c, lanes[0].Address, below-1)
	holding(t, c, treasury.Address, funds)
	s := setup{chain: c, lanes: lanes, unfunded: true, overlay: fmt.Sprintf(
		"chains: {'%s': {treasury: {private_key: '%s', below: %d, up_to: %d, max_per_day: %d}}}",
		c.Network(), treasury.Hex(), int64(below), int64(upTo), int64(day),
	)}.start(t)
	// The poorest comes first. Then the day has 2e17 left, of which the other one
	// would need more.
	eventually(t, "the limit is reached", func() bool { return strings.Contains(s.log.String(), "treasury's daily limit is reached") })
	if got := money(t, c, lanes[1].Address); got.Cmp(big.NewInt(upTo)) != 0 {
		t.Errorf("the poorest lane has %s", got)
	}
	if got := money(t, c, lanes[0].Address); got.Cmp(big.NewInt(below-1)) != 0 {
		t.Errorf("the other lane has %s", got)
	}
	left := new(big.Int).Sub(big.NewInt(funds), money(t, c, treasury.Address))
	gas := new(big.Int).Sub(left, big.NewInt(upTo))
	if cost := queryRows[string](t, s.databaseURL, "SELECT cost::text FROM transactions"); !slices.Equal(cost, []string{gas.String()}) {
		t.Errorf("the treasury paid %s, recorded as %v", gas, cost)
	}
	if values := queryRows[string](t, s.databaseURL, "SELECT l.role || ' ' || t.value::text FROM transactions t JOIN lanes l ON l.id = t.lane_id"); !slices.Equal(values, []string{"treasury 400000000000000000"}) {
		t.Errorf("top-ups: %v", values)
	}
	if n := s.metric(t, "facilitator_lane_top_ups_total"); n != 1 {
		t.Errorf("%v top-ups are counted", n)
	}
	if text := s.get(t, "/supported").text; strings.Contains(strings.ToLower(text), strings.ToLower(treasury.Address.Hex()[2:])) {
		t.Errorf("the treasury is named as a signer: %s", text)
	}
	wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer))))
	checkWallets(t, s.databaseURL, c, 2)
}

// TestTransactionsGoToFurtherNodes: also when the first one loses them.
func TestTransactionsGoToFurtherNodes(t *testing.T) {
	t.Parallel()
	const send = "eth_sendRawTransaction"
	for sentence, rules := range map[string]struct{ first, second outageRule }{
		"both work":              {},
		"the first one hangs":    {first: outageOn(send, outageHang)},
		"the first one refuses":  {first: outageOn(send, outageStatus(502))},
		"the second one hangs":   {second: outageHang},
		"the second one refuses": {second: outageRefuse},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			c := world.chain
			first, second := newOutageNode(t, c), newOutageNode(t, c)
			s := setup{chain: c, rpcURL: first.url, overlay: "chains: {'" + c.Network() + "': {send_to: [{url: '" + second.url + "'}]}}"}.start(t)
			if rules.first != nil {
				first.follow(rules.first)
			}
			if rules.second != nil {
				second.follow(rules.second)
			}
			wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payers(t, c, 1)[0]))))
			if first.raws.Load() == 0 || second.raws.Load() == 0 {
				t.Errorf("the nodes were handed %d and %d transactions", first.raws.Load(), second.raws.Load())
			}
			if strings.Contains(s.log.String(), outagePathKey) {
				t.Error("the log shows a node's URL (I10)")
			}
			checkWallets(t, s.databaseURL, c, 1)
		})
	}
}
