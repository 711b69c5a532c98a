package doctor_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
	"facilitator/internal/doctor"
)

// oracleThatSays puts a contract on the chain that answers all with one word.
func oracleThatSays(t *testing.T, word byte) common.Address {
	t.Helper()
	at := devnet.Keys(fmt.Sprintf("oracle %d of %s", word, t.Name()), 1)[0].Address
	code := fmt.Sprintf("0x60%02x60005260206000f3", word)
	must(t, shared.chain.RPC().CallContext(t.Context(), nil, "anvil_setCode", at, code))
	return at
}

// screened is a patient with a list of these lines, and a hook that answers.
func screened(t *testing.T, lines string, hook http.HandlerFunc) (_ *patient, list string) {
	t.Helper()
	p := newPatient(t)
	list = filepath.Join(t.TempDir(), "refused")
	must(t, os.WriteFile(list, []byte(lines), 0o600))
	s := httptest.NewServer(hook)
	t.Cleanup(s.Close)
	p.policy = map[string]any{"screening": map[string]any{
		"lists": []map[string]any{{"name": "own", "path": list, "max_age": "72h"}},
		"hook":  map[string]any{"url": s.URL + "/hunter2", "token": "hunter2"},
	}}
	return p, list
}

func allows(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"decision":"allow"}`) }

func lineOf(t *testing.T, r *doctor.Report, begin string) string {
	t.Helper()
	for _, c := range r.Checks {
		if strings.HasPrefix(c.String(), begin) {
			return c.String()
		}
	}
	t.Errorf("no line %q", begin)
	return ""
}

func TestSourcesOfScreeningThatAnswer(t *testing.T) {
	p, list := screened(t, "0x00000000000000000000000000000000000000bd\n0x00000000000000000000000000000000000000be", allows)
	p.chain["sanctions_oracle"] = oracleThatSays(t, 0).Hex()
	must(t, os.Chtimes(list, time.Now(), time.Now().Add(-time.Hour)))
	now := time.Now()
	p.now = func() time.Time { return now }
	r := p.examine()
	want(t, r)
	if line := lineOf(t, r, "ok   screening own: "); !strings.Contains(line, "2 addresses, 1h0m") || !strings.Contains(line, "max_age is 72h") {
		t.Errorf("the list: %s", line)
	}
	for _, source := range []string{"oracle", "hook"} {
		lineOf(t, r, "ok   screening "+p.network+" "+source+": it answers")
	}
}

func TestSourcesOfScreeningThatFail(t *testing.T) {
	for _, row := range []struct {
		name, line string
		hook       http.HandlerFunc
		spoil      func(p *patient, list string)
	}{
		{"a list is too old", "fail screening own: 1 addresses, ", nil, func(p *patient, list string) {
			must(p.t, os.Chtimes(list, time.Now(), time.Now().Add(-73*time.Hour)))
		}},
		{"a list is not there", "fail screening own: no such file", nil, func(p *patient, list string) { must(p.t, os.Remove(list)) }},
		{"a list is none", "fail screening own: line 1 is no address", nil, func(p *patient, list string) {
			must(p.t, os.WriteFile(list, []byte("hello"), 0o600))
		}},
		{"an oracle is not there", "oracle: node unavailable: the sanctions oracle answers neither yes nor no", nil, func(p *patient, _ string) {
			p.chain["sanctions_oracle"] = account(p.t).Hex()
		}},
		{"an oracle has everybody", "oracle: it answers, and has the zero address: is it an oracle?", nil, func(p *patient, _ string) {
			p.chain["sanctions_oracle"] = oracleThatSays(p.t, 1).Hex()
		}},
		{"a hook is ill", "hook: answered with status 500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }, nil},
		{"nobody is at a hook's address", "hook: not answered: ", nil, func(p *patient, _ string) {
			p.policy = map[string]any{"screening": map[string]any{"hook": map[string]any{"url": "http://" + deadAddress(p.t) + "/hunter2"}}}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.hook == nil {
				row.hook = allows
			}
			p, list := screened(t, "0x00000000000000000000000000000000000000bd", row.hook)
			if row.spoil != nil {
				row.spoil(p, list)
			}
			want(t, p.examine(), row.line)
		})
	}
}
