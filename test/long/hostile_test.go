package long

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

// deepest is how many blocks a reorganisation drops at most.
const deepest = 5

// TestNodeIsHostile settles through a node that is slow, silent, wrong, behind
// and forgetful, on a chain that is reorganised (I5, I7).
func TestNodeIsHostile(t *testing.T) {
	t.Parallel()
	begin(t)
	database := startPostgres(t, devnet.PostgresConfig{})
	var r *rig
	var node *hostileNode
	r = newRig(t, "hostile-node", rigOptions{
		replicas: 2, payments: size(t, "HOSTILE_PAYMENTS", 150, 32_000), databaseURL: database.URL(),
		node: func(c *devnet.Chain) string {
			node = newHostileNode(t, c.URL(), func() *rig { return r })
			return node.server.URL
		},
	})
	m := r.mine()
	reorgs := size(t, "REORGS", 3, 40)
	r.load.start(func() bool { return r.counted("reorgs") < reorgs })
	node.evil.Store(true)
	r.load.run.Go(r.forget)
	r.load.run.Go(func() { r.reorganise(m) })
	r.load.await(func() bool { return !r.load.busy() }, time.Hour)
	// Callers whose payment is under way still need an honest node to be told.
	node.evil.Store(false)
	r.finish()
	if n := r.counted("reorgs"); n < reorgs {
		t.Errorf("%d reorganisations, want %d", n, reorgs)
	}
	if r.counted("faults") == 0 {
		t.Error("the node was never hostile")
	}
}

// miner makes blocks. The node's own miner takes no notice of reorganisations
// while it works, which leaves a chain that does not hang together.
type miner struct{ mu sync.Mutex }

// mine makes blocks from here, until the test ends.
func (r *rig) mine() *miner {
	r.t.Helper()
	r.must(r.chain.SetAutomine(r.t.Context(), false))
	m := new(miner)
	ctx, stop := context.WithCancel(r.t.Context())
	var run sync.WaitGroup
	run.Go(func() {
		tick := time.NewTicker(blockTime)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			m.mu.Lock()
			_ = r.chain.Mine(ctx, 1) // fails only if the node is gone
			m.mu.Unlock()
		}
	})
	r.t.Cleanup(func() {
		stop()
		run.Wait()
	})
	return m
}

// reorganise drops the newest blocks and all that was in them, again and again.
func (r *rig) reorganise(m *miner) {
	d := dice("reorganisations", 0)
	low, high := time.Second, 3*time.Second
	if world.long {
		low, high = 3*time.Second, 20*time.Second
	}
	for r.load.busy() && rest(r.load.ctx, between(d, low, high)) {
		depth := 1 + d.IntN(deepest)
		m.mu.Lock()
		err := r.chain.RPC().CallContext(r.load.ctx, nil, "anvil_reorg", depth, []any{})
		m.mu.Unlock()
		if err != nil {
			r.count("reorganisations refused", 1)
			continue
		}
		r.count("reorgs", 1)
		r.count("faults", 1)
	}
}

// forget has the node lose transactions that wait to be mined.
func (r *rig) forget() {
	d := dice("mempool", 0)
	for r.load.busy() && rest(r.load.ctx, between(d, 50*time.Millisecond, 500*time.Millisecond)) {
		var hashes []common.Hash
		var content struct {
			Pending map[common.Address]map[string]struct {
				Hash common.Hash `json:"hash"`
			} `json:"pending"`
		}
		if err := r.chain.RPC().CallContext(r.load.ctx, &content, "txpool_content"); err != nil {
			continue
		}
		for _, byNonce := range content.Pending {
			for _, t := range byNonce {
				hashes = append(hashes, t.Hash)
			}
		}
		if len(hashes) == 0 {
			continue
		}
		var dropped *common.Hash
		err := r.chain.RPC().CallContext(r.load.ctx, &dropped, "anvil_dropTransaction", hashes[d.IntN(len(hashes))])
		if err == nil && dropped != nil {
			r.count("transactions dropped from the pool", 1)
			r.count("faults", 1)
		}
	}
}
