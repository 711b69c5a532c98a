package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"facilitator/migrations"
)

// Migration is one step of the schema.
type Migration struct {
	Version int64
	Name    string
	Applied bool
}

// migrator runs f with goose over this store's pool. A session lock lets
// replicas start together.
func (s *Store) migrator(f func(*goose.Provider) error) error {
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return fmt.Errorf("migration lock: %w", err)
	}
	db := stdlib.OpenDBFromPool(s.pool.Pool)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithSessionLocker(locker))
	if err != nil {
		return errors.Join(fmt.Errorf("migrations: %w", err), db.Close())
	}
	return errors.Join(f(provider), provider.Close())
}

// MigrateUp applies what is missing and returns the versions it applied.
func (s *Store) MigrateUp(ctx context.Context) ([]int64, error) {
	var applied []int64
	err := s.migrator(func(p *goose.Provider) error {
		results, err := p.Up(ctx)
		for _, r := range results {
			applied = append(applied, r.Source.Version)
		}
		return err
	})
	return applied, err
}

// MigrateDown takes back the newest step and returns its version, 0 if there
// was none.
func (s *Store) MigrateDown(ctx context.Context) (int64, error) {
	var version int64
	err := s.migrator(func(p *goose.Provider) error {
		result, err := p.Down(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		if result != nil {
			version = result.Source.Version
		}
		return err
	})
	return version, err
}

// Migrations lists every step this binary knows.
func (s *Store) Migrations(ctx context.Context) ([]Migration, error) {
	var list []Migration
	err := s.migrator(func(p *goose.Provider) error {
		statuses, err := p.Status(ctx)
		for _, st := range statuses {
			list = append(list, Migration{Version: st.Source.Version, Name: st.Source.Path, Applied: st.State == goose.StateApplied})
		}
		return err
	})
	return list, err
}

// PendingMigrations counts the steps that are missing in the database.
func (s *Store) PendingMigrations(ctx context.Context) (int, error) {
	list, err := s.Migrations(ctx)
	pending := 0
	for _, m := range list {
		if !m.Applied {
			pending++
		}
	}
	return pending, err
}
