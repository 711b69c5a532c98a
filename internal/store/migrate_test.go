package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
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

// TestASchemaWithDataGoesBackVersionsAndUpAgain: what version 2 added has a
// meaning in version 1, and no row is lost; what version 3 counts begins anew.
func TestASchemaWithDataGoesBackVersionsAndUpAgain(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	reversed := r.settledBy(t, 1, lane, 7)
	settled := r.settledBy(t, 2, lane, 8)
	given, bumped := r.claim(t, 3).ID, r.claim(t, 4).ID
	void, open := r.sign(t, lane, given), r.sign(t, lane, bumped)
	must(t, r.RecordReplaced(t.Context(), lane, void.ID))
	_, err := r.AddAttempt(t.Context(), lane, open.ID, bumper(lane, 1))
	must(t, err)
	must(t, r.RecordReorg(t.Context(), network, head(7)))
	p := r.payment(t, reversed)
	must(t, r.RecordOutcome(t.Context(), p.Failed(x402.ReasonExactNonceUsed, "", &payment.Evidence{Kind: payment.EvidenceConsumed})))
	treasury, err := r.EnsureLane(t.Context(), network, chain.Address{0: 9}, payment.RoleTreasury, 0)
	must(t, err)
	treasury = r.acquire(t, treasury)
	_, err = r.SignTopUp(t.Context(), treasury, topUp(treasury, 1, 1))
	must(t, err)

	rows := func() map[string]int {
		counts := map[string]int{}
		for _, table := range []string{"lanes", "payments", "transactions", "attempts", "outbox"} {
			counts[table] = one[int](t, r.conn, "SELECT count(*) FROM "+table)
		}
		return counts
	}
	want := rows()
	must(t, r.Reserve(t.Context(), sale(6).Terms, room(0), time.Hour))
	for { // what later versions added has no meaning in earlier ones
		list, err := r.Migrations(t.Context())
		must(t, err)
		applied := slices.DeleteFunc(list, func(m store.Migration) bool { return !m.Applied })
		if applied[len(applied)-1].Version == 3 {
			break
		}
		_, err = r.MigrateDown(t.Context())
		must(t, err)
	}
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Errorf("rows of version 3 (-want +got):\n%s", diff)
	}
	if version, err := r.MigrateDown(t.Context()); version != 3 || err != nil {
		t.Fatalf("took back %d: %v", version, err)
	}
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Errorf("rows of version 2 (-want +got):\n%s", diff)
	}
	if version, err := r.MigrateDown(t.Context()); version != 2 || err != nil {
		t.Fatalf("took back %d: %v", version, err)
	}
	want["outbox"]-- // version 1 has no word for it
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Errorf("rows of version 1 (-want +got):\n%s", diff)
	}
	if state := one[string](t, r.conn, "SELECT state FROM transactions WHERE id = $1", void.ID); state != "broadcast" {
		t.Errorf("a transaction that was given up is %s", state)
	}
	if applied, err := r.MigrateUp(t.Context()); len(applied) < 2 || applied[0] != 2 || err != nil {
		t.Fatalf("applied %v: %v", applied, err)
	}
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Errorf("rows of the newest version (-want +got):\n%s", diff)
	}
	r.wantPromised(t, sale(9), 20000, 2, 0)
	for id, state := range map[payment.ID]payment.State{
		reversed: payment.StateFailed, settled: payment.StateIncluded, given: payment.StateSigned, bumped: payment.StateSigned,
	} {
		r.wantState(t, id, state)
	}
	// Nobody holds the lanes now, and they work on.
	again := r.acquire(t, lane)
	list := r.opened(t, again)
	if len(list) != 3 {
		t.Fatalf("open: %+v", list)
	}
	if tx := list[2].Transaction; tx.ID != open.ID || len(tx.Attempts) != 2 {
		t.Errorf("transaction %+v, want both attempts", tx)
	}
	if tx := r.sign(t, again, r.claim(t, 5).ID); tx.WalletNonce != 4 {
		t.Errorf("next wallet nonce %d", tx.WalletNonce)
	}
}
