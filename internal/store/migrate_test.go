package store_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/payment"
	"facilitator/internal/store"
)

// schema is what the database consists of, in words.
func (r record) schema(t *testing.T) []string {
	t.Helper()
	return column[string](t, r.conn, `
SELECT 'column ' || concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default) AS x
FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'goose%'
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text NOT LIKE 'goose%'
UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE 'goose%'
ORDER BY x`)
}

func TestMigrationsGoDownAndUpAgain(t *testing.T) {
	t.Parallel()
	r := open(t)
	before := r.schema(t)
	all, err := r.Migrations(t.Context())
	must(t, err)
	if len(all) == 0 || len(before) == 0 {
		t.Fatalf("%d migrations make %d things", len(all), len(before))
	}
	pending := func(want int) {
		t.Helper()
		if n, err := r.PendingMigrations(t.Context()); n != want || err != nil {
			t.Errorf("%d migrations are pending, want %d: %v", n, want, err)
		}
	}
	for range 2 {
		pending(0)
		for i := len(all) - 1; i >= 0; i-- {
			if version, err := r.MigrateDown(t.Context()); version != all[i].Version || err != nil {
				t.Fatalf("took back %d, want %d: %v", version, all[i].Version, err)
			}
		}
		pending(len(all))
		if left := r.schema(t); len(left) != 0 {
			t.Errorf("left behind: %q", left)
		}
		if version, err := r.MigrateDown(t.Context()); version != 0 || err != nil {
			t.Errorf("with nothing to take back: %d, %v", version, err)
		}
		if _, err := r.CountQueued(t.Context(), network); !errors.Is(err, payment.ErrUnavailable) {
			t.Errorf("without tables: %v", err)
		}
		applied, err := r.MigrateUp(t.Context())
		if len(applied) != len(all) || err != nil {
			t.Fatalf("applied %v, %v", applied, err)
		}
		if diff := cmp.Diff(before, r.schema(t)); diff != "" {
			t.Errorf("schema (-before +after):\n%s", diff)
		}
	}
}

func TestReplicasThatStartTogetherMigrateOnce(t *testing.T) {
	t.Parallel()
	r := open(t)
	for {
		version, err := r.MigrateDown(t.Context())
		must(t, err)
		if version == 0 {
			break
		}
	}
	replicas := []*store.Store{r.Store, openStore(t, r.url), openStore(t, r.url)}
	var applied [3][]int64
	var errs [3]error
	together(len(replicas), func(i int) { applied[i], errs[i] = replicas[i].MigrateUp(t.Context()) })
	total := 0
	for i := range replicas {
		must(t, errs[i])
		total += len(applied[i])
	}
	all, err := r.Migrations(t.Context())
	must(t, err)
	if total != len(all) {
		t.Errorf("%d steps were applied, there are %d", total, len(all))
	}
	r.claim(t, 1)
}
