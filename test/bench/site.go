package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/jackc/pgx/v5"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"facilitator/internal/devnet"
)

const (
	// baseBlockGas is what a block of Base holds, of which it makes one every
	// baseBlockTime. Slower blocks get as much gas a second.
	baseBlockGas  = 40_000_000
	baseBlockTime = 200 * time.Millisecond
	// readyPatience is how long a service may take to start.
	readyPatience = 30 * time.Second
)

// site is what one scenario runs on: a chain, a Postgres, payers and payees.
type site struct {
	bench          *bench
	chain          *devnet.Chain
	postgres       *devnet.Postgres
	admin          *pgx.Conn
	blockTime      time.Duration // zero: a block at every transaction
	payers, payees []devnet.Key
	signed         int // sales
	deployments    int
}

// newSite starts everything but the service, and funds n payers and as many payees.
func (b *bench) newSite(ctx context.Context, blockTime time.Duration, n int) (*site, error) {
	return b.startSite(ctx, devnet.ChainConfig{BlockTime: blockTime}, n)
}

// startSite is newSite with more to say of the chain.
func (b *bench) startSite(ctx context.Context, cfg devnet.ChainConfig, n int) (_ *site, err error) {
	blockTime := cfg.BlockTime
	cfg.Tools, cfg.Network = b.tools, devnet.Base
	s := &site{bench: b, blockTime: blockTime, payers: devnet.Keys(devnet.RolePayer, n), payees: devnet.Keys(devnet.RolePayee, n)}
	defer func() { //nolint:contextcheck // closing works after ctx ended
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	var start errgroup.Group
	start.Go(func() (err error) {
		s.chain, err = devnet.StartChain(ctx, cfg)
		return err
	})
	start.Go(func() (err error) {
		s.postgres, err = devnet.StartPostgres(ctx, devnet.PostgresConfig{Tools: b.tools, Durable: true})
		return err
	})
	if err := start.Wait(); err != nil {
		return nil, err
	}
	if s.admin, err = pgx.Connect(ctx, s.postgres.URL()); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := s.admin.QueryRow(ctx, "SELECT split_part(current_setting('server_version'), ' ', 1)").Scan(&b.postgres); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := s.chain.SetBlockGasLimit(ctx, b.gasLimit(blockTime)); err != nil {
		return nil, err
	}
	// More than all its payments, for a payer; a payee holds the token already,
	// as one that was paid before does.
	if err := s.chain.FundUSDC(ctx, big.NewInt(1_000_000_000_000), addresses(s.payers)...); err != nil {
		return nil, err
	}
	return s, s.chain.FundUSDC(ctx, big.NewInt(1), addresses(s.payees)...)
}

// gasLimit of a block.
func (b *bench) gasLimit(blockTime time.Duration) uint64 {
	if b.blockGas > 0 {
		return b.blockGas
	}
	return baseBlockGas * uint64(max(blockTime, baseBlockTime)/baseBlockTime)
}

// profile is the one that an operator of such a chain would give.
func (s *site) profile() string {
	if s.blockTime >= time.Second {
		return "l2"
	}
	return "base"
}

func (s *site) close() error {
	var failures []error
	if s.admin != nil {
		failures = append(failures, s.admin.Close(context.Background()))
	}
	if s.postgres != nil {
		failures = append(failures, s.postgres.Close())
	}
	if s.chain != nil {
		failures = append(failures, s.chain.Close())
	}
	return errors.Join(failures...)
}

func addresses(keys []devnet.Key) []common.Address {
	list := make([]common.Address, len(keys))
	for i, k := range keys {
		list[i] = k.Address
	}
	return list
}

// deployment is the service as a scenario runs it: one process or more, on a
// database and lanes of their own.
type deployment struct {
	site     *site
	lanes    []devnet.Key
	replicas []*replica
	database *pgx.Conn
	proxy    *proxy // nil unless round trips are counted by one
	text     string // the configuration
	key      string // that callers show; none where it is empty
}

type replica struct {
	command *devnet.Command
	address string // host:port of the API
	metrics string // URL
}

// deployConfig says how the service runs.
type deployConfig struct {
	lanes, replicas int
	// counted puts a proxy that counts round trips before the node. What the
	// node answers it then delays by so much.
	counted bool
	delay   time.Duration
	// settings are merged over the benchmark's own.
	settings map[string]any
}

// deploy starts the service on an empty database with fresh, funded lanes.
func (s *site) deploy(ctx context.Context, cfg deployConfig) (_ *deployment, err error) {
	s.deployments++
	name := fmt.Sprintf("bench_%d", s.deployments)
	d := &deployment{site: s, lanes: devnet.Keys(fmt.Sprintf("%s of deployment %d", devnet.RoleLane, s.deployments), cfg.lanes)}
	defer func() { //nolint:contextcheck // closing works after ctx ended
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	wei := new(big.Int).Exp(big.NewInt(10), big.NewInt(21), nil)
	if err := s.chain.FundETH(ctx, wei, addresses(d.lanes)...); err != nil {
		return nil, err
	}
	if _, err := s.admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return nil, fmt.Errorf("create database: %w", err)
	}
	location, err := url.Parse(s.postgres.URL())
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	location.Path = "/" + name
	rpcURL := s.chain.URL()
	if cfg.counted {
		if d.proxy, err = startProxy(ctx, rpcURL, cfg.delay); err != nil {
			return nil, err
		}
		rpcURL = d.proxy.url
	}
	if d.text, err = d.configuration(location.String(), rpcURL, cfg.settings); err != nil {
		return nil, err
	}
	for range cfg.replicas {
		r, err := s.bench.startReplica(ctx, d.text)
		if err != nil {
			return nil, err
		}
		d.replicas = append(d.replicas, r)
	}
	d.database, err = pgx.Connect(ctx, location.String())
	return d, err
}

// configuration is what the service needs to run here, with its own defaults
// for all the rest, and over it the scenario's settings and the operator's.
func (d *deployment) configuration(databaseURL, rpcURL string, settings map[string]any) (string, error) {
	var lanes []any
	for _, k := range d.lanes {
		lanes = append(lanes, map[string]any{"private_key": k.Hex()})
	}
	all := map[string]any{
		"http":     map[string]any{"address": "127.0.0.1:0", "drain_delay": "0s", "drain_timeout": "2s"},
		"clients":  map[string]any{"anonymous": map[string]any{"scopes": []string{"verify", "settle", "read"}, "rate": 0, "gas_per_day": 0}},
		"metrics":  map[string]any{"address": "127.0.0.1:0"},
		"database": map[string]any{"url": databaseURL, "migrate": true},
		"chains":   map[string]any{d.site.chain.Network(): map[string]any{"rpc_url": rpcURL, "lanes": lanes, "profile": d.site.profile()}},
	}
	merge(all, settings)
	merge(all, d.site.bench.overlay)
	text, err := json.Marshal(all) // JSON is YAML
	if err != nil {
		return "", fmt.Errorf("configuration: %w", err)
	}
	return string(text), nil
}

// merge puts what over says into base. Maps merge, all else is replaced.
func merge(base, over map[string]any) {
	for key, value := range over {
		below, isMap := value.(map[string]any)
		under, both := base[key].(map[string]any)
		if isMap && both {
			copied := maps.Clone(under)
			merge(copied, below)
			value = copied
		}
		base[key] = value
	}
}

func readOverlay(file string) (map[string]any, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return nil, fmt.Errorf("configuration overlay: %w", err)
	}
	var overlay map[string]any
	if err := yaml.Unmarshal(text, &overlay); err != nil {
		return nil, fmt.Errorf("configuration overlay %s: %w", file, err)
	}
	return overlay, nil
}

