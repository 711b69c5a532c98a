package long

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/jackc/pgx/v5"

	"facilitator/internal/audit"
	"facilitator/internal/devnet"
)

const (
	blockTime = 200 * time.Millisecond
	lanes     = 4
	// finalityDepth is above the deepest reorganisation.
	finalityDepth = 12
)

// rig is a chain, some replicas on one record, and callers.
type rig struct {
	t     *testing.T
	name  string
	chain *devnet.Chain
	since uint64
	// databaseURL and nodeURL are what the replicas use; recordURL leads to the
	// database whatever becomes of that.
	databaseURL, nodeURL string
	recordURL            func() string
	folder               string
	// optional are settings of a chain that this binary takes.
	optional     map[string]string
	payers, poor []devnet.Key
	payees       []common.Address
	replicas     []*replica
	load         *load
	began        time.Time

	mu     sync.Mutex
	counts map[string]int
}

// rigOptions say what stands between the service and what it needs.
type rigOptions struct {
	replicas, payments int
	databaseURL        string
	recordURL          func() string
	// node returns what the service uses as its node.
	node func(*devnet.Chain) string
}

func newRig(t *testing.T, name string, o rigOptions) *rig {
	t.Helper()
	r := &rig{t: t, name: name, databaseURL: o.databaseURL, recordURL: o.recordURL, counts: map[string]int{}, began: time.Now(), folder: t.TempDir()}
	var err error
	r.chain, err = devnet.StartChain(t.Context(), devnet.ChainConfig{Network: devnet.Base, BlockTime: blockTime})
	r.must(err)
	t.Cleanup(func() {
		if err := r.chain.Close(); err != nil {
			t.Error(err)
		}
	})
	r.nodeURL = r.chain.URL()
	if o.node != nil {
		r.nodeURL = o.node(r.chain)
	}
	if r.recordURL == nil {
		r.recordURL = func() string { return o.databaseURL }
	}
	r.fund(o.payments)
	r.probe()
	r.writeConfig("service.yaml", r.databaseURL, r.nodeURL)
	r.command("migrate", "up", "-config", r.path("service.yaml"))
	for i := range o.replicas {
		r.replicas = append(r.replicas, newReplica(t, r.folder, r.path("service.yaml"), i))
	}
	for _, replica := range r.replicas {
		if !replica.awaitReady(t.Context(), 30*time.Second) {
			r.showLogs()
			t.Fatal("a replica does not become ready")
		}
	}
	r.load = newLoad(r, o.payments)
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.folder, name) }

func (r *rig) laneKeys() []devnet.Key { return devnet.Keys(devnet.RoleLane, lanes) }

// fund gives lanes gas, payers money, payees a balance to add to, and buries it
// all under more blocks than are ever reorganised.
func (r *rig) fund(payments int) {
	r.t.Helper()
	ctx := r.t.Context()
	r.payers = devnet.Keys("payer of the long suites", 200)
	r.poor = devnet.Keys("poor payer of the long suites", payments/poorEvery+20)
	payees := devnet.Keys(devnet.RolePayee, 8)
	r.payees = addresses(payees)
	wei := new(big.Int).Exp(big.NewInt(10), big.NewInt(21), nil)
	r.must(r.chain.FundETH(ctx, wei, addresses(r.laneKeys())...))
	r.must(r.chain.FundUSDC(ctx, big.NewInt(1_000_000_000_000), append(addresses(r.payers), r.payees...)...))
	r.must(r.chain.FundUSDC(ctx, big.NewInt(poorHas), addresses(r.poor)...))
	var err error
	r.since, err = r.chain.Client().BlockNumber(ctx)
	r.must(err)
	r.must(r.chain.Mine(ctx, 10))
}

func addresses(keys []devnet.Key) []common.Address {
	list := make([]common.Address, len(keys))
	for i, k := range keys {
		list[i] = k.Address
	}
	return list
}

// probe finds out which settings the binary knows, of those that make a run
// shorter: a lane whose replica was killed soon goes on elsewhere.
func (r *rig) probe() {
	r.t.Helper()
	for name, value := range map[string]string{"lane_lease": "1s"} {
		before := maps.Clone(r.optional)
		if r.optional == nil {
			r.optional = map[string]string{}
		}
		r.optional[name] = value
		r.writeConfig("probe.yaml", r.databaseURL, r.nodeURL)
		cmd := exec.CommandContext(r.t.Context(), world.binary, "serve", "-config", r.path("probe.yaml"), "-check")
		cmd.Env = environment()
		if cmd.Run() != nil {
			r.optional = before
		}
	}
}

