package settle_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/big"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/settle"
	"facilitator/internal/x402"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	network = x402.Network("eip155:8453")
	payer   = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8" // as a client spelled it
	wait    = 20 * time.Second
)

// parsed is a request that a scheme has read.
type parsed struct{ terms payment.Terms }

func (p parsed) Terms() payment.Terms                   { return p.terms }
func (p parsed) Payer() string                          { return payer }
func (p parsed) Contracts() []chain.Address             { return nil }
func (p parsed) Check(context.Context, time.Time) error { return nil }
func (p parsed) Simulate(context.Context, payment.Promised) (scheme.Outlook, error) {
	return scheme.Outlook{AtLeast: 41}, nil
}

func sale() payment.Terms {
	return payment.Terms{
		Key:    payment.Key{Network: network, Contract: chain.Address{1}, Payer: chain.Address{2}, Nonce: chain.Hash{3}},
		Scheme: x402.SchemeExact, Asset: chain.Address{1}, PayTo: chain.Address{4}, Amount: x402.NewUint256(10000),
		SignatureHash: chain.Hash{5},
	}
}

// verifier judges as it is told.
type verifier struct {
	terms        payment.Terms
	parse, check error
	judge        func(ctx context.Context) error
	// record is where it looks.
	record interface {
		PaymentByKey(ctx context.Context, k payment.Key) (payment.Payment, error)
	}
	// promised is what it sees of others, and judged what it was told of that.
	promised payment.Promised
	looking  sync.Mutex
	judged   []payment.Promised
}

func (v *verifier) Parse(*x402.Request) (scheme.Payment, error) {
	if v.parse != nil {
		return nil, v.parse
	}
	return parsed{v.terms}, nil
}

func (v *verifier) Look(ctx context.Context, p scheme.Payment) (payment.Exposure, error) {
	known, err := v.record.PaymentByKey(ctx, p.Terms().Key)
	if errors.Is(err, payment.ErrNotFound) {
		return payment.Exposure{Promised: v.promised, Mark: new(big.Int)}, nil
	}
	if err != nil {
		return payment.Exposure{}, err
	}
	return payment.Exposure{Known: &known, Promised: v.promised, Mark: new(big.Int)}, nil
}

func (v *verifier) Judge(ctx context.Context, _ scheme.Payment, seen *payment.Exposure) (uint64, *payment.Guard, error) {
	v.looking.Lock()
	v.judged = append(v.judged, seen.Promised)
	v.looking.Unlock()
	if v.judge == nil {
		return 41, seen.Guard(x402.NewUint256(7)), nil
	}
	return 41, seen.Guard(x402.NewUint256(7)), v.judge(ctx)
}

func (v *verifier) CheckOnly(context.Context, scheme.Payment) error { return v.check }

// relayer settles nothing by itself: tests move payments in the record.
type relayer struct {
	ready error

	mu    sync.Mutex
	wakes int
	// depth is the highest block that is settled at each level; without, plain
	// inclusion is enough but for finalized.
	depth map[string]uint64
}

func (r *relayer) Wake(x402.Network) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakes++
}

func (r *relayer) Ready(x402.Network) error { return r.ready }

func (r *relayer) SettledUpTo(n x402.Network, l payment.Level) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if upTo, set := r.depth[l.String()]; set && n == network {
		return upTo
	}
	if l.IsFinalized() {
		return 0
	}
	return math.MaxInt64
}

func (r *relayer) settledUpTo(level string, block uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.depth == nil {
		r.depth = make(map[string]uint64)
	}
	r.depth[level] = block
}

// record holds one payment.
type record struct {
	mu         sync.Mutex
	p          *payment.Payment
	answeredBy string
	outage     bool
	lost       bool // the next commit of an answer is in doubt
	// before is called without the lock as a method begins; nil does nothing.
	before func(method string)
	calls  map[string]int
	// crowd says whether others promised too much for a guard; nil is no.
	crowd func(g *payment.Guard) bool
}

