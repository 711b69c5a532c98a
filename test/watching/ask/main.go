// Command ask has a Prometheus evaluate every query of every dashboard in
// deploy/grafana, as Grafana would. Each must tell a number.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"facilitator/test/watching"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "ask:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("the URL of a Prometheus is needed, and it alone")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := watching.Dashboards(filepath.Join("deploy", "grafana", "dashboards"))
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("no dashboards: run it in the checkout")
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		d := all[name]
		asked, err := d.Ask(ctx, strings.TrimRight(args[0], "/"), "5m")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(out, "%s: %d queries, each tells a number\n", name, asked)
	}
	return nil
}
