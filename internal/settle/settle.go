// Package settle brings a verified payment to its end, once, and tells it to
// one caller. It claims; the relayer does the rest, whether or not anybody is
// still waiting.
package settle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/phase"
	"facilitator/internal/scheme"
	"facilitator/internal/tracing"
	"facilitator/internal/x402"
)

// Verifier judges; verify.Verifier is one.
type Verifier interface {
	Parse(req *x402.Request) (scheme.Payment, error)
	Look(ctx context.Context, p scheme.Payment) (payment.Exposure, error)
	Judge(ctx context.Context, p scheme.Payment, seen *payment.Exposure) (atLeast uint64, _ *payment.Guard, _ error)
	CheckOnly(ctx context.Context, p scheme.Payment) error
}

// Store is what settle needs of the record.
type Store interface {
	PaymentByKey(ctx context.Context, k payment.Key) (payment.Payment, error)
	PaymentByID(ctx context.Context, id payment.ID) (payment.Payment, error)
	ClaimPayment(ctx context.Context, p payment.Payment, g *payment.Guard) (_ payment.Payment, fresh bool, _ error)
	CountQueued(ctx context.Context, n x402.Network) (int, error)
	Standings(ctx context.Context, ids []payment.ID) (map[payment.ID]payment.Standing, error)
	Collect(ctx context.Context, id payment.ID, call string, key chain.Hash, upTo uint64) (_ payment.Payment, first bool, _ error)
	ReturnAnswer(ctx context.Context, id payment.ID, call string) error
	Withdraw(ctx context.Context, id payment.ID, reason x402.Reason, message string) error
}

// Relayer moves claimed payments.
type Relayer interface {
	// Wake tells that a payment was queued on a network.
	Wake(n x402.Network)
	// Ready is nil while the network can settle.
	Ready(n x402.Network) error
	// SettledUpTo is the highest block in which a payment that is included, and
	// not final yet, is settled at a level: 0 where only a final one is.
	SettledUpTo(n x402.Network, l payment.Level) uint64
}

// Deps of a Settler; all are required but Claims.
type Deps struct {
	Verifier Verifier
	Store    Store
	Relayer  Relayer
	Board    *Board
	// Wait is how long a caller waits before it is told settlement_pending.
	Wait time.Duration
	// MaxQueued payments of a network may wait to be signed.
	MaxQueued int
	// Told is called with each payment whose end a caller is told, as often as one is.
	Told func(p *payment.Payment)
	// Claims remember the traces of requests; nil remembers nothing.
	Claims *tracing.Claims
	// Crash is called with the name of each step; the crash suite dies in it.
	Crash func(point string)
}

// Settler is safe for concurrent use.
type Settler struct {
	Deps
	mu     sync.Mutex
	queues map[x402.Network]*queue
}

// New checks nothing and starts nothing.
func New(d Deps) *Settler { return &Settler{Deps: d, queues: make(map[x402.Network]*queue)} }

func (s *Settler) queue(n x402.Network) *queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queues[n] == nil {
		s.queues[n] = newQueue(n, s.MaxQueued, s.Store.CountQueued)
	}
	return s.queues[n]
}

// Settle claims the payment of req, or finds it claimed, and waits until it is
// as settled as the caller wishes, at most Wait. The context bounds waiting, never
// work: once claimed, a payment is settled whoever hangs up.
//
// The error is *x402.FieldError, *x402.Rejection, or tells that no judgement
// was possible. The answer names the payment as soon as there is a claim, with
// an error too.
func (s *Settler) Settle(ctx context.Context, req *x402.Request, wishes payment.Wishes) (payment.Answer, error) {
	p, err := s.Verifier.Parse(req)
	if err != nil {
		return payment.Answer{}, err
	}
	payer := p.Payer() // and let go of the request, which need not be kept while waiting
	result, err := s.settle(ctx, req, p, wishes)
	result.Payer = payer
	return result, err
}

