package test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/client"
	"facilitator/internal/devnet"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// registry is the record of clients of a service.
func registry(t *testing.T, s *service) *store.Store {
	t.Helper()
	r, err := store.Open(t.Context(), s.databaseURL, store.Options{MaxConnections: 2, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// newClient registers a client and returns its header, once the service knows it.
func newClient(t *testing.T, s *service, name string, change func(*client.Client)) string {
	t.Helper()
	c := client.Client{ID: uuid.NewString(), Name: name, Scopes: client.Scopes()}
	if change != nil {
		change(&c)
	}
	text, key, err := client.NewKey(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := registry(t, s).AddClient(t.Context(), &c, &key); err != nil {
		t.Fatal(err)
	}
	header := "Bearer " + text
	eventually(t, "the service knows the client", func() bool {
		r, err := s.do(t.Context(), http.MethodGet, "/whoami", "", "Authorization", header)
		return err == nil && r.status == http.StatusOK && r.str("id") == c.ID
	})
	return header
}

// wantDenied fails the test unless a call was not let through, and why.
func wantDenied(t *testing.T, what string, r reply, status int, reason client.Check) {
	t.Helper()
	if r.status != status || r.str("reason") != string(reason) || r.str("error") == "" {
		t.Errorf("%s: %d %s, want %d for %s", what, r.status, r.text, status, reason)
	}
	if status == http.StatusUnauthorized && r.header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("%s: does not say how to say who one is", what)
	}
	if status == http.StatusTooManyRequests && (r.header.Get("Retry-After") == "" || !r.is("retryable")) {
		t.Errorf("%s: does not say when to come again", what)
	}
}

// TestClientsAreLetThroughByTheirKeys asks what each check refuses, and that
// nothing of it leaves a trace.
func TestClientsAreLetThroughByTheirKeys(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c, keysOnly: true}.start(t)
	deal := sale(t, payers(t, c, 1)[0])
	body := request(t, c, deal)
	elsewhere := chain.Address(newKey(t, devnet.RolePayee).Address)
	all := newClient(t, s, "all", nil)
	reader := newClient(t, s, "reader", func(c *client.Client) { c.Scopes = []client.Scope{client.ScopeRead} })
	network := newClient(t, s, "network", func(c *client.Client) { c.Networks = []x402.Network{"eip155:1"} })
	asset := newClient(t, s, "asset", func(c *client.Client) { c.Assets = []chain.Address{elsewhere} })
	payee := newClient(t, s, "payee", func(c *client.Client) { c.PayTo = []chain.Address{elsewhere} })
	gone := newClient(t, s, "gone", nil)
	if err := registry(t, s).DisableClient(t.Context(), "gone", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service knows that it is disabled", func() bool {
		r, err := s.do(t.Context(), http.MethodGet, "/whoami", "", "Authorization", gone)
		return err == nil && r.status == http.StatusForbidden
	})
	wrong := all[:len(all)-4] + "AAAA"
	for _, row := range []struct {
		what, header string
		status       int
		reason       client.Check
	}{
		{"no key", "", 401, client.CheckNoKey},
		{"a wrong key", wrong, 401, client.CheckKey},
		{"no key of ours", "Bearer secret", 401, client.CheckKey},
		{"another scheme", "Basic " + all[7:], 401, client.CheckKey},
		{"a disabled client", gone, 403, client.CheckDisabled},
		{"another scope", reader, 403, client.CheckScope},
		{"another network", network, 403, client.CheckNetwork},
		{"another asset", asset, 403, client.CheckAsset},
		{"another payee", payee, 403, client.CheckPayee},
	} {
		for _, path := range []string{"/verify", "/settle", "/platform/v2/x402/verify", "/platform/v2/x402/settle"} {
			wantDenied(t, row.what+" to "+path, s.post(t, path, body, "Authorization", row.header), row.status, row.reason)
		}
	}
	if rows := queryRows[int64](t, s.databaseURL, "SELECT count(*) FROM payments"); rows[0] != 0 {
		t.Errorf("%d payments are recorded", rows[0])
	}
	if r := s.get(t, "/supported"); r.status != http.StatusOK {
		t.Errorf("supported: %d %s", r.status, r.text)
	}
	if r := s.post(t, "/verify", body, "Authorization", all); !r.is("isValid") {
		t.Errorf("verify with a key: %d %s", r.status, r.text)
	}
	if log := s.log.String(); strings.Contains(log, all[len(all)-20:]) || strings.Contains(log, wrong[20:40]) {
		t.Error("a key is in the log")
	}
}

// TestClientsSeeTheirOwnSettlements: what one client settled is told to no other,
// however it asks.
func TestClientsSeeTheirOwnSettlements(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t) // callers without a key are a client too
	a := newClient(t, s, "a", nil)
	b := newClient(t, s, "b", nil)
	deal := sale(t, payers(t, c, 1)[0])
	body := request(t, c, deal)
	first := s.post(t, "/settle", body, "Authorization", a)
	if !first.is("success") {
		t.Fatalf("settle: %d %s", first.status, first.text)
	}
	id, hash := first.header.Get("Settlement-Id"), first.str("transaction")
	for who, header := range map[string]string{"another client": b, "nobody": ""} {
		repeat := s.post(t, "/settle", body, "Authorization", header)
		if repeat.is("success") || repeat.str("errorReason") != "duplicate_settlement" {
			t.Errorf("%s: %d %s", who, repeat.status, repeat.text)
		}
		for _, path := range []string{"/settlements/" + id, "/settlements?transaction=" + hash} {
			r, err := s.do(t.Context(), http.MethodGet, path, "", "Authorization", header)
			if err != nil {
				t.Fatal(err)
			}
			if list, _ := r.body["settlements"].([]any); r.status == http.StatusOK && len(list) != 0 || r.status == http.StatusOK && strings.Contains(path, id) {
				t.Errorf("%s sees %s at %s", who, r.text, path)
			}
		}
	}
	for _, path := range []string{"/settlements/" + id, "/settlements?transaction=" + hash} {
		if r, err := s.do(t.Context(), http.MethodGet, path, "", "Authorization", a); err != nil || r.status != http.StatusOK || !strings.Contains(r.text, id) {
			t.Errorf("the client itself: %d %s (%v)", r.status, r.text, err)
		}
	}
	wantDuplicate(t, s.post(t, "/settle", body, "Authorization", a), hash)
}