func (r *record) begin(ctx context.Context, method string) (func(), error) {
	if r.before != nil {
		r.before(method)
	}
	r.mu.Lock()
	if r.calls == nil {
		r.calls = make(map[string]int)
	}
	r.calls[method]++
	switch {
	case ctx.Err() != nil:
		return r.mu.Unlock, errors.Join(payment.ErrUnavailable, ctx.Err())
	case r.outage:
		return r.mu.Unlock, payment.ErrUnavailable
	}
	return r.mu.Unlock, nil
}

func (r *record) PaymentByKey(ctx context.Context, k payment.Key) (payment.Payment, error) {
	end, err := r.begin(ctx, "PaymentByKey")
	defer end()
	if err == nil && (r.p == nil || r.p.Terms.Key != k) {
		err = payment.ErrNotFound
	}
	if err != nil {
		return payment.Payment{}, err
	}
	return *r.p, nil
}

func (r *record) PaymentByID(ctx context.Context, id payment.ID) (payment.Payment, error) {
	end, err := r.begin(ctx, "PaymentByID")
	defer end()
	if err == nil && (r.p == nil || r.p.ID != id) {
		err = payment.ErrNotFound
	}
	if err != nil {
		return payment.Payment{}, err
	}
	return *r.p, nil
}

func (r *record) ClaimPayment(ctx context.Context, p payment.Payment, g *payment.Guard) (payment.Payment, bool, error) {
	end, err := r.begin(ctx, "ClaimPayment")
	defer end()
	if err != nil {
		return payment.Payment{}, false, err
	}
	if r.crowd != nil && r.crowd(g) {
		return payment.Payment{}, false, payment.ErrCrowded
	}
	again := r.p != nil && r.p.State == payment.StateFailed && !r.p.Sent() && r.p.Terms.Fingerprint() == p.Terms.Fingerprint()
	if r.p != nil && !again {
		return *r.p, false, nil
	}
	p.ID, p.State = "the-id", payment.StateQueued
	r.p = &p
	return p, true, nil
}

func (r *record) CountQueued(ctx context.Context, _ x402.Network) (int, error) {
	end, err := r.begin(ctx, "CountQueued")
	defer end()
	if err != nil || r.p == nil || r.p.State != payment.StateQueued {
		return 0, err
	}
	return 1, nil
}

func (r *record) Standings(ctx context.Context, ids []payment.ID) (map[payment.ID]payment.Standing, error) {
	end, err := r.begin(ctx, "Standings")
	defer end()
	if err != nil {
		return nil, err
	}
	standings := make(map[payment.ID]payment.Standing)
	for _, id := range ids {
		if r.p != nil && r.p.ID == id {
			standings[id] = r.p.Standing()
		}
	}
	return standings, nil
}

func (r *record) Collect(ctx context.Context, id payment.ID, call string, key chain.Hash, upTo uint64) (payment.Payment, bool, error) {
	end, err := r.begin(ctx, "Collect")
	defer end()
	switch {
	case err != nil:
		return payment.Payment{}, false, err
	case r.p == nil || r.p.ID != id:
		return payment.Payment{}, false, payment.ErrNotFound
	case !r.p.Standing().SettledUpTo(upTo) || r.answeredBy != "" && r.answeredBy != call:
		return *r.p, false, nil
	}
	r.answeredBy, r.p.AnsweredAt, r.p.AnsweredKey = call, time.Now(), key
	if r.lost { // committed, but nobody is told
		r.lost = false
		return payment.Payment{}, false, payment.ErrUnavailable
	}
	return *r.p, true, nil
}

func (r *record) ReturnAnswer(ctx context.Context, _ payment.ID, call string) error {
	end, err := r.begin(ctx, "ReturnAnswer")
	defer end()
	if err == nil && r.answeredBy == call {
		r.answeredBy, r.p.AnsweredAt, r.p.AnsweredKey = "", time.Time{}, chain.Hash{}
	}
	return err
}

