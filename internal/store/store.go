// Package store keeps the record in Postgres. It has the only SQL of the
// service. What a method writes is one transaction, which it may share with
// others that wait; every UPDATE names the state it leaves. Read committed, row
// locks and unique constraints are all it needs of the database.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"facilitator/internal/coalesce"
	"facilitator/internal/payment"
)

// Store is safe for concurrent use. Errors of the database wrap
// payment.ErrUnavailable.
type Store struct {
	pool    pool
	timeout time.Duration
	commits atomic.Uint64
	// lookups and writes of concurrent callers share round trips, and the writes
	// share commits.
	lookups, writes *coalesce.Group[query, found]
	looks           *coalesce.Group[look, payment.Exposure]
	reserves        *coalesce.Group[reservation, bool]
}

// pool counts the questions that are asked of it.
type pool struct {
	*pgxpool.Pool
	reads *atomic.Uint64
}

func (p pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	p.reads.Add(1)
	return p.Pool.Query(ctx, sql, args...)
}

func (p pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	p.reads.Add(1)
	return p.Pool.QueryRow(ctx, sql, args...)
}

// Stats counts what reached the database.
type Stats struct {
	// Commits are the transactions that wrote, Reads the round trips that did not.
	Commits, Reads uint64
}

// Stats since the store was opened.
func (s *Store) Stats() Stats {
	return Stats{Commits: s.commits.Load(), Reads: s.pool.reads.Load()}
}

// Connections are those of the store's pool.
type Connections struct {
	InUse, Idle, Most int
	// Acquired counts the connections taken, Waited those that had to be waited for,
	// Waiting all the time spent so.
	Acquired, Waited uint64
	Waiting          time.Duration
}

// Connections as they are now.
func (s *Store) Connections() Connections {
	p := s.pool.Stat()
	return Connections{
		InUse: int(p.AcquiredConns()), Idle: int(p.IdleConns()), Most: int(p.MaxConns()),
		Acquired: uint64(p.AcquireCount()), Waited: uint64(p.EmptyAcquireCount()), //nolint:gosec // G115: counts
		Waiting: p.EmptyAcquireWaitTime(),
	}
}

// Options bound what the store takes of the database.
type Options struct {
	MaxConnections int
	// Timeout of one method.
	Timeout time.Duration
	// Tracer has spans of statements; nil makes none.
	Tracer pgx.QueryTracer
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
	cfg.ConnConfig.Tracer = o.Tracer
	prepareSessions(cfg)
	connections, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, unavailable(err)
	}
	s := &Store{pool: pool{Pool: connections, reads: new(atomic.Uint64)}, timeout: o.Timeout}
	s.lookups = coalesce.New(groupSize, groupsAtOnce, s.lookUpTogether)
	s.writes = coalesce.New(groupSize, groupsAtOnce, s.writeTogether)
	s.looks = coalesce.New(groupSize, groupsAtOnce, s.lookTogether)
	s.reserves = coalesce.New(groupSize, groupsAtOnce, s.reserveTogether)
	if err := s.Ping(ctx); err != nil {
		connections.Close()
		return nil, err
	}
	return s, nil
}

// sessionSettings are what a connection is given, unless the database's URL says
// otherwise. A replica that vanishes without a word must not keep its locks. And
// every statement has its index: a plan made while the tables are small, which
// would read them whole, is kept while they grow; and none depends on the values,
// while planning one costs several times what running it does. An index of some
// states is read whole as readily while it is small: statements that look elsewhere
// append nothing to the state they ask for, and no index has that.
const sessionSettings = `
SELECT set_config(s.name, j.value, false)
FROM json_each_text($1::json) AS j(name, value) JOIN pg_settings s ON s.name = j.name`

func prepareSessions(cfg *pgxpool.Config) {
	given := cfg.ConnConfig.RuntimeParams
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return prepareSession(ctx, conn, given) }
}

// prepareSession gives a connection its settings, those that the server knows.
func prepareSession(ctx context.Context, conn *pgx.Conn, given map[string]string) error {
	settings := map[string]string{
		"idle_in_transaction_session_timeout": "60s",
		"tcp_keepalives_idle":                 "10",
		"tcp_keepalives_interval":             "5",
		"tcp_keepalives_count":                "3",
		"enable_seqscan":                      "off",
		"plan_cache_mode":                     "force_generic_plan",
		"jit":                                 "off",
	}
	maps.DeleteFunc(settings, func(name, _ string) bool { return given[name] != "" })
	encoded, err := json.Marshal(settings)
	if err != nil {
		return fmt.Errorf("session settings: %w", err)
	}
	_, err = conn.Exec(ctx, sessionSettings, string(encoded))
	return err
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
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return f(ctx, tx) })
	if err == nil {
		s.commits.Add(1)
	}
	return unavailable(err)
}

// exec runs one statement that writes.
func (s *Store) exec(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, sql, args...)
	if tag.RowsAffected() > 0 {
		s.commits.Add(1)
	}
	return unavailable(err)
}

// unavailable marks every failure of the database, but not our own verdicts
// about rows, nor a broken statement or constraint: those are faults of ours.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	for _, ours := range []error{payment.ErrNotFound, payment.ErrTransition, payment.ErrFenced, payment.ErrUnavailable, payment.ErrCrowded, errSign, ErrNoClient} {
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
