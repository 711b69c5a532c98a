package long

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/devnet"
)

// TestConnectionsAreKilled has the database end sessions, in the middle of
// transactions too (I3).
func TestConnectionsAreKilled(t *testing.T) {
	t.Parallel()
	begin(t)
	server := startPostgres(t, devnet.PostgresConfig{})
	r := newRig(t, "postgres-connections", rigOptions{replicas: 2, payments: size(t, "POSTGRES_PAYMENTS", 120, 10_000), databaseURL: server.URL()})
	cuts := size(t, "CUTS", 30, 1000)
	r.load.start(func() bool { return r.counted("faults") < cuts })
	d := dice("connections", 0)
	for r.load.busy() && rest(r.load.ctx, between(d, 5*time.Millisecond, 150*time.Millisecond)) {
		// Those that are at work first: of the others nobody would notice.
		n, err := r.terminate(1 + d.IntN(3))
		if err != nil {
			t.Logf("terminate: %v", err)
		}
		r.count("faults", n)
	}
	r.finish()
}

// terminate ends sessions of the service.
func (r *rig) terminate(most int) (int, error) {
	ctx, cancel := context.WithTimeout(r.load.ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, r.recordURL())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it did its work
	tag, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM (
		SELECT pid FROM pg_stat_activity WHERE application_name = 'facilitator' AND backend_type = 'client backend'
		ORDER BY state = 'idle in transaction' DESC, state = 'active' DESC, random() LIMIT $1) AS s`, most)
	return int(tag.RowsAffected()), err
}

// TestDatabaseIsRestarted stops and crashes the database under load.
func TestDatabaseIsRestarted(t *testing.T) {
	t.Parallel()
	begin(t)
	server := startPostgres(t, devnet.PostgresConfig{Durable: true})
	r := newRig(t, "postgres-restarts", rigOptions{replicas: 2, payments: size(t, "POSTGRES_PAYMENTS", 120, 10_000), databaseURL: server.URL()})
	restarts := size(t, "RESTARTS", 2, 40)
	r.load.start(func() bool { return r.counted("faults") < restarts })
	d := dice("restarts", 0)
	for r.load.busy() && rest(r.load.ctx, between(d, 500*time.Millisecond, 3*time.Second)) {
		how := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL}[d.IntN(3)]
		r.must(server.Restart(r.load.ctx, how))
		r.count("restarts by "+how.String(), 1)
		r.count("faults", 1)
	}
	r.finish()
}

// TestDatabaseFailsOver kills the primary and promotes its synchronous standby:
// what was committed is there, what was not answered may be or not.
func TestDatabaseFailsOver(t *testing.T) {
	t.Parallel()
	begin(t)
	f := &failover{line: newSwitchboard(t), primary: startPostgres(t, devnet.PostgresConfig{Durable: true})}
	f.line.connect(t, f.primary.URL())
	r := newRig(t, "postgres-failover", rigOptions{
		replicas: 2, payments: size(t, "POSTGRES_PAYMENTS", 120, 10_000),
		databaseURL: f.line.url(t, f.primary.URL()), recordURL: f.url,
	})
	failovers := size(t, "FAILOVERS", 1, 8)
	r.load.start(func() bool { return r.counted("faults") < failovers })
	d := dice("failover", 0)
	for n := 0; n < failovers && r.load.busy(); n++ {
		f.change(r)
		if !rest(r.load.ctx, between(d, time.Second, 4*time.Second)) {
			break
		}
	}
	r.finish()
	if n := r.counted("faults"); n < failovers {
		t.Errorf("%d failovers, want %d", n, failovers)
	}
}

// failover is a primary and whoever takes its place.
type failover struct {
	line *switchboard

	mu      sync.Mutex
	primary *devnet.Postgres
}

func (f *failover) url() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.primary.URL()
}

// change gives the primary a synchronous standby, lets both work for a while,
// kills the primary and promotes the standby.
func (f *failover) change(r *rig) {
	r.t.Helper()
	// The promoted server has become a standby's primary: it is stopped for that.
	old := f.primary
	standby, err := old.StartStandby(r.load.ctx)
	r.must(err)
	r.t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			r.t.Error(err)
		}
	})
	before := r.load.ended.Load()
	r.load.await(func() bool { return r.load.ended.Load() >= before+20 }, 20*time.Second)
	var synchronous int
	r.must(r.query(&synchronous, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"))
	if synchronous != 1 {
		r.t.Errorf("%d synchronous standbys, want 1", synchronous)
	}
	old.Kill()
	f.line.cut() // its children may live a moment longer
	r.must(standby.Promote(r.load.ctx))
	f.mu.Lock()
	f.primary = standby
	f.mu.Unlock()
	f.line.connect(r.t, standby.URL())
	r.count("failovers", 1)
	r.count("faults", 1)
}
