package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"facilitator/internal/config"
	"facilitator/internal/store"
)

func migrate(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("migrate up|down|status", c)
	if len(args) == 0 || !slices.Contains([]string{"up", "down", "status"}, args[0]) {
		flags.Usage()
		return errUsage
	}
	if err := parse(flags, args[1:]); err != nil {
		return err
	}
	cfg, err := config.LoadDatabase(*file, c.environ)
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, cfg.URL.Reveal(), store.Options{MaxConnections: 2, Timeout: cfg.Timeout})
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer s.Close()
	switch args[0] {
	case "up":
		applied, err := s.MigrateUp(ctx)
		fmt.Fprintf(c.out, "applied %d migrations %v\n", len(applied), applied)
		return err
	case "down":
		version, err := s.MigrateDown(ctx)
		if err == nil && version == 0 {
			return errors.New("nothing is applied")
		}
		if err == nil {
			fmt.Fprintf(c.out, "took back migration %d\n", version)
		}
		return err
	case "status":
		list, err := s.Migrations(ctx)
		for _, m := range list {
			state := "missing"
			if m.Applied {
				state = "applied"
			}
			fmt.Fprintf(c.out, "%s  %s\n", state, m.Name)
		}
		return err
	}
	return nil
}