func (s *Settler) settle(ctx context.Context, req *x402.Request, p scheme.Payment, wishes payment.Wishes) (payment.Answer, error) {
	deadline := time.NewTimer(s.Wait)
	defer deadline.Stop()
	call, err := uuid.NewRandom()
	if err != nil {
		return payment.Answer{}, fmt.Errorf("call id: %w", err)
	}
	found := apart(func() (f finding) {
		f.known, f.fresh, f.err = s.find(ctx, req, p, wishes)
		return f
	})
	if found.err != nil {
		return about(found.known), found.err
	}
	// What was claimed without a key is collected with one too: its client may have
	// got its key since.
	others := found.known.Client != "" && found.known.Client != wishes.Client
	if others || !identical(found.known, p.Terms()) {
		return s.refuse(ctx, found.known, p, others)
	}
	network := found.known.Terms.Key.Network
	w := &waiter{call: call.String(), key: hashKey(wishes.IdempotencyKey), level: wishes.Level, last: *found.known}
	w.watch = s.Board.Watch(w.last.ID, s.tells(network, wishes.Level))
	defer w.watch.Stop()
	var answer payment.Answer
	phase.Run(ctx, phase.Wait, func(ctx context.Context) {
		if found.fresh {
			s.Relayer.Wake(network)
		} else {
			var done bool
			if answer, done, err = s.first(ctx, w); done {
				return
			}
		}
		answer, err = s.await(ctx, w, deadline.C)
	})
	return answer, err
}

type finding struct {
	known *payment.Payment
	fresh bool
	err   error
}

// apart runs f on a stack of its own. A goroutine keeps the largest stack it ever
// needed, and of those that judge a payment most go on to wait for it, thousands
// at a time. A panic is the caller's to recover.
func apart[T any](f func() T) T {
	var result T
	var panicked error
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				panicked = fmt.Errorf("%v\n%s", p, debug.Stack())
			}
		}()
		result = f()
	}()
	<-done
	if panicked != nil {
		panic(panicked) //nolint:forbidigo // it is passed on, not made
	}
	return result
}

// about is an answer that names a payment, if there is one.
func about(p *payment.Payment) payment.Answer {
	if p == nil {
		return payment.Answer{}
	}
	return payment.Answer{PaymentID: p.ID, TxHash: p.TxHash}
}

// find returns the recorded payment of a request, claimed now if need be, within
// the wait budget.
func (s *Settler) find(ctx context.Context, req *x402.Request, p scheme.Payment, wishes payment.Wishes) (_ *payment.Payment, fresh bool, _ error) {
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	// The record comes before the chain: what we settled ourselves is spent on
	// chain, and judging it anew would call our own success a failure.
	seen, err := s.Verifier.Look(ctx, p)
	if err != nil {
		return nil, false, err
	}
	if taken(seen.Known) {
		return seen.Known, false, nil
	}
	// Nothing of it ever left the service: a new call is a new try.
	known := seen.Known
	claimed, fresh, err := s.claim(ctx, req, p, wishes, seen)
	if _, refused := x402.AsRejection(err); !refused {
		return claimed, fresh, err
	}
	// An identical call may have claimed and even settled it meanwhile: then the
	// chain's refusal is about our own transaction.
	now, lookErr := s.Store.PaymentByKey(ctx, p.Terms().Key)
	if lookErr == nil && taken(&now) {
		return &now, false, nil
	}
	return known, false, err
}

// taken says whether a payment is known that may not be claimed again.
func taken(known *payment.Payment) bool {
	return known != nil && (known.State != payment.StateFailed || known.Sent())
}

