// Command bench measures how the service settles and verifies: the built service
// as a process of its own, with a Postgres that waits for its disk and a chain
// node, all on this machine. docs/benchmarks.md says what it measures and how.
//
// Its figures fail nothing. What fails it is a payment that was not settled,
// settled twice, or answered otherwise than the chain has it, and a verdict that
// is not the payment's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"facilitator/internal/devnet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// bench is one run of the program.
type bench struct {
	out, progress io.Writer
	tools         string
	service       string // the binary
	node          string // the program that runs the peer
	overlay       map[string]any
	blockGas      uint64
	peerLimit     time.Duration
	roundTrips    string // the service's metric of round trips to the node
	commits       string // and of SQL commits
	reads         string // and of SQL reads
	openFiles     int    // how many this process may have
	postgres      string // its version

	scenario string // that runs
	report   report
	problems []string
}

// options are the flags.
type options struct {
	suite         string
	scenarios     string
	list, quick   bool
	sizes         sizes
	overlay, docs string
	commit        string
}

// sizes change what a scenario does; zeros leave it as it is.
type sizes struct {
	payments, clients, lanes int
	blockTime                time.Duration
	nodeDelay                *time.Duration
}

func (o *options) parse(b *bench, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(b.progress)
	flags.StringVar(&o.suite, "suite", "settle", "`NAME` of the scenarios to choose from: settle or verify")
	flags.StringVar(&o.scenarios, "scenario", "", "`NAMES` of the scenarios to run, with commas between them (default: all)")
	flags.BoolVar(&o.list, "list", false, "list the scenarios and exit")
	flags.BoolVar(&o.quick, "quick", false, "a twentieth of the payments, or less: to see that everything works, not how fast")
	flags.IntVar(&o.sizes.payments, "payments", 0, "payments of a load, settled or verified, instead of the scenario's")
	flags.IntVar(&o.sizes.clients, "clients", 0, "concurrent callers, instead of the scenario's")
	flags.IntVar(&o.sizes.lanes, "lanes", 0, "relayer wallets, instead of the scenario's")
	flags.DurationVar(&o.sizes.blockTime, "block-time", 0, "time between blocks, instead of the scenario's")
	flags.Func("node-delay", "added to every answer of the node, instead of the scenario's own (suite verify): a `DURATION`, 0 for none", func(text string) error {
		delay, err := time.ParseDuration(text)
		o.sizes.nodeDelay = &delay
		return err
	})
	flags.Uint64Var(&b.blockGas, "block-gas", 0, "gas limit of a block (default: 40 million for every 200 ms of block time, as on Base)")
	flags.StringVar(&b.service, "service", "", "the service's `BINARY` (default: built from the working directory's module)")
	flags.StringVar(&o.overlay, "config-overlay", "", "YAML `FILE` merged over the service's configuration")
	flags.StringVar(&o.docs, "docs", "", "Markdown `FILE` to put the figures into")
	flags.StringVar(&o.commit, "commit", "", "what was measured, for the report")
	flags.DurationVar(&b.peerLimit, "peer-limit", time.Minute, "longest that the peer may take for a load")
	flags.StringVar(&b.roundTrips, "round-trips-metric", "facilitator_rpc_requests_total", "the service's counter of requests to its node; a counting proxy stands in where it has none")
	flags.StringVar(&b.reads, "reads-metric", "facilitator_store_reads_total", "the service's counter of SQL round trips that only read (suite verify)")
	flags.StringVar(&b.commits, "commits-metric", "facilitator_store_commits_total", "the service's counter of SQL commits, told beside Postgres's own where there is one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return errors.New("unexpected argument " + flags.Arg(0))
	}
	return nil
}

func run(ctx context.Context, args []string, out, progress io.Writer) int {
	b := &bench{out: out, progress: progress, openFiles: raiseOpenFiles()}
	var o options
	if err := o.parse(b, args); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			b.say("bench: %v", err)
		}
		return 2
	}
	chosen, err := choose(o.suite, o.scenarios)
	if err != nil {
		b.say("bench: %v", err)
		return 2
	}
	if o.list {
		for _, s := range chosen {
			_, _ = fmt.Fprintf(out, "%-14s %s\n", s.name, s.about)
		}
		return 0
	}
	if err := b.runAll(ctx, o, chosen); err != nil {
		b.say("bench: %v", err)
		return 1
	}
	return 0
}

