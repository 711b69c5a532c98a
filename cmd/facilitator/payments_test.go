package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// books are a record of rows payments, and the configuration that names it. The
// n-th is of n atomic units and 30 digits more, to one of three payees.
func books(t *testing.T, rows int) (file string, conn *pgx.Conn) {
	t.Helper()
	if database == nil {
		t.Skip("no Postgres: short run, or no tools")
	}
	url := database.Database(t)
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	ids := make([]string, rows)
	for i := range ids {
		id, err := uuid.NewV7() // each is above the one before
		must(t, err)
		ids[i] = id.String()
	}
	_, err = conn.Exec(t.Context(), `
INSERT INTO payments (id, network, contract, payer, authorization_nonce, fingerprint, scheme, asset, pay_to, amount, valid_after, valid_before,
	call_to, call_data, signature_hash, x402_version, resource, claimed_at_block, state)
SELECT id::uuid, 'eip155:8453', decode(repeat('01', 20), 'hex'), decode(repeat('07', 20), 'hex'), decode(lpad(to_hex(n), 64, '0'), 'hex'),
	decode(repeat('02', 32), 'hex'), 'exact', decode(repeat('01', 20), 'hex'), decode(lpad(to_hex(n % 3), 40, '0'), 'hex'),
	1000000000000000000000000000000 + n, 0, 1,
	decode(repeat('01', 20), 'hex'), '', decode(repeat('02', 32), 'hex'), 2, '=HYPERLINK("https://example.com","a,b")', 1, 'queued'
FROM unnest($1::text[]) WITH ORDINALITY AS r(id, n)`, ids)
	must(t, err)
	file = filepath.Join(t.TempDir(), "facilitator.yaml")
	must(t, os.WriteFile(file, []byte(`
database: {url: "`+url+`"}
chains: {"eip155:8453": {rpc_url: "http://127.0.0.1:9", lanes: [{private_key: "`+strings.Repeat("07", 32)+`"}]}}`), 0o600))
	return file, conn
}

func TestExportHasEveryPaymentOnceAndNoFormula(t *testing.T) {
	t.Parallel()
	const rows = 2*pageSize + 1
	file, _ := books(t, rows)
	code, out, problem := command(t, "payments", "export", "-config", file)
	if code != 0 {
		t.Fatal(problem)
	}
	lines, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	must(t, err)
	if len(lines) != rows+1 || !slices.Equal(lines[0], csvHeader()) {
		t.Fatalf("%d lines, the first is %q", len(lines), lines[0])
	}
	amount, resource := slices.Index(csvHeader(), "amount"), slices.Index(csvHeader(), "resource")
	for i, line := range lines[1:] {
		if want := "100000000000000000000000000" + leftPad(i+1, 4); line[amount] != want {
			t.Fatalf("line %d is of %s, want %s: not in the order of claims, or not once each", i, line[amount], want)
		}
		if line[resource] != `'=HYPERLINK("https://example.com","a,b")` {
			t.Fatalf("the resource is %q", line[resource])
		}
	}
	code, out, problem = command(t, "payments", "export", "-config", file, "-format", "json", "-payee", "0x"+strings.Repeat("0", 39)+"1", "-limit", "600")
	objects := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if code != 0 || len(objects) != 600 {
		t.Fatalf("%d objects: %s", len(objects), problem)
	}
	for i, object := range objects {
		var p struct{ Amount, Resource string }
		must(t, json.Unmarshal([]byte(object), &p))
		if want := "100000000000000000000000000" + leftPad(3*i+1, 4); p.Amount != want || p.Resource != `=HYPERLINK("https://example.com","a,b")` {
			t.Fatalf("object %d: %s", i, object)
		}
	}
}

func leftPad(n, width int) string {
	text := strconv.Itoa(n)
	return strings.Repeat("0", width-len(text)) + text
}

// hangUp is a reader of the output that ends the command when it has read some.
type hangUp struct {
	bytes.Buffer
	end context.CancelFunc
}

func (h *hangUp) Write(b []byte) (int, error) {
	h.end()
	return h.Buffer.Write(b)
}