// writeConfig writes a configuration of what every version of the service
// takes, and of what this one does.
func (r *rig) writeConfig(name, databaseURL, nodeURL string) {
	r.t.Helper()
	var keys []map[string]string
	for _, k := range r.laneKeys() {
		keys = append(keys, map[string]string{"private_key": k.Hex()})
	}
	settings := map[string]any{
		"rpc_url": nodeURL, "rpc_timeout": "2s", "lanes": keys, "poll_interval": "50ms", "resend_interval": "500ms",
		"finality_depth": finalityDepth, "gas": map[string]any{"max_spend_per_day": 0}, // fees are what anvil asks
	}
	for name, value := range r.optional {
		settings[name] = value
	}
	text, err := json.Marshal(map[string]any{ // JSON is YAML
		"http":     map[string]any{"address": "127.0.0.1:0", "drain_delay": "0s", "drain_timeout": "20s"},
		"clients":  map[string]any{"anonymous": map[string]any{"scopes": []string{"verify", "settle", "read"}, "rate": 0, "gas_per_day": 0}},
		"metrics":  map[string]any{"address": "off"},
		"log":      map[string]any{"level": "warn"},
		"settle":   map[string]any{"wait": "4s"},
		"database": map[string]any{"url": databaseURL, "timeout": "3s"},
		"chains":   map[string]any{r.chain.Network(): settings},
	})
	r.must(err)
	r.must(os.WriteFile(r.path(name), text, 0o600))
}

// command runs the binary to its end.
func (r *rig) command(args ...string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), world.binary, args...)
	cmd.Env = environment()
	if text, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %v\n%s", args, err, text)
	}
}

// count adds to a number of the summary.
func (r *rig) count(name string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[name] += n
}

func (r *rig) counted(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[name]
}

// finish waits until everything is decided, stops the replicas in order, and
// judges.
func (r *rig) finish() {
	r.t.Helper()
	for _, replica := range r.replicas {
		replica.arm("")
		replica.hold(false)
	}
	r.load.close()
	r.awaitDecided()
	for i, replica := range r.replicas {
		if !replica.awaitReady(r.t.Context(), 30*time.Second) {
			r.t.Errorf("replica %d is not ready at the end", i)
		}
		if code := replica.stop(syscall.SIGTERM); code != 0 {
			r.t.Errorf("replica %d stopped with %d", i, code)
		}
	}
	r.writeConfig("audit.yaml", r.recordURL(), r.chain.URL())
	report := r.judge(r.path("answers"), 0)
	for _, f := range report.Violations {
		r.t.Errorf("violation: %s", f)
	}
	for _, f := range report.Warnings {
		// Success is told at the first block here. What is reorganised out of it can
		// still fail: by its time, or by its payer's money.
		if f.Kind == "success_reversed" {
			r.count("successes reversed", 1)
		} else {
			r.t.Errorf("warning, where nobody but us sends: %s", f)
		}
	}
	r.wantGoodPaid()
	if report.Counts["answers success"] == 0 {
		r.t.Error("nobody was told success: nothing is proved")
	}
	r.readLogs()
	r.provesSomething()
	r.summarise(report)
	if r.t.Failed() {
		r.showLogs()
	}
}

// wantGoodPaid fails the test if a payment failed that nothing was wrong with.
func (r *rig) wantGoodPaid() {
	r.t.Helper()
	ctx := r.t.Context()
	conn, err := pgx.Connect(ctx, r.recordURL())
	r.must(err)
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	rows, err := conn.Query(ctx, "SELECT authorization_nonce, reason, coalesce(message, ''), evidence::text FROM payments WHERE state = 'failed'")
	r.must(err)
	var reason, message, evidence string
	var nonce []byte
	_, err = pgx.ForEachRow(rows, []any{&nonce, &reason, &message, &evidence}, func() error {
		if !r.load.mayFail[common.BytesToHash(nonce)] {
			r.t.Errorf("a good payment failed: %x: %s: %s %s", nonce, reason, message, evidence)
		}
		return nil
	})
	r.must(err)
}

// awaitDecided waits until the record has nothing left to do.
func (r *rig) awaitDecided() {
	r.t.Helper()
	const open = `SELECT (SELECT count(*) FROM payments WHERE state NOT IN ('final', 'failed'))
		+ (SELECT count(*) FROM transactions WHERE state IN ('signed', 'broadcast'))`
	deadline := time.Now().Add(time.Duration(size(r.t, "PATIENCE", 60, 300)) * time.Second)
	for {
		var left int
		err := r.query(&left, open)
		if err == nil && left == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Errorf("%d rows are undecided at the end (%v)", left, err)
			return
		}
		if !rest(r.t.Context(), 100*time.Millisecond) {
			return
		}
	}
}

// query reads one value of the record.
func (r *rig) query(to any, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, r.recordURL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return conn.QueryRow(ctx, sql, args...).Scan(to)
}

