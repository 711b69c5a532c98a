package devnet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// portAttempts is how many ports are tried when others take them first.
const portAttempts = 5

// PostgresConfig says which Postgres to start.
type PostgresConfig struct {
	// Tools is where the pinned tools are; see [Tools]. Not used with FromPath.
	Tools string
	// FromPath takes initdb and postgres from PATH, or from where the system's
	// packages put them, instead of the pinned tools.
	FromPath bool
	// Durable waits for the disk at every commit, as in production. Without it
	// commits are fast and the data is lost if the machine stops.
	Durable bool
}

// Postgres is a running, empty database server. It accepts up to 200
// connections of one superuser, in UTC and with the C locale.
type Postgres struct {
	process  *process
	scratch  *scratch
	binaries postgresBinaries
	cluster  cluster
	password string
	url      string
}

// cluster is a data directory and how it is served.
type cluster struct {
	data    string
	port    int
	durable bool
	// settings beside those that every server gets.
	settings []string
	// standby says that the server follows another one.
	standby bool
}

// StartPostgres makes a new database cluster and serves it. It returns when
// connections are accepted. As root it runs the server as the user postgres
// or nobody, since Postgres refuses root.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	space, err := newScratch()
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	server, err := startPostgres(ctx, cfg, space)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start postgres: %w", err), space.Close())
	}
	return server, nil
}

// URL is the connection string of the database "postgres".
func (p *Postgres) URL() string { return p.url }

// PID is the process id of the server.
func (p *Postgres) PID() int { return p.process.cmd.Process.Pid }

// Close ends all sessions, stops the server and removes its data. It returns
// when nothing of it is left.
func (p *Postgres) Close() error {
	// Fast shutdown, then immediate shutdown.
	p.process.stop(syscall.SIGINT, syscall.SIGQUIT)
	return p.remove()
}

func startPostgres(ctx context.Context, cfg PostgresConfig, space *scratch) (*Postgres, error) {
	run, err := locatePostgres(ctx, cfg, space)
	if err != nil {
		return nil, err
	}
	password, err := randomPassword()
	if err != nil {
		return nil, err
	}
	data, err := run.initialize(ctx, space, password)
	if err != nil {
		return nil, err
	}
	server := &Postgres{scratch: space, binaries: run, cluster: cluster{data: data, durable: cfg.Durable}, password: password}
	return server, server.serveAnywhere(ctx)
}

// serveAnywhere serves the cluster at a free port.
func (p *Postgres) serveAnywhere(ctx context.Context) error {
	for range portAttempts {
		var err error
		if p.cluster.port, err = freePort(ctx); err != nil {
			return err
		}
		p.process, err = p.binaries.serve(ctx, p.cluster)
		if err != nil && strings.Contains(err.Error(), "could not bind") {
			continue
		}
		if err != nil {
			return err
		}
		location := url.URL{
			Scheme: "postgres", User: url.UserPassword("postgres", p.password),
			Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.cluster.port)), Path: "/postgres", RawQuery: "sslmode=disable",
		}
		p.url = location.String()
		return nil
	}
	return fmt.Errorf("others took %d ports in a row", portAttempts)
}

// initialize makes a cluster in the scratch directory and returns its data
// directory.
func (b postgresBinaries) initialize(ctx context.Context, space *scratch, password string) (string, error) {
	home := filepath.Join(space.dir, "postgres")
	if err := os.Mkdir(home, 0o700); err != nil {
		return "", err
	}
	secret := filepath.Join(home, "password")
	if err := os.WriteFile(secret, []byte(password), 0o600); err != nil {
		return "", err
	}
	if err := errors.Join(b.as.give(secret), b.as.give(home)); err != nil {
		return "", err
	}
	data := filepath.Join(home, "data")
	_, err := runToEnd(ctx, b.program(home, "initdb",
		"--pgdata="+data, "--username=postgres", "--pwfile="+secret, "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"))
	if err != nil {
		return "", err
	}
	return data, os.Remove(secret)
}

// serve starts the server and returns when it accepts connections.
func (b postgresBinaries) serve(ctx context.Context, c cluster) (*process, error) {
	settings := []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(c.port), "unix_socket_directories=",
		"max_connections=200", "timezone=UTC", "log_timezone=UTC",
		"log_min_messages=log", // errors of statements are their clients' business
	}
	if !c.durable {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	args := []string{"-D", c.data}
	for _, setting := range append(settings, c.settings...) {
		args = append(args, "-c", setting)
	}
	run := b.program(filepath.Dir(c.data), "postgres", args...)
	run.ready = "database system is ready to accept connections"
	if c.standby {
		run.ready = "database system is ready to accept read-only connections"
	}
	run.death = syscall.SIGQUIT // immediate shutdown: it takes its own children along
	server, err := start(ctx, run)
	if err != nil {
		return nil, err
	}
	if _, err := server.awaitReady(ctx); err != nil {
		server.stop()
		return nil, err
	}
	return server, nil
}

// program says how to run one of the binaries. The environment is empty
// otherwise, since PGDATA and its kin would change what they do.
func (b postgresBinaries) program(dir, name string, args ...string) program {
	return program{
		path: filepath.Join(b.bin, name), args: args, dir: dir, as: b.as, death: syscall.SIGKILL,
		env: []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"},
	}
}

func randomPassword() (string, error) {
	var secret [16]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	return hex.EncodeToString(secret[:]), nil
}

// freePort returns a port that was free a moment ago.
func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("free port: %w", err)
	}
	defer listener.Close()
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("free port: unexpected address %v", listener.Addr())
	}
	return address.Port, nil
}
