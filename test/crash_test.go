package test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"facilitator/internal/devnet"
)

// crashPoints says of every point at which a settlement can be killed what the
// caller's repeat is told by the next process.
//
// A caller whom nobody answered collects the success. At answer_taken it may
// have been told, so the repeat learns the hash and no more (I2).
var crashPoints = map[string]string{
	"verified":     "success",
	"claimed":      "success",
	"prepared":     "success",
	"signed":       "success",
	"sent":         "success",
	"broadcast":    "success",
	"bumped":       "success",
	"receipt":      "success",
	"included":     "success",
	"answer_taken": "duplicate_settlement",
}

func TestCrash(t *testing.T) {
	t.Parallel()
	binary := buildBinary(t, "-tags", "crashpoints")
	for point, told := range crashPoints {
		t.Run("killed at "+point, func(t *testing.T) {
			t.Parallel()
			crashAt(t, binary, point, told)
		})
	}
	t.Run("killed with 20 in flight", func(t *testing.T) {
		t.Parallel()
		crashInFlight(t, binary)
	})
}

// TestEveryCrashPointIsTested reads the points from the source.
func TestEveryCrashPointIsTested(t *testing.T) {
	t.Parallel()
	found := make(map[string]bool)
	for _, folder := range []string{"../internal/settle", "../internal/relayer"} {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`\bCrash\(([^)]*)\)`).FindAllStringSubmatch(string(text), -1) {
				if name := strings.Trim(m[1], `"`); len(name) == len(m[1])-2 {
					found[name] = true
				}
			}
		}
	}
	for point := range found {
		if crashPoints[point] == "" {
			t.Errorf("nobody dies at %q", point)
		}
	}
	for point := range crashPoints {
		if !found[point] {
			t.Errorf("the source has no crash point %q", point)
		}
	}
}

// crashAt kills the service at a point of one settlement, starts it again and
// repeats the call.
func crashAt(t *testing.T, binary, point, told string) {
	t.Helper()
	c := world.chain
	env := []string{"FACILITATOR_CRASH_AT=" + point}
	stuck := point == "broadcast" || point == "bumped" // reached only by what waits for a block
	if stuck {
		c = startChain(t, devnet.ChainConfig{})
	}
	deal := sale(t, payers(t, c, 1)[0])
	body := request(t, c, deal)
	from := height(t, c)
	s := setup{chain: c}
	file := s.writeConfig(t)
	if stuck {
		held(t, c)
		env = append(env, bumpSoon...)
	}

	dying := startBinary(t, binary, env, "serve", "-config", file)
	answer := settleLater(t, dying.service(t, s), body)
	if point == "bumped" {
		eventually(t, "it is signed", func() bool {
			return slices.Equal(queryRows[string](t, s.databaseURL, "SELECT state FROM payments"), []string{"signed"})
		})
		priceOut(t, c)
	}
	if a := <-answer; a.err == nil {
		t.Fatalf("answered: %d %s", a.status, a.text)
	}
	dying.wantKilled(t)
	if want := map[string]int64{"bumped": 2}[point]; want != 0 {
		if n := queryRows[int64](t, s.databaseURL, "SELECT count(*) FROM attempts")[0]; n != want {
			t.Errorf("%d attempts are recorded, want %d", n, want)
		}
	}
	if point == "broadcast" {
		if err := c.SetIntervalMining(t.Context(), 200*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}

	living := startBinary(t, binary, nil, "serve", "-config", file)
	service := living.service(t, s)
	first := collect(t, service, body)
	hash := first.str("transaction")
	if told == "success" {
		wantSuccess(t, first)
	} else {
		wantDuplicate(t, first, hash)
	}
	for range 2 {
		wantDuplicate(t, service.post(t, "/settle", body), hash)
	}
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 1 || moved[0].TxHash.Hex() != hash {
		t.Errorf("transfers: %+v, want one in %s", moved, hash)
	}
	checkWallets(t, s.databaseURL, c, 1)
	living.wantStopped(t, syscall.SIGTERM)
}

// crashInFlight kills the service while 20 payments are on their way, and has
// all callers come back.
func crashInFlight(t *testing.T, binary string) {
	t.Helper()
	const count = 20
	c := startChain(t, devnet.ChainConfig{})
	deals := manySales(t, c, count)
	if err := c.SetIntervalMining(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	from := height(t, c)
	s := setup{chain: c}
	file := s.writeConfig(t)
	dying := startBinary(t, binary, nil, "serve", "-config", file)
	service := dying.service(t, s)
	unstick(t, c, s.lanes)
	successes := make([]int, count)
	var callers sync.WaitGroup
	for i, body := range deals.bodies {
		callers.Go(func() {
			if r, err := service.tryPost(t.Context(), "/settle", body); err == nil && r.is("success") {
				successes[i]++
			}
		})
	}
	eventually(t, "all are claimed, some are sent", func() bool {
		states := queryRows[string](t, s.databaseURL, "SELECT state FROM payments")
		return len(states) == count && slices.Contains(states, "signed")
	})
	dying.kill(t)
	callers.Wait()

	living := startBinary(t, binary, nil, "serve", "-config", file)
	service = living.service(t, s)
	answers := settleAll(t, deals.bodies, count, service)
	for round := range 2 {
		again := make([]reply, count)
		for i, body := range deals.bodies {
			if answers[i].is("success") {
				successes[i]++
			}
			again[i] = collect(t, service, body)
			if r := again[i]; len(r.str("transaction")) != 66 || !r.is("success") && r.str("errorReason") != "duplicate_settlement" {
				t.Errorf("payment %d, repeat %d: %d %s", i, round, r.status, r.text)
			}
		}
		answers = again
	}
	for i, n := range successes {
		if n > 1 {
			t.Errorf("payment %d was sold %d times", i, n)
		}
		answers[i].body["success"] = true // what is left to compare is the hash
	}
	deals.check(t, c, from, answers)
	checkBatches(t, s.databaseURL, c, count)
	living.wantStopped(t, syscall.SIGTERM)
}

// buildBinary builds the command as it is shipped, with the race detector
// where there is a C compiler.
func buildBinary(t *testing.T, flags ...string) string {
	t.Helper()
	return buildSource(t, "..", flags...)
}

// buildSource does so with the source in a folder.
func buildSource(t *testing.T, folder string, flags ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "facilitator")
	cgo, err := exec.CommandContext(t.Context(), "go", "env", "CGO_ENABLED").Output()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"build", "-o", file}
	if strings.TrimSpace(string(cgo)) == "1" {
		args = append(args, "-race")
	}
	build := exec.CommandContext(t.Context(), "go", append(append(args, flags...), "./cmd/facilitator")...)
	build.Dir = folder
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return file
}