func (b *bench) startReplica(ctx context.Context, configuration string) (*replica, error) {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	command, err := devnet.StartCommand(ctx, devnet.CommandConfig{
		Path: b.service, Args: []string{"serve", "-config", "$FILES/facilitator.yaml"},
		Files: map[string]string{"facilitator.yaml": configuration},
		Ready: `"msg":"serving"`,
	})
	if err != nil {
		return nil, fmt.Errorf("start the service: %w", err)
	}
	r := &replica{command: command}
	if m := regexp.MustCompile(`"url":"http://([^"]+)","metrics_url":"([^"]*)"`).FindStringSubmatch(command.Ready()); m != nil {
		r.address, r.metrics = m[1], m[2]
	}
	if err := r.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, command.Close())
	}
	return r, nil
}

// awaitReady returns when the service says that it is ready.
func (r *replica) awaitReady(ctx context.Context) error {
	for {
		response, err := get(ctx, "http://"+r.address+"/readyz")
		if err == nil && response.status == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the service is not ready: %s%w", response.body, ctx.Err())
		case <-r.command.Done():
			return fmt.Errorf("the service ended: %s", r.command.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// addresses of all replicas.
func (d *deployment) addresses() []string {
	list := make([]string, len(d.replicas))
	for i, r := range d.replicas {
		list[i] = r.address
	}
	return list
}

func (d *deployment) close() error {
	var failures []error
	if d.database != nil {
		failures = append(failures, d.database.Close(context.Background()))
	}
	for _, r := range d.replicas {
		failures = append(failures, r.command.Close())
	}
	if d.proxy != nil {
		d.proxy.close()
	}
	return errors.Join(failures...)
}

type page struct {
	status int
	body   []byte
}

func get(ctx context.Context, url string) (page, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return page{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return page{}, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	_, err = io.Copy(&body, io.LimitReader(response.Body, 4<<20))
	return page{status: response.StatusCode, body: body.Bytes()}, err
}