// TestClientsAreHeldToTheirLimits: over two replicas, and by what their gas cost.
func TestClientsAreHeldToTheirLimits(t *testing.T) {
	t.Parallel()
	c := world.chain
	one := setup{chain: c}.start(t)
	two := setup{chain: c, databaseURL: one.databaseURL, lanes: one.lanes}.start(t)
	slow := newClient(t, one, "slow", func(c *client.Client) { c.Rate, c.Burst = 1, 3 })
	key := payers(t, c, 1)[0]
	deal := sale(t, key)
	body := request(t, c, deal)
	passed := 0
	for range 20 {
		for _, s := range []*service{one, two} {
			r := s.post(t, "/verify", body, "Authorization", slow)
			if r.status == http.StatusTooManyRequests {
				wantDenied(t, "a rate", r, 429, client.CheckRate)
			} else if r.is("isValid") {
				passed++
			}
		}
	}
	if passed < 3 || passed > 12 {
		t.Errorf("%d of 40 at once were let through, with a burst of 3 and one a second", passed)
	}
	poor := newClient(t, one, "poor", func(c *client.Client) { c.GasPerDay = big.NewInt(1) })
	if r := one.post(t, "/settle", request(t, c, deal), "Authorization", poor); !r.is("success") {
		t.Fatalf("settle: %s", r.text)
	}
	again := request(t, c, sale(t, key))
	eventually(t, "the day's gas is known to be spent", func() bool {
		r := two.post(t, "/settle", again, "Authorization", poor)
		if r.status == http.StatusUnauthorized { // the other replica does not know the client yet
			return false
		}
		if r.is("success") { // nor what it spent
			again = request(t, c, sale(t, key))
			return false
		}
		wantDenied(t, "the day's gas", r, 429, client.CheckGas)
		return true
	})
	if r := two.post(t, "/verify", again, "Authorization", poor); !r.is("isValid") {
		t.Errorf("verify costs no gas: %d %s", r.status, r.text)
	}
}

