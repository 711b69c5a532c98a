package store

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"facilitator/internal/chain"
	"facilitator/internal/client"
	"facilitator/internal/x402"
)

// Ways in which a change of clients is refused.
var (
	ErrNoClient     = errors.New("there is no client of that name")
	ErrClientExists = errors.New("there is a client or a key of that name already")
)

// anonymousClient stands for callers without a key where a row needs a client.
const anonymousClient = "00000000-0000-0000-0000-000000000000"

const (
	sqlClientsVersion = `SELECT n FROM clients_version`
	sqlClientsChanged = `UPDATE clients_version SET n = n + 1`
	sqlClients        = `
SELECT id::text, name, scopes, networks, assets, pay_to, rate, burst, gas_per_day::text, disabled_at, created_at FROM clients ORDER BY name`
	sqlClientKeys = `SELECT id, client::text, kind, material, expires_at, created_at FROM client_keys ORDER BY created_at, id`
	sqlAddClient  = `
INSERT INTO clients (id, name, scopes, networks, assets, pay_to, rate, burst, gas_per_day)
VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9::text::numeric)`
	sqlAddKey = `INSERT INTO client_keys (id, client, kind, material) SELECT $2, c.id, $3, $4 FROM clients c WHERE c.name = $1`
	// Keys that end sooner still do.
	sqlExpireKeys = `
UPDATE client_keys k SET expires_at = least(k.expires_at, now() + $2 * interval '1 second') FROM clients c
WHERE c.name = $1 AND k.client = c.id`
	sqlDisableClient = `UPDATE clients SET disabled_at = CASE WHEN $2 THEN coalesce(disabled_at, now()) END WHERE name = $1`
	// A replica that is gone says nothing for a minute. What it let through is long
	// over.
	sqlShareUsage = `
WITH mine AS (
	INSERT INTO client_usage AS u (replica, client, used)
	SELECT $1::text::uuid, k.client, k.used FROM unnest($2::uuid[], $3::bigint[]) AS k(client, used) ORDER BY k.client
	ON CONFLICT (replica, client) DO UPDATE SET used = excluded.used, seen_at = now()
), gone AS (
	DELETE FROM client_usage WHERE seen_at < now() - interval '1 minute' AND replica <> $1::text::uuid
)
SELECT client::text, sum(used)::bigint FROM client_usage
WHERE client = ANY($2::uuid[]) AND replica <> $1::text::uuid AND seen_at >= now() - interval '1 minute' GROUP BY client`
	// What a payment costs is what it did on the last day that has any, of the
	// client's or else of everybody's.
	sqlClientSpending = `
WITH today AS (SELECT (now() AT TIME ZONE 'utc')::date AS day),
anyone AS (
	SELECT div(sum(wei), sum(payments)) AS each FROM client_spending
	WHERE payments > 0 AND day = (SELECT max(day) FROM client_spending WHERE payments > 0)
), open AS (
	SELECT coalesce(client, '00000000-0000-0000-0000-000000000000') AS client, count(*) AS n
	FROM payments WHERE state IN ('queued', 'signed', 'broadcast') GROUP BY 1
)
SELECT asked.client::text, today.day, coalesce(spent.wei, 0)::text, coalesce(open.n, 0), coalesce(own.each, anyone.each)::text
FROM unnest($1::uuid[]) AS asked(client) CROSS JOIN today CROSS JOIN anyone
LEFT JOIN client_spending spent ON spent.client = asked.client AND spent.day = today.day
LEFT JOIN open ON open.client = asked.client
LEFT JOIN LATERAL (
	SELECT div(c.wei, c.payments) AS each FROM client_spending c WHERE c.client = asked.client AND c.payments > 0 ORDER BY c.day DESC LIMIT 1
) own ON true`
)

// Clients returns every client and key, unless nothing has changed since stamp.
func (s *Store) Clients(ctx context.Context, stamp string) (clients []client.Client, keys []client.Key, now string, changed bool, _ error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var n int64
	if err := s.pool.QueryRow(ctx, sqlClientsVersion).Scan(&n); err != nil {
		return nil, nil, "", false, unavailable(err)
	}
	now = strconv.FormatInt(n, 10)
	if now == stamp {
		return nil, nil, now, false, nil
	}
	// Read after the number: what changes between is read again next time.
	var batch pgx.Batch
	batch.Queue(sqlClients).Query(func(rows pgx.Rows) (err error) {
		clients, err = pgx.CollectRows(rows, scanClient)
		return err
	})
	batch.Queue(sqlClientKeys).Query(func(rows pgx.Rows) (err error) {
		keys, err = pgx.CollectRows(rows, scanKey)
		return err
	})
	s.pool.reads.Add(1)
	if err := s.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, nil, "", false, unavailable(err)
	}
	return clients, keys, now, true, nil
}

func scanClient(row pgx.CollectableRow) (c client.Client, _ error) {
	var scopes, networks []string
	var assets, payTo [][]byte
	var gas string
	var disabled *time.Time
	if err := row.Scan(&c.ID, &c.Name, &scopes, &networks, &assets, &payTo, &c.Rate, &c.Burst, &gas, &disabled, &c.CreatedAt); err != nil {
		return c, err
	}
	for _, text := range scopes {
		c.Scopes = append(c.Scopes, client.Scope(text))
	}
	for _, text := range networks {
		c.Networks = append(c.Networks, x402.Network(text))
	}
	var ok, usable bool
	if c.Assets, ok = addresses(assets); ok {
		c.PayTo, usable = addresses(payTo)
	}
	if !usable { // somebody wrote it by hand: what it is bound to is not known
		c.Scopes = nil
	}
	if c.GasPerDay, ok = new(big.Int).SetString(gas, 10); !ok {
		return c, fmt.Errorf("store: gas of client %s: %q", c.ID, gas)
	}
	if disabled != nil {
		c.DisabledAt = *disabled
	}
	return c, nil
}

