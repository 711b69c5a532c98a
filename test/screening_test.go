package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/devnet"
)

// TestScreeningHitsAreRecorded: what two replicas refuse adds up, is on record when
// they have stopped, and no request waits for the record of it.
func TestScreeningHitsAreRecorded(t *testing.T) {
	t.Parallel()
	c := world.chain
	bad := payers(t, c, 1)[0]
	path := filepath.Join(t.TempDir(), "refused")
	if err := os.WriteFile(path, []byte(strings.ToLower(bad.Address.Hex())), 0o600); err != nil {
		t.Fatal(err)
	}
	first := setup{
		chain: c, lanes: newKeys(t, devnet.RoleLane, 1), databaseURL: world.database.Database(t),
		overlay: fmt.Sprintf("database: {timeout: 1m}\npolicy: {screening: {lists: [{name: own, path: %q}]}}", path),
	}
	one, two := first.start(t), first.start(t)
	key := newClient(t, one, "shop", nil)
	body := request(t, c, sale(t, bad))
	refuse := func(s *service, header ...string) {
		t.Helper()
		for path, reason := range map[string]string{"/verify": "invalidReason", "/settle": "errorReason"} {
			if r := s.post(t, path, body, header...); r.str(reason) != kytRisk {
				t.Errorf("%s: %d %s", path, r.status, r.text)
			}
		}
	}
	rows := func() []string {
		t.Helper()
		return queryRows[string](t, first.databaseURL, `
SELECT concat_ws(' ', h.source, h.kind, h.role, '0x' || encode(h.address, 'hex'), h.hits, c.name) FROM screening_hits h LEFT JOIN clients c ON c.id = h.client`)
	}

	// A record that hangs holds up nobody: one that a request waited for would be cut
	// off long before the database's timeout.
	conn, err := pgx.Connect(t.Context(), first.databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	locked, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := locked.Exec(t.Context(), "LOCK TABLE screening_hits"); err != nil {
		t.Fatal(err)
	}
	refuse(one)
	refuse(two)
	eventually(t, "a replica waits for the record", func() bool {
		return queryRows[int](t, first.databaseURL, "SELECT count(*)::int FROM pg_locks WHERE relation = 'screening_hits'::regclass AND NOT granted")[0] > 0
	})
	refuse(one)
	refuse(two, "Authorization", key)
	if err := locked.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}

	one.stop()
	two.stop()
	want := "own plain payer " + strings.ToLower(bad.Address.Hex()) + " 8 shop"
	if got := rows(); len(got) != 1 || got[0] != want {
		t.Errorf("recorded %q, want %q", got, want)
	}
}
