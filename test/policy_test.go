package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

const (
	kytRisk = "kyt_risk_detected"
	// unscreened is all that a caller hears of a source that does not answer.
	unscreened = `{"error":"the payment can't be screened now, try again","retryable":true}`
)

// wantUnjudged fails the test unless both calls say that they can't tell, and
// nothing of the payment was recorded.
func (s *service) wantUnjudged(t *testing.T, body any, status int, text string) {
	t.Helper()
	for _, path := range []string{"/verify", "/settle"} {
		r := s.post(t, path, body)
		if r.status != status || text != "" && r.text != text || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s, Retry-After %q", path, r.status, r.text, r.header.Get("Retry-After"))
		}
		for _, verdict := range []string{"isValid", "invalidReason", "success", "errorReason", "payer"} {
			if _, judged := r.body[verdict]; judged {
				t.Errorf("%s: silence is taken for a judgement (I7): %s", path, r.text)
			}
		}
	}
}

func (s *service) wantGood(t *testing.T, body any) {
	t.Helper()
	if r := s.post(t, "/verify", body); !r.is("isValid") {
		t.Errorf("verify: %d %s", r.status, r.text)
	}
	if r := s.post(t, "/settle", body); !r.is("success") {
		t.Errorf("settle: %d %s", r.status, r.text)
	}
}

// TestPolicyLists: who is on a list is refused, from the moment that the file
// holds it; what was settled before is still answered for.
func TestPolicyLists(t *testing.T) {
	t.Parallel()
	c := world.chain
	payer, other := payers(t, c, 2)[0], payers(t, c, 1)[0]
	path := filepath.Join(t.TempDir(), "refused")
	list := func(addresses ...common.Address) {
		text := "# refused\n"
		for _, a := range addresses {
			text += strings.ToLower(a.Hex()) + "\n"
		}
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	list(newKey(t, devnet.RolePayer).Address)
	s := newJudge(t, c, fmt.Sprintf("policy: {screening: {check_interval: 100ms, lists: [{name: own, path: %q}]}}", path))
	settled := request(t, c, sale(t, payer))
	s.wantGood(t, settled)

	list(payer.Address)
	deal := sale(t, payer)
	body := badCopy(t, request(t, c, deal))
	eventually(t, "the list is read", func() bool { return !s.post(t, "/verify", body).is("isValid") })
	s.wantOutcome(t, c, deal, body, refused(kytRisk, "can't be processed"))
	toThem := sale(t, other)
	toThem.PayTo = payer.Address
	s.wantOutcome(t, c, toThem, badCopy(t, request(t, c, toThem)), refused(kytRisk, ""))
	for path, reason := range map[string]string{"/verify": "invalidReason", "/settle": "errorReason"} {
		if r := s.post(t, path, settled); r.str(reason) != "duplicate_settlement" {
			t.Errorf("%s of what was settled before: %d %s", path, r.status, r.text)
		}
	}
	s.wantGood(t, request(t, c, sale(t, other)))
	if log := s.log.String(); !strings.Contains(log, `"msg":"screening hit","source":"own"`) || !strings.Contains(log, payer.Address.Hex()) {
		t.Error("hits are not in the log")
	}

	list(newKey(t, devnet.RolePayer).Address)
	eventually(t, "the list is read again", func() bool { return s.post(t, "/verify", body).is("isValid") })
	s.wantGood(t, body)
}

// TestPolicyOracle: whom an oracle on chain has is refused, with one more round
// trip before the simulation.
func TestPolicyOracle(t *testing.T) {
	t.Parallel()
	c := world.chain
	payer := payers(t, c, 1)[0]
	oracle := foreignDeploy(t, c, "SanctionsOracle")
	set := func(who common.Address, sanctioned bool) {
		data, err := foreignContract(t, "SanctionsOracle").ABI.Pack("set", who, sanctioned)
		if err != nil {
			t.Fatal(err)
		}
		foreignSend(t, c, newKey(t, devnet.RoleLane), oracle, data)
	}
	s := newJudge(t, c, fmt.Sprintf("policy: {screening: {oracle_ttl: 24h}}\nchains: {'%s': {sanctions_oracle: '%s'}}", c.Network(), oracle.Hex()))
	deal := sale(t, payer)
	set(deal.PayTo, true)
	s.wantOutcome(t, c, deal, badCopy(t, request(t, c, deal)), refused(kytRisk, "can't be processed"))
	s.wantGood(t, request(t, c, sale(t, payer)))

	absent := newJudge(t, c, fmt.Sprintf("chains: {'%s': {sanctions_oracle: '%s'}}", c.Network(), newKey(t, devnet.RolePayee).Address.Hex()))
	absent.wantUnjudged(t, request(t, c, sale(t, payer)), http.StatusServiceUnavailable, unscreened)
}

// TestPolicyHook: what a hook denies is refused; one that is down makes 503 and is
// never the payer's fault, and what is not signed is never asked about.
func TestPolicyHook(t *testing.T) {
	t.Parallel()
	c := world.chain
	payer := payers(t, c, 1)[0]
	const secret = "hook-secret-0123456789"
	var down atomic.Bool
	var denied, asked atomic.Value
	denied.Store("")
	asked.Store("")
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Payer, PayTo string }
		if json.NewDecoder(r.Body).Decode(&q) != nil || r.Header.Get("Authorization") != "Bearer "+secret {
			http.Error(w, "not asked as it should be", http.StatusBadRequest)
			return
		}
		asked.Store(q.PayTo)
		switch {
		case down.Load():
			http.Error(w, "down", http.StatusBadGateway)
		case q.PayTo == denied.Load():
			fmt.Fprint(w, `{"decision":"deny","reason":"known to us"}`)
		default:
			fmt.Fprint(w, `{"decision":"allow"}`)
		}
	}))
	t.Cleanup(hook.Close)
	s := newJudge(t, c, fmt.Sprintf("policy: {screening: {hook: {url: '%s/%s', token: '%s'}}}", hook.URL, secret, secret))

	deal := sale(t, payer)
	denied.Store(deal.PayTo.Hex())
	s.wantOutcome(t, c, deal, badCopy(t, request(t, c, deal)), refused(kytRisk, "can't be processed"))
	s.wantGood(t, request(t, c, sale(t, payer)))

	forged := sale(t, payer)
	body := badCopy(t, request(t, c, forged))
	body.set(badAuthorization+".value", "9999")
	s.wantOutcome(t, c, forged, body, refused(badSign, ""))
	if asked.Load() == forged.PayTo.Hex() {
		t.Error("a payment that its payer did not sign is asked about")
	}

	down.Store(true)
	open := request(t, c, sale(t, payer))
	s.wantUnjudged(t, open, http.StatusServiceUnavailable, unscreened)
	if r := s.get(t, "/readyz"); !strings.Contains(r.text, "screening by hook fails") {
		t.Errorf("/readyz: %d %s", r.status, r.text)
	}
	down.Store(false)
	s.wantGood(t, open)
	if log := s.log.String(); strings.Contains(log, secret) {
		t.Error("the log shows a secret (I10)")
	}
}

