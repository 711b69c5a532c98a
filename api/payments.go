package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"

	v1 "facilitator/api/v1"
	v2 "facilitator/api/v2"
	"facilitator/internal/client"
	"facilitator/internal/payment"
	"facilitator/internal/phase"
	"facilitator/internal/x402"
)

// call is one decoded body of /verify or /settle.
type call struct {
	req *x402.Request
	// network as the caller spelled it, echoed in every answer to /settle.
	network string
}

// decode reads a body of either version, which is not to be used any more. The
// network is told even where the rest is unusable.
func (s *server) decode(body *bytes.Buffer) (call, error) {
	defer s.bodies.Put(body)
	var c call
	if body.Len() > largeBody {
		s.large <- struct{}{}
		defer func() { <-s.large }()
	}
	o, err := x402.ParseObject(body.Bytes())
	if err != nil {
		return c, err
	}
	requirements, err := o.Object("paymentRequirements")
	if err != nil {
		return c, err
	}
	if name, err := requirements.OptionalString("network"); err == nil && len(name) <= 64 {
		c.network = name
	}
	payload, err := o.Object("paymentPayload")
	if err != nil {
		return c, err
	}
	version, err := wireVersion(o, payload)
	if err != nil {
		return c, err
	}
	switch version {
	case x402.V1:
		c.req, err = v1.Decode(payload, requirements, s.Names)
	case x402.V2:
		c.req, err = v2.Decode(payload, requirements)
	default:
		err = x402.Reject(x402.ReasonInvalidVersion, fmt.Sprintf("x402Version %d is not supported; supported: 1, 2", version))
	}
	return c, err
}

// wireVersion is the payload's; the outer one is a copy that may be missing but
// not differ.
func wireVersion(o, payload x402.Object) (int64, error) {
	const most = 1 << 20
	inner, given, err := payload.OptionalInt("x402Version", 0, most)
	if err != nil {
		return 0, err
	}
	outer, copied, err := o.OptionalInt("x402Version", 0, most)
	switch {
	case err != nil:
		return 0, err
	case !given && !copied:
		return 0, &x402.FieldError{Path: "paymentPayload.x402Version", Problem: "missing", Syntax: true}
	case !given:
		return outer, nil
	case copied && inner != outer:
		return 0, &x402.FieldError{Path: "x402Version", Problem: fmt.Sprintf("is %d, but paymentPayload.x402Version is %d", outer, inner), Syntax: true}
	}
	return inner, nil
}

// refusal turns what is wrong with a request into status, reason and message;
// false where err judges nothing. A body that is not of the protocol's form is
// 400; a payment that is refused is 200, so that the reason reaches the buyer.
func refusal(err error) (status int, reason x402.Reason, message string, ok bool) {
	if r, rejected := x402.AsRejection(err); rejected {
		return http.StatusOK, r.Reason, r.Message, true
	}
	field := (*x402.FieldError)(nil)
	if !errors.As(err, &field) {
		return 0, "", "", false
	}
	status, reason = http.StatusOK, x402.ReasonInvalidPayload
	if field.Syntax {
		status = http.StatusBadRequest
	}
	if strings.HasPrefix(field.Path, "paymentRequirements") {
		reason = x402.ReasonInvalidRequirements
	}
	return status, reason, field.Error(), true
}

// crowd counts calls of a kind that are under way.
type crowd struct {
	under atomic.Int64
	// most may be under way; 0 is any number.
	most int64
}

// enter says whether one more may be under way; it must leave then.
func (c *crowd) enter() bool {
	if c.under.Add(1) <= c.most || c.most == 0 {
		return true
	}
	c.leave()
	return false
}

func (c *crowd) leave() { c.under.Add(-1) }

// crowded answers at once: whoever waits in a queue that is too long is served too
// late.
func crowded(what string) answer { return unavailable("too many "+what+" are under way", nil) }

func (s *server) verify(w http.ResponseWriter, r *http.Request, who *client.Client) answer {
	body, failed := s.readBody(w, r)
	if failed != nil {
		return *failed
	}
	// A body that is slow to come holds nobody up.
	if !s.verifying.enter() {
		return crowded("verifications")
	}
	defer s.verifying.leave()
	c, err := s.decode(body)
	phase.Ends(r.Context(), phase.Decode)
	payer := ""
	if err == nil {
		if denial := mayPay(who, c.req); denial != nil {
			return s.denied(denial, who)
		}
		payer, err = s.Verifier.Verify(r.Context(), c.req)
	}
	attrs := []slog.Attr{slog.String("network", c.network), slog.String("payer", payer)}
	if err == nil {
		return answer{status: http.StatusOK, body: v2.VerifyResponse{IsValid: true, Payer: payer}, attrs: attrs}
	}
	status, reason, message, refused := refusal(err)
	if !refused {
		a := fault(r, err)
		a.attrs = attrs
		return a
	}
	response := v2.VerifyResponse{InvalidReason: string(reason), InvalidMessage: message, Payer: payer}
	if status != http.StatusOK {
		response.Error = message
	}
	return answer{status: status, body: response, reason: reason, attrs: append(attrs, slog.String("message", message))}
}

