package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// refusals are a record with hits by three sources on two days, the first of which
// is over a page long.
func refusals(t *testing.T) (file string) {
	t.Helper()
	if database == nil {
		t.Skip("no Postgres: short run, or no tools")
	}
	url := database.Database(t)
	s, err := store.Open(t.Context(), url, store.Options{MaxConnections: 2, Timeout: time.Minute})
	must(t, err)
	defer s.Close()
	hit := func(day int, source string, a chain.Address, n int64) payment.Hits {
		at := time.Date(2026, 11, day, 9, 0, 0, 0, time.UTC)
		return payment.Hits{
			HitKey: payment.HitKey{Day: at.Format(time.DateOnly), Network: "eip155:8453", Source: source, Role: "payer", Address: a},
			Kind:   "plain", Count: n, FirstAt: at, LastAt: at.Add(time.Hour), Payer: a, Amount: x402.NewUint256(10000), Reason: "because\nof it",
		}
	}
	others := hit(28, "hook", chain.Address{}, 7)
	others.Rest = true
	all := []payment.Hits{hit(28, "own", chain.Address{19: 1}, 3), hit(28, "ofac", chain.Address{19: 2}, 5), others}
	for n := range pageSize + 1 {
		all = append(all, hit(27, "own", chain.Address{0: 1, 18: byte(n >> 8), 19: byte(n)}, 1))
	}
	must(t, s.AddHits(t.Context(), all))
	file = filepath.Join(t.TempDir(), "facilitator.yaml")
	must(t, os.WriteFile(file, []byte(`
database: {url: "`+url+`"}
chains: {"eip155:8453": {rpc_url: "http://127.0.0.1:9", lanes: [{private_key: "`+strings.Repeat("07", 32)+`"}]}}`), 0o600))
	return file
}

func TestScreeningHitsAreListed(t *testing.T) {
	t.Parallel()
	file := refusals(t)
	list := func(args ...string) []hitLine {
		t.Helper()
		code, out, problem := command(t, append([]string{"screening", "hits", "-config", file, "-json"}, args...)...)
		if code != 0 {
			t.Fatalf("%q: %s", args, problem)
		}
		var lines []hitLine
		for text := range strings.Lines(out) {
			var l hitLine
			must(t, json.Unmarshal([]byte(text), &l))
			lines = append(lines, l)
		}
		return lines
	}
	for _, row := range []struct {
		args string
		want int
	}{
		{"", 50},
		{"-limit 0", pageSize + 4},
		{"-limit 1002", pageSize + 2},
		{"-since 2026-11-28", 3},
		{"-since 2026-11-28 -source own", 1},
		{"-until 2026-11-28 -limit 0", pageSize + 1},
		{"-since 2026-11-28T10:00:01Z", 0},
		{"-network eip155:1", 0},
		{"-address 0x0000000000000000000000000000000000000002", 1},
	} {
		if got := list(strings.Fields(row.args)...); len(got) != row.want {
			t.Errorf("hits %s: %d rows, want %d", row.args, len(got), row.want)
		}
	}
	rows := list("-since", "2026-11-28")
	if rows[0].Source != "own" || rows[0].Hits != 3 || rows[0].Address == nil || rows[0].Last.Reason != "because\nof it" || rows[0].Last.Amount != "10000" {
		t.Errorf("%+v", rows[0])
	}
	if rows[2].Source != "hook" || rows[2].Hits != 7 || rows[2].Address != nil {
		t.Errorf("%+v", rows[2])
	}
	code, out, problem := command(t, "screening", "hits", "-config", file, "-since", "2026-11-28")
	if lines := strings.Count(out, "\n"); code != 0 || lines != 4 || !strings.Contains(out, "(others)") || !strings.Contains(out, "0x0000000000000000000000000000000000000001") {
		t.Errorf("exit code %d, %s%s", code, out, problem)
	}
	if code, out, problem := command(t, "screening", "forget", "-config", file, "-before", "2026-11-28"); code != 0 || out != fmt.Sprintf("forgot %d rows\n", pageSize+1) {
		t.Errorf("exit code %d, %s%s", code, out, problem)
	}
	if left := list("-limit", "0"); len(left) != 3 {
		t.Errorf("%d rows are left", len(left))
	}
	for _, args := range []string{"hits -address me", "hits -since yesterday", "hits -limit -1", "hits extra", "forget", "forget -before now", "check me", "check 0x" + strings.Repeat("1", 40)} {
		words := strings.Fields(args)
		words = append([]string{"screening", words[0], "-config", file}, words[1:]...)
		if code, _, problem := command(t, words...); code != 1 || problem == "" {
			t.Errorf("screening %s: exit code %d, %s", args, code, problem)
		}
	}
	for _, args := range []string{"screening", "screening drop", "screening check"} {
		if code, _, problem := command(t, strings.Fields(args)...); code != 2 || problem == "" {
			t.Errorf("%s: exit code %d, %s", args, code, problem)
		}
	}
}

