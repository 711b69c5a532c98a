package devnet_test

import (
	"syscall"
	"testing"

	"facilitator/internal/devnet"
)

func TestPostgresRestart(t *testing.T) {
	t.Parallel()
	server := startPostgres(t, devnet.PostgresConfig{Durable: true})
	query(t, server, "CREATE TABLE t (n text)")
	url := server.URL()
	for _, how := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		pid := server.PID()
		query(t, server, "INSERT INTO t VALUES ($1)", how.String())
		if err := server.Restart(t.Context(), how); err != nil {
			t.Fatalf("%v: %v", how, err)
		}
		if server.PID() == pid || server.URL() != url {
			t.Errorf("%v: pid %d, then %d, at %s", how, pid, server.PID(), server.URL())
		}
		if got := query(t, server, "SELECT n FROM t WHERE n = $1", how.String()); got != how.String() {
			t.Errorf("%v: what was committed is gone", how)
		}
	}
}

func TestPostgresFailover(t *testing.T) {
	t.Parallel()
	server := startPostgres(t, devnet.PostgresConfig{Durable: true})
	query(t, server, "CREATE TABLE t (n text)")
	for _, n := range []string{"first", "second"} {
		standby, err := server.StartStandby(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := standby.Close(); err != nil {
				t.Error(err)
			}
		})
		query(t, server, "INSERT INTO t VALUES ($1)", n)
		if got := query(t, standby, "SELECT pg_is_in_recovery()::text"); got != "true" {
			t.Error("the standby is none")
		}
		server.Kill()
		if err := standby.Promote(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := query(t, standby, "SELECT n FROM t WHERE n = $1", n); got != n {
			t.Errorf("%s: what was committed is gone", n)
		}
		query(t, standby, "INSERT INTO t VALUES ('after')")
		server = standby
	}
}
