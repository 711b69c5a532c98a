package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/config"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

const (
	// pageSize bounds how many rows are in memory, whatever is listed.
	pageSize = 1000
	// listTimeout of a page: one by payer looks at everybody's.
	listTimeout = 5 * time.Minute
)

// payments shows what the record holds.
func payments(ctx context.Context, args []string, c console) error {
	actions := map[string]func(context.Context, []string, console) error{
		"list": listPayments, "show": showPayments, "export": exportPayments,
	}
	if len(args) == 0 || actions[args[0]] == nil {
		fmt.Fprintln(c.err, "Usage: facilitator payments list|show|export [flags]")
		return errUsage
	}
	return actions[args[0]](ctx, args[1:], c)
}

func listPayments(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("payments list", c)
	filter, format := filterFlags(flags), flags.String("format", "text", "`FORMAT` of the list: text, csv or json (an object a line)")
	limit := flags.Int("limit", 50, "most payments to list; 0: all")
	if err := parse(flags, args); err != nil {
		return err
	}
	f, err := filter.read()
	if err != nil {
		return err
	}
	f.NewestFirst = true
	return writePayments(ctx, c, *file, *format, f, *limit)
}

func exportPayments(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("payments export", c)
	filter, format := filterFlags(flags), flags.String("format", "csv", "`FORMAT` of the export: csv or json (an object a line)")
	limit := flags.Int("limit", 0, "most payments to export; 0: all")
	if err := parse(flags, args); err != nil {
		return err
	}
	f, err := filter.read()
	if err != nil {
		return err
	}
	return writePayments(ctx, c, *file, *format, f, *limit)
}

// filterTexts are flags that say which payments.
type filterTexts struct{ network, states, payee, payer, since, until *string }

func filterFlags(flags *flag.FlagSet) filterTexts {
	return filterTexts{
		network: flags.String("network", "", "of this `NETWORK` only, such as eip155:8453"),
		states:  flags.String("state", "", "in one of these `STATES` only: queued, signed, broadcast, included, final, failed; several by commas"),
		payee:   flags.String("payee", "", "paid to this `ADDRESS` only"),
		payer:   flags.String("payer", "", "paid by this `ADDRESS` only"),
		since:   flags.String("since", "", "claimed at this `TIME` or later: 2026-11-28 (UTC) or 2026-11-28T09:00:00Z"),
		until:   flags.String("until", "", "claimed before this `TIME`"),
	}
}

func (t filterTexts) read() (payment.Filter, error) {
	f := payment.Filter{Network: x402.Network(*t.network)}
	if *t.states != "" {
		for _, text := range strings.Split(*t.states, ",") {
			state := payment.State(text)
			if !slices.Contains(payment.States(), state) {
				return f, fmt.Errorf("-state: %q is none", text)
			}
			f.States = append(f.States, state)
		}
	}
	for _, address := range []struct {
		name, text string
		to         **chain.Address
	}{{"payee", *t.payee, &f.PayTo}, {"payer", *t.payer, &f.Payer}} {
		if address.text == "" {
			continue
		}
		a, err := chain.ParseAddress(address.text)
		if err != nil {
			return f, fmt.Errorf("-%s: %w", address.name, err)
		}
		*address.to = &a
	}
	var err error
	if f.Since, err = readTime("since", *t.since); err == nil {
		f.Until, err = readTime("until", *t.until)
	}
	return f, err
}

// readTime reads a day, which begins at midnight UTC, or a moment.
func readTime(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("-%s: must be a day such as 2026-11-28 or a time such as 2026-11-28T09:00:00Z", name)
}

// writePayments writes a list page by page.
func writePayments(ctx context.Context, c console, file, format string, f payment.Filter, limit int) error {
	table, err := newTable(format, c.out)
	if err != nil {
		return err
	}
	if limit < 0 {
		return errors.New("-limit: must not be negative")
	}
	_, s, err := openRecord(ctx, file, c)
	if err != nil {
		return err
	}
	defer s.Close()
	written := 0
	for {
		f.Limit = pageSize
		if limit > 0 {
			f.Limit = min(pageSize, limit-written)
		}
		page, err := s.ListPayments(ctx, f)
		if err != nil {
			return err
		}
		for i := range page {
			if err := table.add(recordOf(&page[i])); err != nil {
				return err
			}
		}
		if written += len(page); len(page) < f.Limit || written == limit {
			return table.end()
		}
		f.After = page[len(page)-1].ID
	}
}

func openRecord(ctx context.Context, file string, c console) (*config.Config, *store.Store, error) {
	cfg, err := config.Load(file, c.environ)
	if err != nil {
		return nil, nil, err
	}
	s, err := store.Open(ctx, cfg.Database.URL.Reveal(), store.Options{MaxConnections: 2, Timeout: listTimeout})
	if err != nil {
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	return cfg, s, nil
}

// showPayments shows one payment by its id, or what a transaction paid.
func showPayments(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("payments show ID|TRANSACTION", c)
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		if err == nil {
			flags.Usage()
		}
		return errUsage
	}
	cfg, s, err := openRecord(ctx, *file, c)
	if err != nil {
		return err
	}
	defer s.Close()
	var found []payment.Payment
	name := flags.Arg(0)
	if hash, notHash := chain.ParseHash(name); notHash == nil {
		for network := range cfg.Chains {
			list, err := s.PaymentsByTransaction(ctx, x402.Network(network), hash)
			if err != nil {
				return err
			}
			found = append(found, list...)
		}
	} else {
		p, err := s.PaymentByID(ctx, payment.ID(name))
		if err != nil && !errors.Is(err, payment.ErrNotFound) {
			return err
		}
		if err == nil {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		return errors.New("no such payment")
	}
	for i := range found {
		if err := writeIndented(c.out, recordOf(&found[i])); err != nil {
			return err
		}
	}
	return nil
}