// TestAnAddressIsLookedUpInEverySource, whatever the others say.
func TestAnAddressIsLookedUpInEverySource(t *testing.T) {
	t.Parallel()
	const listed, denied, fine = "0x00000000000000000000000000000000000000bd", "0x00000000000000000000000000000000000000de", "0x00000000000000000000000000000000000000f1"
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Payer string }
		must(t, json.NewDecoder(r.Body).Decode(&q))
		if strings.EqualFold(q.Payer, denied) {
			fmt.Fprint(w, `{"decision":"deny","reason":"a\nmixer"}`)
			return
		}
		fmt.Fprint(w, `{"decision":"allow"}`)
	}))
	t.Cleanup(hook.Close)
	dir := t.TempDir()
	list := func(name string, old time.Duration) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(listed), 0o600))
		must(t, os.Chtimes(path, time.Now(), time.Now().Add(-old)))
		return path
	}
	file := filepath.Join(dir, "facilitator.yaml")
	// Port 9 of this machine: nobody listens.
	must(t, os.WriteFile(file, fmt.Appendf(nil, `
database: {url: "postgres://me:hunter2@127.0.0.1:9/hunter2"}
policy: {screening: {lists: [{name: fresh, path: %q}, {name: old, path: %q, max_age: 24h}], hook: {url: "%s/hunter2", token: hunter2}}}
chains: {"eip155:8453": {rpc_url: "http://127.0.0.1:9/hunter2", sanctions_oracle: "0x0000000000000000000000000000000000000011", lanes: [{private_key: "%s"}]}}`,
		list("fresh", 0), list("old", 48*time.Hour), hook.URL, strings.Repeat("07", 32)), 0o600))
	for address, want := range map[string]string{
		listed: "fresh hit, old hit, oracle_eip155:8453 unknown, hook clear",
		denied: "fresh clear, old unknown, oracle_eip155:8453 unknown, hook hit",
		fine:   "fresh clear, old unknown, oracle_eip155:8453 unknown, hook clear",
	} {
		code, out, problem := command(t, "screening", "check", "-config", file, "-json", address)
		var lines []wordLine
		must(t, json.Unmarshal([]byte(out), &lines))
		var says []string
		for _, l := range lines {
			says = append(says, l.Source+" "+l.Says)
		}
		if got := strings.Join(says, ", "); got != want || code != 1 {
			t.Errorf("%s: exit code %d, %s, want %s", address, code, got, want)
		}
		_, text, more := command(t, "screening", "check", "-config", file, address)
		if strings.Count(text, "\n") != 4 || !strings.Contains(text, "older than max_age") || address == denied && !strings.Contains(text, "a mixer") {
			t.Errorf("%s: %s", address, text)
		}
		if strings.Contains(out+problem+text+more, "hunter2") {
			t.Errorf("a secret is printed (I10): %s%s%s%s", out, problem, text, more)
		}
	}

	must(t, os.WriteFile(file, fmt.Appendf(nil, `
database: {url: "postgres://me:hunter2@127.0.0.1:9/hunter2"}
policy: {screening: {lists: [{name: fresh, path: %q}]}}
chains: {"eip155:8453": {rpc_url: "http://127.0.0.1:9", lanes: [{private_key: "%s"}]}}`, filepath.Join(dir, "fresh"), strings.Repeat("07", 32)), 0o600))
	if code, out, problem := command(t, "screening", "check", "-config", file, fine); code != 0 || !strings.Contains(out, "fresh") {
		t.Errorf("of nobody: exit code %d, %s%s", code, out, problem)
	}
}