// addresses are those of a row; false if one of them is none.
func addresses(list [][]byte) (as []chain.Address, ok bool) {
	for _, b := range list {
		if len(b) != len(chain.Address{}) {
			return nil, false
		}
		as = append(as, chain.Address(b))
	}
	return as, true
}

func scanKey(row pgx.CollectableRow) (k client.Key, _ error) {
	var expires *time.Time
	err := row.Scan(&k.ID, &k.Client, &k.Kind, &k.Material, &expires, &k.CreatedAt)
	if expires != nil {
		k.ExpiresAt = *expires
	}
	return k, err
}

// AddClient records a client with its first key. ErrClientExists if there is one
// of that name, or another's key of that id.
func (s *Store) AddClient(ctx context.Context, c *client.Client, k *client.Key) error {
	scopes, networks := make([]string, len(c.Scopes)), make([]string, len(c.Networks))
	for i, scope := range c.Scopes {
		scopes[i] = string(scope)
	}
	for i, n := range c.Networks {
		networks[i] = string(n)
	}
	gas := "0"
	if c.GasPerDay != nil {
		gas = c.GasPerDay.String()
	}
	return s.changeClients(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sqlAddClient, c.ID, c.Name, scopes, networks, addressBytes(c.Assets), addressBytes(c.PayTo), c.Rate, c.Burst, gas); err != nil {
			return err
		}
		return addKey(ctx, tx, c.Name, k)
	})
}

// RotateKey gives a client one more key, and lets those it has last for overlap.
func (s *Store) RotateKey(ctx context.Context, name string, k *client.Key, overlap time.Duration) error {
	return s.changeClients(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sqlExpireKeys, name, int64(overlap/time.Second)); err != nil {
			return err
		}
		return addKey(ctx, tx, name, k)
	})
}

// DisableClient disables a client, or enables it again.
func (s *Store) DisableClient(ctx context.Context, name string, disabled bool) error {
	return s.changeClients(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return oneClient(tx.Exec(ctx, sqlDisableClient, name, disabled))
	})
}

func (s *Store) changeClients(ctx context.Context, change func(context.Context, pgx.Tx) error) error {
	err := s.tx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sqlClientsChanged); err != nil {
			return err
		}
		return change(ctx, tx)
	})
	const uniqueViolation = "23505"
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == uniqueViolation {
		return ErrClientExists
	}
	return err
}

func addKey(ctx context.Context, tx pgx.Tx, name string, k *client.Key) error {
	return oneClient(tx.Exec(ctx, sqlAddKey, name, k.ID, string(k.Kind), k.Material))
}

func oneClient(tag pgconn.CommandTag, err error) error {
	if err == nil && tag.RowsAffected() != 1 {
		return ErrNoClient
	}
	return err
}

func addressBytes(list []chain.Address) [][]byte {
	out := make([][]byte, len(list))
	for i := range list {
		out[i] = list[i][:]
	}
	return out
}

// clientID is the id in a row.
func clientID(id string) string {
	if id == "" {
		return anonymousClient
	}
	return id
}

// clientOf is the id of a row.
func clientOf(id string) string {
	if id == anonymousClient {
		return ""
	}
	return id
}

// ShareUsage records how many requests of each client a replica has let through,
// and returns how many the others have, those that were heard of in the last
// minute.
func (s *Store) ShareUsage(ctx context.Context, replica string, used map[string]uint64) (map[string]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var ids []uuid.UUID
	var counts []int64
	for id, n := range used {
		parsed, err := uuid.Parse(clientID(id))
		if err != nil {
			return nil, fmt.Errorf("store: client %q: %w", id, err)
		}
		ids, counts = append(ids, parsed), append(counts, int64(n)) //nolint:gosec // G115: requests of one process
	}
	rows, err := s.pool.Query(ctx, sqlShareUsage, replica, ids, counts)
	if err != nil {
		return nil, unavailable(err)
	}
	others := make(map[string]uint64)
	var id string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&id, &n}, func() error {
		others[clientOf(id)] = uint64(n) //nolint:gosec // G115: CHECKed not negative
		return nil
	})
	return others, unavailable(err)
}

// ClientSpending is what the payments of clients cost, for each that is asked for.
func (s *Store) ClientSpending(ctx context.Context, clients []string) (map[string]client.Spending, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	ids := make([]string, len(clients))
	for i, id := range clients {
		ids[i] = clientID(id)
	}
	rows, err := s.pool.Query(ctx, sqlClientSpending, ids)
	if err != nil {
		return nil, unavailable(err)
	}
	spending := make(map[string]client.Spending)
	var id, wei string
	var each *string
	var one client.Spending
	_, err = pgx.ForEachRow(rows, []any{&id, &one.Day, &wei, &one.Open, &each}, func() (err error) {
		if one.Today, err = weiOf(wei); err != nil {
			return err
		}
		one.Each = nil
		if each != nil {
			one.Each, err = weiOf(*each)
		}
		spending[clientOf(id)] = one
		return err
	})
	return spending, unavailable(err)
}

func weiOf(text string) (*big.Int, error) {
	n, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return nil, fmt.Errorf("store: wei %q", text)
	}
	return n, nil
}
