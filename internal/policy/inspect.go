package policy

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/chain"
	"facilitator/internal/metrics"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// Word is what one source of screening says of an address.
type Word struct {
	Source, Kind string
	// Network that it is about; empty for a list, which is about all.
	Network x402.Network
	// Err: it can't tell. A list may be read all the same, and hold the address.
	Err error
	// Hit: the source has the address; Reason is a hook's.
	Hit    bool
	Reason string
	// Addresses of a list, when its file was written, and how old it may be; 0 for
	// any age.
	Addresses int
	Of        time.Time
	MaxAge    time.Duration
}

// Inspector asks each source by itself, whatever the others say. It counts nothing
// and records nothing. It is for one asking, since it keeps answers as a gate does.
type Inspector struct {
	gate     *Gate
	networks []x402.Network
}

// NewInspector asks the sources of a gate as it is configured, the hook about
// these networks. Lists are read when they are asked.
func NewInspector(ctx context.Context, cfg Config, networks []x402.Network, now func() time.Time) *Inspector {
	cfg.Record = nil
	return &Inspector{
		gate:     assemble(ctx, cfg, now, slog.New(slog.DiscardHandler), NewMetrics(metrics.New(prometheus.NewRegistry()), now)),
		networks: slices.Sorted(slices.Values(networks)),
	}
}

// Close drops the hook's idle connections.
func (i *Inspector) Close() { i.gate.Close() }

// Ask has every source say what it has of an address, in the order in which the
// gate asks them.
func (i *Inspector) Ask(ctx context.Context, a chain.Address) []Word {
	var words []Word
	for _, l := range i.gate.lists {
		words = append(words, l.word(ctx, a))
	}
	for _, n := range slices.Sorted(maps.Keys(i.gate.oracles)) {
		o := i.gate.oracles[n]
		words = append(words, o.word(o.ask(ctx, []party{{"payer", a}}), n))
	}
	for _, n := range i.networks {
		if hook := i.gate.hook; hook != nil {
			words = append(words, hook.word(hook.askAbout(ctx, n, a), n))
		}
	}
	return words
}

func (s *source) word(v verdict, n x402.Network) Word {
	return Word{Source: s.name, Kind: s.kind, Network: n, Err: v.err, Hit: v.hit != nil, Reason: v.detail}
}

// word of a list is of its file as it is now, or as it was read last.
func (l *list) word(ctx context.Context, a chain.Address) Word {
	err := l.refresh(ctx)
	if l.held.Load() == nil {
		return l.source.word(verdict{err: err}, "")
	}
	w := l.source.word(l.ask([]party{{"payer", a}}), "")
	if err != nil {
		w.Err = err
	} else if l.stale() {
		w.Err = errStale
	}
	w.Addresses, w.Of, w.MaxAge = len(*l.held.Load()), l.file.ModTime(), l.MaxAge
	return w
}

// askAbout asks about a payment in which nobody but one address has a part: it is
// payer, payee and token.
func (h *hook) askAbout(ctx context.Context, n x402.Network, a chain.Address) verdict {
	return h.ask(ctx, payment.Terms{Key: payment.Key{Network: n, Payer: a}, PayTo: a, Asset: a}, nil)
}
