package test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

const kytRisk = "kyt_risk_detected"

// wantRefusedBoth fails the test unless verify and settle refuse a payment for the
// same reason, with nothing sent.
func wantRefusedBoth(t *testing.T, s *service, body any, reason string) {
	t.Helper()
	if r := s.post(t, "/verify", body); r.status != http.StatusOK || r.str("invalidReason") != reason {
		t.Errorf("verify: %d %s, want %s", r.status, r.text, reason)
	}
	r := s.post(t, "/settle", body)
	if r.status != http.StatusOK || r.is("success") || r.str("errorReason") != reason || r.str("transaction") != "" {
		t.Errorf("settle: %d %s, want %s", r.status, r.text, reason)
	}
	for _, secret := range []string{"list_", "oracle", "hook"} {
		if strings.Contains(r.text, secret) {
			t.Errorf("the payer is told which source it was: %s", r.text)
		}
	}
}

// TestPolicyScreensEverybody: by a list that is replaced while the service runs,
// and by a contract on chain.
func TestPolicyScreensEverybody(t *testing.T) {
	t.Parallel()
	c := world.chain
	oracle := foreignDeploy(t, c, "SanctionsOracle")
	file := filepath.Join(t.TempDir(), "list.txt")
	write := func(lines ...string) {
		t.Helper()
		next := file + ".next"
		if err := os.WriteFile(next, []byte("# nobody likes these\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, file); err != nil {
			t.Fatal(err)
		}
	}
	nobody := common.Address{1, 2, 3}.Hex()
	write(nobody)
	s := setup{chain: c, overlay: `
policy: {screening: {check_interval: 100ms, oracle_ttl: 1s, lists: [{path: '` + file + `'}]}}
chains: {'eip155:8453': {sanctions_oracle: '` + oracle.Hex() + `'}}`}.start(t)
	keys := payers(t, c, 3)

	good := sale(t, keys[0])
	if r := s.post(t, "/settle", request(t, c, good)); !r.is("success") {
		t.Fatalf("somebody on no list: %s", r.text)
	}
	payer := sale(t, keys[1])
	write(nobody, strings.ToLower(payer.Payer.Address.Hex())+" # new")
	body := request(t, c, payer)
	eventually(t, "the list is read again", func() bool { return !s.post(t, "/verify", body).is("isValid") })
	wantRefusedBoth(t, s, body, kytRisk)

	payee := sale(t, keys[2])
	data, err := foreignContract(t, "SanctionsOracle").ABI.Pack("set", payee.PayTo, true)
	if err != nil {
		t.Fatal(err)
	}
	foreignSend(t, c, newKey(t, devnet.RoleLane), oracle, data)
	wantRefusedBoth(t, s, request(t, c, payee), kytRisk)

	own := sale(t, keys[0])
	own.PayTo = keys[0].Address
	wantRefusedBoth(t, s, request(t, c, own), "self_send_not_allowed")
	if got := received(t, c, payer.PayTo) + received(t, c, payee.PayTo); got != 0 {
		t.Errorf("the refused payees have %d", got)
	}
	metrics := s.metrics(t)
	if !strings.Contains(metrics, `facilitator_screening_hits_total{kind="plain",source="list_0"}`) || !strings.Contains(metrics, `source="oracle_eip155:8453"`) {
		t.Error("hits are in no metric")
	}
}

// TestPolicyHookThatIsDownBlamesNobody: 503 until it answers (I7); what is settled
// already is told all the same.
func TestPolicyHookThatIsDownBlamesNobody(t *testing.T) {
	t.Parallel()
	c := world.chain
	var down atomic.Bool
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write([]byte(`{"decision":"allow"}`))
	}))
	t.Cleanup(hook.Close)
	s := setup{chain: c, overlay: "policy: {screening: {hook: {url: '" + hook.URL + "', ttl: 1s}}}"}.start(t)
	keys := payers(t, c, 2)
	settled := request(t, c, sale(t, keys[0]))
	first := s.post(t, "/settle", settled)
	if !first.is("success") {
		t.Fatalf("settle: %s", first.text)
	}
	down.Store(true)
	body := request(t, c, sale(t, keys[1]))
	for _, path := range []string{"/verify", "/settle"} {
		if r := s.post(t, path, body); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || r.str("invalidReason")+r.str("errorReason") != "" {
			t.Errorf("%s: %d %s, want 503", path, r.status, r.text)
		}
	}
	wantDuplicate(t, s.post(t, "/settle", settled), first.str("transaction"))
	down.Store(false)
	if r := s.post(t, "/settle", body); !r.is("success") {
		t.Errorf("after it: %d %s", r.status, r.text)
	}
}

// TestPolicyRates: so many good payments of one payer, and no more for a while.
func TestPolicyRates(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c, overlay: "policy: {rate: {per_payer: 3, interval: 1h}}"}.start(t)
	key := payers(t, c, 1)[0]
	for n := range 3 {
		body := request(t, c, sale(t, key))
		for range 2 { // one payment counts once, however often it is asked about
			if r := s.post(t, "/verify", body); !r.is("isValid") {
				t.Fatalf("payment %d: %d %s", n, r.status, r.text)
			}
		}
	}
	for _, path := range []string{"/verify", "/settle"} {
		if r := s.post(t, path, request(t, c, sale(t, key))); r.status != http.StatusTooManyRequests || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s, want 429", path, r.status, r.text)
		}
	}
}

// metrics are all that the service tells Prometheus.
func (s *service) metrics(t *testing.T) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.metricsURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