// judge runs the audit, which must end with a code.
func (r *rig) judge(answers string, code int) *audit.Report {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), world.binary, "audit", "-config", r.path("audit.yaml"), "-settled", "-json",
		"-since-block", fmt.Sprint(r.since), "-answers", answers)
	cmd.Env = environment()
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	var report audit.Report
	if err := json.Unmarshal(out, &report); err != nil {
		r.t.Fatalf("audit: %v: %s", err, errs.String())
	}
	if got := cmd.ProcessState.ExitCode(); got != code && code != 0 {
		r.t.Errorf("the audit ended with %d, want %d: %s", got, code, errs.String())
	}
	return &report
}

// provesSomething cooks the books of this very run: a judge that finds nothing
// there would have found nothing before.
func (r *rig) provesSomething() {
	r.t.Helper()
	text, err := os.ReadFile(r.path("answers"))
	r.must(err)
	first := ""
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"success":true,"replayed":false`) {
			first = line
			break
		}
	}
	r.must(os.WriteFile(r.path("answers-twice"), append(text, first...), 0o600))
	wantKind(r.t, r.judge(r.path("answers-twice"), 1), "two_successes")

	var id string
	r.must(r.query(&id, `UPDATE payments SET amount = amount + 1 WHERE id = (SELECT min(id::text)::uuid FROM payments WHERE state = 'final') RETURNING id::text`))
	wantKind(r.t, r.judge(r.path("answers"), 1), "missing_transfer")
	r.must(r.query(&id, `UPDATE payments SET amount = amount - 1 WHERE id = $1::text::uuid RETURNING id::text`, id))
}

func wantKind(t *testing.T, report *audit.Report, kind string) {
	t.Helper()
	if !slices.ContainsFunc(report.Violations, func(f audit.Finding) bool { return f.Kind == kind }) {
		t.Errorf("cooked books, and no %s was found: %v", kind, report.Violations)
	}
}

// killed counts the replicas that were killed.
func (r *rig) killed() int {
	n := 0
	for _, replica := range r.replicas {
		replica.mu.Lock()
		n += replica.kills
		replica.mu.Unlock()
	}
	return n
}

// summarise prints what was done.
func (r *rig) summarise(report *audit.Report) {
	r.t.Helper()
	for _, replica := range r.replicas {
		r.counts["kills"] += replica.kills
		r.counts["exits"] += len(replica.exits)
		for point, n := range replica.deaths {
			r.counts["killed at "+point] += n
		}
		for _, how := range replica.exits {
			r.t.Logf("%s ended by itself: %s", replica.url, how)
		}
	}
	var reorged int
	r.must(r.query(&reorged, "SELECT count(*) FROM outbox WHERE type = 'payment.reorged'"))
	r.counts["payments reorganised out of a block"] = reorged
	for _, name := range slices.Sorted(maps.Keys(report.Counts)) {
		r.t.Logf("audit: %s: %d", name, report.Counts[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.counts)) {
		r.t.Logf("%s: %d", name, r.counts[name])
	}
	s := summary{
		suites: 1, payments: report.Counts["payments"], settled: report.Counts["payments final"] + report.Counts["payments included"],
		successes: report.Counts["answers success"], kills: r.counts["kills"], reorgs: r.counts["reorgs"], faults: r.counts["faults"],
		violations: len(report.Violations), warnings: len(report.Warnings), seconds: int(time.Since(r.began).Seconds()),
	}
	fmt.Printf("SUMMARY suite=%s seed=%d %s\n", r.name, world.seed, s)
	world.mu.Lock()
	defer world.mu.Unlock()
	world.total.add(s)
}

// readLogs fails the test if a replica panicked or raced, and counts what it
// called an error.
func (r *rig) readLogs() {
	r.t.Helper()
	for _, replica := range r.replicas {
		file, err := os.Open(replica.log)
		r.must(err)
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			switch line := lines.Text(); {
			case strings.HasPrefix(line, "panic:"), strings.HasPrefix(line, "fatal error:"), strings.Contains(line, "DATA RACE"):
				r.t.Errorf("%s: %s", replica.log, line)
			case strings.Contains(line, `"level":"ERROR"`):
				r.counts["log events of level Error"]++
				if r.counts["log events of level Error"] <= 3 {
					r.t.Logf("%s", line[:min(len(line), 600)])
				}
			}
		}
		_ = file.Close() // it was only read
	}
}

// showLogs prints the end of what the replicas wrote.
func (r *rig) showLogs() {
	r.t.Helper()
	for _, replica := range r.replicas {
		text, err := os.ReadFile(replica.log)
		if err != nil {
			continue
		}
		const most = 6000
		r.t.Logf("%s:\n%s", replica.log, text[max(0, len(text)-most):])
	}
}
