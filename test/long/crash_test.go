package long

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/devnet"
)

// TestReplicasAreKilled settles through three replicas on one record while they
// are killed at random moments and at every named crash point (I9). The long form
// does so several times: the node keeps all it ever mined in memory.
func TestReplicasAreKilled(t *testing.T) { //nolint:tparallel // its rounds run one after the other
	t.Parallel()
	begin(t)
	rounds := size(t, "CRASH_ROUNDS", 1, 5)
	points := crashPoints(t)
	kills := size(t, "KILLS", len(points)+4, 525)
	payments := size(t, "CRASH_PAYMENTS", 150, 40_000)
	for i := range rounds {
		t.Run(strconv.Itoa(i+1), func(t *testing.T) {
			replicasAreKilled(t, fmt.Sprintf("crash %d", i+1), points, kills/rounds, payments/rounds)
		})
	}
}

func replicasAreKilled(t *testing.T, name string, points []string, target, payments int) {
	t.Helper()
	database := startPostgres(t, devnet.PostgresConfig{})
	r := newRig(t, name, rigOptions{replicas: 3, payments: payments, databaseURL: database.URL()})
	k := &killer{rig: r, dice: dice(name+" killer", 0), points: points}
	r.load.start(func() bool { return r.killed() < target })
	for r.load.busy() && r.killed() < target {
		k.round()
	}
	r.finish()
	if n := r.killed(); n < target {
		t.Errorf("%d kills, want %d", n, target)
	}
	for _, point := range points {
		if r.counts["killed at "+point] == 0 {
			t.Errorf("nobody died at %q", point)
		}
	}
	if n := r.counts["exits"]; n > 0 {
		t.Errorf("replicas ended %d times by themselves", n)
	}
}

func startPostgres(t *testing.T, cfg devnet.PostgresConfig) *devnet.Postgres {
	t.Helper()
	server, err := devnet.StartPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// crashPoints reads the names of the crash points from the source.
func crashPoints(t *testing.T) []string {
	t.Helper()
	var points []string
	call := regexp.MustCompile(`\bCrash\("([a-z_]+)"\)`)
	err := filepath.WalkDir("../../internal", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			points = append(points, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(points)
	points = slices.Compact(points)
	if len(points) < 5 {
		t.Fatalf("the source has only the crash points %v", points)
	}
	return points
}

// killer ends replicas.
type killer struct {
	rig    *rig
	dice   *rand.Rand
	points []string
	swept  bool
}

// round ends a replica, or several, in one of the ways.
func (k *killer) round() {
	ctx, replicas := k.rig.load.ctx, k.rig.replicas
	victim := replicas[k.dice.IntN(len(replicas))]
	if !victim.awaitReady(ctx, 15*time.Second) {
		k.rig.count("replicas that did not become ready in time", 1)
	}
	how := k.dice.IntN(40)
	switch {
	case !k.swept || how == 0: // at every point, first of all
		k.swept = true
		k.sweep(victim)
	case how < 4: // all at once
		for _, r := range replicas {
			r.kill()
		}
	case how < 20: // at a point, beside others that live
		k.die(victim, k.points[k.dice.IntN(len(k.points))])
	default: // at any moment
		if rest(ctx, between(k.dice, 0, 600*time.Millisecond)) {
			victim.kill()
		}
	}
}

// die has a replica die at a crash point.
func (k *killer) die(victim *replica, point string) {
	n := victim.started()
	victim.arm(point)
	victim.kill()
	victim.awaitStart(k.rig.load.ctx, n+1, 5*time.Second)
	k.awaitDeath(victim, n+1, point)
}

// sweep has a replica die at every crash point in turn. The others are down
// meanwhile, so that it comes to each whoever held the lanes.
func (k *killer) sweep(victim *replica) {
	for _, r := range k.rig.replicas {
		if r != victim {
			r.hold(true)
			r.kill()
		}
	}
	n := victim.started() + 1
	victim.arm(k.points[0])
	victim.kill()
	for i, point := range k.points {
		victim.awaitStart(k.rig.load.ctx, n+i, 5*time.Second)
		if i+1 < len(k.points) {
			victim.arm(k.points[i+1])
		}
		k.awaitDeath(victim, n+i, point)
	}
	for _, r := range k.rig.replicas {
		r.hold(false)
	}
}

// awaitDeath waits until the process of a start is dead.
func (k *killer) awaitDeath(victim *replica, n int, point string) {
	patience := 12 * time.Second
	switch point {
	case "broadcast": // a transaction must wait for its block
		patience = 30 * time.Second
		k.pause(true)
		defer k.pause(false)
	case "bumped": // and be priced out meanwhile
		patience = 40 * time.Second
		ctx, calm := context.WithCancel(k.rig.load.ctx)
		var raising sync.WaitGroup
		raising.Go(func() { k.raiseFees(ctx) })
		defer raising.Wait()
		defer calm()
	}
	if !victim.awaitEnd(k.rig.load.ctx, n, patience) {
		k.rig.count("never came to "+point, 1)
		victim.kill()
	}
}

// pause stops the chain, or has it go on.
func (k *killer) pause(stop bool) {
	c, ctx := k.rig.chain, context.WithoutCancel(k.rig.load.ctx)
	err := c.SetAutomine(ctx, false)
	if !stop {
		err = c.SetIntervalMining(ctx, blockTime)
	}
	if err != nil {
		k.rig.count("chain not paused: "+err.Error(), 1)
	}
}

// raiseFees makes the base fee jump every few seconds, far above what was offered
// just before, and lets it fall again.
func (k *killer) raiseFees(ctx context.Context) {
	const fiveGwei = 5_000_000_000
	for {
		if err := k.rig.chain.RPC().CallContext(ctx, nil, "anvil_setNextBlockBaseFeePerGas", hexutil.Uint64(fiveGwei)); err != nil && ctx.Err() == nil {
			k.rig.count("base fee not raised: "+err.Error(), 1)
		}
		if !rest(ctx, 6*time.Second) {
			return
		}
	}
}
