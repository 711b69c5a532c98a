// Package storetest gives every test a migrated database of its own, on real
// Postgres. Commits are real: our bugs live between them.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"facilitator/internal/devnet"
	"facilitator/internal/store"
)

// Server is a Postgres with a migrated template database.
type Server struct {
	url      string // of the maintenance database
	template string
	postgres *devnet.Postgres // nil where somebody else's is used

	mu sync.Mutex // Postgres copies a template for one caller at a time
}

// Start takes the server that TEST_DATABASE_URL or DATABASE_URL names, or
// starts one from the pinned tools, and migrates a template on it.
func Start(ctx context.Context) (*Server, error) {
	s := &Server{template: "facilitator_template_" + unique() + "_test"}
	for _, name := range []string{"TEST_DATABASE_URL", "DATABASE_URL"} {
		if s.url == "" {
			s.url = os.Getenv(name)
		}
	}
	if s.url == "" {
		tools, err := devnet.Tools("")
		if err != nil {
			return nil, err
		}
		if s.postgres, err = devnet.StartPostgres(ctx, devnet.PostgresConfig{Tools: tools}); err != nil {
			return nil, err
		}
		s.url = s.postgres.URL()
	}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(err, s.Close()) //nolint:contextcheck // Close works after ctx ended
	}
	return s, nil
}

func (s *Server) migrate(ctx context.Context) error {
	if err := s.exec(ctx, "CREATE DATABASE "+s.template); err != nil {
		return fmt.Errorf("template: %w", err)
	}
	st, err := store.Open(ctx, s.database(s.template), store.Options{MaxConnections: 2, Timeout: 30 * time.Second})
	if err != nil {
		return fmt.Errorf("template: %w", err)
	}
	defer st.Close()
	_, err = st.MigrateUp(ctx)
	return err
}

// Close drops the template and stops the server if it was started here.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := s.exec(ctx, "DROP DATABASE IF EXISTS "+s.template+" WITH (FORCE)")
	if s.postgres != nil {
		return errors.Join(err, s.postgres.Close())
	}
	return err
}

// PID of the server's process, 0 where it was not started here.
func (s *Server) PID() int {
	if s.postgres == nil {
		return 0
	}
	return s.postgres.PID()
}

// Database makes a migrated database that lives as long as the test, and
// returns its URL.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	name := "facilitator_" + unique() + "_test"
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.exec(tb.Context(), "CREATE DATABASE "+name+" TEMPLATE "+s.template); err != nil {
		tb.Fatalf("create database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("drop database: %v", err)
		}
	})
	return s.database(name)
}

// Store opens a store on a database of the test's own.
func (s *Server) Store(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), s.Database(t), store.Options{MaxConnections: 16, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	t.Cleanup(st.Close)
	return st
}

func (s *Server) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // its error tells nothing about sql
	_, err = conn.Exec(ctx, sql)
	return err
}

// database is the server's URL with another database name.
func (s *Server) database(name string) string {
	u, err := url.Parse(s.url)
	if err != nil {
		return s.url
	}
	u.Path = "/" + name
	return u.String()
}

func unique() string { return strings.ReplaceAll(uuid.NewString(), "-", "")[:16] }
