package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"facilitator/internal/app"
	"facilitator/internal/chain"
	"facilitator/internal/config"
	"facilitator/internal/payment"
	"facilitator/internal/policy"
	"facilitator/internal/x402"
)

// screening shows whom screening refused, and what its sources say of an address.
func screening(ctx context.Context, args []string, c console) error {
	actions := map[string]func(context.Context, []string, console) error{
		"hits": listHits, "check": checkAddress, "forget": forgetHits,
	}
	if len(args) == 0 || actions[args[0]] == nil {
		fmt.Fprintln(c.err, "Usage: facilitator screening hits|check|forget [flags]")
		return errUsage
	}
	return actions[args[0]](ctx, args[1:], c)
}

// hitLine is what "screening hits -json" prints of a row.
type hitLine struct {
	Day     string       `json:"day"`
	Network x402.Network `json:"network"`
	Source  string       `json:"source"`
	Kind    string       `json:"kind"`
	Role    string       `json:"role"`
	// Address is nil for all those who were not told apart.
	Address *chain.Address `json:"address"`
	Hits    int64          `json:"hits"`
	FirstAt time.Time      `json:"firstAt"`
	LastAt  time.Time      `json:"lastAt"`
	Last    hitPayment     `json:"last"`
}

// hitPayment is the latest payment of a row.
type hitPayment struct {
	Payer  chain.Address `json:"payer"`
	PayTo  chain.Address `json:"payTo"`
	Asset  chain.Address `json:"asset"`
	Amount string        `json:"amount"`
	Nonce  chain.Hash    `json:"nonce"`
	Client string        `json:"client,omitempty"`
	Reason string        `json:"reason,omitempty"`
}

func lineOf(h *payment.Hits) hitLine {
	l := hitLine{
		Day: h.Day, Network: h.Network, Source: h.Source, Kind: h.Kind, Role: h.Role, Hits: h.Count, FirstAt: h.FirstAt.UTC(), LastAt: h.LastAt.UTC(),
		Last: hitPayment{Payer: h.Payer, PayTo: h.PayTo, Asset: h.Asset, Amount: h.Amount.String(), Nonce: h.Nonce, Client: h.ClientName, Reason: h.Reason},
	}
	if !h.Rest {
		l.Address = &h.Address
	}
	if l.Last.Client == "" {
		l.Last.Client = h.Client
	}
	return l
}

func listHits(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("screening hits", c)
	network := flags.String("network", "", "of this `NETWORK` only, such as eip155:8453")
	source := flags.String("source", "", "by this source only: the name of a list, hook, or oracle_ and a network")
	address := flags.String("address", "", "of this `ADDRESS` only")
	since := flags.String("since", "", "refused at this `TIME` or later: 2026-11-28 (UTC) or 2026-11-28T09:00:00Z")
	until := flags.String("until", "", "refused before this `TIME`")
	limit := flags.Int("limit", 50, "most rows to list; 0: all")
	asJSON := flags.Bool("json", false, "print JSON, an object a line")
	if err := parse(flags, args); err != nil {
		return err
	}
	f := payment.HitFilter{Network: x402.Network(*network), Source: *source}
	if *address != "" {
		a, err := chain.ParseAddress(*address)
		if err != nil {
			return fmt.Errorf("-address: %w", err)
		}
		f.Address = &a
	}
	var err error
	if f.Since, err = readTime("since", *since); err != nil {
		return err
	}
	if f.Until, err = readTime("until", *until); err != nil {
		return err
	}
	if *limit < 0 {
		return errors.New("-limit: must not be negative")
	}
	return writeHits(ctx, c, *file, f, *limit, *asJSON)
}

