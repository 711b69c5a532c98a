package devnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Prometheus is a running Prometheus server.
type Prometheus struct {
	process *process
	scratch *scratch
	url     string
}

// PrometheusConfig says which Prometheus to start.
type PrometheusConfig struct {
	// Tools is where the pinned tools are; see [Tools].
	Tools string
	// Config is the path of its configuration file.
	Config string
}

// StartPrometheus starts a server at a free port and returns when it answers.
func StartPrometheus(ctx context.Context, cfg PrometheusConfig) (*Prometheus, error) {
	path, err := prometheusTool(cfg.Tools, "prometheus")
	if err != nil {
		return nil, err
	}
	space, err := newScratch()
	if err != nil {
		return nil, err
	}
	p := &Prometheus{scratch: space}
	if err := p.serve(ctx, path, cfg.Config); err != nil {
		return nil, errors.Join(fmt.Errorf("start prometheus: %w", err), p.Close())
	}
	return p, nil
}

func (p *Prometheus) serve(ctx context.Context, path, config string) error {
	for range portAttempts {
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		p.process, err = start(ctx, program{
			path: path, dir: p.scratch.dir, death: syscall.SIGKILL, env: os.Environ(),
			ready: "Server is ready to receive web requests",
			args:  []string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(p.scratch.dir, "data"), "--web.listen-address=" + address},
		})
		if err == nil {
			_, err = p.process.awaitReady(ctx)
		}
		if err != nil && strings.Contains(err.Error(), "address already in use") {
			continue
		}
		p.url = "http://" + address
		return err
	}
	return fmt.Errorf("others took %d ports in a row", portAttempts)
}

// URL is the server's base.
func (p *Prometheus) URL() string { return p.url }

// Close stops the server and removes its files.
func (p *Prometheus) Close() error {
	if p.process != nil {
		p.process.stop(syscall.SIGTERM)
	}
	return p.scratch.Close()
}

// Promtool runs promtool in a directory and returns what it printed.
func Promtool(ctx context.Context, tools, dir string, args ...string) (string, error) {
	path, err := prometheusTool(tools, "promtool")
	if err != nil {
		return "", err
	}
	return runToEnd(ctx, program{path: path, args: args, dir: dir, env: os.Environ(), death: syscall.SIGKILL})
}

// prometheusTool finds a program of the Prometheus that stands beside the tools,
// else of the one on PATH.
func prometheusTool(tools, name string) (string, error) {
	tools, err := Tools(tools)
	if err != nil {
		return "", err
	}
	if path := filepath.Join(tools, ".cache", "prometheus", "usr", "bin", name); readable(path) {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoTools, err)
	}
	return path, nil
}
