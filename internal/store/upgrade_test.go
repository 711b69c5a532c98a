package store_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the statements of this build to testdata/statements")

// statementsFile has the statements of the builds that know migrations up to a version.
func statementsFile(version int64) string {
	return filepath.Join("testdata", "statements", fmt.Sprintf("%05d.json", version))
}

// TestStatementsOfEarlierBuildsPrepare on the newest schema: tables, columns,
// types and constraints that they name are still there. It does not show that what
// they write is taken; TestMigrationsAdd sees to part of that (docs/upgrading.md).
//
// The newest version's file is kept current. So when the next migration comes,
// it has what the builds before it say.
func TestStatementsOfEarlierBuildsPrepare(t *testing.T) {
	t.Parallel()
	r := open(t)
	all, err := r.Migrations(t.Context())
	must(t, err)
	newest := statementsFile(all[len(all)-1].Version)
	if *update {
		text, err := json.MarshalIndent(statements(t), "", "  ")
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(newest), 0o755))
		must(t, os.WriteFile(newest, append(text, '\n'), 0o644))
	}
	files, err := filepath.Glob("testdata/statements/*.json")
	must(t, err)
	if len(files) < 2 {
		t.Fatalf("there are %q: none of an earlier build", files)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		var said map[string]string
		must(t, json.Unmarshal(text, &said))
		for name, sql := range said {
			if _, err := r.conn.Prepare(t.Context(), file+name, sql); err != nil {
				t.Errorf("%s: %s: %v", file, name, err)
			}
		}
		if file == newest {
			if diff := cmp.Diff(said, statements(t)); diff != "" {
				t.Errorf("%s is stale, run make docs (-file +source):\n%s", file, diff)
			}
		}
	}
	if !slices.Contains(files, newest) {
		t.Errorf("%s is missing, run make docs", newest)
	}
}

// firstAdditive is the last migration that asked for a stop of all builds before
// it. From it on, every migration only adds.
const firstAdditive = 3

// column of a table, as far as a writer that does not know it minds.
type columnFacts struct {
	Type               string
	Nullable, Defaults bool
}

type schemaFacts struct {
	columns map[string]columnFacts // by table.column
	// constraints by table and definition; the columns that each is about.
	constraints map[string][]string
}

func (r record) facts(t *testing.T) schemaFacts {
	t.Helper()
	f := schemaFacts{columns: map[string]columnFacts{}, constraints: map[string][]string{}}
	rows, err := r.conn.Query(t.Context(), `
SELECT table_name || '.' || column_name, data_type || coalesce(numeric_precision::text, ''), is_nullable = 'YES',
	column_default IS NOT NULL OR is_identity = 'YES'
FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'goose%'`)
	must(t, err)
	for rows.Next() {
		var name string
		var c columnFacts
		must(t, rows.Scan(&name, &c.Type, &c.Nullable, &c.Defaults))
		f.columns[name] = c
	}
	must(t, rows.Err())
	// NOT NULL is told by the columns. A unique index is a constraint by another name.
	rows, err = r.conn.Query(t.Context(), `
SELECT c.conrelid::regclass || ' ' || pg_get_constraintdef(c.oid),
	ARRAY(SELECT c.conrelid::regclass || '.' || a.attname FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey))
FROM pg_constraint c WHERE c.connamespace = 'public'::regnamespace AND c.contype <> 'n' AND c.conrelid::regclass::text NOT LIKE 'goose%'
UNION ALL
SELECT i.indrelid::regclass || ' ' || pg_get_indexdef(i.indexrelid),
	ARRAY(SELECT i.indrelid::regclass || '.' || a.attname FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey))
FROM pg_index i JOIN pg_class k ON k.oid = i.indrelid
WHERE i.indisunique AND k.relnamespace = 'public'::regnamespace AND k.relname NOT LIKE 'goose%'`)
	must(t, err)
	for rows.Next() {
		var definition string
		var columns []string
		must(t, rows.Scan(&definition, &columns))
		f.constraints[definition] = columns
	}
	must(t, rows.Err())
	return f
}