// TestPolicyTraffic: more payments of one payer than it may make wait, and are not
// refused; what /verify found good is settled.
func TestPolicyTraffic(t *testing.T) {
	t.Parallel()
	c := world.chain
	payer, other := payers(t, c, 1)[0], payers(t, c, 1)[0]
	s := newJudge(t, c, "policy: {rate: {per_payer: 1, interval: 24h}, breaker: {payer_failures: 1}}")
	held := request(t, c, sale(t, payer))
	if r := s.post(t, "/verify", held); !r.is("isValid") {
		t.Fatalf("verify: %d %s", r.status, r.text)
	}
	s.wantUnjudged(t, request(t, c, sale(t, payer)), http.StatusTooManyRequests, "")
	s.wantGood(t, request(t, c, sale(t, other)))
	if r := s.post(t, "/settle", held); !r.is("success") {
		t.Errorf("settle of what was found good: %d %s", r.status, r.text)
	}

	// Who has a payment found good and takes the money away is not taken from again.
	third := payers(t, c, 1)[0]
	rich := devnet.Sale{Payer: third, PayTo: newKey(t, devnet.RolePayee).Address, Amount: 1_000_000_000}.ForNow(time.Now(), 5*time.Minute)
	spent, gone := request(t, c, rich), badCopy(t, request(t, c, rich))
	if r := s.post(t, "/verify", spent); !r.is("isValid") {
		t.Fatalf("verify: %d %s", r.status, r.text)
	}
	foreignSend(t, c, newKey(t, devnet.RoleLane), c.USDC(), foreignTransfer(t, gone))
	if r := s.post(t, "/settle", spent); r.str("errorReason") != "invalid_exact_evm_insufficient_balance" {
		t.Fatalf("settle: %d %s", r.status, r.text)
	}
	s.wantUnjudged(t, request(t, c, sale(t, third)), http.StatusTooManyRequests, `{"error":"too many payments of this payer failed lately, try again later","retryable":true}`)
}

// TestPolicySelfSend: what pays nobody is not worth our gas, unless the operator
// says so.
func TestPolicySelfSend(t *testing.T) {
	t.Parallel()
	c := world.chain
	payer := payers(t, c, 1)[0]
	deal := sale(t, payer)
	deal.PayTo = payer.Address
	newJudge(t, c, "").wantOutcome(t, c, deal, badCopy(t, request(t, c, deal)), refused("self_send_not_allowed", "the payer is the payee"))
	newJudge(t, c, "policy: {allow_self_send: true}").wantGood(t, request(t, c, deal))
}
