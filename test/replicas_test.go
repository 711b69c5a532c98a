package test

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

// holders are those who hold leases, by lane; empty where nobody does.
func holders(t *testing.T, databaseURL string) []string {
	t.Helper()
	return queryRows[string](t, databaseURL, "SELECT coalesce(holder::text, '') FROM lanes ORDER BY address")
}

// holds waits until one replica holds all lanes, and names it.
func holds(t *testing.T, databaseURL string, lanes int) string {
	t.Helper()
	var holder string
	eventually(t, "a replica holds the lanes", func() bool {
		all := holders(t, databaseURL)
		if len(all) != lanes || all[0] == "" {
			return false
		}
		holder = all[0]
		return len(slices.Compact(all)) == 1
	})
	return holder
}

// TestAReplicaThatIsKilledIsReplaced: its lanes are taken over when their leases
// end, and every payment is made once.
func TestAReplicaThatIsKilledIsReplaced(t *testing.T) {
	t.Parallel()
	binary := buildBinary(t)
	const count = 24
	c := startChain(t, devnet.ChainConfig{})
	deals := manySales(t, c, count)
	if err := c.SetIntervalMining(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	from := height(t, c)
	s := setup{chain: c, lanes: newKeys(t, devnet.RoleLane, 2), overlay: "settle: {wait: 1m}"}
	file := s.writeConfig(t)
	dying := startBinary(t, binary, nil, "serve", "-config", file)
	first := dying.service(t, s)
	held := holds(t, s.databaseURL, 2)
	second := setup{chain: c, lanes: s.lanes, databaseURL: s.databaseURL, overlay: s.overlay}.start(t)
	unstick(t, c, s.lanes)

	// Half of the callers ask the replica that dies, and come back to the other.
	answers := make([]<-chan settleAnswer, count)
	for i, body := range deals.bodies {
		answers[i] = settleLater(t, []*service{first, second}[i%2], body)
	}
	eventually(t, "some are signed", func() bool {
		states := queryRows[string](t, s.databaseURL, "SELECT state FROM payments")
		return len(states) == count && slices.Contains(states, "signed")
	})
	dying.kill(t)
	replies := make([]reply, count)
	for i, answer := range answers {
		a := <-answer
		if a.err != nil {
			a.reply = collect(t, second, deals.bodies[i])
		}
		replies[i] = a.reply
	}
	for i := range replies {
		// Who was told before the kill may ask again; nobody is told twice.
		if replies[i].str("errorReason") == "duplicate_settlement" && i%2 == 0 {
			replies[i].body["success"] = true
		}
	}
	deals.check(t, c, from, replies)
	if now := holds(t, s.databaseURL, 2); now == held {
		t.Errorf("%s holds the lanes before and after it was killed", now)
	}
	if epochs := queryRows[int64](t, s.databaseURL, "SELECT epoch FROM lanes"); !slices.Equal(epochs, []int64{2, 2}) {
		t.Errorf("epochs %v, want 2 each", epochs)
	}
	checkBatches(t, s.databaseURL, c, count)
}

// TestAReplicaWithoutALaneSettlesThroughTheOther, and has the lane at once when
// the other one stops in order, however long the lease.
func TestAReplicaWithoutALaneSettlesThroughTheOther(t *testing.T) {
	t.Parallel()
	c := world.chain
	payer := payers(t, c, 1)[0]
	lease := "chains: {'" + c.Network() + "': {lane_lease: 1m}}"
	first := setup{chain: c, overlay: lease}.start(t)
	holder := holds(t, first.databaseURL, 1)
	second := setup{chain: c, lanes: first.lanes, databaseURL: first.databaseURL, overlay: "chains: {'" + c.Network() + "': {lane_lease: 1s}}"}.start(t)
	wantSuccess(t, second.post(t, "/settle", request(t, c, sale(t, payer))))
	if now := holds(t, first.databaseURL, 1); now != holder {
		t.Errorf("the lane passed from %s to %s", holder, now)
	}
	if n := first.metric(t, "facilitator_lane_leased"); n != 1 {
		t.Errorf("the first replica counts %v leases", n)
	}
	if n := second.metric(t, "facilitator_lane_leased"); n != 0 {
		t.Errorf("the second replica counts %v leases", n)
	}
	if ready := second.get(t, "/readyz"); ready.status != 200 {
		t.Errorf("the second replica is not ready: %s", ready.text)
	}

	first.stop()
	if now := holders(t, first.databaseURL); now[0] == holder {
		t.Error("a replica that stopped holds its lane")
	}
	wantSuccess(t, second.post(t, "/settle", request(t, c, sale(t, payer))))
	if now := holds(t, first.databaseURL, 1); now == holder {
		t.Errorf("%s holds the lane after it stopped", now)
	}
	second.stop()
	if now := holders(t, first.databaseURL); !slices.Equal(now, []string{""}) {
		t.Errorf("after all stopped %v hold lanes", now)
	}
	checkBatches(t, first.databaseURL, c, 2)
}

// TestALeaseThatPassedOnStopsTheLane: the record says that somebody else has the
// lane, and this replica signs nothing until it has it again.
func TestALeaseThatPassedOnStopsTheLane(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	payer := payers(t, c, 1)[0]
	s := setup{chain: c, overlay: "settle: {wait: 2s}"}.start(t)
	holds(t, s.databaseURL, 1)
	queryRows[int64](t, s.databaseURL, `
UPDATE lanes SET holder = gen_random_uuid(), epoch = epoch + 1, lease_until = now() + interval '1 hour' RETURNING id`)
	body := request(t, c, sale(t, payer))
	if r := s.post(t, "/settle", body); r.status != 503 {
		t.Errorf("without a lane: %d %s", r.status, r.text)
	}
	if n := badCount(t.Context(), t, s.databaseURL, "attempts"); n != 0 {
		t.Errorf("%d transactions were signed under a lost lease", n)
	}
	if !strings.Contains(s.log.String(), "lane's lease is lost") {
		t.Error("the log does not tell")
	}
	if n := s.metric(t, "facilitator_lane_leased"); n != 0 {
		t.Errorf("%v leases are counted", n)
	}
	queryRows[int64](t, s.databaseURL, "UPDATE lanes SET lease_until = now() RETURNING id")
	wantSuccess(t, eventuallySettled(t, s, body))
	checkWallets(t, s.databaseURL, c, 1)
}

// eventuallySettled repeats a call until it is answered for good.
func eventuallySettled(t *testing.T, s *service, body any) reply {
	t.Helper()
	var r reply
	eventually(t, "the payment is settled", func() bool {
		r = s.post(t, "/settle", body)
		return r.status == 200 && r.str("errorReason") != "settlement_pending"
	})
	return r
}

// TestACommandThatStopsReleasesItsLanes at the signal, with a long lease.
func TestACommandThatStopsReleasesItsLanes(t *testing.T) {
	t.Parallel()
	binary := buildBinary(t)
	s := setup{chain: world.chain}
	file := s.writeConfig(t)
	env := []string{"FACILITATOR_CHAINS_EIP155_8453_LANE_LEASE=1m"}
	first := startBinary(t, binary, env, "serve", "-config", file)
	first.service(t, s)
	holder := holds(t, s.databaseURL, 1)
	first.wantStopped(t, syscall.SIGTERM)
	if now := holders(t, s.databaseURL); !slices.Equal(now, []string{""}) {
		t.Errorf("%v hold lanes after the stop, before it was %s", now, holder)
	}
	second := startBinary(t, binary, env, "serve", "-config", file)
	hash := wantSuccess(t, second.service(t, s).post(t, "/settle", request(t, world.chain, sale(t, payers(t, world.chain, 1)[0]))))
	if receipt, err := world.chain.Client().TransactionReceipt(t.Context(), common.HexToHash(hash)); err != nil || receipt.Status != 1 {
		t.Errorf("receipt %+v, %v", receipt, err)
	}
	second.wantStopped(t, syscall.SIGTERM)
}
