// Package audit compares the record with the chain, and with what callers were
// told, from outside: it reads rows, blocks, logs and receipts and shares no
// code with what wrote them, but for the encoding of events. It changes
// nothing.
//
// A violation is a promise that does not hold (docs/invariants.md). A warning is
// something that the service does not promise, and that a person should know.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Options say what is compared, and how strictly.
type Options struct {
	// DatabaseURL is the record's.
	DatabaseURL string
	// Nodes are the JSON-RPC endpoints, by CAIP-2 network.
	Nodes map[string]string
	// SinceBlock is the first block that is read, of every network. 0: the lowest
	// block at which a payment in the record was claimed.
	SinceBlock uint64
	// Settled says that nothing moves any more: whatever is still open is a
	// violation, and the wallets' transaction counts must be the record's.
	Settled bool
	// Answers are lines of JSON, an [Answer] each; nil: none were kept.
	Answers io.Reader
}

// Finding is one thing that does not fit.
type Finding struct {
	// Kind is one word of a fixed list, such as paid_twice.
	Kind string `json:"kind"`
	// Network is where, empty for what is not about a network.
	Network string `json:"network,omitempty"`
	// Subject is what it is about: a payment, a lane, a transaction.
	Subject string `json:"subject"`
	Detail  string `json:"detail"`
}

func (f Finding) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s: %s", f.Kind, f.Network, f.Subject, f.Detail))
}

// Report is what a comparison found.
type Report struct {
	Counts     map[string]int `json:"counts"`
	Violations []Finding      `json:"violations"`
	Warnings   []Finding      `json:"warnings"`
}

func (r *Report) violation(kind, network, subject, format string, args ...any) {
	r.Violations = append(r.Violations, Finding{kind, network, subject, fmt.Sprintf(format, args...)})
}

func (r *Report) warning(kind, network, subject, format string, args ...any) {
	r.Warnings = append(r.Warnings, Finding{kind, network, subject, fmt.Sprintf(format, args...)})
}

// Write prints the report for people.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.Counts)) {
		fmt.Fprintf(&b, "%-32s %d\n", name, r.Counts[name])
	}
	for _, f := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", f)
	}
	for _, f := range r.Violations {
		fmt.Fprintf(&b, "violation: %s\n", f)
	}
	fmt.Fprintf(&b, "%d violations, %d warnings\n", len(r.Violations), len(r.Warnings))
	_, err := io.WriteString(w, b.String())
	return err
}

// lookAgain is how often a chain is read anew because it was reorganised while
// it was read.
const lookAgain = 5

// Run compares. An error says that the comparison was not made to its end.
func Run(ctx context.Context, o Options) (*Report, error) {
	config, err := pgx.ParseConfig(o.DatabaseURL)
	if err != nil {
		return nil, errors.New("database url is not usable") // err may hold pieces of it (I10)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // only read from
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was written
	record, err := readRecord(ctx, tx)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	c := &comparison{record: record, options: o, report: &Report{Counts: map[string]int{}, Violations: []Finding{}, Warnings: []Finding{}}, movements: map[Key][]*movement{}}
	c.compareRows()
	for _, network := range record.networks() {
		if err := c.compareNetwork(ctx, network); err != nil {
			return nil, fmt.Errorf("%s: %w", network, err)
		}
	}
	if o.Answers != nil {
		if err := c.compareAnswers(ctx, tx); err != nil {
			return nil, fmt.Errorf("answers: %w", err)
		}
	}
	return c.report, nil
}

// compareNetwork reads a network's chain, after the record: what the record
// knows of the chain is there by then.
func (c *comparison) compareNetwork(ctx context.Context, network string) error {
	url, known := c.options.Nodes[network]
	if !known {
		c.report.warning("no_node", network, "record", "it is not configured: %d payments are not compared", len(c.record.paymentsOf(network)))
		return nil
	}
	n, err := dial(ctx, url)
	if err != nil {
		return err
	}
	defer n.close()
	since := c.options.SinceBlock
	if since == 0 {
		since = c.record.firstBlock(network)
	}
	var l *ledger
	for range lookAgain {
		if l, err = n.read(ctx, since, c.record.lanesOf(network), c.record.contracts(network), c.record.payers(network)); !errors.Is(err, errMoved) {
			break
		}
	}
	if err != nil {
		return err
	}
	c.compareLedger(network, l)
	return nil
}
