package test

import (
	"math/big"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"facilitator/internal/devnet"
)

const (
	outageNodeDown   = "the chain's node can't be reached"
	outageNodeSilent = "the chain's node has not answered for a while"
	outageNoRecord   = "the record can't be reached"
)

// TestOutageNode: a node that can't tell is no reason to call a payment
// invalid, nor to sign anything (I7).
func TestOutageNode(t *testing.T) {
	t.Parallel()
	for sentence, fault := range map[string]outageRule{
		"it cuts connections":                         outageRefuse,
		"it hangs":                                    outageHang,
		"it answers 429":                              outageStatus(http.StatusTooManyRequests),
		"it answers 500":                              outageStatus(http.StatusInternalServerError),
		"it answers 401":                              outageStatus(http.StatusUnauthorized),
		"it answers HTML":                             outageHTML,
		"it answers half of the JSON":                 outageTruncated,
		"it answers with an internal error":           outageError(-32603, "Internal error"),
		"it answers that a limit is exceeded":         outageError(-32005, "limit exceeded"),
		"it answers that it lacks the block's header": outageError(-32000, "header not found"),
		"it answers null":                             outageMember(func(*http.Request) string { return `"result":null` }),
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			c := world.chain
			r := newOutageRig(t, c)
			r.start(t)
			payer := payers(t, c, 1)[0]
			deal := sale(t, payer)
			body := badCopy(t, request(t, c, deal))
			forged := badCopy(t, body)
			forged.set(badAuthorization+".nonce", common.Hash{}.Hex())
			bare := badCopy(t, body) // the token must be asked for its name
			bare.set("paymentRequirements.extra", badAbsent{})
			refuses := func(when string) {
				for name, b := range map[string]badBody{"good": body, "forged": forged, "without a domain": bare} {
					r.unavailable(t, when+": verify "+name, r.verify(t, b))
					r.unavailable(t, when+": settle "+name, r.settle(t, b))
				}
			}
			r.node.follow(fault)
			refuses("before anything is known of the token")
			r.node.heal()
			eventually(t, "verify works", func() bool { return r.verify(t, body).is("isValid") })
			r.node.follow(fault)
			refuses("after a good one")
			r.untouched(t)

			r.node.heal()
			eventually(t, "a verdict on the forged one", func() bool {
				return r.verify(t, forged).str("invalidReason") == "invalid_exact_evm_signature"
			})
			r.collects(t, deal, body)
		})
	}
}

// TestOutageNodeForLong: the service says that it is not ready, and recovers.
func TestOutageNodeForLong(t *testing.T) {
	t.Parallel()
	r := newOutageRig(t, world.chain)
	r.start(t)
	deal := sale(t, payers(t, world.chain, 1)[0])
	body := request(t, world.chain, deal)
	r.readiness(t, "")
	r.node.follow(outageRefuse)
	r.readiness(t, "eip155:8453: "+outageNodeSilent)
	r.unavailable(t, "verify", r.verify(t, body))
	r.unavailable(t, "settle", r.settle(t, body))
	r.untouched(t)
	r.node.heal()
	r.readiness(t, "")
	r.collects(t, deal, body)
}

// TestOutageSend loses transactions, or the node's word about them, on the way.
func TestOutageSend(t *testing.T) {
	t.Parallel()
	const send = "eth_sendRawTransaction"
	for sentence, fault := range map[string]outageRule{
		"the answer is lost to a 500":              outageLost(outageStatus(http.StatusInternalServerError)),
		"the answer is lost to a cut":              outageLost(outageRefuse),
		"the answer never comes":                   outageLost(outageHang),
		"the answer is an error though it is sent": outageLost(outageError(-32000, "nonce too low")),
		"the first transaction is lost whole":      outageOnce(outageStatus(http.StatusBadGateway)),
		"the first transaction hangs":              outageOnce(outageHang),
		"the first one is answered with a funds error": outageOnce(outageError(-32000,
			"insufficient funds for gas * price + value")),
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			r := newOutageRig(t, world.chain)
			r.start(t)
			deal := sale(t, payers(t, world.chain, 1)[0])
			body := request(t, world.chain, deal)
			r.node.follow(outageOn(send, fault))
			r.collects(t, deal, body)
			if n := outageRows(t, r.setup.databaseURL, "attempts"); n != 1 {
				t.Errorf("%d transactions were signed, want one", n)
			}
		})
	}
}

