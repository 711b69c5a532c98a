package test

import (
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/devnet"
)

func TestSettledPaymentBecomesFinal(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	s := setup{chain: c, overlay: "chains: {'" + c.Network() + "': {finality_depth: 3}}"}.start(t)
	deal := sale(t, payers(t, c, 1)[0])
	body := request(t, c, deal)
	hash := wantSuccess(t, s.post(t, "/settle", body))
	if events := outboxOf(t, s); !slices.Equal(events, []string{"payment.settled"}) {
		t.Errorf("events of a settled payment: %v", events)
	}
	mine(t, c, 3)
	eventuallyState(t, s, body, "final")
	if events := outboxOf(t, s); !slices.Equal(events, []string{"payment.settled", "payment.finalized"}) {
		t.Errorf("events of a final payment: %v", events)
	}
	wantDuplicate(t, s.post(t, "/settle", body), hash)
	wantInvalid(t, s, body, "duplicate_settlement")
}

func TestReorganisedPaymentIsSettledAgainByTheSameBytes(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	s := setup{chain: c, overlay: "settle: {wait: 1s}"}.start(t)
	deal := sale(t, payers(t, c, 1)[0])
	mine(t, c, 8) // the set-up is buried
	from := height(t, c)
	body := request(t, c, deal)
	hash := wantSuccess(t, s.post(t, "/settle", body))
	before := recordOf(t, s, body)

	held(t, c)
	if err := c.RPC().CallContext(t.Context(), nil, "anvil_reorg", 3, []any{}); err != nil {
		t.Fatal(err)
	}
	if moved := paidTo(t, c, from-3, deal.PayTo); len(moved) != 0 {
		t.Fatalf("the reorganisation kept %+v", moved)
	}
	eventuallyState(t, s, body, "broadcast")
	if events := outboxOf(t, s); !slices.Equal(events, []string{"payment.settled", "payment.reorged"}) {
		t.Errorf("events of a reorganised payment: %v", events)
	}
	if r := s.post(t, "/settle", body); r.is("success") || r.str("errorReason") != "settlement_pending" || r.str("transaction") != hash {
		t.Errorf("while it is not in a block: %s", r.text)
	}
	eventually(t, "it is in the pool again", func() bool { return pooled(t, c) == 1 })
	mine(t, c, 1)
	eventuallyState(t, s, body, "included")
	moved := paidTo(t, c, from-3, deal.PayTo)
	if len(moved) != 1 || moved[0].TxHash.Hex() != hash {
		t.Errorf("transfers: %+v, want one in %s", moved, hash)
	}
	if after := recordOf(t, s, body); after["blockHash"] == before["blockHash"] || after["transaction"] != hash {
		t.Errorf("the record says %v, and said %v before", after, before)
	}
	wantDuplicate(t, collect(t, s, body), hash)
	if events := outboxOf(t, s); !slices.Equal(events, []string{"payment.settled", "payment.reorged", "payment.settled"}) {
		t.Errorf("events of a payment settled twice: %v", events)
	}
	checkWallets(t, s.databaseURL, c, 1)
}

func TestPaymentThatAReorganisationMovesStaysSettled(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	s := setup{chain: c}.start(t)
	deal := sale(t, payers(t, c, 1)[0])
	mine(t, c, 8)
	from := height(t, c)
	body := request(t, c, deal)
	hash := wantSuccess(t, s.post(t, "/settle", body))
	before := recordOf(t, s, body)
	raw := queryRows[[]byte](t, s.databaseURL, "SELECT raw FROM attempts")[0]
	// Of the three new blocks the second holds it, which was in the third.
	if err := c.RPC().CallContext(t.Context(), nil, "anvil_reorg", 3, []any{[]any{hexutil.Encode(raw), 1}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the record names the new block", func() bool {
		now := recordOf(t, s, body)
		return now["state"] == "included" && now["blockHash"] != before["blockHash"]
	})
	after := recordOf(t, s, body)
	moved := paidTo(t, c, from-3, deal.PayTo)
	if len(moved) != 1 || moved[0].TxHash.Hex() != hash || float64(moved[0].Block) != dig[float64](t, after, "blockNumber") || after["transaction"] != hash {
		t.Errorf("transfers: %+v; the record says %v, and said %v before", moved, after, before)
	}
	wantDuplicate(t, s.post(t, "/settle", body), hash)
	checkWallets(t, s.databaseURL, c, 1)
}

