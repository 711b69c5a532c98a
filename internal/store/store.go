// Package store keeps the record in Postgres. It has the only SQL of the
// service. One method is one transaction; every UPDATE names the state it
// leaves. Read committed, row locks and unique constraints are all
// it needs of the database.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"facilitator/internal/payment"
)

// Store is safe for concurrent use. Errors of the database wrap
// payment.ErrUnavailable.
type Store struct {
	pool    *pgxpool.Pool
	timeout time.Duration
}

// Options bound what the store takes of the database.
type Options struct {
	MaxConnections int
	// Timeout of one method.
	Timeout time.Duration
}

// Open connects. The URL never appears in an error (I10).
func Open(ctx context.Context, url string, o Options) (*Store, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("database url is not usable")
	}
	cfg.MaxConns = int32(min(o.MaxConnections, 1000)) //nolint:gosec // bounded
	cfg.ConnConfig.ConnectTimeout = o.Timeout
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "facilitator"
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, unavailable(err)
	}
	s := &Store{pool: pool, timeout: o.Timeout}
	if err := s.Ping(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return s, nil
}

// Close waits for running methods.
func (s *Store) Close() { s.pool.Close() }

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return unavailable(s.pool.Ping(ctx))
}

// tx runs f in one transaction, within the store's timeout.
func (s *Store) tx(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return unavailable(pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return f(ctx, tx) }))
}

// unavailable marks every failure of the database, but not our own verdicts
// about rows, nor a broken statement or constraint: those are faults of ours.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	for _, ours := range []error{payment.ErrNotFound, payment.ErrTransition, payment.ErrUnavailable, errSign} {
		if errors.Is(err, ours) {
			return err
		}
	}
	pg := (*pgconn.PgError)(nil)
	if errors.As(err, &pg) && len(pg.Code) == 5 && (pg.Code[:2] == "23" || pg.Code[:2] == "22" || pg.Code[:3] == "428" || pg.Code[:3] == "427" || pg.Code == "42601") {
		return fmt.Errorf("store: %w", err)
	}
	return fmt.Errorf("%w: %w", payment.ErrUnavailable, err)
}

// errSign marks what a signer said inside Sign.
var errSign = errors.New("sign")