// claim judges a payment and records it, again and again while other payments of
// its payer are promised meanwhile: what was judged holds no more then. Each time
// one of them was faster, so somebody gets on.
func (s *Settler) claim(ctx context.Context, req *x402.Request, p scheme.Payment, wishes payment.Wishes, seen payment.Exposure) (*payment.Payment, bool, error) {
	if wishes.Admit != nil { // it counts, and this is one payment
		wishes.Admit = sync.OnceValue(wishes.Admit)
	}
	for {
		claimed, fresh, err := s.tryClaim(ctx, req, p, wishes, &seen)
		if !errors.Is(err, payment.ErrCrowded) {
			return claimed, fresh, err
		}
		if ctx.Err() != nil {
			return nil, false, fmt.Errorf("%w: %w", payment.ErrNotSent, err)
		}
		if seen, err = s.Verifier.Look(ctx, p); err != nil {
			return nil, false, err
		}
		if taken(seen.Known) {
			return seen.Known, false, nil
		}
	}
}

// tryClaim judges a payment and records it; of concurrent claims one is fresh and
// the others get its payment.
func (s *Settler) tryClaim(ctx context.Context, req *x402.Request, p scheme.Payment, wishes payment.Wishes, seen *payment.Exposure) (_ *payment.Payment, fresh bool, _ error) {
	network := p.Terms().Key.Network
	// What was used at or before this block is not our success, even where the
	// token lets the simulation pass (I6).
	atLeast, guard, err := s.Verifier.Judge(ctx, p, seen)
	if err != nil {
		return nil, false, err
	}
	s.Crash("verified")
	if err := s.Relayer.Ready(network); err != nil {
		return nil, false, err
	}
	// Only what is good counts, so that garbage takes nobody's budget.
	if wishes.Admit != nil {
		if err := wishes.Admit(); err != nil {
			return nil, false, err
		}
	}
	joined, err := s.queue(network).join(ctx)
	switch {
	case ctx.Err() != nil:
		if err == nil {
			joined(false)
		}
		return nil, false, fmt.Errorf("%w: judging took all the time there was", payment.ErrNotSent)
	case err != nil:
		return nil, false, err
	}
	var claimed payment.Payment
	phase.Run(ctx, phase.Claim, func(ctx context.Context) {
		claimed, fresh, err = s.Store.ClaimPayment(context.WithoutCancel(ctx), payment.Payment{
			Terms: p.Terms(), Version: req.Version, Resource: resource(req.Resource), Client: wishes.Client, ClaimedAtBlock: atLeast,
		}, guard)
	})
	joined(fresh || err != nil && !errors.Is(err, payment.ErrCrowded)) // what ended in doubt may be there
	if err != nil {
		return nil, false, err
	}
	if fresh {
		s.Claims.Note(ctx, claimed.ID)
		s.Crash("claimed")
	}
	return &claimed, fresh, nil
}

const maxResource = 2048

// resource makes any text one that the record can hold: it comes from the payer.
func resource(url string) string {
	if len(url) > maxResource {
		url = url[:maxResource]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(url, "\x00", ""), "")
}

func hashKey(idempotencyKey string) chain.Hash {
	if idempotencyKey == "" {
		return chain.Hash{}
	}
	return sha256.Sum256([]byte(idempotencyKey))
}

// identical says whether a request is a repeat of the recorded one: the same
// sale and the same signature, byte for byte.
func identical(known *payment.Payment, t payment.Terms) bool {
	return known.Terms.Fingerprint() == t.Fingerprint() && known.Terms.SignatureHash == t.SignatureHash
}

// refuse answers a request that names a recorded authorization without being a
// repeat of it: another sale, another signature, or another client, who is told
// nothing of the payment that there is. It never learns a success (I2). What is
// wrong with the request itself is told first.
func (s *Settler) refuse(ctx context.Context, known *payment.Payment, p scheme.Payment, others bool) (answer payment.Answer, _ error) {
	if !others {
		answer = about(known)
	}
	if err := s.Verifier.CheckOnly(ctx, p); err != nil {
		return answer, err
	}
	answer.Reason, answer.Message = x402.ReasonDuplicateSettlement, "this authorization is already taken by another settlement"
	return answer, nil
}