// outageOnce fails the first request only.
func outageOnce(fault outageRule) outageRule {
	var done atomic.Bool
	return func(body string, forward http.HandlerFunc) http.HandlerFunc {
		if done.Swap(true) {
			return forward
		}
		return fault(body, forward)
	}
}

// TestOutageWhileWaiting: the node takes the transaction and is gone.
func TestOutageWhileWaiting(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	r := newOutageRig(t, c)
	r.start(t)
	deal := sale(t, payers(t, c, 1)[0])
	body := request(t, c, deal)
	if err := c.SetAutomine(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	var gone atomic.Bool
	r.node.follow(func(text string, forward http.HandlerFunc) http.HandlerFunc {
		if gone.Load() {
			return outageRefuse(text, forward)
		}
		if strings.Contains(text, "eth_sendRawTransaction") {
			gone.Store(true)
		}
		return forward
	})
	first := r.settle(t, body)
	hash := common.HexToHash(first.str("transaction"))
	if first.status != 200 || first.is("success") || first.str("errorReason") != "settlement_pending" || first.str("network") != c.Network() {
		t.Fatalf("settle: %d %s, want settlement_pending", first.status, first.text)
	}
	if _, pending, err := c.Client().TransactionByHash(t.Context(), hash); err != nil || !pending {
		t.Fatalf("the hash told is not of a transaction that waits: %v", err)
	}
	second := r.settle(t, body)
	if second.str("errorReason") != "settlement_pending" || second.str("transaction") != hash.Hex() {
		t.Errorf("while the node is gone: %d %s, want settlement_pending", second.status, second.text)
	}
	if v := r.verify(t, body); v.is("isValid") {
		t.Errorf("verify while it is pending: %d %s", v.status, v.text)
	}

	if err := c.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.node.heal()
	if third := r.collects(t, deal, body); third.str("transaction") != hash.Hex() {
		t.Errorf("collected %s, want %s", third.str("transaction"), hash)
	}
}

// TestOutageBeforeSigning: the node goes away after the claim, before the lane
// has simulated the payment. The claim is taken back, and an identical call is a
// new try.
func TestOutageBeforeSigning(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ sentence, overlay, method string }{
		{"it may share a transaction", "", "eth_call"},
		{"it goes alone", "chains: {'eip155:8453': {assets: [{address: '0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913', well_behaved: 'no'}]}}", "eth_estimateGas"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			r := newOutageRig(t, world.chain)
			r.setup.more = row.overlay
			var once sync.Once
			r.reach = func(point string) {
				if point == "claimed" {
					once.Do(func() { r.node.follow(outageOn(row.method, outageError(-32603, "Internal error"))) })
				}
			}
			r.start(t)
			deal := sale(t, payers(t, world.chain, 1)[0])
			body := badCopy(t, request(t, world.chain, deal))
			r.unavailable(t, "settle", r.settle(t, body))
			if n := outageRows(t, r.setup.databaseURL, "attempts") + int(r.node.raws.Load()); n != 0 {
				t.Errorf("%d transactions were signed or sent, want none", n)
			}
			record := foreignRecord(t, r.service, body)
			if evidence, _ := record.body["evidence"].(map[string]any); record.str("outcome") != "failed" || evidence["kind"] != "never_signed" {
				t.Errorf("the record is %s, want a failure for which nothing was signed", record.text)
			}
			r.node.heal()
			r.collects(t, deal, body)
		})
	}
}

