package test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

// TestOfficialSDKBuys has the official clients and resource servers use the
// service. The scripts check every step, on chain too.
func TestOfficialSDKBuys(t *testing.T) {
	t.Parallel()
	chains := map[string]func(t *testing.T) *devnet.Chain{
		"local": func(*testing.T) *devnet.Chain { return world.chain },
		"fork":  func(*testing.T) *devnet.Chain { return world.fork },
		"Base Sepolia": func(t *testing.T) *devnet.Chain {
			t.Helper()
			return startChain(t, devnet.ChainConfig{Network: devnet.BaseSepolia})
		},
	}
	for name, chain := range chains {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := chain(t)
			s := setup{chain: c}.start(t)
			for _, script := range []string{"buy-v2.mjs", "buy-v1.mjs", "upfront.mjs"} {
				t.Run(script, func(t *testing.T) {
					t.Parallel()
					shop := newSDKShop(t, c, s, 1)
					report := shop.run(t, script)
					if hash := dig[string](t, report, "transaction"); len(hash) != 66 || received(t, c, shop.payTo) != 10_000 {
						t.Errorf("transaction %s, the payee has %d", hash, received(t, c, shop.payTo))
					}
				})
			}
			t.Run("the shape of the public documentation", func(t *testing.T) {
				t.Parallel()
				shop := newSDKShop(t, c, s, 1)
				body := shop.run(t, "sign.mjs", "--shape", "documented")
				if extra := dig[map[string]any](t, body, "paymentRequirements")["extra"]; extra != nil {
					t.Fatalf("the documentation has no extra: %v", extra)
				}
				if r := s.post(t, "/verify", body); r.status != 200 || !r.is("isValid") {
					t.Fatalf("verify: %d %s", r.status, r.text)
				}
				hash := wantSuccess(t, s.post(t, "/settle", body))
				if got := received(t, c, shop.payTo); got != 10_000 {
					t.Errorf("the payee has %d", got)
				}
				wantDuplicate(t, s.post(t, "/settle", body), hash)
			})
		})
	}
}

func TestOfficialSDKBuysManyAtOnce(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t)
	unstick(t, c, s.lanes)
	shop := newSDKShop(t, c, s, 8)
	report := shop.run(t, "buy-v2.mjs", "--concurrency", "8", "--count", "24")
	if got := received(t, c, shop.payTo); got != 24*10_000 {
		t.Errorf("the payee has %d, want 240000", got)
	}
	signed := checkBatches(t, s.databaseURL, c, 24)
	if n := dig[float64](t, report, "succeeded"); n != 24 || len(dig[[]any](t, report, "transactions")) != signed {
		t.Errorf("%d transactions were signed; report: %v", signed, report)
	}
}

// sdkShop is what a script starts from.
type sdkShop struct {
	file  string
	payTo common.Address
}

// newSDKShop writes the ready file for payers and a payee of the test's own.
func newSDKShop(t *testing.T, c *devnet.Chain, s *service, buyers int) sdkShop {
	t.Helper()
	shop := sdkShop{file: filepath.Join(t.TempDir(), "ready.json"), payTo: newKey(t, devnet.RolePayee).Address}
	var accounts []map[string]string
	for _, k := range payers(t, c, buyers) {
		accounts = append(accounts, map[string]string{"address": k.Address.Hex(), "private_key": k.Hex()})
	}
	text, err := json.Marshal(map[string]any{
		"facilitator_url": s.url, "rpc_url": c.URL(), "network": c.Network(), "chain_id": c.ChainID(),
		"asset": c.USDC().Hex(), "pay_to": shop.payTo.Hex(), "payers": accounts,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(shop.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return shop
}

// run runs a script and returns its report.
func (shop sdkShop) run(t *testing.T, script string, args ...string) map[string]any {
	t.Helper()
	return sdkRun(t, shop.file, script, args...)
}

func sdkRun(t *testing.T, readyFile, script string, args ...string) map[string]any {
	t.Helper()
	args = append([]string{filepath.Join(world.tools, "sdk", script), readyFile, "--json"}, args...)
	node := exec.CommandContext(t.Context(), "node", args...)
	var out, noise bytes.Buffer
	node.Stdout, node.Stderr = &out, &noise
	if err := node.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, noise.String())
	}
	var report map[string]any
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out.String())
	}
	if script != "sign.mjs" && report["ok"] != true {
		t.Fatalf("%s: %s", script, out.String())
	}
	return report
}

