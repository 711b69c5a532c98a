package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rpc"
	"golang.org/x/sync/errgroup"

	"facilitator/internal/devnet"
)

const (
	memoryPayers      = 1_000_000
	memoryPayersQuick = 20_000
	memorySamples     = 10
	// memoryLimit ends the load before it has begun with what it has no time for.
	memoryLimit = 8 * time.Minute
	// memoryStates are few: every state of the node holds a balance of each payer.
	memoryStates = 4
	// payersAtOnce get their balance in one batch.
	payersAtOnce = 500
	// balancesSlot of FiatToken 2.2: the mapping of balances and, in their first
	// bit, who is blacklisted.
	balancesSlot = 9
	// memoryAmount is what each of these payers has, and signs for.
	memoryAmount = 10_000
	// leak is how many bytes a verification may leave behind before it is called
	// growth: less than the smallest entry of a map. What the heap moves by itself
	// is none.
	leak      = 8
	heapMoves = 1 << 20
)

// runMemory verifies valid payments, each of a payer that was never seen before,
// and looks now and then at what the service holds in memory.
func runMemory(ctx context.Context, b *bench, size scaled) (err error) {
	n := memoryPayers
	switch {
	case size.payments > 0:
		n = size.payments
	case size.quick:
		n = memoryPayersQuick
	}
	l := size.verifyLoad(verifyLoad{name: "memory", clients: 128, verifies: n})
	// It mines only while the callers pause: for a block it hashes all balances,
	// and answers nobody for a second or two.
	s, err := b.startSite(ctx, devnet.ChainConfig{KeepStates: memoryStates}, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }() //nolint:contextcheck // closing works after ctx ended
	d, err := s.deploy(ctx, deployConfig{
		lanes: size.orLanes(verifyLanes), replicas: 1, counted: true, delay: l.delay,
		settings: map[string]any{"metrics": map[string]any{"profiles": true}}, // they can be asked for a garbage collection
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }() //nolint:contextcheck // closing works after ctx ended
	f, err := newFleet(ctx, l.clients, d.addresses()...)
	if err != nil {
		return err
	}
	defer f.close()
	samples, err := d.watchMemory(ctx, f, n)
	if err != nil {
		return err
	}
	for i, one := range samples {
		rate := "–"
		if i > 0 {
			rate = perSecond(float64(one.verified-samples[i-1].verified) / one.took.Seconds())
		}
		b.rowMemory(count(one.verified), rate, mega(one.resident), kilo(one.heap), mega(one.inUse), count(one.goroutines))
	}
	grown, grew := growth(samples)
	verdict := "did not grow"
	if grew {
		verdict = "**grew**"
	}
	b.rowMemory("second half", "", "", fmt.Sprintf("%+.1f bytes/verification: %s", grown, verdict), "", "")
	return nil
}

func (b *bench) rowMemory(cells ...string) {
	b.report.add("memory", "Memory over distinct payers",
		[]string{"verified", "a second, signing included", "resident", "Go heap after a collection", "heap in use", "goroutines"}, cells...)
}

// sample is what the service held in memory.
type sample struct {
	verified              int
	took                  time.Duration // since the sample before
	resident, heap, inUse uint64
	goroutines            int
}

// growth is what each verification of the second half left in the heap, and
// whether that is more than noise. In the first half caches may fill.
func growth(samples []sample) (bytes float64, grew bool) {
	if len(samples) < 2 {
		return 0, false
	}
	middle, last := samples[len(samples)/2], samples[len(samples)-1]
	if len(samples) == 2 {
		middle = samples[0]
	}
	bytes = (float64(last.heap) - float64(middle.heap)) / float64(last.verified-middle.verified)
	return bytes, bytes > leak && last.heap > middle.heap+heapMoves
}

// watchMemory verifies n payments and samples ten times, between loads.
func (d *deployment) watchMemory(ctx context.Context, f *fleet, n int) ([]sample, error) {
	begun := time.Now()
	first, err := d.sample(ctx)
	if err != nil {
		return nil, err
	}
	samples := []sample{first}
	every := max(n/memorySamples, 1)
	for done := 0; done < n; {
		if used := time.Since(begun); done > 0 && used+used/time.Duration(done)*time.Duration(every) > memoryLimit {
			d.site.bench.say("  no time for more than %s of %s payers", count(done), count(n))
			break
		}
		next := min(every, n-done)
		started := time.Now()
		if err := d.verifyStrangers(ctx, f, done, next); err != nil {
			return nil, err
		}
		took := time.Since(started)
		done += next
		if err := d.mineOne(ctx); err != nil {
			return nil, err
		}
		now, err := d.sample(ctx)
		if err != nil {
			return nil, err
		}
		now.verified, now.took = done, took
		samples = append(samples, now)
		d.site.bench.say("  %s verified, %s in the heap", count(done), kilo(now.heap))
	}
	return samples, nil
}

// mineOne has the chain go on by a block, and the service notice that it does.
func (d *deployment) mineOne(ctx context.Context) error {
	if err := d.site.chain.Mine(ctx, 1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	return d.replicas[0].awaitReady(ctx)
}

// sample looks after a garbage collection, which asking for a profile forces.
func (d *deployment) sample(ctx context.Context) (now sample, _ error) {
	r := d.replicas[0]
	collected, err := get(ctx, strings.TrimSuffix(r.metrics, "/metrics")+"/debug/pprof/heap?gc=1")
	if err != nil {
		return now, err
	}
	if collected.status != 200 {
		return now, fmt.Errorf("no profile of the heap: status %d", collected.status)
	}
	metrics := r.scrape(ctx)
	now.resident, _ = memoryOf(r.command.PID())
	now.heap, now.inUse = uint64(metrics["go_memstats_heap_alloc_bytes"]), uint64(metrics["go_memstats_heap_inuse_bytes"])
	now.goroutines = int(metrics["go_goroutines"])
	if now.heap == 0 {
		return now, errors.New("the service's metrics tell nothing of its heap")
	}
	return now, nil
}

// verifyStrangers verifies n payments of payers number first and up, who are
// given keys, money and signatures while the load runs.
func (d *deployment) verifyStrangers(ctx context.Context, f *fleet, first, n int) error {
	s := d.site
	checks := make(chan check, 2*payersAtOnce)
	signers, ended := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		signers.Go(func() error {
			for {
				at := int(next.Add(payersAtOnce)) - payersAtOnce
				if at >= n {
					return nil
				}
				if err := s.signStrangers(ended, first+at, min(payersAtOnce, n-at), checks); err != nil {
					return err
				}
			}
		})
	}
	failed := make(chan error, 1)
	go func() {
		failed <- signers.Wait()
		close(checks)
	}()
	wrong := make(chan string, problemsShown)
	start := time.Now()
	f.each(ctx, n, func(c *caller, _ int) {
		k, ok := <-checks
		if !ok {
			return // the signers' error says why
		}
		answers := []answer{c.verify(ctx, k, start)}
		if ctx.Err() != nil {
			return
		}
		for _, finding := range misjudged([]check{k}, answers) {
			select {
			case wrong <- finding:
			default: // enough of them are known
			}
		}
	})
	for range checks { // what nobody took, where ctx ended
	}
	if err := errors.Join(<-failed, context.Cause(ctx)); err != nil {
		return err
	}
	close(wrong)
	var findings []string
	for finding := range wrong {
		findings = append(findings, finding)
	}
	s.bench.wrong(findings)
	return nil
}

// signStrangers makes n payers, number first and up, with just enough money, and
// a valid payment of each.
func (s *site) signStrangers(ctx context.Context, first, n int, to chan<- check) error {
	payers := devnet.Keys(fmt.Sprintf("stranger of %d", first), n)
	if err := s.setBalances(ctx, memoryAmount, addresses(payers)); err != nil {
		return err
	}
	for _, payer := range payers {
		terms := devnet.Sale{Payer: payer, PayTo: s.payees[0].Address, Amount: memoryAmount}.ForNow(time.Now(), validity)
		if _, err := rand.Read(terms.Nonce[:]); err != nil {
			return fmt.Errorf("nonce: %w", err)
		}
		request, err := s.chain.Request(terms)
		if err != nil {
			return err
		}
		text, err := postOf("/verify", request)
		if err != nil {
			return err
		}
		select {
		case to <- check{request: text, payer: payer.Address}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// setBalances writes balances into the token's storage: minting for a million
// takes longer than verifying. It fails where they can't be read afterwards.
func (s *site) setBalances(ctx context.Context, amount int64, payers []common.Address) error {
	value := common.BigToHash(big.NewInt(amount))
	slot := common.BigToHash(big.NewInt(balancesSlot))
	batch := make([]rpc.BatchElem, len(payers))
	for i, payer := range payers {
		key := crypto.Keccak256Hash(common.LeftPadBytes(payer[:], 32), slot[:])
		batch[i] = rpc.BatchElem{Method: "anvil_setStorageAt", Args: []any{s.chain.USDC(), hexutil.Bytes(key[:]), value}, Result: new(any)}
	}
	if err := s.chain.RPC().BatchCallContext(ctx, batch); err != nil {
		return fmt.Errorf("set balances: %w", err)
	}
	for _, one := range batch {
		if one.Error != nil {
			return fmt.Errorf("set balances: %w", one.Error)
		}
	}
	last := payers[len(payers)-1]
	balance, err := s.chain.BalanceOf(ctx, s.chain.USDC(), last)
	if err != nil {
		return fmt.Errorf("set balances: %w", err)
	}
	if balance.Cmp(big.NewInt(amount)) != 0 {
		return fmt.Errorf("set balances: %s has %s, not %d: the token keeps them elsewhere", last, balance, amount)
	}
	return nil
}

func kilo(bytes uint64) string { return count(int(bytes>>10)) + " KB" }