// takenAway says what a build of the schema before would miss, or be refused, in
// the schema after.
func takenAway(before, after schemaFacts) (faults []string) {
	tables := map[string]bool{}
	for name, was := range before.columns {
		table, _, _ := strings.Cut(name, ".")
		tables[table] = true
		is, there := after.columns[name]
		switch {
		case !there:
			faults = append(faults, name+" is gone")
		case is.Type != was.Type:
			faults = append(faults, name+" is "+is.Type+" and was "+was.Type)
		case was.Nullable && !is.Nullable:
			faults = append(faults, name+" must not be NULL any more")
		case was.Defaults && !is.Defaults && !is.Nullable:
			faults = append(faults, name+" has lost its default")
		}
	}
	for name, is := range after.columns {
		table, _, _ := strings.Cut(name, ".")
		if _, was := before.columns[name]; !was && tables[table] && !is.Nullable && !is.Defaults {
			faults = append(faults, name+" is new, and must be given")
		}
	}
	// A constraint on new columns alone holds for rows that leave them out: their
	// default was checked when they were added.
	for definition, columns := range after.constraints {
		_, was := before.constraints[definition]
		about := slices.ContainsFunc(columns, func(c string) bool { _, old := before.columns[c]; return old })
		if !was && about {
			faults = append(faults, "a new rule for old columns: "+definition)
		}
	}
	slices.Sort(faults)
	return faults
}

// TestMigrationsAdd and take nothing away, so that builds from before a migration
// go on beside those that brought it.
func TestMigrationsAdd(t *testing.T) {
	t.Parallel()
	r := open(t)
	all, err := r.Migrations(t.Context())
	must(t, err)
	after := r.facts(t)
	for _, m := range slices.Backward(all) {
		if m.Version == firstAdditive {
			return
		}
		_, err := r.MigrateDown(t.Context())
		must(t, err)
		before := r.facts(t)
		if faults := takenAway(before, after); len(faults) > 0 {
			t.Errorf("%s:\n%s", m.Name, strings.Join(faults, "\n"))
		}
		after = before
	}
	t.Errorf("there is no migration %d", firstAdditive)
}

// TestWhatIsTakenAwayIsNoticed in schemas that are changed by hand.
func TestWhatIsTakenAwayIsNoticed(t *testing.T) {
	t.Parallel()
	for change, want := range map[string]string{
		"ALTER TABLE payments DROP COLUMN message":                                              "payments.message is gone",
		"ALTER TABLE payments ALTER tries TYPE bigint":                                          "payments.tries is bigint64 and was integer32",
		"ALTER TABLE payments ALTER message SET NOT NULL":                                       "payments.message must not be NULL any more",
		"ALTER TABLE payments ALTER tries DROP DEFAULT":                                         "payments.tries has lost its default",
		"ALTER TABLE payments ADD COLUMN tenant text NOT NULL":                                  "payments.tenant is new, and must be given",
		"ALTER TABLE payments ADD CHECK (amount > 0)":                                           "a new rule for old columns: payments CHECK ((amount > (0)::numeric))",
		"CREATE UNIQUE INDEX once ON payments (resource)":                                       "a new rule for old columns: payments CREATE UNIQUE INDEX once ON public.payments USING btree (resource)",
		"ALTER TABLE payments ADD COLUMN tenant text CHECK (length(tenant) < 9)":                "",
		"ALTER TABLE payments ADD COLUMN tenant text NOT NULL DEFAULT ''":                       "",
		"CREATE TABLE tenants (id uuid PRIMARY KEY, name text NOT NULL)":                        "",
		"ALTER TABLE payments ADD COLUMN parent uuid REFERENCES payments (id)":                  "",
		"ALTER TABLE payments ALTER resource DROP NOT NULL; CREATE INDEX i ON payments (tries)": "",
	} {
		r := open(t)
		before := r.facts(t)
		for _, statement := range strings.Split(change, ";") {
			_, err := r.conn.Exec(t.Context(), statement)
			must(t, err)
		}
		if got := strings.Join(takenAway(before, r.facts(t)), "\n"); got != want {
			t.Errorf("%s: %q, want %q", change, got, want)
		}
	}
}

// TestAMigrationWaitsNotLongForALock: whoever comes after it waits as long as it
// does, so it gives up, leaves all as it was, and can be tried again.
func TestAMigrationWaitsNotLongForALock(t *testing.T) {
	t.Parallel()
	const clients = 6
	r := open(t)
	after := r.schema(t)
	for {
		version, err := r.MigrateDown(t.Context())
		must(t, err)
		if version == clients {
			break
		}
	}
	before := r.schema(t)
	reader := connect(t, r.url)
	tx, err := reader.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), "SELECT 1 FROM payments")
	must(t, err)
	if _, err := r.MigrateUp(t.Context()); err == nil || !strings.Contains(err.Error(), "lock timeout") {
		t.Fatalf("while somebody reads: %v", err)
	}
	if diff := cmp.Diff(before, r.schema(t)); diff != "" {
		t.Errorf("it left something (-before +after):\n%s", diff)
	}
	must(t, tx.Rollback(t.Context()))
	if _, err := r.MigrateUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(after, r.schema(t)); diff != "" {
		t.Errorf("up again (-want +got):\n%s", diff)
	}
}