func TestOutageAtStart(t *testing.T) {
	t.Parallel()
	for sentence, fault := range map[string]outageRule{
		"the node cuts connections": outageRefuse, "the node answers 429": outageStatus(http.StatusTooManyRequests),
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			r := newOutageRig(t, world.chain)
			r.node.follow(fault)
			r.start(t)
			deal := sale(t, payers(t, world.chain, 1)[0])
			body := request(t, world.chain, deal)
			r.readiness(t, "eip155:8453: "+outageNodeDown)
			r.unavailable(t, "verify", r.verify(t, body))
			r.unavailable(t, "settle", r.settle(t, body))
			offered := func() bool {
				kinds := r.ask(t, http.MethodGet, "/supported", nil)
				if kinds.status != 200 {
					t.Errorf("supported: %d %s", kinds.status, kinds.text)
				}
				return strings.Contains(kinds.text, "eip155:8453")
			}
			if offered() {
				t.Error("what can't be settled is offered")
			}
			r.untouched(t)
			r.node.heal()
			r.readiness(t, "")
			if !offered() {
				t.Error("what can be settled is not offered")
			}
			r.collects(t, deal, body)
		})
	}
}

// TestOutageMisconfigured: what can't heal by itself ends the start, in a line
// that says what it is.
func TestOutageMisconfigured(t *testing.T) {
	t.Parallel()
	answer := func(result string) outageRule {
		return outageMember(func(*http.Request) string { return `"result":` + result })
	}
	nowhere := newKey(t, devnet.RolePayee).Address.Hex()
	for _, row := range []struct {
		sentence, overlay string
		rule              outageRule // of the node
		databaseDown      bool
		says              []string
	}{
		{"the node serves another chain", "", outageOn("eth_chainId", answer(`"0x1"`)), false, []string{"chains.eip155:8453: wrong chain", "chain 1, not 8453"}},
		{"an asset has no code", "chains: {'eip155:8453': {assets: [{address: '" + nowhere + "'}]}}", nil, false, []string{"chains.eip155:8453: wrong chain", nowhere}},
		{"the database can't be reached", "", nil, true, []string{"database: "}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			r := newOutageRig(t, world.chain)
			if row.overlay != "" {
				r.setup.overlay = row.overlay
			}
			if row.rule != nil {
				r.node.follow(row.rule)
			}
			if row.databaseDown {
				r.db.cut()
			}
			a, err := r.build(t)
			if err == nil {
				a.Close()
				t.Fatal("it starts")
			}
			for _, text := range row.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q does not say %q", err, text)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than a line", err)
			}
			r.keepsSecrets(t, map[string]string{"error": err.Error(), "log": r.log.String() + "."})
		})
	}
}

func TestOutageDatabase(t *testing.T) {
	t.Parallel()
	for sentence, fail := range map[string]func(*outageDatabase){
		"it cuts connections": (*outageDatabase).cut, "it hangs": (*outageDatabase).hang,
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			r := newOutageRig(t, world.chain)
			r.start(t)
			r.readiness(t, "")
			deal := sale(t, payers(t, world.chain, 1)[0])
			body := request(t, world.chain, deal)
			fail(r.db)
			for range 2 { // with connections that break, and with none
				r.unavailable(t, "verify", r.verify(t, body))
				r.unavailable(t, "settle", r.settle(t, body))
				r.readiness(t, outageNoRecord)
			}
			r.db.heal()
			r.readiness(t, "")
			r.untouched(t)
			eventually(t, "verify works again", func() bool { return r.verify(t, body).is("isValid") })
			r.collects(t, deal, body)
		})
	}
}

