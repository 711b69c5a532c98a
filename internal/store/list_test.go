package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// walk reads every page of a list.
func (r record) walk(t *testing.T, f payment.Filter) []payment.ID {
	t.Helper()
	var ids []payment.ID
	for {
		page, err := r.ListPayments(t.Context(), f)
		must(t, err)
		if len(page) > f.Limit {
			t.Fatalf("a page of %d, the limit is %d", len(page), f.Limit)
		}
		for i := range page {
			ids = append(ids, page[i].ID)
		}
		if len(page) < f.Limit {
			return ids
		}
		f.After = page[len(page)-1].ID
	}
}

func TestListsAreFilteredAndPaged(t *testing.T) {
	t.Parallel()
	r := open(t)
	alice, bob := chain.Address{19: 0xa1}, chain.Address{19: 0xb0}
	other := x402.Network("eip155:84532")
	shop := uuid.NewString()
	// Of each day, three payments: two to alice, the third by another payer on
	// another network.
	day := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	var ids []payment.ID
	for n := range 12 {
		p := sale(n)
		p.Terms.PayTo = alice
		if n%3 == 2 {
			p.Terms.PayTo, p.Terms.Key.Payer, p.Terms.Key.Network = bob, chain.Address{19: 0x71}, other
		}
		if n%4 == 1 {
			p.Client = shop
		}
		claimed, _, err := r.ClaimPayment(t.Context(), p, nil)
		must(t, err)
		at := day.Add(time.Duration(n/3) * 24 * time.Hour)
		// Both halves of the same moment, as a claim then would have made them.
		id := fmt.Sprintf("%012x", at.UnixMilli()+int64(n))
		id = id[:8] + "-" + id[8:] + string(claimed.ID[13:])
		_, err = r.conn.Exec(t.Context(), "UPDATE payments SET id = $2, created_at = $3 WHERE id = $1", claimed.ID, id, at)
		must(t, err)
		ids = append(ids, payment.ID(id))
	}
	must(t, r.Withdraw(t.Context(), ids[0], x402.ReasonUnexpectedSettle, "taken back"))
	of := func(ns ...int) (list []payment.ID) {
		for _, n := range ns {
			list = append(list, ids[n])
		}
		return list
	}
	payer := chain.Address{19: 0x71}
	for _, row := range []struct {
		name string
		f    payment.Filter
		want []payment.ID
	}{
		{"all", payment.Filter{}, ids},
		{"a payee's", payment.Filter{PayTo: &bob}, of(2, 5, 8, 11)},
		{"another payee's", payment.Filter{PayTo: &alice}, of(0, 1, 3, 4, 6, 7, 9, 10)},
		{"a payer's", payment.Filter{Payer: &payer}, of(2, 5, 8, 11)},
		{"a network's", payment.Filter{Network: network}, of(0, 1, 3, 4, 6, 7, 9, 10)},
		{"in a state", payment.Filter{States: []payment.State{payment.StateFailed}}, of(0)},
		{"in one of two states", payment.Filter{States: []payment.State{payment.StateFailed, payment.StateQueued}}, ids},
		{"since", payment.Filter{Since: day.Add(48 * time.Hour)}, ids[6:]},
		{"until, which is outside", payment.Filter{Until: day.Add(48 * time.Hour)}, ids[:6]},
		{"a day of a payee", payment.Filter{PayTo: &alice, Since: day.Add(24 * time.Hour), Until: day.Add(48 * time.Hour)}, of(3, 4)},
		{"nobody's", payment.Filter{PayTo: &chain.Address{}}, nil},
		{"a client's", payment.Filter{Client: &shop}, of(1, 5, 9)},
		{"a client's, to a payee", payment.Filter{Client: &shop, PayTo: &bob}, of(5)},
		{"of callers without a key", payment.Filter{Client: new(string)}, of(0, 2, 3, 4, 6, 7, 8, 10, 11)},
	} {
		for _, limit := range []int{1, 2, 5, 100} {
			f := row.f
			f.Limit = limit
			if got := r.walk(t, f); !slices.Equal(got, row.want) {
				t.Errorf("%s, %d a page: %q, want %q", row.name, limit, got, row.want)
			}
			f.NewestFirst = true
			got := r.walk(t, f)
			slices.Reverse(got)
			if !slices.Equal(got, row.want) {
				t.Errorf("%s, newest first, %d a page: %q, want %q", row.name, limit, got, row.want)
			}
		}
	}
	_, err := r.ListPayments(t.Context(), payment.Filter{After: "no id", Limit: 1})
	wantErr(t, err, payment.ErrNotFound)
}