func (r *record) Withdraw(ctx context.Context, _ payment.ID, reason x402.Reason, message string) error {
	end, err := r.begin(ctx, "Withdraw")
	defer end()
	switch {
	case err != nil:
		return err
	case r.p.State != payment.StateQueued || r.p.Sent():
		return payment.ErrTransition
	}
	r.p.State, r.p.Reason, r.p.Message = payment.StateFailed, reason, message
	r.p.Evidence = &payment.Evidence{Kind: payment.EvidenceNotSent}
	return nil
}

// set changes the payment as a lane would.
func (r *record) set(change func(p *payment.Payment)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r.p)
}

func (r *record) setOutage(is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outage = is
}

func (r *record) answered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answeredBy != ""
}

func (r *record) count(method string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls[method]
}

var txHash = chain.Hash{0xaa}

const inBlock = 50

func signed(p *payment.Payment) { p.State, p.Tries, p.TxHash = payment.StateSigned, 1, txHash }

func included(p *payment.Payment) {
	p.State, p.Tries, p.TxHash, p.BlockNumber = payment.StateIncluded, 1, txHash, inBlock
}

func final(p *payment.Payment) { included(p); p.State = payment.StateFinal }

func failed(p *payment.Payment) {
	p.State, p.Tries, p.TxHash = payment.StateFailed, 1, txHash
	p.Reason, p.Message, p.Evidence = x402.ReasonExactNonceUsed, "used by somebody else", &payment.Evidence{Kind: payment.EvidenceConsumed}
}

// bench is a settler with all that it depends on.
type bench struct {
	*settle.Settler
	record   *record
	verifier *verifier
	relayer  *relayer
	board    *settle.Board
	// client and admit are those of its calls.
	client string
	admit  func() error
	// told are the states of what its callers were told of.
	telling sync.Mutex
	told    []payment.State
}

func (b *bench) learn(p *payment.Payment) {
	b.telling.Lock()
	defer b.telling.Unlock()
	b.told = append(b.told, p.State)
}

// newBench begins a bubble's settler.
func newBench(t *testing.T) *bench {
	t.Helper()
	return benchOf(t, &record{})
}

func benchOf(t *testing.T, r *record) *bench {
	t.Helper()
	b := &bench{record: r, verifier: &verifier{terms: sale(), record: r}, relayer: &relayer{}}
	b.board = settle.NewBoard(b.record, time.Second, slog.New(slog.DiscardHandler))
	b.Settler = settle.New(settle.Deps{
		Verifier: b.verifier, Store: b.record, Relayer: b.relayer, Board: b.board, Wait: wait, MaxQueued: 10, Told: b.learn, Crash: func(string) {},
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- b.board.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// replica is another process on the same record.
func (b *bench) replica(t *testing.T) *bench {
	t.Helper()
	return benchOf(t, b.record)
}

type answer struct {
	payment.Answer
	err error
}

// later calls Settle in the background; the level may be left out.
func (b *bench) later(ctx context.Context, key string, level ...string) <-chan answer {
	ch := make(chan answer, 1)
	wishes := payment.Wishes{IdempotencyKey: key, Client: b.client, Admit: b.admit}
	if len(level) > 0 {
		var err error
		if wishes.Level, err = payment.ParseLevel(level[0]); err != nil {
			ch <- answer{err: err}
			return ch
		}
	}
	go func() {
		r, err := b.Settle(ctx, &x402.Request{Version: x402.V2, Resource: "https://api.example.com/"}, wishes)
		ch <- answer{r, err}
	}()
	return ch
}

func (b *bench) now(t *testing.T, key string, level ...string) answer {
	t.Helper()
	return <-b.later(t.Context(), key, level...)
}

// move changes the payment and posts it, as this process's relayer does.
func (b *bench) move(change func(*payment.Payment)) {
	b.record.set(change)
	b.board.Moved("the-id")
}
