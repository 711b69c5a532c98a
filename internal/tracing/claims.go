package tracing

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"facilitator/internal/payment"
)

// mostClaims bounds the payments whose requests are remembered.
const mostClaims = 10_000

// Claims remember which request claimed a payment, so that what a lane of this
// process does with it stands in that request's trace. The record knows nothing
// of traces: what another replica does with it is not traced.
type Claims struct {
	tracer trace.Tracer

	mu sync.Mutex
	of map[payment.ID]trace.SpanContext
}

// Claims of a tracer; nil, which remembers nothing, without one.
func (t *Tracer) Claims() *Claims {
	if t == nil {
		return nil
	}
	return &Claims{tracer: t.provider.Tracer("facilitator"), of: make(map[payment.ID]trace.SpanContext)}
}

// Note remembers the request of ctx, where it is traced.
func (c *Claims) Note(ctx context.Context, id payment.ID) {
	span := trace.SpanContextFromContext(ctx)
	if c == nil || !span.IsSampled() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.of) < mostClaims {
		c.of[id] = span
	}
}

// Forget a payment that is decided.
func (c *Claims) Forget(id payment.ID) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.of, id)
}

// Mined is what a lane did with a transaction: it took payments, a node had the
// transaction, and its receipt was seen.
type Mined struct {
	Took, Sent, Seen      time.Time
	Network, Lane, TxHash string
	WalletNonce, Block    uint64
	Payments, Attempts    int
}

// Settled puts what the lane did into the trace of the request that claimed a
// payment, if it is one.
func (c *Claims) Settled(ctx context.Context, id payment.ID, m Mined) {
	if c == nil {
		return
	}
	c.mu.Lock()
	request, traced := c.of[id]
	c.mu.Unlock()
	if !traced {
		return
	}
	attributes := trace.WithAttributes(
		attribute.String("network", m.Network), attribute.String("lane", m.Lane), attribute.String("tx_hash", m.TxHash),
		attribute.Int64("wallet_nonce", int64(m.WalletNonce)), attribute.Int("payments", m.Payments), //nolint:gosec // G115: a count
	)
	ctx = trace.ContextWithRemoteSpanContext(ctx, request)
	ctx, lane := c.tracer.Start(ctx, "lane", trace.WithTimestamp(m.Took), attributes)
	_, inclusion := c.tracer.Start(ctx, "inclusion", trace.WithTimestamp(m.Sent), trace.WithAttributes(
		attribute.Int64("block", int64(m.Block)), attribute.Int("attempts", m.Attempts), attribute.String("tx_hash", m.TxHash), //nolint:gosec // G115: a height
	))
	inclusion.End(trace.WithTimestamp(m.Seen))
	lane.End(trace.WithTimestamp(m.Seen))
}