func commandDev(t *testing.T, binary string) {
	t.Helper()
	// The testing package's own folders are closed to the user that Postgres runs as.
	temp, err := os.MkdirTemp("", "facilitator-e2e-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	scratch := func() []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(temp, "facilitator-*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}

	// Two of them side by side.
	first, one := startDev(t, binary, temp, "first")
	second, two := startDev(t, binary, temp, "second")
	awaitDev(t, first, one)
	awaitDev(t, second, two)
	facts := readReady(t, one)
	if want := []string{"asset", "chain_id", "database_url", "facilitator_url", "lanes", "metrics_url", "network", "pay_to", "payers", "rpc_url"}; !slices.Equal(slices.Sorted(maps.Keys(facts)), want) {
		t.Errorf("the ready file has %v, want %v", slices.Sorted(maps.Keys(facts)), want)
	}
	if facts["network"] != devnet.BaseSepolia || facts["chain_id"] != 84532.0 || len(dig[[]any](t, facts, "payers")) != 2 || len(dig[[]any](t, facts, "lanes")) != 2 {
		t.Errorf("the ready file: %v", facts)
	}
	for _, file := range []string{one, two} {
		sdkRun(t, file, "buy-v2.mjs")
	}

	// One is interrupted, the other goes on.
	children, others := childrenOf(t, first), childrenOf(t, second)
	for _, list := range []map[int]string{children, others} {
		if names := strings.Join(slices.Collect(maps.Values(list)), " "); !strings.Contains(names, "anvil") || !strings.Contains(names, "postgres") {
			t.Fatalf("dev has started %v", list)
		}
	}
	before := len(scratch())
	first.wantStopped(t, syscall.SIGINT)
	for pid, name := range children {
		if living(t, pid) {
			t.Errorf("%s, process %d, is left", name, pid)
		}
	}
	if left := scratch(); before != 4 || len(left) != 2 {
		t.Errorf("%d scratch directories before, left are %v; want those of the other: chain and database", before, left)
	}
	sdkRun(t, two, "buy-v1.mjs", "--payer", "1")

	// The other one is killed.
	second.kill(t)
	for pid, name := range others {
		eventually(t, name+" is gone", func() bool { return !living(t, pid) })
	}
}

func startDev(t *testing.T, binary, temp, name string) (*binaryRun, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".json")
	env := []string{"TMPDIR=" + temp, "FACILITATOR_TOOLS=" + world.tools}
	return startBinary(t, binary, env, "dev", "--ready-file", file, "--payers", "2", "--lanes", "2",
		"--block-time", "0.2", "--network", devnet.BaseSepolia), file
}

// awaitDev waits for the ready file.
func awaitDev(t *testing.T, run *binaryRun, file string) {
	t.Helper()
	eventually(t, "the ready file is there", func() bool {
		if run.ended() {
			t.Fatalf("dev ended: %v", run.cmd.ProcessState)
		}
		_, err := os.Stat(file)
		return err == nil
	})
}

func readReady(t *testing.T, file string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var facts map[string]any
	if err := json.Unmarshal(text, &facts); err != nil {
		t.Fatal(err)
	}
	return facts
}

// childrenOf lists the processes below a command by id, with their names.
func childrenOf(t *testing.T, run *binaryRun) map[int]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ps", "-A", "-o", "pid=,ppid=,comm=").Output()
	if err != nil {
		t.Fatal(err)
	}
	below := map[int]string{run.cmd.Process.Pid: "facilitator"}
	for found := true; found; {
		found = false
		for line := range strings.Lines(string(out)) {
			fields := strings.Fields(line)
			if len(fields) < 3 {
				continue
			}
			pid, _ := strconv.Atoi(fields[0])
			parent, _ := strconv.Atoi(fields[1])
			if below[parent] != "" && below[pid] == "" {
				below[pid], found = fields[2], true
			}
		}
	}
	delete(below, run.cmd.Process.Pid)
	return below
}

// living says whether a process runs. A dead one that nobody buried does not.
func living(t *testing.T, pid int) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	state := strings.TrimSpace(string(out))
	return err == nil && state != "" && !strings.HasPrefix(state, "Z")
}
