package store_test

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"facilitator/internal/store"
)

// TestPlansMadeOfEmptyTablesStand: a statement is planned once by each connection, and
// often before there is anything to read. What reads a whole table or index is as
// good as any other plan then, and is kept while they grow.
func TestPlansMadeOfEmptyTablesStand(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig(databaseURL(t))
	must(t, err)
	store.PrepareConnections(cfg)
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	must(t, err)
	defer pool.Close()
	conn, err := pool.Acquire(t.Context())
	must(t, err)
	defer conn.Release()
	if one[int](t, conn.Conn(), "SELECT current_setting('server_version_num')::int") < 160_000 {
		t.Skip("this server can't show plans without values")
	}
	// What is read whole is meant to be, and small: clients, what is under way, and
	// payments that somebody else's transaction made.
	whole := map[string][]string{
		"sqlApplied": {"goose_db_version"}, "sqlClientKeys": {"client_keys"}, "sqlClients": {"clients"},
		"sqlClientsChanged": {"clients_version"}, "sqlClientsVersion": {"clients_version"}, "sqlShareUsage": {"client_usage"},
		"sqlClientSpending": {"payments_promised", "client_spending"}, "sqlReorgOthers": {"payments"},
	}
	for name, sql := range statements(t) {
		// pgx has no arguments for a plan without values.
		results, err := conn.Conn().PgConn().Exec(t.Context(), "EXPLAIN (GENERIC_PLAN, FORMAT JSON) "+sql).ReadAll()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		plan := string(results[0].Rows[0][0])
		var nodes []map[string]any
		collect(t, plan, &nodes)
		for _, n := range nodes {
			kind, _ := n["Node Type"].(string)
			relation, _ := n["Relation Name"].(string)
			index, _ := n["Index Name"].(string)
			if !strings.Contains(kind, "Scan") || relation == "" && index == "" || kind == "Bitmap Heap Scan" || n["Index Cond"] != nil {
				continue
			}
			if slices.Contains(whole[name], cmp.Or(relation, index)) {
				continue
			}
			t.Errorf("%s: %s of %s %s reads all of it:\n%s", name, kind, relation, index, plan)
		}
	}
}