// writeHits writes a list page by page.
func writeHits(ctx context.Context, c console, file string, f payment.HitFilter, limit int, asJSON bool) error {
	_, s, err := openRecord(ctx, file, c)
	if err != nil {
		return err
	}
	defer s.Close()
	add := json.NewEncoder(c.out).Encode
	if !asJSON {
		const line = "%-10s  %-16s  %-20s  %-8s  %-42s  %8s  %-20s  %s\n"
		fmt.Fprintf(c.out, line, "DAY", "NETWORK", "SOURCE", "ROLE", "ADDRESS", "HITS", "LATEST", "CLIENT")
		add = func(v any) error {
			l, _ := v.(hitLine)
			address := "(others)"
			if l.Address != nil {
				address = l.Address.String()
			}
			_, err := fmt.Fprintf(c.out, line, l.Day, l.Network, l.Source, l.Role, address, fmt.Sprint(l.Hits), l.LastAt.Format(time.RFC3339), l.Last.Client)
			return err
		}
	}
	for written := 0; ; {
		f.Limit = pageSize
		if limit > 0 {
			f.Limit = min(pageSize, limit-written)
		}
		page, err := s.Hits(ctx, f)
		if err != nil {
			return err
		}
		for i := range page {
			if err := add(lineOf(&page[i])); err != nil {
				return err
			}
		}
		if written += len(page); len(page) < f.Limit || written == limit {
			return nil
		}
		f.After = &page[len(page)-1].HitKey
	}
}

// forgetHits is the only thing that ever deletes them.
func forgetHits(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("screening forget", c)
	before := flags.String("before", "", "forget the hits of all days before this `DAY` (UTC)")
	if err := parse(flags, args); err != nil {
		return err
	}
	day, err := time.Parse(time.DateOnly, *before)
	if err != nil {
		return errors.New("-before: must be a day such as 2026-11-28")
	}
	_, s, err := openRecord(ctx, *file, c)
	if err != nil {
		return err
	}
	defer s.Close()
	rows, err := s.ForgetHits(ctx, day)
	if err == nil {
		fmt.Fprintf(c.out, "forgot %d rows\n", rows)
	}
	return err
}

// wordLine is what one source says of an address.
type wordLine struct {
	Source  string       `json:"source"`
	Kind    string       `json:"kind"`
	Network x402.Network `json:"network,omitempty"`
	// Says hit, clear or unknown.
	Says      string     `json:"says"`
	Reason    string     `json:"reason,omitempty"`
	Problem   string     `json:"problem,omitempty"`
	Addresses int        `json:"addresses,omitempty"`
	Of        *time.Time `json:"of,omitempty"`
}

func wordOf(w policy.Word) wordLine {
	l := wordLine{Source: w.Source, Kind: w.Kind, Network: w.Network, Says: "clear", Reason: w.Reason, Addresses: w.Addresses}
	if w.Err != nil {
		l.Says, l.Problem = "unknown", w.Err.Error()
	}
	if w.Hit { // also on a list that is too old
		l.Says = "hit"
	}
	if !w.Of.IsZero() {
		at := w.Of.UTC()
		l.Of = &at
	}
	return l
}

// checkAddress asks every source about an address. It fails where one has it, or
// can't tell.
func checkAddress(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("screening check [flags] ADDRESS", c)
	asJSON := flags.Bool("json", false, "print JSON")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		if err == nil {
			flags.Usage()
		}
		return errUsage
	}
	address, err := chain.ParseAddress(flags.Arg(0))
	if err != nil {
		return err
	}
	cfg, err := config.Load(*file, c.environ)
	if err != nil {
		return err
	}
	sources, closing, err := app.Screening(ctx, cfg, time.Now)
	defer closing()
	if err != nil {
		return err
	}
	if sources == nil {
		return errors.New("no source of screening is configured")
	}
	count := map[string]int{}
	lines := []wordLine{}
	for _, w := range sources.Ask(ctx, address) {
		l := wordOf(w)
		count[l.Says]++
		lines = append(lines, l)
	}
	if *asJSON {
		encoder := json.NewEncoder(c.out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(lines)
	} else {
		table := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		for _, l := range lines {
			why := strings.Join(strings.Fields(l.Reason+" "+l.Problem), " ") // a hook must not make lines
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", l.Source, l.Network, l.Says, why)
		}
		err = table.Flush()
	}
	if count["hit"]+count["unknown"] > 0 {
		err = errors.Join(err, fmt.Errorf("of %d sources %d have it, %d can't tell", len(lines), count["hit"], count["unknown"]))
	}
	return err
}