// TestListsReadAnIndexInItsOrder: a page reads as many rows as it has, not all
// that there are, by the plan that every connection of the store uses.
func TestListsReadAnIndexInItsOrder(t *testing.T) {
	t.Parallel()
	r := open(t)
	_, err := r.conn.Exec(t.Context(), `
INSERT INTO payments (id, network, contract, payer, authorization_nonce, fingerprint, scheme, asset, pay_to, amount, valid_after, valid_before,
	call_to, call_data, signature_hash, x402_version, resource, claimed_at_block, state, client)
SELECT gen_random_uuid(), 'eip155:8453', decode(repeat('01', 20), 'hex'), decode(lpad(to_hex(n % 50), 40, '0'), 'hex'), decode(lpad(to_hex(n), 64, '0'), 'hex'),
	decode(repeat('02', 32), 'hex'), 'exact', decode(repeat('01', 20), 'hex'), decode(lpad(to_hex(n % 40), 40, '0'), 'hex'), 1, 0, 1,
	decode(repeat('01', 20), 'hex'), '', decode(repeat('02', 32), 'hex'), 2, '', 1, 'queued', CASE WHEN n % 4 <> 0 THEN lpad((n % 40)::text, 32, '0')::uuid END FROM generate_series(1, 5000) n`)
	must(t, err)
	_, err = r.conn.Exec(t.Context(), "ANALYZE payments")
	must(t, err)
	cfg, err := pgxpool.ParseConfig(r.url)
	must(t, err)
	store.PrepareConnections(cfg)
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	must(t, err)
	defer pool.Close()
	acquired, err := pool.Acquire(t.Context())
	must(t, err)
	defer acquired.Release()
	conn := acquired.Conn()
	all := statements(t)
	const client, payTo = `'00000000-0000-0000-0000-000000000007'`, `'\x0000000000000000000000000000000000000007'`
	for name, row := range map[string]struct{ index, args string }{
		"":         {"payments_pkey", ""},
		"To":       {"payments_pay_to", ", " + payTo},
		"Of":       {"payments_client", ", " + client},
		"OfTo":     {"payments_client_pay_to", ", " + client + ", " + payTo},
		"NoOnesTo": {"payments_no_ones_pay_to", `, '\x0000000000000000000000000000000000000008'`},
	} {
		for _, order := range []string{"sqlListOldest", "sqlListNewest"} {
			readsInOrder(t, conn, order+name, all[order+name], row.index, row.args)
		}
	}
}

// readsInOrder says whether a list's generic plan reads the rows of its page alone.
func readsInOrder(t *testing.T, conn *pgx.Conn, name, sql, index, args string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), "PREPARE "+name+" AS "+sql, pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	_, err = conn.Exec(t.Context(), strings.Replace(store.InOrder, "LOCAL", "", 1))
	must(t, err)
	plan := one[string](t, conn, "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE "+name+
		"('00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', NULL, NULL, NULL, NULL, NULL, 25"+args+")", pgx.QueryExecModeSimpleProtocol)
	var nodes []map[string]any
	collect(t, plan, &nodes)
	kinds := fmt.Sprint(nodes)
	if !strings.Contains(kinds, "Index Name:"+index+" ") || strings.Contains(kinds, "Node Type:Sort") || strings.Contains(kinds, "Seq Scan") {
		t.Errorf("%s does not read %s in its order:\n%s", name, index, plan)
	}
	for _, n := range nodes {
		if rows, ok := n["Actual Rows"].(float64); n["Index Name"] == index && (!ok || rows != 25) {
			t.Errorf("%s reads %v rows for a page of 25:\n%s", name, n["Actual Rows"], plan)
		}
		if removed, ok := n["Rows Removed by Filter"].(float64); ok && removed > 0 {
			t.Errorf("%s looks at %v rows in vain:\n%s", name, removed, plan)
		}
	}
}

// collect flattens a plan.
func collect(t *testing.T, plan string, nodes *[]map[string]any) {
	t.Helper()
	var top []map[string]any
	must(t, json.Unmarshal([]byte(plan), &top))
	var walk func(n map[string]any)
	walk = func(n map[string]any) {
		children, _ := n["Plans"].([]any)
		delete(n, "Plans")
		*nodes = append(*nodes, n)
		for _, c := range children {
			if child, ok := c.(map[string]any); ok {
				walk(child)
			}
		}
	}
	for _, entry := range top {
		if n, ok := entry["Plan"].(map[string]any); ok {
			walk(n)
		}
	}
}
