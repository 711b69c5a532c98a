package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"time"

	"facilitator/internal/devnet"
)

const peerServes = "serving http://"

// runPeer settles the same number of payments with ours and with the official
// TypeScript facilitator, on the same chain one after the other.
func runPeer(ctx context.Context, b *bench, size scaled) (err error) {
	blockTimes := []time.Duration{2 * time.Second, baseBlockTime}
	if size.blockTime > 0 {
		blockTimes = []time.Duration{size.blockTime}
	}
	for _, blockTime := range blockTimes {
		if err := b.comparePeer(ctx, size.load(newLoad(blockTime, 128, 512, 4))); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) comparePeer(ctx context.Context, l load) (err error) {
	s, err := b.newSite(ctx, l.blockTime, min(l.clients, 2_048))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }() //nolint:contextcheck // closing works after ctx ended
	row := func(name string, lanes int, m measured, ratio string) {
		b.report.add("peer", "Beside the official TypeScript facilitator",
			[]string{"blocks", "callers", "facilitator", "wallets", "payments", "told success", "paid on chain", "settled/s", "p50", "p99", "max", "ours / peer, / its example"},
			l.blockTime.String(), count(l.clients), name, count(lanes), count(m.calls), share(m.settled, m.calls), share(m.paid, m.calls),
			fmt.Sprintf("%.1f", m.rate()), ms(percentile(m.latencies, 50)), ms(percentile(m.latencies, 99)), ms(percentile(m.latencies, 100)), ratio)
	}
	var ours []measured
	lanes := []int{l.lanes, 1}
	for _, n := range lanes {
		m, err := s.deployAndLoad(ctx, l, deployConfig{lanes: n, replicas: 1})
		if err != nil {
			return err
		}
		ours = append(ours, m)
	}
	peer, err := s.loadPeer(ctx, l, true)
	if err != nil {
		return err
	}
	example, err := s.loadPeer(ctx, l, false)
	if err != nil {
		return err
	}
	for i, m := range ours {
		row("ours", lanes[i], m, over(m, peer)+"; "+over(m, example))
	}
	row("peer, with a nonce manager", 1, peer, "")
	row("peer, as in its example", 1, example, "")
	b.say("  peer: %v %v; as in its example: %v %v", peer.kinds, peer.example, example.kinds, example.example)
	return nil
}

// over is how many times faster ours is.
func over(ours, peer measured) string {
	if peer.settled == 0 {
		return "it settled none"
	}
	return fmt.Sprintf("%.1f", ours.rate()/peer.rate())
}

// startPeer starts the peer with a wallet, on a node. Managed, it keeps count of
// its wallet nonces; as the example of its SDK has it, it asks the node.
func (s *site) startPeer(ctx context.Context, nodeURL string, wallet devnet.Key, managed bool) (*devnet.Command, error) {
	manager := "off"
	if managed {
		manager = "on"
	}
	wei := new(big.Int).Exp(big.NewInt(10), big.NewInt(21), nil)
	if err := s.chain.FundETH(ctx, wei, wallet.Address); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	// A look for a new block twice in a block's time, as viem has it by default
	// where it knows that time: it takes Base to make a block every two seconds.
	poll := max(s.blockTime/2, 50*time.Millisecond)
	peer, err := devnet.StartCommand(ctx, devnet.CommandConfig{
		Path: s.bench.node, Args: []string{filepath.Join(s.bench.tools, "peer", "facilitator.mjs")}, Ready: peerServes,
		Env: []string{
			"NODE_ENV=production", "RPC_URL=" + nodeURL, "NETWORK=" + s.chain.Network(), "PRIVATE_KEY=" + wallet.Hex(),
			"NONCE_MANAGER=" + manager, fmt.Sprintf("POLLING_INTERVAL=%d", poll.Milliseconds()),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start the peer: %w", err)
	}
	return peer, nil
}

// loadPeer runs the peer under the load, for a limited time.
func (s *site) loadPeer(ctx context.Context, l load, managed bool) (m measured, err error) {
	wallet := devnet.Keys(fmt.Sprintf("peer %t", managed), 1)
	peer, err := s.startPeer(ctx, s.chain.URL(), wallet[0], managed)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, peer.Close()) }()
	f, err := newFleet(ctx, l.clients, strings.TrimPrefix(peer.Ready(), peerServes))
	if err != nil {
		return m, err
	}
	defer f.close()
	defer s.unstick(ctx, wallet)()
	// One warms it up: more might spoil its wallet nonces before the clock starts.
	sales, err := s.signSales(1 + l.payments)
	if err != nil {
		return m, err
	}
	limited, cancel := context.WithTimeout(ctx, s.bench.peerLimit)
	defer cancel()
	if first := f.settle(limited, sales[:1])[0]; !first.Success {
		return m, fmt.Errorf("the peer settles nothing: %s %s %w", first.kind(), first.Error, first.err)
	}
	from, err := s.chain.Client().BlockNumber(ctx)
	if err != nil {
		return m, err
	}
	limited, cancel = context.WithTimeout(ctx, s.bench.peerLimit)
	defer cancel()
	answers := f.settle(limited, sales[1:])
	if err := context.Cause(ctx); err != nil {
		return m, err
	}
	m.summary = summarize(answers)
	var findings []string
	m.paid, findings, err = s.audit(ctx, from+1, sales[1:], answers)
	for _, finding := range findings { // of the peer: told, and no failure of ours
		s.bench.say("  peer: %s", finding)
	}
	return m, err
}
