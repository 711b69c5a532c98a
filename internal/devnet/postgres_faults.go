package devnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// orphanPatience is how long the children of a killed server may take to
	// notice.
	orphanPatience = 20 * time.Second
	orphanPoll     = 50 * time.Millisecond
)

// Restart ends the server with a signal and serves the same data at the same
// port again. SIGINT ends sessions in order, SIGQUIT ends everything at once,
// SIGKILL is a crash. Without Durable a crash loses the last commits.
func (p *Postgres) Restart(ctx context.Context, how syscall.Signal) error {
	p.process.stop(how)
	if err := p.serveAgain(ctx); err != nil {
		return fmt.Errorf("restart postgres: %w", err)
	}
	return nil
}

// Kill crashes the server. Nothing serves its data until Restart.
func (p *Postgres) Kill() { p.process.stop(syscall.SIGKILL) }

// serveAgain waits for children that outlived a killed server.
func (p *Postgres) serveAgain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, orphanPatience)
	defer cancel()
	for {
		run, err := p.binaries.serve(ctx, p.cluster)
		if err == nil {
			p.process = run
			return nil
		}
		if !strings.Contains(err.Error(), "still in use") && !strings.Contains(err.Error(), "could not bind") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(orphanPoll):
		}
	}
}

// remove takes the data away. Children that outlived a killed server may write
// some more.
func (p *Postgres) remove() error {
	for waited := time.Duration(0); waited < orphanPatience; waited += orphanPoll {
		if os.RemoveAll(filepath.Dir(p.cluster.data)) == nil {
			break
		}
		time.Sleep(orphanPoll)
	}
	return p.scratch.Close()
}

// StartStandby starts a server that follows this one, and from then on every
// commit here waits until it is on the standby's disk too. For that this server
// is stopped in order, copied, and started again at the same port.
//
// The standby accepts readers only until Promote. Close it before this one.
func (p *Postgres) StartStandby(ctx context.Context) (*Postgres, error) {
	space, err := newScratch()
	if err != nil {
		return nil, fmt.Errorf("start standby: %w", err)
	}
	standby, err := p.startStandby(ctx, space)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start standby: %w", err), space.Close())
	}
	return standby, nil
}

func (p *Postgres) startStandby(ctx context.Context, space *scratch) (*Postgres, error) {
	home := filepath.Join(space.dir, "postgres")
	data := filepath.Join(home, "data")
	p.process.stop(syscall.SIGINT, syscall.SIGQUIT)
	// A cluster that was shut down is a whole backup of itself.
	if err := os.CopyFS(data, os.DirFS(p.cluster.data)); err != nil {
		return nil, err
	}
	p.cluster.settings = []string{"wal_keep_size=1GB", "synchronous_standby_names=*"}
	if err := p.serveAgain(ctx); err != nil {
		return nil, err
	}
	follow := "primary_conninfo = 'host=127.0.0.1 port=" + strconv.Itoa(p.cluster.port) + " user=postgres password=" + p.password + "'\n"
	for name, text := range map[string]string{"postgresql.auto.conf": follow, "standby.signal": ""} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	err := filepath.WalkDir(home, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = os.Chmod(path, 0o700) //nolint:gosec // a directory; the server refuses one that others may enter
		}
		return errors.Join(err, p.binaries.as.give(path))
	})
	if err != nil {
		return nil, err
	}
	standby := &Postgres{
		scratch: space, binaries: p.binaries, password: p.password,
		cluster: cluster{data: data, durable: p.cluster.durable, standby: true},
	}
	return standby, standby.serveAnywhere(ctx)
}

// Promote makes a standby a server of its own. It returns when it accepts
// writers.
func (p *Postgres) Promote(ctx context.Context) error {
	if _, err := runToEnd(ctx, p.binaries.program(filepath.Dir(p.cluster.data), "pg_ctl", "promote", "-D", p.cluster.data)); err != nil {
		return fmt.Errorf("promote standby: %w", err)
	}
	p.cluster.standby = false
	return nil
}
