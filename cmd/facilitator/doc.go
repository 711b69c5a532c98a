package main

import (
	"context"
	"flag"
	"fmt"

	"facilitator/internal/app"
)

// doc prints a reference that is made from the code.
func doc(_ context.Context, args []string, c console) error {
	flags := flag.NewFlagSet("doc", flag.ContinueOnError)
	flags.SetOutput(c.err)
	flags.Usage = func() {
		fmt.Fprint(c.err, "facilitator doc metrics prints what every metric is.\n")
	}
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	if flags.NArg() != 1 || flags.Arg(0) != "metrics" {
		flags.Usage()
		return errUsage
	}
	return app.MetricsReference(c.out)
}
