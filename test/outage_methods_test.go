package test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"facilitator/internal/devnet"
)

// outageMethods are the JSON-RPC methods that the service calls.
func outageMethods() []string {
	return []string{
		"eth_blockNumber", "eth_call", "eth_chainId", "eth_estimateGas", "eth_getBalance", "eth_getBlockByNumber", "eth_getCode",
		"eth_getLogs", "eth_getTransactionCount", "eth_getTransactionReceipt", "eth_maxPriorityFeePerGas", "eth_sendRawTransaction",
	}
}

// outageBackground are those that no request asks for. Each is called every two
// seconds, for which a few of the faults wait.
func outageBackground() []string {
	return []string{"eth_getBalance", "eth_getTransactionCount", "eth_maxPriorityFeePerGas"}
}

// outageBrief are faults of every sort, where all would take long.
func outageBrief() []string { return []string{"HTTP 500", "a timeout", "header not found", "null"} }

// outageFaults are the ways in which one method fails: with the whole request
// that it stands in, or by itself, its neighbours in a batch being answered.
func outageFaults(method string) map[string]outageRule {
	return map[string]outageRule{
		"HTTP 500":         outageOn(method, outageStatus(http.StatusInternalServerError)),
		"429":              outageOn(method, outageBusy),
		"HTML":             outageOn(method, outageHTML),
		"a timeout":        outageOn(method, outageHang),
		"half of the JSON": outageOn(method, outageTruncated),
		"-32000":           outageAlone(method, `"error":{"code":-32000,"message":"the backend is not there"}`),
		"-32005":           outageAlone(method, `"error":{"code":-32005,"message":"limit exceeded"}`),
		"header not found": outageAlone(method, `"error":{"code":-32000,"message":"header not found"}`),
		"null":             outageAlone(method, `"result":null`),
		"the empty text":   outageAlone(method, `"result":""`),
	}
}

// outageBusy answers 429 and when to come again.
func outageBusy(string, http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "slow down", http.StatusTooManyRequests)
	}
}

// outageAlone forwards a request and puts a member in the place of what the node
// answered to one method.
func outageAlone(method, member string) outageRule {
	type message struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	return outageOn(method, func(body string, forward http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			whole := httptest.NewRecorder()
			forward(whole, r)
			w.Header().Set("Content-Type", "application/json")
			var calls []message
			batch := json.Unmarshal([]byte(body), &calls) == nil
			if !batch { // else it is a single call, and it has the method
				calls = make([]message, 1)
				_ = json.Unmarshal([]byte(body), &calls[0]) // without an id the answer is of no use, as is meant
			}
			spoiled := make(map[string]bool)
			for _, call := range calls {
				if call.Method == method {
					spoiled[string(call.ID)] = true
				}
			}
			if !batch {
				_, _ = w.Write([]byte(`{"jsonrpc":"2.0","id":` + string(calls[0].ID) + "," + member + "}"))
				return
			}
			var answers []json.RawMessage
			if err := json.Unmarshal(whole.Body.Bytes(), &answers); err != nil {
				http.Error(w, "no batch", http.StatusBadGateway)
				return
			}
			for i, answer := range answers {
				var about message
				if json.Unmarshal(answer, &about) == nil && spoiled[string(about.ID)] {
					answers[i] = json.RawMessage(`{"jsonrpc":"2.0","id":` + string(about.ID) + "," + member + "}")
				}
			}
			_ = json.NewEncoder(w).Encode(answers)
		}
	})
}

// outageCounted counts the requests that hold a method.
func outageCounted(method string, n *atomic.Int64, rule outageRule) outageRule {
	return func(body string, forward http.HandlerFunc) http.HandlerFunc {
		if strings.Contains(body, `"`+method+`"`) {
			n.Add(1)
		}
		return rule(body, forward)
	}
}

// blameless fails the test if an answer about a good payment says anything but
// that it is good, that it is under way, or that nobody could tell (I7). It
// returns whether it is success.
func (r *outageRig) blameless(t *testing.T, what, flag string, answer reply) bool {
	t.Helper()
	switch {
	case answer.status == http.StatusServiceUnavailable:
		r.unavailable(t, what, answer)
	case answer.status != http.StatusOK:
		t.Errorf("%s: %d %s", what, answer.status, answer.text)
	case answer.is(flag):
		return true
	case flag == "success" && answer.str("errorReason") == "settlement_pending" && len(answer.str("transaction")) == 66:
	default:
		t.Errorf("%s: %s blames the payment for the node", what, answer.text)
	}
	return false
}