// TestOutageDatabaseAtStep cuts the database off the moment a settlement
// reaches a step, until its caller has given up (I3, I9).
func TestOutageDatabaseAtStep(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"claimed", "prepared", "signed", "sent", "broadcast", "receipt"} {
		t.Run("cut at "+point, func(t *testing.T) {
			t.Parallel()
			c := world.chain
			if point == "broadcast" { // reached only by what waits for a block
				c = startChain(t, devnet.ChainConfig{})
			}
			r := newOutageRig(t, c)
			r.setup.more = "settle: {wait: 3s}"
			var cut sync.Once
			reached := false
			r.reach = func(p string) {
				if p == point {
					cut.Do(func() {
						reached = true
						r.db.cut()
					})
				}
			}
			r.start(t)
			deal := sale(t, payers(t, c, 1)[0])
			body := request(t, c, deal)
			if point == "broadcast" {
				held(t, c)
			}
			first := r.settle(t, body)
			cut.Do(func() {})
			if !reached {
				t.Fatal("the step was not reached")
			}
			// What the caller may know by then is that it is signed, or nothing.
			if first.str("errorReason") != "settlement_pending" || len(first.str("transaction")) != 66 {
				r.unavailable(t, "settle", first)
			}
			if point == "broadcast" {
				if err := c.SetIntervalMining(t.Context(), 200*time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
			r.db.heal()
			r.collects(t, deal, body)
			if n := outageRows(t, r.setup.databaseURL, "attempts"); n != 1 {
				t.Errorf("%d transactions were signed, want one", n)
			}
		})
	}
}

// TestOutageLaneWithoutGas: the facilitator's own poverty is not the payer's.
func TestOutageLaneWithoutGas(t *testing.T) {
	t.Parallel()
	r := newOutageRig(t, world.chain)
	r.setup.unfunded = true
	r.start(t)
	deal := sale(t, payers(t, world.chain, 1)[0])
	body := request(t, world.chain, deal)
	const why = "eip155:8453: no relayer wallet has enough gas"
	r.readiness(t, why)
	for path, answer := range map[string]reply{"verify": r.verify(t, body), "settle": r.settle(t, body)} {
		r.unavailable(t, path, answer)
		if !strings.Contains(answer.str("error"), why) {
			t.Errorf("%s: %q does not say %q", path, answer.str("error"), why)
		}
	}
	r.untouched(t)
	if err := world.chain.FundETH(t.Context(), new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil), addresses(r.lanes)...); err != nil {
		t.Fatal(err)
	}
	r.readiness(t, "")
	paid := r.collects(t, deal, body)
	receipt, err := world.chain.Client().TransactionReceipt(t.Context(), common.HexToHash(paid.str("transaction")))
	if err != nil || receipt.Status != types.ReceiptStatusSuccessful {
		t.Errorf("receipt: %+v (%v)", receipt, err)
	}
}

// A provider that names the caller's key in an error does not get it into a log
// or an answer (I10).
func TestOutageNodeThatRepeatsOurKey(t *testing.T) {
	t.Parallel()
	r := newOutageRig(t, world.chain)
	r.start(t)
	body := request(t, world.chain, sale(t, payers(t, world.chain, 1)[0]))
	r.node.follow(outageMember(func(*http.Request) string {
		return `"error":{"code":-32600,"message":"project ` + outagePathKey + ` is over its quota"}`
	}))
	r.unavailable(t, "verify", r.verify(t, body))
}

// A node that answers the empty text has not told anything (I7).
func TestOutageEmptyTextIsNoAnswer(t *testing.T) {
	t.Parallel()
	r := newOutageRig(t, world.chain)
	r.start(t)
	body := request(t, world.chain, sale(t, payers(t, world.chain, 1)[0]))
	r.node.follow(outageMember(func(*http.Request) string { return `"result":""` }))
	r.unavailable(t, "verify, token unknown", r.verify(t, body)) // asset_not_deployed_contract
	r.node.heal()
	eventually(t, "verify works", func() bool { return r.verify(t, body).is("isValid") })
	r.node.follow(outageMember(func(*http.Request) string { return `"result":""` }))
	r.unavailable(t, "verify, token known", r.verify(t, body)) // isValid: true
}
