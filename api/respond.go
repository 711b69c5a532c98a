package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/phase"
	"facilitator/internal/x402"
)

// answer is what a handler decided. Nothing is written by handlers themselves.
type answer struct {
	status int
	body   any
	header map[string]string
	// reason of a refusal, for metrics and log; empty for success.
	reason x402.Reason
	// attrs for the request's event.
	attrs []slog.Attr
	// fault is logged and never shown.
	fault error
	// undelivered is called if the answer provably reached nobody.
	undelivered func(ctx context.Context)
}

// verdict labels an answer for the metrics.
func (a answer) verdict() string {
	switch {
	case a.reason != "":
		return string(a.reason)
	case a.status == http.StatusOK:
		return verdictOK
	default:
		return strconv.Itoa(a.status)
	}
}

// handler decides an answer; it reads by way of w and never writes to it.
type handler func(w http.ResponseWriter, r *http.Request) answer

// statusClientGone is logged where the client hung up before there was an answer.
const statusClientGone = 499

// retryAfter is what a caller of an unavailable service is asked to wait.
const retryAfter = 2 * time.Second

// handle writes a handler's answer, one log event and the metrics.
func (s *server) handle(route string, h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := s.Now()
		id := requestID(r)
		w.Header().Set("X-Request-Id", id)
		if r.ContentLength != 0 {
			// Until a body is read to its end, the client has this long to send it,
			// whether or not the handler reads it.
			_ = http.NewResponseController(w).SetReadDeadline(start.Add(s.ReadTimeout)) // not every ResponseWriter has one
		}
		if span := trace.SpanFromContext(r.Context()); span.IsRecording() {
			span.SetName(route)
			span.SetAttributes(attribute.String("http.route", route), attribute.String("request_id", id))
		}
		clock := s.Meters.phases.Start(route, start)
		s.Meters.begin(route, 1)
		defer s.Meters.begin(route, -1)
		a := s.guard(h, w, r.WithContext(phase.With(r.Context(), clock)))
		if err := write(w, a); err != nil {
			a.attrs = append(a.attrs, slog.Bool("undelivered", true))
			if a.undelivered != nil {
				a.undelivered(r.Context())
			}
		}
		clock.Ends(phase.Answer)
		took := s.Now().Sub(start)
		s.Meters.answered(route, &a, took)
		s.event(r, route, id, took, a)
	}
}

func (s *server) guard(h handler, w http.ResponseWriter, r *http.Request) (a answer) {
	defer func() {
		if p := recover(); p != nil {
			a = answer{
				status: http.StatusInternalServerError, body: errorBody{Error: "internal error"},
				fault: fmt.Errorf("panic: %v\n%s", p, debug.Stack()),
			}
		}
	}()
	return h(w, r)
}

func (s *server) event(r *http.Request, route, id string, took time.Duration, a answer) {
	level := slog.LevelInfo
	switch {
	case a.status == http.StatusInternalServerError:
		level = slog.LevelError
	case a.status == http.StatusServiceUnavailable:
		level = slog.LevelWarn
	case route == routeLivez || route == routeReadyz || route == routeSupported:
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{
		slog.String("request_id", id), slog.String("method", r.Method), slog.String("route", route),
		slog.Int("status", a.status), slog.Duration("took", took),
	}
	if a.reason != "" {
		attrs = append(attrs, slog.String("reason", string(a.reason)))
	}
	if a.fault != nil {
		attrs = append(attrs, slog.String("error", a.fault.Error()))
	}
	s.Log.LogAttrs(r.Context(), level, "request", append(attrs, a.attrs...)...)
}

// requestID takes a caller's id if it is harmless, else makes one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id != "" && len(id) <= 64 && printableASCII(id) {
		return id
	}
	made, err := uuid.NewRandom()
	if err != nil {
		return "none"
	}
	return made.String()
}

func printableASCII(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// write sends the whole answer in one piece. An error means that the kernel
// took none of it: a client that has read it can't be told apart from one that
// has not once the kernel did.
func write(w http.ResponseWriter, a answer) error {
	h := w.Header()
	for k, v := range a.header {
		h.Set(k, v)
	}
	if a.reason != "" {
		h.Set("Retryable", strconv.FormatBool(a.reason == x402.ReasonSettlementPending))
	}
	if a.status == http.StatusNotModified {
		w.WriteHeader(a.status)
		return nil
	}
	body, ok := a.body.(json.RawMessage)
	if !ok {
		var err error
		if body, err = json.Marshal(a.body); err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
	}
	h.Set("Content-Type", "application/json")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.status)
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	if err := http.NewResponseController(w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("flush answer: %w", err)
	}
	return nil
}

type errorBody struct {
	Error string `json:"error"`
	// Retryable says whether the same call may do better later.
	Retryable bool `json:"retryable,omitempty"`
}

// unavailable asks the caller to come again.
func unavailable(text string, err error) answer {
	return answer{
		status: http.StatusServiceUnavailable, body: errorBody{Error: text, Retryable: true}, fault: err,
		header: map[string]string{"Retry-After": strconv.Itoa(int(retryAfter.Seconds()))},
	}
}

// fault maps an error that judges no payment to a status and a text that is
// safe to show.
func fault(r *http.Request, err error) answer {
	throttled := (*payment.ThrottledError)(nil)
	switch {
	case r.Context().Err() != nil:
		return answer{status: statusClientGone, body: errorBody{Error: "the client hung up"}, fault: err}
	case errors.Is(err, chain.ErrNotReady), errors.Is(err, payment.ErrNotSent):
		return unavailable(err.Error(), err)
	case errors.As(err, &throttled):
		return answer{
			status: http.StatusTooManyRequests, body: errorBody{Error: throttled.Message + ", try again later", Retryable: true}, fault: err,
			header: map[string]string{"Retry-After": seconds(throttled.Wait)},
		}
	case errors.Is(err, payment.ErrUnscreened): // by a node too
		return unavailable("the payment can't be screened now, try again", err)
	case errors.Is(err, chain.ErrUnavailable):
		return unavailable("the chain's node can't be reached, try again", err)
	case errors.Is(err, payment.ErrUnavailable):
		return unavailable("the record can't be reached, try again", err)
	default:
		return answer{status: http.StatusInternalServerError, body: errorBody{Error: "internal error"}, fault: err}
	}
}

// readBody reads at most the configured bytes. The deadline is for the body
// alone: one that outlived it would end the request's context in the middle of a
// long /settle. After a body that did not end well it stays, so that what the
// client still sends is not waited for. The room that a body takes is used again once
// it is decoded: a flood of large ones leaves no garbage.
func (s *server) readBody(w http.ResponseWriter, r *http.Request) (*bytes.Buffer, *answer) {
	body, ok := s.bodies.Get().(*bytes.Buffer)
	if !ok {
		body = new(bytes.Buffer)
	}
	body.Reset()
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, s.MaxBodyBytes))
	if err == nil {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // as above
		return body, nil
	}
	s.bodies.Put(body)
	w.Header().Set("Connection", "close")
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, &answer{
			status: http.StatusRequestEntityTooLarge,
			body:   errorBody{Error: fmt.Sprintf("body is larger than %d bytes", s.MaxBodyBytes)},
		}
	}
	return nil, &answer{status: http.StatusBadRequest, body: errorBody{Error: "body could not be read"}, fault: err}
}
