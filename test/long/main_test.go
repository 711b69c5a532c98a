// Package long holds the suites that try to break the three promises for as
// long as they are told to: replicas that are killed, a node that lies, a
// database that fails. What happened is judged by "facilitator audit", which
// reads only the record, the chain and what callers were told.
//
// They run in a short form by default. docs/testing.md tells the sizes.
package long

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"facilitator/internal/devnet"
)

// world is what all suites share.
var world struct {
	long   bool
	seed   uint64
	binary string
	turn   sync.Mutex // in the long form suites run one after the other

	mu    sync.Mutex
	total summary
}

// summary is what a suite did, or all of them.
type summary struct {
	suites, payments, settled, successes, kills, reorgs, faults, violations, warnings, seconds int
}

func (s *summary) add(o summary) {
	s.suites, s.payments, s.settled = s.suites+o.suites, s.payments+o.payments, s.settled+o.settled
	s.successes, s.kills, s.reorgs, s.faults = s.successes+o.successes, s.kills+o.kills, s.reorgs+o.reorgs, s.faults+o.faults
	s.violations, s.warnings, s.seconds = s.violations+o.violations, s.warnings+o.warnings, s.seconds+o.seconds
}

func (s summary) String() string {
	return fmt.Sprintf("payments=%d settled=%d successes=%d kills=%d reorgs=%d faults=%d violations=%d warnings=%d seconds=%d",
		s.payments, s.settled, s.successes, s.kills, s.reorgs, s.faults, s.violations, s.warnings, s.seconds)
}

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test set-up:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if testing.Short() {
		return m.Run(), nil
	}
	world.long = os.Getenv("TEST_LONG") != ""
	if !world.long {
		// They mostly wait: side by side they take half the time.
		if err := flag.Set("test.parallel", "5"); err != nil {
			return 1, err
		}
	}
	world.seed = rand.Uint64() >> 16
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		if world.seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			return 1, fmt.Errorf("TEST_SEED: %w", err)
		}
	}
	fmt.Printf("TEST_SEED=%d\n", world.seed)
	folder, err := os.MkdirTemp("", "facilitator-long-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(folder) }() // a temporary folder
	world.binary = filepath.Join(folder, "facilitator")
	args := []string{"build", "-tags", "crashpoints", "-o", world.binary}
	if os.Getenv("TEST_RACE") != "" {
		args = append(args, "-race")
	}
	build := exec.CommandContext(context.Background(), "go", append(args, "../../cmd/facilitator")...)
	if text, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build: %w\n%s", err, text)
	}
	code := m.Run()
	fmt.Printf("TOTAL suites=%d seed=%d %s\n", world.total.suites, world.seed, world.total)
	return code, nil
}

// begin lets a suite run beside the others, or, in the long form, alone.
func begin(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	if _, err := devnet.Tools(""); err != nil {
		t.Fatal(err)
	}
	if world.long {
		world.turn.Lock()
		t.Cleanup(world.turn.Unlock)
	}
}

// size is a number that the environment may say.
func size(t *testing.T, name string, short, long int) int {
	t.Helper()
	if text := os.Getenv("TEST_" + name); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			t.Fatalf("TEST_%s: not a number: %q", name, text)
		}
		return n
	}
	if world.long {
		return long
	}
	return short
}

// dice is a source of chance that the seed decides, one for each purpose.
func dice(purpose string, n int) *rand.Rand {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s %d", purpose, n) // never fails
	return rand.New(rand.NewPCG(world.seed, h.Sum64()))
}

// between is a random time.
func between(d *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(d.Int64N(int64(high-low)+1))
}

// rest waits; false when ctx ended first.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
