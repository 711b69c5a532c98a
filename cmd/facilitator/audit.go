package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"facilitator/internal/audit"
	"facilitator/internal/config"
)

// compare holds the record against the chain, and against what callers were
// told. It reads only. Violations are a failure.
func compare(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("audit", c)
	since := flags.Uint64("since-block", 0, "first `BLOCK` to read (default: the lowest at which a payment was claimed)")
	answers := flags.String("answers", "", "`FILE` of what callers of /settle were told, a JSON object a line")
	settled := flags.Bool("settled", false, "nothing is under way: whatever is still open is a violation")
	asJSON := flags.Bool("json", false, "print the report as JSON")
	if err := parse(flags, args); err != nil {
		return err
	}
	cfg, err := config.Load(*file, c.environ)
	if err != nil {
		return err
	}
	options := audit.Options{DatabaseURL: cfg.Database.URL.Reveal(), Nodes: map[string]string{}, SinceBlock: *since, Settled: *settled}
	for network, chain := range cfg.Chains {
		options.Nodes[network] = chain.RPCURL.Reveal()
	}
	if *answers != "" {
		told, err := os.Open(*answers)
		if err != nil {
			return fmt.Errorf("answers: %w", err)
		}
		defer told.Close()
		options.Answers = told
	}
	report, err := audit.Run(ctx, options)
	if err != nil {
		return err
	}
	if *asJSON {
		encoder := json.NewEncoder(c.out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.Write(c.out)
	}
	if err == nil && len(report.Violations) > 0 {
		err = fmt.Errorf("%d violations", len(report.Violations))
	}
	return err
}
