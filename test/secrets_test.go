package test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"facilitator/internal/devnet"
)

// careless is a server of the operator's that hears secrets. When it is moody it
// repeats them.
type careless struct {
	*httptest.Server
	heard lockedBuffer
	mood  atomic.Pointer[string] // the answer, in which %s is what it heard
}

func newCareless(t *testing.T, well http.HandlerFunc) *careless {
	t.Helper()
	c := new(careless)
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard := fmt.Sprintf("%s %v", r.URL, r.Header)
		_, _ = fmt.Fprintln(&c.heard, heard) // its Write never fails
		mood := c.mood.Load()
		if mood == nil {
			well(w, r)
			return
		}
		if !strings.Contains(*mood, `"decision"`) && !strings.Contains(*mood, `"jsonrpc"`) {
			w.WriteHeader(http.StatusInternalServerError)
		}
		quoted, _ := json.Marshal(heard) // a string always can be
		_, _ = io.WriteString(w, strings.ReplaceAll(*mood, "%s", strings.Trim(string(quoted), `"`)))
	}))
	t.Cleanup(c.Close)
	return c
}

// with is its URL with a secret in it.
func (c *careless) with(secret string) string {
	return strings.Replace(c.URL, "http://", "http://user:"+secret+"@", 1) + "/path-" + secret + "?key=" + secret
}

// vault knows every secret of a deployment by a name, and all that was told.
type vault struct{ secrets, told map[string]string }

// secret makes one, which stands nowhere else.
func (v *vault) secret(name string) string {
	v.secrets[name] = fmt.Sprintf("Zx%dQ%x", len(v.secrets), name)
	return v.secrets[name]
}

func (v *vault) tell(where string, text ...string) { v.told[where] += strings.Join(text, "\n") }

// wantKept fails the test where a secret was told, in whichever writing.
func (v *vault) wantKept(t *testing.T) {
	t.Helper()
	for name, secret := range v.secrets {
		for _, form := range []string{
			secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte("user:" + secret)),
			strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]"),
		} {
			for where, text := range v.told {
				if at := strings.Index(strings.ToLower(text), strings.ToLower(form)); at >= 0 {
					t.Errorf("%s: the %s is told: ...%s<here>", where, name, text[max(0, at-300):at])
				}
			}
		}
	}
	for where, text := range v.told {
		if text == "" {
			t.Errorf("%s: nothing was said", where)
		}
	}
}

