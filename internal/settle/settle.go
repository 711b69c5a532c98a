// Package settle brings a verified payment to its end, once, and tells it to
// one caller. It claims; the relayer does the rest, whether or not anybody is
// still waiting.
package settle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// Verifier judges; verify.Verifier is one.
type Verifier interface {
	Parse(req *x402.Request) (scheme.Payment, error)
	Judge(ctx context.Context, p scheme.Payment) (atLeast uint64, _ error)
	CheckOnly(ctx context.Context, p scheme.Payment) error
}

// Store is what settle needs of the record.
type Store interface {
	PaymentByKey(ctx context.Context, k payment.Key) (payment.Payment, error)
	PaymentByID(ctx context.Context, id payment.ID) (payment.Payment, error)
	ClaimPayment(ctx context.Context, p payment.Payment) (_ payment.Payment, fresh bool, _ error)
	States(ctx context.Context, ids []payment.ID) (map[payment.ID]payment.State, error)
	TakeAnswer(ctx context.Context, id payment.ID, call string, key chain.Hash) (bool, error)
	ReturnAnswer(ctx context.Context, id payment.ID, call string) error
	Withdraw(ctx context.Context, id payment.ID, reason x402.Reason, message string) error
}

// Relayer moves claimed payments.
type Relayer interface {
	// Wake tells that a payment was queued on a network.
	Wake(n x402.Network)
	// Ready is nil while the network can settle.
	Ready(n x402.Network) error
	// Confirmed says whether a payment's block is as deep as success asks for.
	Confirmed(p *payment.Payment) bool
}

// Deps of a Settler; all are required.
type Deps struct {
	Verifier Verifier
	Store    Store
	Relayer  Relayer
	Board    *Board
	// Wait is how long a caller waits before it is told settlement_pending.
	Wait time.Duration
	// Crash is called with the name of each step; the crash suite dies in it.
	Crash func(point string)
}

// Settler is safe for concurrent use.
type Settler struct{ Deps }

// New checks nothing and starts nothing.
func New(d Deps) *Settler { return &Settler{Deps: d} }

// Settle claims the payment of req, or finds it claimed, and waits for its end
// at most Wait. The context bounds waiting, never work: once claimed, a payment
// is settled whoever hangs up.
//
// The error is *x402.FieldError, *x402.Rejection, or tells that no judgement
// was possible. The result's payment is set as soon as there is a claim, with
// an error too.
func (s *Settler) Settle(ctx context.Context, req *x402.Request, idempotencyKey string) (payment.Answer, error) {
	p, err := s.Verifier.Parse(req)
	if err != nil {
		return payment.Answer{}, err
	}
	result, err := s.settle(ctx, req, p, idempotencyKey)
	result.Payer = p.Payer()
	return result, err
}

func (s *Settler) settle(ctx context.Context, req *x402.Request, p scheme.Payment, idempotencyKey string) (payment.Answer, error) {
	deadline := time.NewTimer(s.Wait)
	defer deadline.Stop()
	known, err := s.find(ctx, req, p)
	if err != nil {
		return payment.Answer{Payment: known}, err
	}
	if !identical(&known, p.Terms()) {
		return s.refuse(ctx, known, p)
	}
	call, err := uuid.NewRandom()
	if err != nil {
		return payment.Answer{Payment: known}, fmt.Errorf("call id: %w", err)
	}
	w := waiter{id: known.ID, call: call.String(), key: hashKey(idempotencyKey), last: known}
	return s.await(ctx, &w, deadline.C)
}

// find returns the recorded payment of a request, claimed now if need be, within
// the wait budget.
func (s *Settler) find(ctx context.Context, req *x402.Request, p scheme.Payment) (payment.Payment, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	// The record comes before the chain: what we settled ourselves is spent on
	// chain, and judging it anew would call our own success a failure.
	known, err := s.Store.PaymentByKey(ctx, p.Terms().Key)
	switch {
	case errors.Is(err, payment.ErrNotFound):
	case err != nil:
		return payment.Payment{}, err
	case known.State != payment.StateFailed || known.Sent():
		return known, nil
	default: // nothing of it ever left the service: a new call is a new try
	}
	claimed, err := s.claim(ctx, req, p)
	if _, refused := x402.AsRejection(err); !refused {
		return claimed, err
	}
	// An identical call may have claimed and even settled it meanwhile: then the
	// chain's refusal is about our own transaction.
	now, lookErr := s.Store.PaymentByKey(ctx, p.Terms().Key)
	if lookErr == nil && (now.State != payment.StateFailed || now.Sent()) {
		return now, nil
	}
	return known, err
}

// claim judges a payment and records it; of concurrent claims one wins and the
// others get the winner's payment.
func (s *Settler) claim(ctx context.Context, req *x402.Request, p scheme.Payment) (payment.Payment, error) {
	network := p.Terms().Key.Network
	// What was used at or before this block is not our success, even where the
	// token lets the simulation pass (I6).
	atLeast, err := s.Verifier.Judge(ctx, p)
	if err != nil {
		return payment.Payment{}, err
	}
	s.Crash("verified")
	if err := s.Relayer.Ready(network); err != nil {
		return payment.Payment{}, err
	}
	if ctx.Err() != nil {
		return payment.Payment{}, fmt.Errorf("%w: judging took all the time there was", payment.ErrNotSent)
	}
	claimed, fresh, err := s.Store.ClaimPayment(context.WithoutCancel(ctx), payment.Payment{
		Terms: p.Terms(), Version: req.Version, Resource: resource(req.Resource), ClaimedAtBlock: atLeast,
	})
	if err != nil {
		return payment.Payment{}, err
	}
	if fresh {
		s.Crash("claimed")
		s.Relayer.Wake(network)
	}
	return claimed, nil
}

