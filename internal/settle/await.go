package settle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// waiter is one call that waits for a payment.
type waiter struct {
	watch *Watch
	call  string
	key   chain.Hash
	level payment.Level
	// last is the payment as it was last read, and where it stood later.
	last payment.Payment
}

// stand takes over where the payment was when the board last looked.
func (w *waiter) stand() {
	if standing, known := w.watch.Standing(); known {
		w.last.Stand(standing)
	}
}

// tells says where a payment must stand for a caller to be told something.
func (s *Settler) tells(n x402.Network, l payment.Level) func(payment.Standing) bool {
	return func(p payment.Standing) bool {
		switch {
		case p.State == payment.StateFailed:
			return true
		case l.IsSubmitted():
			return p.Signed()
		}
		return p.SettledUpTo(s.Relayer.SettledUpTo(n, l))
	}
}

// first answers from the payment as it was just found, if it can.
func (s *Settler) first(ctx context.Context, w *waiter) (_ payment.Answer, done bool, _ error) {
	answer, done, err := s.tell(w)
	if !done && s.reached(w) {
		answer, done, err = s.look(ctx, w)
	}
	if !done { // it may have moved before there was anybody to wake
		s.Board.Moved(w.last.ID)
	}
	return answer, done, err
}

// await waits until there is something to tell. A record that can't be read for
// a while is asked again: the claim stands.
func (s *Settler) await(ctx context.Context, w *waiter, deadline <-chan time.Time) (payment.Answer, error) {
	for {
		select {
		case <-w.watch.Woken():
			w.stand()
			if answer, done, err := s.look(ctx, w); done {
				return answer, err
			}
		case <-ctx.Done():
			// Nobody is there to be answered. The next identical call collects.
			w.stand()
			return about(&w.last), context.Cause(ctx)
		case <-deadline:
			w.stand()
			return s.giveUp(ctx, w)
		}
	}
}

// look asks the record once, and takes the right to tell success where there is
// one to tell (I2). An error that is not done is worth another look: whether an
// answer was taken in doubt, the record tells.
func (s *Settler) look(ctx context.Context, w *waiter) (_ payment.Answer, done bool, _ error) {
	if w.level.IsSubmitted() {
		return s.lookSubmitted(ctx, w)
	}
	upTo := s.Relayer.SettledUpTo(w.last.Terms.Key.Network, w.level)
	p, first, err := s.Store.Collect(context.WithoutCancel(ctx), w.last.ID, w.call, w.key, upTo)
	if err != nil {
		return payment.Answer{}, false, err
	}
	w.last = p
	if !first {
		return s.tell(w)
	}
	s.Crash("answer_taken")
	s.Told(&w.last)
	success := about(&w.last)
	success.Success, success.Call = true, w.call
	if ctx.Err() != nil {
		return about(&w.last), true, errors.Join(ctx.Err(), s.Undelivered(ctx, success))
	}
	return success, true, nil
}

// lookSubmitted never takes the right to tell success. Only a failure has more
// to it than where the payment stands.
func (s *Settler) lookSubmitted(ctx context.Context, w *waiter) (_ payment.Answer, done bool, _ error) {
	if !w.last.Standing().Signed() {
		p, err := s.Store.PaymentByID(ctx, w.last.ID)
		if err != nil {
			return payment.Answer{}, false, err
		}
		w.last = p
	}
	return s.tell(w)
}

// reached says whether the payment is settled at the caller's level.
func (s *Settler) reached(w *waiter) bool {
	if w.level.IsSubmitted() {
		return false
	}
	return w.last.Standing().SettledUpTo(s.Relayer.SettledUpTo(w.last.Terms.Key.Network, w.level))
}

// tell answers what needs no right to be told. It reads nothing.
func (s *Settler) tell(w *waiter) (answer payment.Answer, done bool, _ error) {
	p := &w.last
	told := p.Settled() && !p.AnsweredAt.IsZero()
	own := told && !w.key.IsZero() && w.key == p.AnsweredKey
	answer = about(p)
	switch {
	case p.State == payment.StateFailed:
		s.Told(p)
		answer, err := failed(p)
		return answer, true, err
	case own && s.reached(w):
		answer.Success, answer.Replayed = true, true
		return answer, true, nil
	case told && !own:
		answer.Reason, answer.Message = x402.ReasonDuplicateSettlement, "this payment is settled and its success was told before"
		return answer, true, nil
	case w.level.IsSubmitted() && p.Standing().Signed():
		return pending(p, "the transaction is signed and on its way; repeat the identical call to collect the result"), true, nil
	}
	return payment.Answer{}, false, nil
}

func pending(p *payment.Payment, message string) payment.Answer {
	answer := about(p)
	answer.Reason, answer.Message = x402.ReasonSettlementPending, message
	return answer
}

// giveUp ends the wait. A payment that is signed goes on and is pending. One
// for which nothing is signed is taken back, so that "not paid" is true.
func (s *Settler) giveUp(ctx context.Context, w *waiter) (payment.Answer, error) {
	if w.last.State == payment.StateQueued && !w.last.Sent() {
		const message = "no relayer wallet could take the payment in time"
		err := s.Store.Withdraw(context.WithoutCancel(ctx), w.last.ID, x402.ReasonUnexpectedSettle, message)
		if err == nil {
			return about(&w.last), fmt.Errorf("%w: %s", payment.ErrNotSent, message)
		}
		if !errors.Is(err, payment.ErrTransition) {
			return about(&w.last), err // it may still be signed: not known is the truth
		}
		// A lane was faster, or another caller gave it up.
		if answer, done, err := s.look(ctx, w); done || err != nil {
			answer.PaymentID = w.last.ID
			return answer, err
		}
	} else if w.last.Settled() || w.last.State == payment.StateFailed {
		// Not deep enough, but its success may be told already; or failed just now.
		answer, done, err := s.look(ctx, w)
		if done || err != nil && !w.last.Settled() {
			answer.PaymentID = w.last.ID
			return answer, err
		}
	}
	return pending(&w.last, "the settlement is not confirmed yet; repeat the identical call to collect the result"), nil
}

// failed tells why a payment failed, or that it was taken back.
func failed(p *payment.Payment) (payment.Answer, error) {
	answer := about(p)
	if p.Evidence != nil && p.Evidence.Kind == payment.EvidenceNotSent {
		return answer, fmt.Errorf("%w: %s", payment.ErrNotSent, p.Message)
	}
	answer.Reason, answer.Message = p.Reason, p.Message
	return answer, nil
}

// Undelivered gives the right to tell success back when the answer could not be
// written, so that the next identical call collects it.
func (s *Settler) Undelivered(ctx context.Context, r payment.Answer) error {
	if !r.Success || r.Replayed {
		return nil
	}
	return s.Store.ReturnAnswer(context.WithoutCancel(ctx), r.PaymentID, r.Call)
}
