package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
	"facilitator/migrations"
)

const sqlApplied = `SELECT version_id FROM goose_db_version WHERE is_applied AND version_id > 0 ORDER BY version_id`

// Schema lists the migrations that are applied and those that this binary knows.
// Unlike Migrations it writes nothing, not even to an empty database.
func (s *Store) Schema(ctx context.Context) (applied, known []int64, _ error) {
	files, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return nil, nil, fmt.Errorf("migrations: %w", err)
	}
	for _, name := range files {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return nil, nil, fmt.Errorf("migration %s: %w", name, err)
		}
		known = append(known, version)
	}
	slices.Sort(known)
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sqlApplied)
	if err == nil {
		applied, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	}
	const undefinedTable = "42P01"
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == undefinedTable {
		return nil, known, nil
	}
	return applied, known, unavailable(err)
}

const sqlWallets = `
SELECT l.address, l.role, greatest(l.nonce_floor, coalesce((SELECT max(t.wallet_nonce) + 1 FROM transactions t WHERE t.lane_id = l.id), 0)),
	(SELECT count(*) FROM transactions t WHERE t.lane_id = l.id AND t.state IN ('signed', 'broadcast')),
	coalesce(l.parked, ''), coalesce(l.lease_until > now(), false)
FROM lanes l WHERE l.network = $1`

// Wallets reads how the record has the lanes of a network. Those that no replica
// has ever started with are not there.
func (s *Store) Wallets(ctx context.Context, n x402.Network) (map[chain.Address]payment.Wallet, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sqlWallets, n)
	if err != nil {
		return nil, unavailable(err)
	}
	wallets := map[chain.Address]payment.Wallet{}
	var address []byte
	var w payment.Wallet
	_, err = pgx.ForEachRow(rows, []any{&address, &w.Role, &w.Next, &w.Open, &w.Parked, &w.Held}, func() error {
		wallets[chain.Address(address)] = w
		return nil
	})
	return wallets, unavailable(err)
}

const sqlClock = `SELECT now()`

// Clock is the database's.
func (s *Store) Clock(ctx context.Context) (now time.Time, _ error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := s.pool.QueryRow(ctx, sqlClock).Scan(&now)
	return now, unavailable(err)
}