// maxIdempotencyKey bounds the header's length.
const maxIdempotencyKey = 255

// wishesOf reads the headers of /settle.
func wishesOf(h http.Header) (payment.Wishes, error) {
	key := h.Get("Idempotency-Key")
	if len(key) > maxIdempotencyKey || !printableASCII(key) {
		return payment.Wishes{}, &x402.FieldError{Path: "Idempotency-Key", Problem: "must be at most 255 printable ASCII characters", Syntax: true}
	}
	level, err := payment.ParseLevel(h.Get("Settlement-Wait"))
	if err != nil {
		return payment.Wishes{}, &x402.FieldError{Path: "Settlement-Wait", Problem: err.Error(), Syntax: true}
	}
	return payment.Wishes{IdempotencyKey: key, Level: level}, nil
}

// mayPay says why a client may not have a payment judged.
func mayPay(who *client.Client, req *x402.Request) error {
	return who.MayPay(req.Requirements.Network, req.Requirements.Asset, req.Requirements.PayTo)
}

func (s *server) settle(w http.ResponseWriter, r *http.Request, who *client.Client) answer {
	body, failed := s.readBody(w, r)
	if failed != nil {
		return *failed
	}
	c, err := s.decode(body)
	phase.Ends(r.Context(), phase.Decode)
	var wishes payment.Wishes
	if err == nil {
		wishes, err = wishesOf(r.Header)
	}
	if err != nil {
		return settleRefused(r, c.network, "", err)
	}
	if denial := mayPay(who, c.req); denial != nil {
		return s.denied(denial, who)
	}
	wishes.Client, wishes.Admit = who.ID, func() error { return s.Limits.Afford(who) }
	result, err := s.Settler.Settle(r.Context(), c.req, wishes)
	attrs := []slog.Attr{slog.String("network", c.network), slog.String("payer", result.Payer)}
	header := map[string]string{}
	if id := string(result.PaymentID); id != "" {
		header["Settlement-Id"] = id
		attrs = append(attrs, slog.String("payment_id", id))
	}
	response := v2.SettleResponse{Network: c.network, Payer: result.Payer}
	if hash := result.TxHash; !hash.IsZero() {
		response.Transaction = hash.String()
		attrs = append(attrs, slog.String("tx_hash", hash.String()))
	}
	denial := (*client.Denial)(nil)
	switch {
	case errors.As(err, &denial):
		return s.denied(err, who)
	case err != nil:
		a := settleRefused(r, c.network, result.Payer, err)
		for k, v := range a.header {
			header[k] = v
		}
		a.header, a.attrs = header, append(attrs, a.attrs...)
		return a
	case result.Success:
		response.Success = true
		if result.Replayed {
			header["Idempotent-Replayed"] = "true"
		}
		return answer{status: http.StatusOK, body: response, header: header, attrs: attrs, undelivered: func(ctx context.Context) {
			if err := s.Settler.Undelivered(ctx, result); err != nil {
				s.Log.ErrorContext(ctx, "success was not delivered and could not be given back; the settlement's record has it",
					slog.String("payment_id", string(result.PaymentID)), slog.Any("error", err))
			}
		}}
	}
	response.ErrorReason, response.ErrorMessage = string(result.Reason), result.Message
	return answer{status: http.StatusOK, body: response, header: header, attrs: attrs, reason: result.Reason}
}

// settleRefused answers with no result. The reply always has success,
// transaction and network: without them clients see a broken facilitator.
func settleRefused(r *http.Request, network, payer string, err error) answer {
	status, reason, message, refused := refusal(err)
	if !refused {
		return fault(r, err)
	}
	response := v2.SettleResponse{Network: network, Payer: payer, ErrorReason: string(reason), ErrorMessage: message}
	if status != http.StatusOK {
		response.Error = message
	}
	return answer{status: status, body: response, reason: reason, attrs: []slog.Attr{slog.String("message", message)}}
}
