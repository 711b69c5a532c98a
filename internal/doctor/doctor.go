// Package doctor looks at everything the service needs and says, a line each,
// what is well and what is not: the database, the sources of screening, every
// node, the contracts, the wallets, the clocks. It changes nothing, and no line of
// it holds a secret: a node is told by its name (I10).
package doctor

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// Status of a check.
type Status string

// What a check can come to. Warn is what the service works with, and a person
// should know; Fail is what keeps payments from being settled.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	// Area is one word of a fixed list, such as database, node, lane.
	Area string `json:"area"`
	// Network is where, empty for what is not about a network.
	Network string `json:"network,omitempty"`
	// Subject is what of the area: a node's name, an address.
	Subject string `json:"subject,omitempty"`
	Status  Status `json:"status"`
	Detail  string `json:"detail"`
}

// String is the line for people.
func (c Check) String() string {
	name := c.Area
	for _, part := range []string{c.Network, c.Subject} {
		if part != "" {
			name += " " + part
		}
	}
	line := fmt.Sprintf("%-4s %s: %s", c.Status, name, c.Detail)
	return strings.Map(func(r rune) rune { // nodes have a word in it, and must not make lines
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, line)
}

// Report is what an examination found.
type Report struct {
	Healthy bool    `json:"healthy"`
	Checks  []Check `json:"checks"`
}

// Add notes a check.
func (r *Report) Add(c Check) {
	r.Checks = append(r.Checks, c)
	r.Healthy = r.Failures() == 0
}

// Failures counts the checks that failed.
func (r *Report) Failures() int {
	n := 0
	for _, c := range r.Checks {
		if c.Status == Fail {
			n++
		}
	}
	return n
}

// Write prints the report for people.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	for _, c := range r.Checks {
		fmt.Fprintln(&b, c)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Record is what is asked of the database; *store.Store is one.
type Record interface {
	Schema(ctx context.Context) (applied, known []int64, _ error)
	Clock(ctx context.Context) (time.Time, error)
	Wallets(ctx context.Context, n x402.Network) (map[chain.Address]payment.Wallet, error)
}

// Node is what is asked of one node; *evm.Client is one.
type Node interface {
	ChainID(ctx context.Context) (uint64, error)
	Head(ctx context.Context) (chain.Head, error)
	Features(ctx context.Context) evm.Features
	SuggestTip(ctx context.Context) (uint64, error)
	Code(ctx context.Context, a chain.Address) ([]byte, error)
	TokenFacts(ctx context.Context, token chain.Address) (evm.Token, error)
	Accounts(ctx context.Context, as []chain.Address) ([]evm.Account, error)
}

// Feed is a subscription to new heads; *evm.HeadFeed is one.
type Feed interface {
	Check(ctx context.Context) (chainID uint64, _ chain.Head, _ error)
}

// Plan is what is examined.
type Plan struct {
	// Record is nil where the database could not be opened; RecordProblem says why,
	// and is safe to show.
	Record        Record
	RecordProblem string
	// Migrates: the service applies what is missing when it starts.
	Migrates bool
	// MaxClockSkew between our clock and the database's.
	MaxClockSkew time.Duration
	// Screening is nil where no source is configured.
	Screening Screening
	Networks  []Network
	Now       func() time.Time
}

// Network is a configured chain.
type Network struct {
	Name    x402.Network
	ChainID uint64
	// Nodes in the order they are asked, those that only send among them.
	Nodes []NamedNode
	// Feed is nil where none is configured.
	Feed Feed
	// FinalizedTag: finality is the node's word, not a depth.
	FinalizedTag bool
	StallAfter   time.Duration
	MaxClockSkew time.Duration
	// MaxLag in blocks of a node behind the furthest.
	MaxLag uint64

	Assets, Factories []chain.Address
	Multicall         chain.Address
	// Batches: payments share transactions, by way of Multicall.
	Batches bool

	// Keys of the lanes and of the treasury.
	Keys []Key
	// TopUpTo is what the treasury fills a lane up to, in wei.
	TopUpTo uint64
	// MaxGas of a payment, at fees of at most MaxFeePerGas and MaxTip wei.
	MaxGas, MaxFeePerGas, MaxTip uint64
}

// Key is what became of a configured wallet's signer when it was tried.
type Key struct {
	// Name of the setting: lanes[0].
	Name     string
	Treasury bool
	// Address is zero where the signer can't be opened.
	Address chain.Address
	// Took is the time of one signature.
	Took time.Duration
	Err  error
}

// NamedNode is a node as reports call it.
type NamedNode struct {
	Name string
	Node Node
	// SendsOnly: it is handed transactions and asked nothing.
	SendsOnly bool
}

// Run examines everything and adds what it found. It takes as long as the nodes',
// the sources' and the database's own timeouts let it.
func Run(ctx context.Context, p Plan, r *Report) {
	record := examineRecord(ctx, p, r)
	examineScreening(ctx, p, r)
	for i := range p.Networks {
		e := &examination{Network: &p.Networks[i], record: record, now: p.Now, report: r}
		e.run(ctx)
	}
}

// examineRecord returns the record if its rows can be read: not before every
// migration that this binary knows is applied.
func examineRecord(ctx context.Context, p Plan, r *Report) Record {
	if p.Record == nil {
		r.Add(Check{Area: "database", Status: Fail, Detail: p.RecordProblem})
		return nil
	}
	now, err := p.Record.Clock(ctx)
	if err != nil {
		r.Add(Check{Area: "database", Status: Fail, Detail: "it does not answer"})
		return nil
	}
	r.Add(Check{Area: "database", Status: OK, Detail: "it answers"})
	clock := Check{Area: "clock", Subject: "database", Status: OK}
	skew := p.Now().Sub(now)
	clock.Detail = "ours differs from it by " + skew.Abs().Round(time.Millisecond).String()
	if skew.Abs() > p.MaxClockSkew {
		clock.Status = Warn
	}
	r.Add(clock)
	applied, known, err := p.Record.Schema(ctx)
	if err != nil {
		r.Add(Check{Area: "schema", Status: Fail, Detail: "it can't be read"})
		return nil
	}
	c, complete := schema(applied, known, p.Migrates)
	r.Add(c)
	if !complete {
		return nil
	}
	return p.Record
}

// schema compares the migrations that are applied with those that are known, all
// of which are there where it is complete.
func schema(applied, known []int64, migrates bool) (_ Check, complete bool) {
	has := map[int64]bool{}
	newest := int64(0)
	for _, v := range applied {
		has[v], newest = true, max(newest, v)
	}
	var missing []int64
	for _, v := range known {
		if !has[v] {
			missing = append(missing, v)
		}
		delete(has, v)
	}
	c := Check{Area: "schema", Status: OK, Detail: fmt.Sprintf("version %d", newest)}
	switch {
	case len(missing) > 0 && migrates:
		c.Status, c.Detail = Warn, fmt.Sprintf("version %d; migrations %v are missing, serve applies them when it starts", newest, missing)
	case len(missing) > 0:
		c.Status, c.Detail = Fail, fmt.Sprintf("version %d; migrations %v are missing: run \"facilitator migrate up\"", newest, missing)
	case len(has) > 0:
		c.Status, c.Detail = Warn, fmt.Sprintf("version %d is newer than this binary, which knows %d migrations", newest, len(known))
	}
	return c, len(missing) == 0
}
