package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"

	"facilitator/internal/devnet"
)

const (
	// restTime is how long an idle service is watched.
	restTime = 5 * time.Second
	// directGasLimit of a transaction with one transferWithAuthorization.
	directGasLimit = 200_000
)

// runIdle settles payments one after the other on a chain that mines at every
// transaction, and in turn sends the same kind of payment to the node itself.
func runIdle(ctx context.Context, b *bench, size scaled) (err error) {
	s, err := b.newSite(ctx, 0, 64)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }() //nolint:contextcheck // closing works after ctx ended
	lanes := size.orLanes(4)
	if err := s.idleLatency(ctx, size.many(200), lanes); err != nil {
		return err
	}
	return s.idleCost(ctx, size.many(100), lanes)
}

func (b *bench) rowIdle(figure, value string) {
	b.report.add("idle", "A lone payment", []string{"figure", "value"}, figure, value)
}

// idleLatency takes turns: one payment by the service, one by sending and
// asking for the receipt, one by the call that does both.
func (s *site) idleLatency(ctx context.Context, n, lanes int) (err error) {
	d, err := s.deploy(ctx, deployConfig{lanes: lanes, replicas: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }() //nolint:contextcheck // closing works after ctx ended
	f, err := newFleet(ctx, 1, d.addresses()...)
	if err != nil {
		return err
	}
	defer f.close()
	hand, err := s.newHand(ctx)
	if err != nil {
		return err
	}
	warm, err := s.signSales(10)
	if err != nil {
		return err
	}
	f.settle(ctx, warm)
	before, err := d.read(ctx)
	if err != nil {
		return err
	}
	sales, err := s.signSales(3 * n)
	if err != nil {
		return err
	}
	answers := make([]answer, len(sales))
	var polled, synced []time.Duration
	for i := range n {
		answers[i] = f.settle(ctx, sales[i:i+1])[0]
		for k, send := range []func(context.Context, sale) (common.Hash, time.Duration, error){hand.sendAndPoll, hand.sendSync} {
			at := (k+1)*n + i
			hash, took, err := send(ctx, sales[at])
			if err != nil {
				return fmt.Errorf("send by hand: %w", err)
			}
			answers[at] = answer{Success: true, Transaction: hash.Hex(), called: true}
			if k == 0 {
				polled = append(polled, took)
			} else {
				synced = append(synced, took)
			}
		}
	}
	_, findings, err := s.audit(ctx, before.block+1, sales, answers)
	if err != nil {
		return err
	}
	s.bench.wrong(findings)
	m := summarize(answers[:n])
	if m.settled < n {
		s.bench.problem("%d of %d settled: %v %v", m.settled, n, m.kinds, m.example)
	}
	slices.Sort(polled)
	slices.Sort(synced)
	spread := func(d []time.Duration) string {
		return ms(percentile(d, 50)) + " / " + ms(percentile(d, 95)) + " / " + ms(percentile(d, 100))
	}
	s.bench.rowIdle("settled", share(m.settled, n)+" of "+count(n))
	s.bench.rowIdle("latency p50 / p95 / max", spread(m.latencies))
	s.bench.rowIdle("the node's own, sent and receipt asked for at once", spread(polled))
	s.bench.rowIdle("the node's own, sent by `eth_sendRawTransactionSync`", spread(synced))
	s.bench.rowIdle("above the node's own (p50, the first of the two)", ms(percentile(m.latencies, 50)-percentile(polled, 50)))
	return nil
}

// idleCost counts round trips and SQL, of a service that rests and of one that
// settles lone payments.
func (s *site) idleCost(ctx context.Context, n, lanes int) (err error) {
	d, err := s.deploy(ctx, deployConfig{lanes: lanes, replicas: 1, counted: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }() //nolint:contextcheck // closing works after ctx ended
	f, err := newFleet(ctx, 1, d.addresses()...)
	if err != nil {
		return err
	}
	defer f.close()
	sales, err := s.signSales(10 + n)
	if err != nil {
		return err
	}
	f.settle(ctx, sales[:10])
	resting, rested, err := d.rest(ctx, restTime)
	if err != nil {
		return err
	}
	before, err := d.read(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	m := summarize(f.settle(ctx, sales[10:]))
	took := time.Since(begun)
	after, err := d.read(ctx)
	if err != nil {
		return err
	}
	if m.settled < n {
		s.bench.problem("counted: %d of %d settled: %v %v", m.settled, n, m.kinds, m.example)
	}
	used := after.since(before)
	each := func(during, atRest int64) string {
		background := float64(atRest) / rested.Seconds()
		net := (float64(during) - background*took.Seconds()) / float64(n)
		return fmt.Sprintf("%.2f, and %.1f/s at rest", net, background)
	}
	s.bench.rowIdle("round trips to the node for a payment", each(used.roundTrips, resting.roundTrips))
	s.bench.rowIdle("JSON-RPC calls in them", each(used.calls, resting.calls))
	s.bench.rowIdle("SQL transactions that write, for a payment", each(used.writes, resting.writes))
	s.bench.rowIdle("CPU of the service for a payment", ms(used.service/time.Duration(n)))
	memory, peak := memoryOf(d.replicas[0].command.PID())
	s.bench.rowIdle("memory of the service, at its peak", mega(memory)+", "+mega(peak))
	return nil
}

// rest counts what the service does when nobody calls it.
func (d *deployment) rest(ctx context.Context, during time.Duration) (counters, time.Duration, error) {
	before, err := d.read(ctx)
	if err != nil {
		return before, 0, err
	}
	begun := time.Now()
	select {
	case <-ctx.Done():
		return before, 0, context.Cause(ctx)
	case <-time.After(during):
	}
	after, err := d.read(ctx)
	return after.since(before), time.Since(begun), err
}

// hand sends payments to the node without the service.
type hand struct {
	site   *site
	wallet devnet.Key
	nonce  uint64
	signer types.Signer
}

func (s *site) newHand(ctx context.Context) (*hand, error) {
	h := &hand{
		site: s, wallet: devnet.Keys("hand", 1)[0],
		signer: types.LatestSignerForChainID(new(big.Int).SetUint64(s.chain.ChainID())),
	}
	wei := new(big.Int).Exp(big.NewInt(10), big.NewInt(20), nil)
	return h, s.chain.FundETH(ctx, wei, h.wallet.Address)
}

// sign makes the transaction of a sale.
func (h *hand) sign(of sale) (*types.Transaction, hexutil.Bytes, error) {
	usdc := h.site.chain.USDC()
	tx, err := types.SignNewTx(h.wallet.Private, h.signer, &types.DynamicFeeTx{
		ChainID: new(big.Int).SetUint64(h.site.chain.ChainID()), Nonce: h.nonce,
		GasTipCap: big.NewInt(1_000_000), GasFeeCap: big.NewInt(10_000_000_000), Gas: directGasLimit,
		To: &usdc, Data: of.transfer(),
	})
	if err != nil {
		return nil, nil, err
	}
	h.nonce++
	raw, err := tx.MarshalBinary()
	return tx, raw, err
}

// sendAndPoll sends and asks for the receipt until there is one.
func (h *hand) sendAndPoll(ctx context.Context, of sale) (common.Hash, time.Duration, error) {
	tx, raw, err := h.sign(of)
	if err != nil {
		return common.Hash{}, 0, err
	}
	begun := time.Now()
	if err := h.site.chain.RPC().CallContext(ctx, nil, "eth_sendRawTransaction", raw); err != nil {
		return tx.Hash(), 0, err
	}
	for {
		var mined *types.Receipt
		if err := h.site.chain.RPC().CallContext(ctx, &mined, "eth_getTransactionReceipt", tx.Hash()); err != nil {
			return tx.Hash(), 0, err
		}
		if mined != nil {
			return tx.Hash(), time.Since(begun), reverted(mined)
		}
	}
}

// sendSync sends by the call that answers with the receipt.
func (h *hand) sendSync(ctx context.Context, of sale) (common.Hash, time.Duration, error) {
	tx, raw, err := h.sign(of)
	if err != nil {
		return common.Hash{}, 0, err
	}
	begun := time.Now()
	var mined *types.Receipt
	if err := h.site.chain.RPC().CallContext(ctx, &mined, "eth_sendRawTransactionSync", raw); err != nil {
		return tx.Hash(), 0, err
	}
	return tx.Hash(), time.Since(begun), reverted(mined)
}

func reverted(r *types.Receipt) error {
	if r == nil || r.Status != types.ReceiptStatusSuccessful {
		return errors.New("it was not mined, or reverted")
	}
	return nil
}