const (
	maxResource = 2048
	recordRetry = 250 * time.Millisecond
)

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
// repeat of it: another sale, or another signature. It never learns a success
// (I2). What is wrong with the request itself is told first.
func (s *Settler) refuse(ctx context.Context, known payment.Payment, p scheme.Payment) (payment.Answer, error) {
	if err := s.Verifier.CheckOnly(ctx, p); err != nil {
		return payment.Answer{Payment: known}, err
	}
	return payment.Answer{
		Payment: known, Reason: x402.ReasonDuplicateSettlement,
		Message: "this authorization is already taken by another settlement",
	}, nil
}

// waiter is one call that waits for a payment.
type waiter struct {
	id   payment.ID
	call string
	key  chain.Hash
	// last is the payment as it was last read.
	last payment.Payment
}

// await waits for the payment's end and takes the right to tell it. A record
// that can't be read for a while is asked again: the claim stands.
func (s *Settler) await(ctx context.Context, w *waiter, deadline <-chan time.Time) (payment.Answer, error) {
	moved, stop := s.Board.Watch(w.id)
	defer stop()
	retry := time.NewTicker(recordRetry)
	defer retry.Stop()
	for {
		result, done, err := s.look(ctx, w)
		if done {
			return result, err
		}
		again := retry.C
		if err == nil {
			again = nil
		}
		select {
		case <-moved:
		case <-again:
		case <-ctx.Done():
			// Nobody is there to be answered. The next identical call collects.
			return payment.Answer{Payment: w.last}, context.Cause(ctx)
		case <-deadline:
			return s.giveUp(ctx, w)
		}
	}
}

// look reads the payment once: done if there is something to tell. An error that
// is not done is worth another look.
func (s *Settler) look(ctx context.Context, w *waiter) (_ payment.Answer, done bool, _ error) {
	p, err := s.Store.PaymentByID(ctx, w.id)
	if err != nil {
		return payment.Answer{}, false, err
	}
	w.last = p
	switch {
	case p.State == payment.StateFailed:
		answer, err := failed(&p)
		return answer, true, err
	case p.Settled() && s.Relayer.Confirmed(&p):
		return s.succeed(ctx, w)
	}
	return payment.Answer{}, false, nil
}

// succeed tells success to the one call that may hear it (I2).
func (s *Settler) succeed(ctx context.Context, w *waiter) (_ payment.Answer, done bool, _ error) {
	first, err := s.Store.TakeAnswer(context.WithoutCancel(ctx), w.id, w.call, w.key)
	if err != nil {
		return payment.Answer{}, false, err // it may be ours or not: asked again, the record tells
	}
	s.Crash("answer_taken")
	success := payment.Answer{Payment: w.last, Success: true, Call: w.call}
	if first && ctx.Err() != nil {
		return payment.Answer{Payment: w.last}, true, errors.Join(ctx.Err(), s.Undelivered(ctx, success))
	}
	if first {
		return success, true, nil
	}
	p, err := s.Store.PaymentByID(ctx, w.id)
	if err != nil {
		return payment.Answer{}, false, err
	}
	w.last = p
	switch {
	case p.AnsweredAt.IsZero():
		return payment.Answer{}, false, nil // its block vanished between two looks
	case !w.key.IsZero() && w.key == p.AnsweredKey && p.Settled():
		return payment.Answer{Payment: p, Success: true, Replayed: true}, true, nil
	}
	return payment.Answer{
		Payment: p, Reason: x402.ReasonDuplicateSettlement,
		Message: "this payment is settled and its success was told before",
	}, true, nil
}

// giveUp ends the wait. A payment that is signed goes on and is pending. One
// for which nothing is signed is taken back, so that "not paid" is true.
func (s *Settler) giveUp(ctx context.Context, w *waiter) (payment.Answer, error) {
	ctx = context.WithoutCancel(ctx)
	if w.last.State == payment.StateQueued && !w.last.Sent() {
		const message = "no relayer wallet could take the payment in time"
		err := s.Store.Withdraw(ctx, w.id, x402.ReasonUnexpectedSettle, message)
		if err == nil {
			return payment.Answer{Payment: w.last}, fmt.Errorf("%w: %s", payment.ErrNotSent, message)
		}
		if !errors.Is(err, payment.ErrTransition) {
			return payment.Answer{Payment: w.last}, err // it may still be signed: not known is the truth
		}
		// A lane was faster, or another caller gave it up.
		if w.last, err = s.Store.PaymentByID(ctx, w.id); err != nil {
			return payment.Answer{Payment: payment.Payment{ID: w.id}}, err
		}
	}
	if w.last.State == payment.StateFailed {
		return failed(&w.last)
	}
	return payment.Answer{
		Payment: w.last, Reason: x402.ReasonSettlementPending,
		Message: "the settlement is not confirmed yet; repeat the identical call to collect the result",
	}, nil
}

// failed tells why a payment failed, or that it was taken back.
func failed(p *payment.Payment) (payment.Answer, error) {
	if p.Evidence != nil && p.Evidence.Kind == payment.EvidenceNotSent {
		return payment.Answer{Payment: *p}, fmt.Errorf("%w: %s", payment.ErrNotSent, p.Message)
	}
	return payment.Answer{Payment: *p, Reason: p.Reason, Message: p.Message}, nil
}

// Undelivered gives the right to tell success back when the answer could not be
// written, so that the next identical call collects it.
func (s *Settler) Undelivered(ctx context.Context, r payment.Answer) error {
	if !r.Success || r.Replayed {
		return nil
	}
	return s.Store.ReturnAnswer(context.WithoutCancel(ctx), r.Payment.ID, r.Call)
}