func TestPaymentThatWasNeverMinedFailsWhenItExpires(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	chain := "chains: {'" + c.Network() + "': {finality_depth: 1, resend_interval: 10m}}"
	s := setup{chain: c, overlay: "settle: {wait: 1s}\n" + chain}.start(t)
	from := height(t, c)
	deal := sale(t, payer).ForNow(time.Now(), time.Minute)
	body := request(t, c, deal)
	pending := s.post(t, "/settle", body)
	if pending.str("errorReason") != "settlement_pending" {
		t.Fatal(pending.text)
	}
	drop(t, c, pending.str("transaction"))
	if err := c.IncreaseTime(t.Context(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	mine(t, c, 1)
	eventuallyState(t, s, body, "failed")

	failed := s.post(t, "/settle", body)
	if failed.status != 200 || failed.is("success") || failed.str("errorReason") != "invalid_exact_evm_payload_authorization_valid_before" {
		t.Errorf("an expired payment is answered %d %s", failed.status, failed.text)
	}
	shown := recordOf(t, s, body)
	number := big.NewInt(int64(dig[float64](t, shown, "evidence", "blockNumber")))
	block, err := c.Client().HeaderByNumber(t.Context(), number)
	if err != nil {
		t.Fatal(err)
	}
	if dig[string](t, shown, "evidence", "kind") != "expired_unused" || dig[string](t, shown, "evidence", "blockHash") != block.Hash().Hex() ||
		block.Time < deal.ValidBefore || uint64(dig[float64](t, shown, "evidence", "blockTime")) != block.Time || shown["outcome"] != "failed" {
		t.Errorf("the record of an expired payment: %v", shown)
	}
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 0 {
		t.Errorf("transfers: %+v", moved)
	}
	if events := outboxOf(t, s); !slices.Equal(events, []string{"payment.failed"}) {
		t.Errorf("events of an expired payment: %v", events)
	}
	wantInvalid(t, s, body, "invalid_exact_evm_payload_authorization_valid_before")

	// Its transaction holds a wallet nonce, so it is sent until it is mined.
	s.stop()
	second := setup{chain: c, lanes: s.lanes, databaseURL: s.databaseURL}.start(t)
	eventually(t, "it is in the pool again", func() bool { return pooled(t, c) == 1 })
	next := request(t, c, sale(t, payer))
	answer := settleLater(t, second, next)
	eventuallyState(t, second, next, "broadcast")
	mine(t, c, 1)
	wantSuccess(t, wait(t, answer))
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 0 {
		t.Errorf("transfers of the expired payment: %+v", moved)
	}
	if again := second.post(t, "/settle", body); again.is("success") || again.str("errorReason") != failed.str("errorReason") {
		t.Errorf("the expired payment is answered %s, and was %s", again.text, failed.text)
	}
	eventually(t, "both are mined", func() bool { return pooled(t, c) == 0 })
	checkWallets(t, s.databaseURL, c, 2)
}

func TestTransactionThatTheNodeForgotIsSentAgain(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	s := setup{chain: c}.start(t)
	from := height(t, c)
	deal := sale(t, payer)
	body := request(t, c, deal)
	answer := settleLater(t, s, body)
	eventuallyState(t, s, body, "broadcast")
	hash, _ := recordOf(t, s, body)["transaction"].(string)
	drops := func() float64 {
		return s.metric(t, "facilitator_transaction_drops_total", c.Network(), s.lanes[0].Address.Hex())
	}
	eventually(t, "it is sent again to the node that has it", func() bool { return s.metric(t, "facilitator_transaction_sends_total", "already_known") > 0 })
	if n := drops(); n != 0 {
		t.Errorf("%v drops are counted before there was one", n)
	}
	drop(t, c, hash)
	eventually(t, "it is in the pool again", func() bool { return pooled(t, c) == 1 })
	eventually(t, "that the node had dropped it is counted", func() bool { return drops() == 1 })
	mine(t, c, 1)
	if got := wantSuccess(t, wait(t, answer)); got != hash {
		t.Errorf("settled by %s, sent was %s", got, hash)
	}
	if n := drops(); n != 1 {
		t.Errorf("%v drops are counted in the end, want 1", n)
	}
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 1 {
		t.Errorf("transfers: %+v, want one", moved)
	}
	checkWallets(t, s.databaseURL, c, 1)
}

// TestCommand runs the command as people do: another process, told by files,
// variables and signals.
func TestCommand(t *testing.T) {
	t.Parallel()
	binary := buildBinary(t, "-ldflags", "-X main.version=v1.2.3-test")
	for name, f := range map[string]func(*testing.T, string){
		"version tells what was built":                           commandVersion,
		"wrong usage is explained":                               commandUsage,
		"every problem of a configuration is told":               commandBadConfig,
		"the schema goes up and down, nothing serves without it": commandMigrate,
		"a stop lets requests in flight end":                     commandStop,
		"what a stop cuts off goes on at the next start":         commandCutOff,
		"a second signal ends it at once":                        commandSecondSignal,
		"dev starts everything and leaves nothing":               commandDev,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, binary)
		})
	}
}