// TestGuessersAreNotListenedTo: after some calls without a good key an address
// gets no more tries. Other addresses do, and whoever has a key there.
func TestGuessersAreNotListenedTo(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c, keysOnly: true, more: "http: {trusted_proxies: [127.0.0.0/8]}\nclients: {max_guesses: 1}"}.start(t)
	good := newClient(t, s, "good", nil)
	call := func(from, header string) reply {
		t.Helper()
		r, err := s.do(t.Context(), http.MethodGet, "/whoami", "", "Authorization", header, "X-Forwarded-For", "203.0.113.9, "+from)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const guesser = "198.51.100.7"
	const guess = "Bearer x402f_guess"
	for range 10 {
		wantDenied(t, "a guess", call(guesser, guess), 401, client.CheckKey)
	}
	denied := 0
	for range 10 {
		if r := call(guesser, guess); r.status == http.StatusTooManyRequests {
			denied++
		}
	}
	if denied < 8 { // a second may pass
		t.Errorf("%d of 10 after all tries were denied", denied)
	}
	wantDenied(t, "a guess from elsewhere", call("198.51.100.8", guess), 401, client.CheckKey)
	if r := call(guesser, good); r.status != http.StatusOK {
		t.Errorf("a good key from there: %d %s", r.status, r.text)
	}
}

// TestSupportedIsKept: who has it need not get it again; a network that can't
// settle is not in it.
func TestSupportedIsKept(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t)
	first := s.get(t, "/supported")
	tag := first.header.Get("ETag")
	kinds, _ := first.body["kinds"].([]any)
	if tag == "" || !strings.Contains(first.header.Get("Cache-Control"), "max-age") || len(kinds) != 2 {
		t.Fatalf("%v %s", first.header, first.text)
	}
	again, err := s.do(t.Context(), http.MethodGet, "/supported", "", "If-None-Match", `"x", W/`+tag)
	if err != nil {
		t.Fatal(err)
	}
	if again.status != http.StatusNotModified || again.text != "" || again.header.Get("ETag") != tag {
		t.Errorf("%d %v %s", again.status, again.header, again.text)
	}
	kind, _ := kinds[0].(map[string]any)
	extra := dig[map[string]any](t, kind, "extra")
	if wallets, _ := extra["wallets"].([]any); !slices.Contains(wallets, any("eip1271")) || extra["assets"] == nil {
		t.Errorf("extra: %v", extra)
	}
	poor := setup{chain: c, unfunded: true}.start(t)
	if r := poor.get(t, "/supported"); len(dig[[]any](t, r.body, "kinds")) != 0 {
		t.Errorf("without gas: %s", r.text)
	}
}

// TestHostedClientsNeedOnlyTheURL: the official clients of the hosted facilitator
// buy with keys that were registered here.
func TestHostedClientsNeedOnlyTheURL(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c, keysOnly: true, more: "clients: {token_hosts: [127.0.0.1, api.cdp.coinbase.com]}"}.start(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]struct {
		public any
		secret string
	}{
		"organizations/1/apiKeys/2":            {&ec.PublicKey, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))},
		"0d2f7a66-4a4e-4b5c-9e4e-000000000001": {public, base64.StdEncoding.EncodeToString(private)},
	}
	ours := newClient(t, s, "ours", nil)
	record := registry(t, s)
	for kid, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(key.public)
		if err != nil {
			t.Fatal(err)
		}
		kind, material, err := client.ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		if err != nil {
			t.Fatal(err)
		}
		who := client.Client{ID: uuid.NewString(), Name: "hosted-" + string(kind), Scopes: client.Scopes()}
		if err := record.AddClient(t.Context(), &who, &client.Key{ID: kid, Client: who.ID, Kind: kind, Material: material}); err != nil {
			t.Fatal(err)
		}
	}
	newClient(t, s, "last", nil) // what was registered before it is known too
	buy := func(t *testing.T, more map[string]any) common.Address {
		t.Helper()
		shop := newSDKShop(t, c, s, 1)
		text, err := os.ReadFile(shop.file)
		if err != nil {
			t.Fatal(err)
		}
		var ready map[string]any
		if err := json.Unmarshal(text, &ready); err != nil {
			t.Fatal(err)
		}
		for k, v := range more {
			ready[k] = v
		}
		if text, err = json.Marshal(ready); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(shop.file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		shop.run(t, "buy-v2.mjs")
		return shop.payTo
	}
	paid := func(t *testing.T, payee common.Address, name string) {
		t.Helper()
		if got := received(t, c, payee); got != 10_000 {
			t.Errorf("the payee has %d", got)
		}
		if who := queryRows[string](t, s.databaseURL, "SELECT c.name FROM payments p JOIN clients c ON c.id = p.client WHERE p.pay_to = $1", payee[:]); !slices.Equal(who, []string{name}) {
			t.Errorf("settled by %v, want %s", who, name)
		}
	}
	for kid, key := range keys {
		for _, npm := range []string{"@coinbase/cdp-sdk", "@coinbase/x402"} {
			t.Run(npm+" as "+kid, func(t *testing.T) {
				t.Parallel()
				name := "hosted-es256"
				if strings.HasPrefix(kid, "0d2f") {
					name = "hosted-eddsa"
				}
				paid(t, buy(t, map[string]any{"cdp": map[string]any{"client": npm, "key_id": kid, "key_secret": key.secret}}), name)
			})
		}
	}
	t.Run("@x402/core with a key of ours", func(t *testing.T) {
		t.Parallel()
		paid(t, buy(t, map[string]any{"api_key": strings.TrimPrefix(ours, "Bearer ")}), "ours")
	})
}