// TestOutageOfEveryMethod makes each method fail in each way, one at a time, while
// payments of an account and of a contract wallet are verified and settled.
func TestOutageOfEveryMethod(t *testing.T) {
	t.Parallel()
	c := world.chain
	for _, method := range outageMethods() {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			r := newOutageRig(t, c)
			r.start(t)
			owner := newKey(t, devnet.RolePayer)
			wallet := foreignDeploy(t, c, "Wallet1271", owner.Address)
			walletFund(t, c, wallet)
			account := payers(t, c, 1)[0]
			var met atomic.Int64
			for name, fault := range outageFaults(method) {
				for kind, from := range map[string]devnet.Sale{"account": sale(t, account), "wallet": sale(t, owner)} {
					if kind == "wallet" {
						from.From = wallet
					}
					body := badCopy(t, request(t, c, from))
					eventually(t, "the service has recovered", func() bool { return r.verify(t, body).is("isValid") })
					r.node.follow(outageCounted(method, &met, fault))
					what := method + ": " + name + ": " + kind
					if kind == "account" && slices.Contains(outageBackground(), method) && slices.Contains(outageBrief(), name) {
						before := met.Load()
						eventually(t, "it is called", func() bool { return met.Load() > before })
					}
					r.blameless(t, what+": verify", "isValid", r.verify(t, body))
					settled := r.settle(t, body)
					done := r.blameless(t, what+": settle", "success", settled)
					r.node.heal()
					if !done {
						settled = collect503(t, r, body)
					}
					if !settled.is("success") {
						t.Errorf("%s: after it: %d %s, want success", what, settled.status, settled.text)
					}
					wantDuplicate(t, r.settle(t, body), settled.str("transaction"))
					if got := received(t, c, from.PayTo); got != 10_000 {
						t.Errorf("%s: the payee has %d, want 10000", what, got)
					}
				}
			}
			if met.Load() == 0 && method != "eth_getLogs" && method != "eth_chainId" { // for what went wrong, and for the start
				t.Error("it was never called: nothing is proved")
			}
		})
	}
}

// collect503 repeats a call until it is judged for good.
func collect503(t *testing.T, r *outageRig, body any) (last reply) {
	t.Helper()
	eventually(t, "a final answer", func() bool {
		last = r.settle(t, body)
		return last.status == http.StatusOK && last.str("errorReason") != "settlement_pending"
	})
	return last
}

// TestOutageWhileAFateIsRead: somebody else made the very transfer, ours failed, and
// the node fails when it is asked who did. That is no failure of the payment.
func TestOutageWhileAFateIsRead(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"eth_call", "eth_getLogs", "eth_getTransactionReceipt", "eth_getBlockByNumber", "eth_getCode"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			c := startChain(t, devnet.ChainConfig{})
			r := newOutageRig(t, c)
			keys := payers(t, c, len(outageBrief()))
			r.start(t)
			held(t, c)
			for i, name := range outageBrief() {
				fault, deal := outageFaults(method)[name], sale(t, keys[i])
				body := badCopy(t, request(t, c, deal))
				eventually(t, "the service has recovered", func() bool { return r.verify(t, body).is("isValid") })
				eventually(t, "our transaction is in the pool", func() bool { r.settle(t, body); return pooled(t, c) == 1 })
				answer := settleLater(t, r.service, body)
				theirs := foreignRaw(t, c, newKey(t, devnet.RoleLane), c.USDC(), foreignTransfer(t, body))
				r.node.follow(fault)
				mine(t, c, 1)
				settled := wait(t, answer)
				done := r.blameless(t, name, "success", settled)
				r.node.heal()
				mine(t, c, 1)
				if !done {
					settled = collect503(t, r, body)
				}
				if !settled.is("success") || settled.str("transaction") != theirs.Hex() {
					t.Errorf("%s: after it: %s, want success by %s", name, settled.text, theirs)
				}
				foreignRecord(t, r.service, body).wantEvidence(t, "succeeded", "other_transaction", theirs.Hex())
				if moved := paidTo(t, c, 0, deal.PayTo); len(moved) != 1 || moved[0].TxHash != theirs {
					t.Errorf("%s: transfers %+v, want one by %s", name, moved, theirs)
				}
			}
		})
	}
}

// TestOutageOfTwoMinds: the call succeeds when it is made, and fails when it is
// asked what it takes. Nothing is sent, and after two blocks the payer is told.
func TestOutageOfTwoMinds(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{BlockTime: 200 * time.Millisecond})
	r := newOutageRig(t, c)
	r.setup.more = "chains: {'eip155:8453': {assets: [{address: '" + c.USDC().Hex() + "', well_behaved: 'no'}]}}"
	r.start(t)
	deal := sale(t, payers(t, c, 1)[0])
	body := badCopy(t, request(t, c, deal))
	r.node.follow(outageAlone("eth_estimateGas", `"error":{"code":3,"message":"execution reverted: not for you"}`))
	settled := collect503(t, r, body)
	if settled.is("success") || settled.str("errorReason") != simFailed || !strings.Contains(settled.str("errorMessage"), "not for you") {
		t.Errorf("settle: %d %s", settled.status, settled.text)
	}
	r.node.heal()
	if settled = collect503(t, r, body); !settled.is("success") {
		t.Errorf("after it: %d %s, want success: nothing of it was ever sent", settled.status, settled.text)
	}
	if got := received(t, c, deal.PayTo); got != 10_000 {
		t.Errorf("the payee has %d, want 10000", got)
	}
}
