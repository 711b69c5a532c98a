package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"strings"
	"time"

	"facilitator/internal/app"
	"facilitator/internal/config"
)

func serve(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("serve", c)
	check := flags.Bool("check", false, "check the configuration, print it without secrets and exit")
	if err := parse(flags, args); err != nil {
		return err
	}
	cfg, err := config.Load(*file, c.environ)
	if err != nil {
		return err
	}
	if *check {
		return cfg.Dump(c.out)
	}
	a, err := app.New(ctx, cfg, app.Options{Log: newLogger(cfg, c.err), Now: time.Now, Version: version, Crash: crashPoint(c)})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// newFlags is a flag set with the flag that every command on a configuration has.
func newFlags(name string, c console) (*flag.FlagSet, *string) {
	flags := flag.NewFlagSet("facilitator "+name, flag.ContinueOnError)
	flags.SetOutput(c.err)
	return flags, flags.String("config", lookup(c, "FACILITATOR_CONFIG"), "configuration `FILE` (default $FACILITATOR_CONFIG)")
}

func lookup(c console, name string) string {
	for _, pair := range c.environ {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	if flags.NArg() > 0 {
		return errors.New("unexpected argument " + flags.Arg(0))
	}
	return nil
}

func newLogger(cfg *config.Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Log.Level}
	if cfg.Log.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