func TestExportWritesBeforeItHasReadAll(t *testing.T) {
	t.Parallel()
	file, _ := books(t, 3*pageSize)
	ctx, cancel := context.WithCancel(t.Context())
	reader := &hangUp{end: cancel}
	if code := run(ctx, []string{"payments", "export", "-config", file}, console{out: reader, err: new(bytes.Buffer)}); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if lines := strings.Count(reader.String(), "\n"); lines == 0 || lines > pageSize+1 {
		t.Errorf("%d lines were written, want some of the first page", lines)
	}
}

func TestListAndShow(t *testing.T) {
	t.Parallel()
	file, conn := books(t, 5)
	_, err := conn.Exec(t.Context(), `UPDATE payments SET state = 'failed', reason = 'settlement_failed', evidence = '{"kind": "would_fail"}', message = '@SUM(1)',
		created_at = '2026-01-02' WHERE amount = 1000000000000000000000000000002`)
	must(t, err)
	list := func(args ...string) []string {
		t.Helper()
		code, out, problem := command(t, append([]string{"payments", "list", "-config", file}, args...)...)
		if code != 0 {
			t.Fatalf("%q: %s", args, problem)
		}
		var amounts []string
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			if fields[0] != "ID" {
				amounts = append(amounts, fields[6][len(fields[6])-1:])
			}
		}
		return amounts
	}
	for _, row := range []struct {
		args string
		want string
	}{
		{"", "54321"},
		{"-limit 2", "54"},
		{"-limit 0", "54321"},
		{"-state failed", "2"},
		{"-state queued,failed -limit 3", "543"},
		{"-since 2026-01-03", "5431"},
		{"-since 2026-01-02T00:00:00Z -network eip155:8453", "54321"},
		{"-network eip155:1", ""},
		{"-payee 0x0000000000000000000000000000000000000002", "52"},
		{"-payer 0x0707070707070707070707070707070707070707 -limit 1", "5"},
		{"-payer 0x0000000000000000000000000000000000000002", ""},
	} {
		if got := strings.Join(list(strings.Fields(row.args)...), ""); got != row.want {
			t.Errorf("list %s: %q, want %q", row.args, got, row.want)
		}
	}
	var id string
	must(t, conn.QueryRow(t.Context(), "SELECT id::text FROM payments WHERE state = 'failed'").Scan(&id))
	code, out, problem := command(t, "payments", "show", "-config", file, id)
	var shown map[string]any
	if code != 0 || json.Unmarshal([]byte(out), &shown) != nil || shown["id"] != id || shown["message"] != "@SUM(1)" || shown["amount"] != "1000000000000000000000000000002" {
		t.Errorf("exit code %d, %s%s", code, out, problem)
	}
	for _, args := range []string{"list -state paid", "list -payee me", "list -since yesterday", "list -format xml", "list -limit -1", "export -format text extra", "show 42", "show 0x" + strings.Repeat("12", 32)} {
		words := strings.Fields(args)
		words = append([]string{"payments", words[0], "-config", file}, words[1:]...)
		if code, out, problem := command(t, words...); code != 1 || strings.Contains(out, id) || problem == "" {
			t.Errorf("payments %s: exit code %d, %s", args, code, problem)
		}
	}
	for _, args := range []string{"payments", "payments drop", "payments show"} {
		if code, _, problem := command(t, strings.Fields(args)...); code != 2 || problem == "" {
			t.Errorf("%s: exit code %d, %s", args, code, problem)
		}
	}
}

func TestHarmless(t *testing.T) {
	t.Parallel()
	for cell, want := range map[string]string{
		"": "", "a=b": "a=b", "=1": "'=1", "+1": "'+1", "-1": "'-1", "@a": "'@a", "\t=1": "%09=1", "a;=1\t+2": "a%3B=1%09+2", "\r=1": "'\r=1", "\n=1": "'\n=1", "0x1": "0x1",
	} {
		if got := harmless(cell); got != want {
			t.Errorf("%q becomes %q, want %q", cell, got, want)
		}
	}
}
