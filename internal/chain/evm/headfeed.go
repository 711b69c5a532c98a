package evm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/ethereum/go-ethereum/rpc"

	"facilitator/internal/chain"
)

// HeadFeed tells of new heads as a node has them, over a WebSocket. It is there
// to wake whoever would otherwise poll, and nothing may rely on it: heads can
// be missed, come twice or be replaced.
type HeadFeed struct {
	// Quiet is how long a connection may tell nothing before it counts as dead.
	Quiet time.Duration
	// Retry is the pause after a first failure. It doubles with each one that
	// follows before a head has come, up to 30 s.
	Retry time.Duration

	url     string
	timeout time.Duration
	scrub   scrubber
}

// maxRetry bounds the pause between two connections.
const maxRetry = 30 * time.Second

// NewHeadFeed prepares a feed from a ws or wss URL. Connecting and subscribing
// take timeout at most. Quiet is a minute, Retry a quarter of a second.
func NewHeadFeed(url string, timeout time.Duration) *HeadFeed {
	return &HeadFeed{Quiet: time.Minute, Retry: 250 * time.Millisecond, url: url, timeout: timeout, scrub: newScrubber(url)}
}

// Run calls heads, from one goroutine, with the latest head at every new
// connection and with each new one after it, until ctx ends. It connects again
// for ever, and no line of its log holds the URL (I10).
func (f *HeadFeed) Run(ctx context.Context, heads func(chain.Head), log *slog.Logger) {
	pause := f.Retry
	for {
		began := false
		err := f.connection(ctx, func(h chain.Head, fresh bool) {
			if fresh {
				pause = f.Retry
			}
			if !began {
				log.InfoContext(ctx, "head feed connected", slog.Uint64("block", h.Number))
			}
			began = true
			heads(h)
		})
		if ctx.Err() != nil {
			return
		}
		wait := jitter(pause)
		log.WarnContext(ctx, "head feed lost", slog.String("error", f.scrub.unavailable(err).Error()), slog.Duration("retry_in", wait))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, maxRetry)
	}
}

// jitter is between half of d and d, so that replicas do not come back as one.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1) //nolint:gosec // nobody gains by guessing it
}

// errQuiet says that a connection told nothing for too long.
var errQuiet = errors.New("no head for too long")

// connection reads one connection to its end, which is always an error. A head
// is fresh if the node told of it unasked.
func (f *HeadFeed) connection(ctx context.Context, heads func(h chain.Head, fresh bool)) error {
	client, sub, latest, news, err := f.subscribe(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	defer sub.Unsubscribe()
	heads(latest, false)
	quiet := time.NewTimer(f.Quiet)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-quiet.C:
			return errQuiet
		case err := <-sub.Err():
			if err == nil {
				err = errors.New("subscription ended")
			}
			return err
		case h := <-news:
			if h == nil {
				continue
			}
			quiet.Reset(f.Quiet)
			heads(h.head(), true)
		}
	}
}

// subscribe subscribes first and then asks for the latest head, so that there
// is no gap between the two.
func (f *HeadFeed) subscribe(ctx context.Context) (*rpc.Client, *rpc.ClientSubscription, chain.Head, <-chan *header, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	client, err := rpc.DialOptions(ctx, f.url)
	if err != nil {
		return nil, nil, chain.Head{}, nil, fmt.Errorf("connect: %w", err)
	}
	news := make(chan *header, 16)
	sub, err := client.EthSubscribe(ctx, news, "newHeads")
	if err != nil {
		client.Close()
		return nil, nil, chain.Head{}, nil, fmt.Errorf("subscribe: %w", err)
	}
	var h *header
	q := headQuery("latest", &h)
	err = client.CallContext(ctx, q.result, q.method, q.args...)
	if err == nil && h == nil {
		err = errors.New("it has no latest block")
	}
	if err != nil {
		sub.Unsubscribe()
		client.Close()
		return nil, nil, chain.Head{}, nil, fmt.Errorf("latest head: %w", err)
	}
	return client, sub, h.head(), news, nil
}
