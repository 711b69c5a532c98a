package main

import (
	"context"
	"strconv"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/devnet"
)

// poolLook is how often the node's pool is looked at.
const poolLook = 250 * time.Millisecond

// unstick helps the node with a fault of its own until it is stopped: what it
// takes while it mines the wallet nonce before can be queued for ever behind
// that nonce, where other nodes look again at every block. The pool of such a
// wallet is cleared, and who sent its transactions has to send them again.
func (s *site) unstick(ctx context.Context, wallets []devnet.Key) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		look := time.NewTicker(poolLook)
		defer look.Stop()
		stuck := make(map[common.Address]common.Hash)
		for {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
			var status struct{ Queued hexutil.Uint64 }
			if err := s.chain.RPC().CallContext(ctx, &status, "txpool_status"); err != nil || status.Queued == 0 {
				clear(stuck)
				continue
			}
			for _, wallet := range wallets {
				now := s.nextQueued(ctx, wallet.Address)
				if now != (common.Hash{}) && now == stuck[wallet.Address] {
					s.bench.say("  the node's pool of %s was stuck: cleared", wallet.Address)
					_ = s.chain.RPC().CallContext(ctx, nil, "anvil_removePoolTransactions", wallet.Address) // it is looked at again
				}
				stuck[wallet.Address] = now
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// nextQueued is a wallet's transaction that waits for a wallet nonce below its
// own although its own is the next; zero where there is none.
func (s *site) nextQueued(ctx context.Context, wallet common.Address) common.Hash {
	var pool struct {
		Queued map[common.Address]map[string]struct{ Hash common.Hash }
	}
	next, err := s.chain.Client().NonceAt(ctx, wallet, nil)
	if err != nil || s.chain.RPC().CallContext(ctx, &pool, "txpool_content") != nil {
		return common.Hash{}
	}
	return pool.Queued[wallet][strconv.FormatUint(next, 10)].Hash
}