// TestClientsByTheCommandLine makes, lists, rotates and disables a client by the
// program itself, and calls with what it printed.
func TestClientsByTheCommandLine(t *testing.T) {
	t.Parallel()
	binary := buildBinary(t)
	c := world.chain
	s := setup{chain: c, keysOnly: true}.start(t)
	folder := t.TempDir()
	run := func(fails bool, args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), binary, append([]string{"clients"}, args...)...)
		command.Env = []string{
			"FACILITATOR_DATABASE_URL=" + s.databaseURL, "FACILITATOR_CHAINS_EIP155_8453_RPC_URL=" + c.URL(),
			"FACILITATOR_CHAINS_EIP155_8453_LANES_0_PRIVATE_KEY=" + s.lanes[0].Hex(),
		}
		out, err := command.CombinedOutput()
		if (err != nil) != fails {
			t.Fatalf("clients %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	key := regexp.MustCompile(`x402f_\S+`)
	whoami := func(key string) int {
		t.Helper()
		r, err := s.do(t.Context(), http.MethodGet, "/whoami", "", "Authorization", "Bearer "+key)
		if err != nil {
			t.Fatal(err)
		}
		return r.status
	}
	become := func(what, key string, status int) {
		t.Helper()
		eventually(t, what, func() bool { return whoami(key) == status })
	}
	payee := newKey(t, devnet.RolePayee).Address.Hex()
	first := key.FindString(run(false, "create", "-name", "shop", "-scopes", "verify,settle", "-pay-to", payee, "-rate", "100", "-gas-per-day", "1000000000000000000"))
	become("the client is known", first, http.StatusOK)
	second := key.FindString(run(false, "rotate", "-name", "shop", "-overlap", "0s"))
	become("its new key is known", second, http.StatusOK)
	become("its old key has ended", first, http.StatusUnauthorized)
	listed := run(false, "list", "-json")
	for _, want := range []string{`"name": "shop"`, strings.ToLower(payee[2:6]), `"rate": 100`, `"gasPerDayWei": "1000000000000000000"`} {
		if !strings.Contains(strings.ToLower(listed), strings.ToLower(want)) {
			t.Errorf("list lacks %s:\n%s", want, listed)
		}
	}
	for _, shown := range []string{first, second} {
		if secret := strings.SplitN(shown, "_", 3)[2]; len(secret) < 40 || strings.Contains(listed+run(false, "list"), secret) {
			t.Error("a key is shown twice, or none was shown")
		}
	}
	run(false, "disable", "-name", "shop")
	become("it is disabled", second, http.StatusForbidden)
	run(false, "enable", "-name", "shop")
	become("it is enabled", second, http.StatusOK)
	public := filepath.Join(folder, "key.pem")
	edPublic, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(edPublic)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(false, "create", "-name", "hosted", "-public-key", public, "-key-id", "abc"); !strings.Contains(out, "key abc (eddsa) is registered") {
		t.Errorf("%s", out)
	}
	for _, args := range [][]string{
		{},
		{"remove"},
		{"create"},
		{"create", "-name", "shop"},
		{"create", "-name", "-x"},
		{"create", "-name", "a", "-scopes", "all"},
		{"create", "-name", "a", "-scopes", ""},
		{"create", "-name", "a", "-pay-to", "0x1"},
		{"create", "-name", "a", "-rate", "-1"},
		{"create", "-name", "a", "-gas-per-day", "x"},
		{"create", "-name", "a", "-key-id", "x"},
		{"create", "-name", "a", "-public-key", public},
		{"create", "-name", "a", "-public-key", folder, "-key-id", "x"},
		{"create", "-name", "b", "-public-key", public, "-key-id", "abc"},
		{"rotate", "-name", "nobody"},
		{"disable", "-name", "nobody"},
		{"list", "extra"},
	} {
		run(true, args...)
	}
	if n := queryRows[int64](t, s.databaseURL, "SELECT count(*) FROM clients"); n[0] != 2 {
		t.Errorf("%d clients, want 2: what was refused left something", n[0])
	}
}