func commandVersion(t *testing.T, binary string) {
	t.Helper()
	out, _ := runCommand(t, binary, nil, 0, "version")
	if want := "facilitator v1.2.3-test " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + "\n"; out != want {
		t.Errorf("printed %q, want %q", out, want)
	}
}

func commandUsage(t *testing.T, binary string) {
	t.Helper()
	for _, row := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"nothing said lists the commands", nil, 2, "Commands:"},
		{"help lists the commands", []string{"help"}, 0, "Commands:"},
		{"an unknown command is named", []string{"settle"}, 2, `unknown command "settle"`},
		{"an unknown flag is named", []string{"serve", "-port", "1"}, 2, "-port"},
		{"an argument too many is named", []string{"serve", "now"}, 1, "now"},
		{"migrate needs a direction", []string{"migrate"}, 2, "up|down|status"},
		{"a missing file is named", []string{"serve", "-config", "/nowhere/facilitator.yaml"}, 1, "/nowhere/facilitator.yaml"},
	} {
		if out, err := runCommand(t, binary, nil, row.code, row.args...); !strings.Contains(out+err, row.want) {
			t.Errorf("%s: printed %q and %q", row.name, out, err)
		}
	}
}

func commandBadConfig(t *testing.T, binary string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "facilitator.yaml")
	const secret = "5ca1ab1e"
	text := `
http: {address: nonsense}
log: {format: xml}
settle: {wait: 1h}
no_such_setting: 1
database: {url: "mysql://user:` + secret + `@127.0.0.1/x"}
chains:
  eip155:8453:
    rpc_url: http://127.0.0.1:1/` + secret + `
    lanes: [{private_key: "0x` + secret + `"}]
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	paths := []string{
		"http.address", "log.format", "settle.wait", "no_such_setting", "database.url",
		"chains.eip155:8453.lanes[0].private_key", "FACILITATOR_NO_SUCH_THING",
	}
	for _, row := range []struct {
		args  []string
		paths []string
	}{{[]string{"serve"}, paths}, {[]string{"serve", "-check"}, paths}, {[]string{"migrate", "up"}, []string{"database.url"}}} {
		args := row.args
		out, text := runCommand(t, binary, []string{"FACILITATOR_CONFIG=" + file, "FACILITATOR_NO_SUCH_THING=1"}, 1, args...)
		if out != "" || strings.Contains(text, secret) {
			t.Errorf("%v: printed %q and %q", args, out, text)
		}
		lines := strings.Split(strings.TrimSpace(text), "\n")
		for _, path := range row.paths {
			told := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return !strings.HasPrefix(line, "  "+path) })
			if len(told) != 1 {
				t.Errorf("%v: %s is told on %d lines of\n%s", args, path, len(told), text)
			}
		}
		if !strings.Contains(lines[0], fmt.Sprintf("%d problem", len(row.paths))) || len(lines) != len(row.paths)+1 {
			t.Errorf("%v: %d problems are told in %d lines:\n%s", args, len(row.paths), len(lines), text)
		}
	}
}

func commandMigrate(t *testing.T, binary string) {
	t.Helper()
	s := setup{chain: world.chain}
	file := s.writeConfig(t)
	migrations, err := filepath.Glob("../migrations/*.sql")
	if err != nil || len(migrations) == 0 {
		t.Fatalf("migrations: %v %v", migrations, err)
	}
	migrate := func(direction string, code int) (string, string) {
		t.Helper()
		return runCommand(t, binary, nil, code, "migrate", direction, "-config", file)
	}
	status := func(state string) {
		t.Helper()
		out, _ := migrate("status", 0)
		if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != len(migrations) {
			t.Errorf("status of %d migrations: %q", len(migrations), out)
		}
		for line := range strings.Lines(out) {
			if !strings.HasPrefix(line, state+" ") {
				t.Errorf("status %q, want %s", line, state)
			}
		}
	}
	status("applied")
	for range migrations {
		migrate("down", 0)
	}
	status("missing")
	if _, text := migrate("down", 1); !strings.Contains(text, "nothing is applied") {
		t.Errorf("down with nothing to take back: %q", text)
	}
	_, text := runCommand(t, binary, nil, 1, "serve", "-config", file)
	if strings.Count(text, "\n") != 1 || !strings.Contains(text, "facilitator migrate up") {
		t.Errorf("serving without the schema: %q, want one line that tells what to do", text)
	}
	if out, _ := migrate("up", 0); !strings.HasPrefix(out, "applied "+strconv.Itoa(len(migrations))+" ") {
		t.Errorf("up: %q", out)
	}
	status("applied")
	if out, _ := migrate("up", 0); !strings.HasPrefix(out, "applied 0 ") {
		t.Errorf("up again: %q", out)
	}
	run := startBinary(t, binary, nil, "serve", "-config", file)
	body := request(t, world.chain, sale(t, payers(t, world.chain, 1)[0]))
	wantSuccess(t, run.service(t, s).post(t, "/settle", body))
	run.wantStopped(t, syscall.SIGINT)
}

func commandStop(t *testing.T, binary string) {
	t.Helper()
	c, payer := heldChain(t)
	s := setup{chain: c}
	file := s.writeConfig(t)
	run := startBinary(t, binary, []string{"FACILITATOR_HTTP_DRAIN_DELAY=1s"}, "serve", "-config", file)
	service := run.service(t, s)
	body := request(t, c, sale(t, payer))
	answer := settleLater(t, service, body)
	eventuallyState(t, service, body, "broadcast")

	if err := run.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "/readyz says no", func() bool {
		r, err := service.do(t.Context(), http.MethodGet, "/readyz", "")
		return err == nil && r.status == http.StatusServiceUnavailable
	})
	if r := service.get(t, "/livez"); r.status != http.StatusOK {
		t.Errorf("/livez of a service that stops: %d %s", r.status, r.text)
	}
	eventually(t, "nobody is taken any more", func() bool {
		_, err := service.do(t.Context(), http.MethodGet, "/livez", "")
		return err != nil
	})
	if run.ended() {
		t.Fatal("it did not wait for the request in flight")
	}
	mine(t, c, 1)
	wantSuccess(t, wait(t, answer))
	<-run.done
	if code := run.cmd.ProcessState.ExitCode(); code != 0 || !strings.Contains(run.err.String(), `"msg":"stopped"`) {
		t.Errorf("it ended with %v", run.cmd.ProcessState)
	}
	checkWallets(t, s.databaseURL, c, 1)
}

func commandCutOff(t *testing.T, binary string) {
	t.Helper()
	c, payer := heldChain(t)
	s := setup{chain: c}
	from := height(t, c)
	file := s.writeConfig(t)
	deal := sale(t, payer)
	body := request(t, c, deal)

	first := startBinary(t, binary, []string{"FACILITATOR_HTTP_DRAIN_TIMEOUT=100ms"}, "serve", "-config", file)
	service := first.service(t, s)
	answer := settleLater(t, service, body)
	eventuallyState(t, service, body, "broadcast")
	hash, _ := recordOf(t, service, body)["transaction"].(string)
	first.wantStopped(t, syscall.SIGTERM)
	if a := <-answer; a.err == nil && a.is("success") {
		t.Fatalf("answered before anything was mined: %s", a.text)
	}
	mine(t, c, 1)

	second := startBinary(t, binary, nil, "serve", "-config", file)
	service = second.service(t, s)
	if got := wantSuccess(t, collect(t, service, body)); got != hash {
		t.Errorf("settled by %s, sent was %s", got, hash)
	}
	wantDuplicate(t, service.post(t, "/settle", body), hash)
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 1 {
		t.Errorf("transfers: %+v, want one", moved)
	}
	second.wantStopped(t, syscall.SIGTERM)
}

func commandSecondSignal(t *testing.T, binary string) {
	t.Helper()
	s := setup{chain: world.chain}
	file := s.writeConfig(t)
	run := startBinary(t, binary, []string{"FACILITATOR_HTTP_DRAIN_DELAY=1m"}, "serve", "-config", file)
	run.service(t, s)
	eventually(t, "it ended", func() bool {
		_ = run.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
		return run.ended()
	})
	if status, ok := run.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v", run.cmd.ProcessState)
	}
}

// runCommand runs the command to its end and returns what it printed.
func runCommand(t *testing.T, binary string, env []string, code int, args ...string) (out, text string) {
	t.Helper()
	run := startBinary(t, binary, env, args...)
	<-run.done
	out, text = run.out.String(), run.err.String()
	if got := run.cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("%v ended with %d, want %d: %s%s", args, got, code, out, text)
	}
	return out, text
}