// writeConfig fills the gaps of s and writes its configuration to a file that
// names its secrets' files.
func (s *setup) writeConfig(t *testing.T) string {
	t.Helper()
	s.configuration(t)
	folder := t.TempDir()
	secret := func(name, value string) string {
		t.Helper()
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	var lanes []map[string]string
	for _, k := range s.lanes {
		lanes = append(lanes, map[string]string{"private_key_file": secret("lane-"+k.Address.Hex(), k.Hex())})
	}
	text, err := json.Marshal(map[string]any{ // JSON is YAML
		"http":     map[string]any{"address": "127.0.0.1:0", "drain_delay": "0s", "drain_timeout": "20s"},
		"clients":  s.callers(),
		"metrics":  map[string]any{"address": "127.0.0.1:0"},
		"log":      map[string]any{"level": "debug"},
		"database": map[string]any{"url_file": secret("database", s.databaseURL)},
		"chains": map[string]any{s.chain.Network(): map[string]any{
			"rpc_url": s.rpcURL, "lanes": lanes, "poll_interval": "20ms", "resend_interval": "500ms", "lane_lease": "2s",
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return secret("facilitator.yaml", string(text))
}

// binaryRun is a running command.
type binaryRun struct {
	cmd      *exec.Cmd
	out, err *lockedBuffer
	done     chan struct{} // closed when it has ended
}

// startBinary runs the command with nothing of this process's environment but
// what programs need, and env. It is gone when the test ends.
func startBinary(t *testing.T, binary string, env []string, args ...string) *binaryRun {
	t.Helper()
	b := &binaryRun{
		cmd: exec.CommandContext(context.WithoutCancel(t.Context()), binary, args...),
		out: new(lockedBuffer), err: new(lockedBuffer), done: make(chan struct{}),
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			b.cmd.Env = append(b.cmd.Env, name+"="+value)
		}
	}
	// With the race detector a program sleeps a second before it ends.
	b.cmd.Env = append(append(b.cmd.Env, "GORACE=atexit_sleep_ms=0"), env...)
	b.cmd.Stdout, b.cmd.Stderr = b.out, b.err
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = b.cmd.Wait() // the state tells
		close(b.done)
	}()
	t.Cleanup(func() {
		_ = b.cmd.Process.Kill() // fails only if it has ended
		<-b.done
		if strings.Contains(b.err.String(), "DATA RACE") {
			t.Error("the command has a data race")
		}
		if t.Failed() {
			t.Logf("%v\nprinted:\n%s\nlogged:\n%s", b.cmd.Args, b.out.String(), b.err.String())
		}
	})
	return b
}

// service waits until the command serves.
func (b *binaryRun) service(t *testing.T, s setup) *service {
	t.Helper()
	out := &service{databaseURL: s.databaseURL, lanes: s.lanes, log: b.err, stop: func() {}, undescribed: func(err error) { t.Error(err) }}
	address := regexp.MustCompile(`"msg":"serving","url":"http://([^"]+)"`)
	eventually(t, "the command serves", func() bool {
		if b.ended() {
			t.Fatalf("it ended: %v", b.cmd.ProcessState)
		}
		if m := address.FindStringSubmatch(b.err.String()); m != nil {
			out.url = "http://" + m[1]
		}
		return out.url != "" && out.ready(t.Context())
	})
	return out
}

func (b *binaryRun) ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// ready says whether the service asks for requests. One that can't be reached
// does not.
func (s *service) ready(ctx context.Context) bool {
	r, err := s.do(ctx, http.MethodGet, "/readyz", "")
	return err == nil && r.status == http.StatusOK
}

// kill ends the command as a power cut does.
func (b *binaryRun) kill(t *testing.T) {
	t.Helper()
	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.wantKilled(t)
}

func (b *binaryRun) wantKilled(t *testing.T) {
	t.Helper()
	<-b.done
	status, ok := b.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("it was not killed: %v", b.cmd.ProcessState)
	}
}

// wantStopped sends a signal and waits for an orderly end.
func (b *binaryRun) wantStopped(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := b.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	<-b.done
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("after %v it ended with %v", signal, b.cmd.ProcessState)
	}
}