// runAll runs the scenarios one after the other. One that fails does not keep
// the others from running.
func (b *bench) runAll(ctx context.Context, o options, chosen []scenario) (err error) {
	if b.tools, err = devnet.Tools(""); err != nil {
		return err
	}
	if b.overlay, err = readOverlay(o.overlay); err != nil {
		return err
	}
	if b.node, err = exec.LookPath("node"); err != nil {
		return err
	}
	if b.service == "" {
		folder, err := os.MkdirTemp("", "facilitator-bench-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(folder) }() // a temporary folder
		if b.service, err = build(ctx, folder); err != nil {
			return err
		}
	}
	begun := time.Now()
	for _, s := range chosen {
		b.scenario = s.name
		started := time.Now()
		b.say("%s: %s", s.name, s.about)
		if err := s.run(ctx, b, o.sizes.scale(o.quick)); err != nil {
			b.problem("%v", err)
		}
		b.say("%s: %s", s.name, time.Since(started).Round(100*time.Millisecond))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	b.report.suite = o.suite
	b.report.machine = b.describe(ctx, o, begun)
	if err := b.report.print(b.out); err != nil {
		return err
	}
	if o.docs != "" {
		if err := b.report.update(o.docs); err != nil {
			return err
		}
	}
	if len(b.problems) > 0 {
		return fmt.Errorf("%d problems:\n  %s", len(b.problems), strings.Join(b.problems, "\n  "))
	}
	return nil
}

// build builds the service as a release is built.
func build(ctx context.Context, folder string) (string, error) {
	binary := filepath.Join(folder, "facilitator")
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "facilitator/cmd/facilitator") //nolint:gosec // a path of our own making
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the service: %w\n%s", err, output)
	}
	return binary, nil
}

// say tells how the run goes.
func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, format+"\n", args...) // nobody is there to be told that nobody can be told
}

// problem records what makes the run fail.
func (b *bench) problem(format string, args ...any) {
	text := b.scenario + ": " + fmt.Sprintf(format, args...)
	b.problems = append(b.problems, text)
	b.say("PROBLEM %s", text)
}

// wrong records an audit's findings, of which there may be thousands.
func (b *bench) wrong(findings []string) {
	for i, text := range findings {
		if i == problemsShown {
			b.problem("and %d more like these", len(findings)-i)
			return
		}
		b.problem("%s", text)
	}
}

// scenario is something to measure.
type scenario struct {
	name, about string
	run         func(ctx context.Context, b *bench, s scaled) error
}

// suite is all scenarios of one kind; nil where there is no such kind.
func suite(name string) []scenario {
	switch name {
	case "settle":
		return settling()
	case "verify":
		return verifying()
	}
	return nil
}

func settling() []scenario {
	second := time.Second
	fast := baseBlockTime
	load := func(name string, l load) scenario {
		l.name = name
		return scenario{name: name, about: l.about(), run: func(ctx context.Context, b *bench, s scaled) error { return b.runLoad(ctx, s.load(l)) }}
	}
	return []scenario{
		load("steady-200ms", newLoad(fast, 128, 6_000, 4)),
		load("steady-2s", newLoad(2*second, 128, 1_536, 4)),
		load("many-200ms", newLoad(fast, 2_048, 20_000, 4)),
		load("many-2s", newLoad(2*second, 2_048, 20_000, 4)),
		load("one-lane", newLoad(fast, 2_048, 20_000, 1)),
		{name: "idle", about: "lone payments one after the other, a block for each, against the node alone", run: runIdle},
		{name: "queue", about: "a chain that mines nothing: what 20,000 queued payments hold in memory, and what is answered past the bound", run: runQueue},
		{name: "replicas", about: "two processes on one Postgres against one, and one of two killed", run: runReplicas},
		{name: "peer", about: "the official TypeScript facilitator under the same load", run: runPeer},
	}
}

func choose(kind, names string) ([]scenario, error) {
	all := suite(kind)
	if all == nil {
		return nil, fmt.Errorf("no suite %q: settle or verify", kind)
	}
	if names == "" {
		return all, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(s scenario) bool { return s.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("no scenario %q of %s: see -list", name, kind)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// scaled are sizes of a run.
type scaled struct {
	sizes
	quick bool
}

func (s sizes) scale(quick bool) scaled { return scaled{s, quick} }

// quickly is how much smaller a quick run is.
const quickly = 20

// payments is how many a scenario is to make of so many.
func (s scaled) many(payments int) int {
	switch {
	case s.payments > 0:
		return s.payments
	case s.quick:
		return max(payments/quickly, 10)
	}
	return payments
}

// load is l as the flags have it.
func (s scaled) load(l load) load {
	l.payments = s.many(l.payments)
	if s.quick {
		l.clients = min(l.clients, max(l.payments/4, 1))
	}
	if s.clients > 0 {
		l.clients = s.clients
	}
	l.lanes = s.orLanes(l.lanes)
	if s.blockTime > 0 {
		l.blockTime = s.blockTime
	}
	return l
}

func (s scaled) orLanes(lanes int) int {
	if s.lanes > 0 {
		return s.lanes
	}
	return lanes
}