// TestNoSecretIsTold: every secret of a deployment is marked, everything is used
// and made to fail, and no mark is in what the program said (I10).
func TestNoSecretIsTold(t *testing.T) {
	t.Parallel()
	binary := buildBinary(t)
	c := startChain(t, devnet.ChainConfig{})
	v := &vault{secrets: map[string]string{}, told: map[string]string{}}
	v.secrets["node's password"], v.secrets["node's path"], v.secrets["node's query"] = outagePassword, outagePathKey, outageQueryKey
	lanes := newKeys(t, devnet.RoleLane, 4)
	for i, role := range []string{"lane", "key in a keystore", "key of a remote signer", "treasury"} {
		v.secrets[role+"'s private key"] = lanes[i].Hex()[2:]
	}

	node, db := newOutageNode(t, c), newOutageDatabase(t)
	database, err := url.Parse(db.url)
	if err != nil {
		t.Fatal(err)
	}
	// A short password, of somebody's own server, may be a word that is no secret elsewhere.
	if own, _ := database.User.Password(); len(own) >= 16 {
		v.secrets["database password"] = own
	}
	hook := newCareless(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"decision":"allow"}`) })
	honest := startRemoteSigner(t, lanes[2])
	remote := newCareless(t, honest.Config.Handler.ServeHTTP)
	traces := newTraceCollector(t)
	_, traced, _ := strings.Cut(strings.TrimPrefix(traces.url, "http://"), "/")
	forward := func(w http.ResponseWriter, r *http.Request) {
		forwarded, err := http.NewRequestWithContext(r.Context(), r.Method, traces.url, r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		forwarded.Header = r.Header
		if response, err := http.DefaultClient.Do(forwarded); err == nil {
			_ = response.Body.Close()
			w.WriteHeader(response.StatusCode)
		}
	}
	spans := newCareless(t, forward)

	folder := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	run := func(name string, fails bool, args ...string) {
		t.Helper()
		b := startBinary(t, binary, nil, args...)
		<-b.done
		if code := b.cmd.ProcessState.ExitCode(); (code != 0) != fails {
			t.Errorf("%s ended with %d: %s%s", name, code, b.out.String(), b.err.String())
		}
		v.tell(name, b.out.String(), b.err.String())
	}
	keystore := filepath.Join(folder, "keystore.json")
	password := v.secret("keystore's password")
	run("keys import", false, "keys", "import", "-light", "-from", write("raw", lanes[1].Hex()), "-out", keystore, "-password-file", write("password", password))

	s := setup{chain: c, lanes: lanes, databaseURL: db.url, rpcURL: node.url}
	s.configuration(t) // gas money
	section := func(inner map[string]any) map[string]any {
		whole := map[string]any{
			"url": db.url, "rpc_url": node.url, "ws_url": strings.Replace(node.url, "http://", "ws://", 1),
			"read_from": []any{map[string]any{"url": node.url, "name": "second"}}, "send_to": []any{map[string]any{"url": node.url}},
			"hook":    map[string]any{"url": hook.with(v.secrets["hook's URL"]), "token": v.secrets["hook's token"], "ttl": "1s"},
			"headers": "x-key=" + v.secrets["collector's header"],
			"lanes": []any{
				map[string]any{"private_key": lanes[0].Hex()},
				map[string]any{"keystore": map[string]any{"file": keystore, "password": password}},
				map[string]any{"remote": map[string]any{"url": remote.with(v.secrets["signer's URL"]), "address": lanes[2].Address.Hex()}},
			},
			"treasury": map[string]any{"private_key": lanes[3].Hex()},
		}
		maps.Copy(whole, inner)
		return whole
	}
	for _, name := range []string{"hook's URL", "hook's token", "collector's header", "signer's URL"} {
		v.secret(name)
	}
	// config is the deployment's, where some settings are others.
	config := func(name string, other map[string]any) string {
		t.Helper()
		w := section(other)
		text, err := json.Marshal(map[string]any{ // JSON is YAML
			"http":     map[string]any{"address": "127.0.0.1:0", "drain_delay": "0s"},
			"clients":  map[string]any{"max_guesses": 1000},
			"metrics":  map[string]any{"address": "same"},
			"log":      map[string]any{"level": "debug"},
			"tracing":  map[string]any{"endpoint": spans.URL + "/" + traced, "headers": w["headers"], "sample_per_million": 1_000_000},
			"settle":   map[string]any{"wait": "2s"},
			"database": map[string]any{"url": w["url"], "timeout": "1s"},
			"policy":   map[string]any{"screening": map[string]any{"hook": w["hook"]}},
			"chains": map[string]any{c.Network(): map[string]any{
				"rpc_url": w["rpc_url"], "ws_url": w["ws_url"], "read_from": w["read_from"], "send_to": w["send_to"], "rpc_timeout": "500ms",
				"lanes": w["lanes"], "treasury": w["treasury"], "poll_interval": "20ms", "resend_interval": "500ms", "lane_lease": "2s",
				"max_in_flight": 1, "batch": map[string]any{"max_payments": 1},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return write(name+".yaml", string(text))
	}
	whole := config("whole", nil)

	bad := v.secret("malformed one")
	for setting, values := range map[string][]any{
		"url":       {bad, "postgres://u:" + bad + "@127.0.0.1:port/db", "postgres://u:" + bad + "@%zz/db", []any{bad}, map[string]any{"x": bad}},
		"rpc_url":   {bad, "ftp://u:" + bad + "@host", "http://u:" + bad + "@host:port", "http://host/%zz" + bad, []any{bad}},
		"ws_url":    {bad, "http://u:" + bad + "@host", "ws://u:" + bad + "@host:port"},
		"read_from": {[]any{map[string]any{"url": "ftp://" + bad}}, []any{bad}, bad},
		"send_to":   {[]any{map[string]any{"url": "ftp://" + bad}}, []any{map[string]any{"uri": bad}}},
		"hook":      {map[string]any{"url": "ftp://host/" + bad}, map[string]any{"url": "http://u:" + bad + "@host:port"}, map[string]any{"token": []any{bad}}},
		"headers":   {bad, []any{bad}, "=" + bad},
		"treasury":  {map[string]any{"private_key": bad}, map[string]any{"private_key": "0x" + bad}},
		"lanes": {
			[]any{map[string]any{"private_key": bad}},
			[]any{map[string]any{"private_key": []any{bad}}},
			[]any{bad},
			[]any{map[string]any{"remote": map[string]any{"url": "ftp://u:" + bad + "@host", "address": lanes[2].Address.Hex()}}},
		},
	} {
		for i, value := range values {
			file := config("bad", map[string]any{setting: value})
			run(fmt.Sprintf("%s %d, serve -check", setting, i), true, "serve", "-check", "-config", file)
			run(fmt.Sprintf("%s %d, doctor", setting, i), true, "doctor", "-config", file)
		}
	}
	run("no YAML", true, "serve", "-config", write("no.yaml", "database: {url: "+bad+"\n\tx: ["+bad))
	wrong := config("wrong", map[string]any{"lanes": []any{map[string]any{"keystore": map[string]any{"file": keystore, "password": bad}}}})
	run("a wrong password, serve", true, "serve", "-config", wrong)
	run("a wrong password, keys check", true, "keys", "check", "-config", wrong)

	created := startBinary(t, binary, nil, "clients", "create", "-name", "shop", "-config", whole) // it shows the key, once
	<-created.done
	_, key, found := strings.Cut(created.out.String(), "x402f_")
	key, _, _ = strings.Cut(key, "\n")
	id, secret, two := strings.Cut(strings.TrimSpace(key), "_")
	if !found || !two || len(secret) < 40 {
		t.Fatalf("no key was shown: %s", created.err.String())
	}
	v.secrets["client's key"] = secret
	ours, guess := "Bearer x402f_"+id+"_"+secret, "Bearer x402f_"+id+"_"+v.secret("guessed key")+strings.Repeat("A", 20)

	commands := map[string][]string{
		"serve -check": {"serve", "-check"}, "doctor": {"doctor"}, "doctor -json": {"doctor", "-json"}, "keys check": {"keys", "check"}, "keys address": {"keys", "address"},
		"migrate": {"migrate", "status"}, "audit": {"audit"}, "payments": {"payments", "export"}, "clients": {"clients", "list", "-json"},
	}
	for name, args := range commands {
		run(name, false, append(args, "-config", whole)...)
	}

	serving := startBinary(t, binary, nil, "serve", "-config", whole)
	service := serving.service(t, s)
	payer := payers(t, c, 1)[0]
	ask := func(where, method, path string, body any, header string) reply {
		t.Helper()
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r, err := service.do(t.Context(), method, path, string(text), "Authorization", header)
		if err != nil && path != "/metrics" {
			t.Fatal(err)
		}
		v.tell(where, fmt.Sprint(r.status, r.header), r.text)
		return r
	}
	// round has everything asked while something fails.
	round := func(where string) {
		t.Helper()
		for _, path := range []string{"/verify", "/settle"} {
			ask(where, http.MethodPost, path, request(t, c, sale(t, payer)), ours)
		}
		for _, path := range []string{"/settlements", "/settlements/none", "/whoami", "/readyz", "/supported", "/metrics"} {
			ask(where, http.MethodGet, path, nil, ours)
		}
		if r := ask(where, http.MethodGet, "/whoami", nil, guess); r.status != http.StatusUnauthorized {
			t.Errorf("%s: a guess is answered %d", where, r.status)
		}
	}
	eventually(t, "the client is known", func() bool { return ask("well", http.MethodGet, "/whoami", nil, ours).status == http.StatusOK })
	sold := request(t, c, sale(t, payer))
	eventually(t, "a payment is settled", func() bool { return ask("well", http.MethodPost, "/settle", sold, ours).is("success") })
	round("well")
	moods := []string{
		"no luck with %s", `{"decision":"deny","reason":"%s"}`, `{"decision":"%s"}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"%s"}}`,
		`{"jsonrpc":"2.0","id":1,"result":"%s"}`,
	}
	for _, mood := range moods {
		hook.mood.Store(&mood)
		round("a careless hook " + mood)
	}
	hook.mood.Store(nil)
	for _, mood := range moods {
		remote.mood.Store(&mood)
		spans.mood.Store(&mood)
		run("keys check, "+mood, true, "keys", "check", "-config", whole)
		round("a careless signer and collector " + mood)
	}
	held(t, c) // so that no lane takes two
	var answers []<-chan settleAnswer
	for range 3 {
		answers = append(answers, settleLater(t, service, request(t, c, sale(t, payer)), "Authorization", ours))
	}
	eventually(t, "the careless signer is noticed", func() bool { return strings.Contains(serving.err.String(), "lane is parked") })
	if err := c.SetAutomine(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	mine(t, c, 1)
	for _, answer := range answers {
		v.tell("signer", wait(t, answer).text)
	}
	remote.mood.Store(nil)
	spans.mood.Store(nil)
	for name, fault := range map[string]outageRule{
		"refuses": outageRefuse, "answers 500": outageStatus(http.StatusInternalServerError), "answers HTML": outageHTML, "repeats its URL": outageError(-32000, "no"),
	} {
		node.follow(fault)
		round("a node that " + name)
		run("doctor, a node that "+name, true, "doctor", "-config", whole)
		run("audit, a node that "+name, true, "audit", "-config", whole)
	}
	node.heal()
	db.cut()
	round("no database")
	for _, name := range []string{"doctor", "audit", "migrate", "payments", "clients"} {
		run(name+" without a database", true, append(commands[name], "-config", whole)...)
	}
	db.heal()
	eventually(t, "it is well again", func() bool {
		return ask("well again", http.MethodPost, "/settle", request(t, c, sale(t, payer)), ours).is("success")
	})
	serving.wantStopped(t, syscall.SIGTERM)
	v.tell("log", serving.out.String(), serving.err.String())
	traces.mu.Lock()
	defer traces.mu.Unlock()
	v.tell("traces", string(traces.bodies))

	// What was never used was not tried.
	heard := map[string]string{
		"hook's URL": hook.heard.String(), "hook's token": hook.heard.String(), "signer's URL": remote.heard.String(), "collector's header": spans.heard.String(),
	}
	for name, text := range heard {
		if !strings.Contains(text, v.secrets[name]) {
			t.Errorf("the %s was never used", name)
		}
	}
	if !node.keyed.Load() {
		t.Error("the node's keys were never used")
	}
	if !strings.Contains(v.told["log"], "lane is parked") || !strings.Contains(v.told["log"], `"level":"DEBUG"`) {
		t.Error("the log lacks what it was to say")
	}
	v.wantKept(t)
}
