package doctor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"go.uber.org/goleak"

	"facilitator/internal/app"
	"facilitator/internal/config"
	"facilitator/internal/devnet"
	"facilitator/internal/doctor"
	"facilitator/internal/store/storetest"
)

// shared is nil where there is nothing to test with.
var shared struct {
	database *storetest.Server
	chain    *devnet.Chain // automine
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if testing.Short() {
		return m.Run()
	}
	before := goleak.IgnoreCurrent()
	ctx := context.Background()
	var err error
	shared.database, err = storetest.Start(ctx)
	if err == nil {
		shared.chain, err = devnet.StartChain(ctx, devnet.ChainConfig{Network: devnet.Base})
	}
	if err != nil && (os.Getenv("CI") != "" || !errors.Is(err, devnet.ErrNoTools)) {
		fmt.Fprintln(os.Stderr, "test set-up:", err)
		return 1
	}
	code := m.Run()
	if shared.chain != nil {
		err = errors.Join(shared.chain.Close(), shared.database.Close(), goleak.Find(before))
	}
	if err != nil && shared.chain != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "test end:", err)
		return 1
	}
	return code
}

// patient is a service as it is configured, healthy until a test makes it ill.
type patient struct {
	t           *testing.T
	lane        devnet.Key
	others      []map[string]any // more lanes
	databaseURL string
	network     string
	// chain is what the network's section has beside the lanes.
	chain map[string]any
	// policy of the whole service.
	policy map[string]any
	now    func() time.Time
}

// newPatient has a migrated database, the chain's own node and one lane with gas.
func newPatient(t *testing.T) *patient {
	t.Helper()
	if shared.chain == nil {
		t.Skip("no chain: short run, or no tools")
	}
	p := &patient{
		t: t, lane: devnet.Keys(devnet.RoleLane+" of "+t.Name(), 1)[0], databaseURL: shared.database.Database(t),
		network: shared.chain.Network(), chain: map[string]any{"rpc_url": shared.chain.URL()}, now: time.Now,
	}
	must(t, shared.chain.FundETH(t.Context(), big.NewInt(1e18), p.lane.Address)) // mines a block of now
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// examine returns the report, of which every line was looked at for secrets.
func (p *patient) examine() *doctor.Report {
	p.t.Helper()
	p.chain["lanes"] = append([]map[string]any{{"private_key": p.lane.Hex()}}, p.others...)
	file, err := json.Marshal(map[string]any{
		"database": map[string]any{"url": p.databaseURL}, "policy": p.policy, "chains": map[string]any{p.network: p.chain},
	})
	must(p.t, err)
	cfg, err := config.Load("", nil, file)
	must(p.t, err)
	r := new(doctor.Report)
	app.Examine(p.t.Context(), cfg, p.now, r)
	var text bytes.Buffer
	must(p.t, r.Write(&text))
	asJSON, err := json.Marshal(r)
	must(p.t, err)
	for _, secret := range []string{p.lane.Hex(), p.lane.Hex()[2:], p.databaseURL, "hunter2", "://"} {
		if strings.Contains(text.String()+string(asJSON), secret) {
			p.t.Errorf("the report holds %q:\n%s", secret, &text)
		}
	}
	if lines := strings.Count(text.String(), "\n"); lines != len(r.Checks) {
		p.t.Errorf("%d lines for %d checks:\n%s", lines, len(r.Checks), &text)
	}
	p.t.Log("\n" + text.String())
	return r
}

// want expects exactly these lines beside what is well; each text is a part of one.
func want(t *testing.T, r *doctor.Report, lines ...string) {
	t.Helper()
	healthy := true
	for _, c := range r.Checks {
		if c.Status == doctor.OK {
			continue
		}
		healthy = healthy && c.Status != doctor.Fail
		found := false
		for i, line := range lines {
			if line != "" && strings.Contains(c.String(), line) {
				lines[i], found = "", true
				break
			}
		}
		if !found {
			t.Errorf("not expected: %s", c)
		}
	}
	for _, line := range lines {
		if line != "" {
			t.Errorf("missing: %s", line)
		}
	}
	if r.Healthy != healthy {
		t.Errorf("healthy is %t", r.Healthy)
	}
}

// proxy is a node that passes everything on to the chain's, but for what answer
// replaces: it is given a single request, or a batch's length, and returns the
// members of an answer ("result" or "error"), an HTTP status, or neither.
func proxy(t *testing.T, answer func(method string, params []any, batch int) (member map[string]any, status int)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var one struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
			Params []any           `json:"params"`
		}
		var many []json.RawMessage
		if json.Unmarshal(body, &many) != nil {
			if err := json.Unmarshal(body, &one); err != nil {
				t.Errorf("not JSON-RPC: %s", body)
			}
		}
		member, status := answer(one.Method, one.Params, len(many))
		switch {
		case status != 0:
			http.Error(w, "no", status)
		case member != nil:
			w.Header().Set("Content-Type", "application/json")
			member["jsonrpc"], member["id"] = "2.0", one.ID
			_ = json.NewEncoder(w).Encode(member)
		default:
			request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, shared.chain.URL(), bytes.NewReader(body))
			if err != nil {
				return
			}
			request.Header.Set("Content-Type", "application/json")
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				http.Error(w, "no", http.StatusBadGateway)
				return
			}
			defer response.Body.Close()
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.Copy(w, response.Body)
		}
	}))
	t.Cleanup(func() {
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return server.URL
}

func rpcError(code int, text string) map[string]any {
	return map[string]any{"error": map[string]any{"code": code, "message": text}}
}

// account is any address of the test's own.
func account(t *testing.T) common.Address {
	t.Helper()
	return devnet.Keys("account of "+t.Name(), 1)[0].Address
}
