package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"golang.org/x/sync/errgroup"

	"facilitator/internal/app"
	"facilitator/internal/config"
	"facilitator/internal/devnet"
)

// devFlags are the flags of facilitator dev.
type devFlags struct {
	blockTime     float64
	payers, lanes int
	network       string
	rpcPort       int
	serviceRPC    string
	configFile    string
	readyFile     string
	tools         string
	fromPath      bool
	purchase      bool
	noService     bool
	logLevel      string
}

func (f *devFlags) parse(args []string, c console) error {
	flags := flag.NewFlagSet("facilitator dev", flag.ContinueOnError)
	flags.SetOutput(c.err)
	flags.Float64Var(&f.blockTime, "block-time", 0, "`SECONDS` between blocks, fractions allowed; 0 mines at every transaction")
	flags.IntVar(&f.payers, "payers", 10, "funded payers")
	flags.IntVar(&f.lanes, "lanes", 1, "relayer wallets")
	flags.StringVar(&f.network, "network", devnet.Base, "network to stand in for: eip155:8453 or eip155:84532")
	flags.IntVar(&f.rpcPort, "rpc-port", 0, "port of the chain; 0 picks a free one")
	flags.StringVar(&f.serviceRPC, "service-rpc-url", "", "node the service uses, such as a proxy before the chain (default: the chain)")
	flags.StringVar(&f.configFile, "config", "", "configuration `FILE` merged over the development defaults")
	flags.StringVar(&f.readyFile, "ready-file", "", "JSON `FILE` written once everything answers")
	flags.StringVar(&f.tools, "tools", "", "folder of the pinned tools (default: found upward from here)")
	flags.BoolVar(&f.fromPath, "from-path", false, "use anvil and postgres found on PATH instead of the pinned ones")
	flags.BoolVar(&f.purchase, "purchase", false, "make one purchase with the official SDK, show every step, and stop")
	flags.BoolVar(&f.noService, "without-service", false, "run the chain and Postgres alone, for services of your own")
	flags.StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error (default: info, warn with -purchase)")
	if err := parse(flags, args); err != nil {
		return err
	}
	if f.logLevel == "" {
		f.logLevel = "info"
		if f.purchase {
			f.logLevel = "warn"
		}
	}
	if f.payers < 1 || f.lanes < 1 || f.blockTime < 0 {
		return errors.New("-payers and -lanes must be at least 1, -block-time not negative")
	}
	if f.noService && (f.purchase || f.configFile != "" || f.serviceRPC != "") {
		return errors.New("-purchase, -config and -service-rpc-url are of a service, and -without-service is none")
	}
	return nil
}

// dev runs a chain, a Postgres and the service on loopback until it is
// interrupted. DATABASE_URL is used instead of a Postgres of its own if it is set.
func dev(ctx context.Context, args []string, c console) (err error) {
	var f devFlags
	if err := f.parse(args, c); err != nil {
		return err
	}
	started := time.Now()
	tools := f.tools
	if !f.fromPath || f.purchase {
		if tools, err = devnet.Tools(f.tools); err != nil {
			return err
		}
	}
	databaseURL := lookup(c, "DATABASE_URL")
	var chain *devnet.Chain
	var postgres *devnet.Postgres
	defer func() {
		if postgres != nil {
			err = errors.Join(err, postgres.Close())
		}
		if chain != nil {
			err = errors.Join(err, chain.Close())
		}
	}()
	var start errgroup.Group
	start.Go(func() (err error) {
		chain, err = devnet.StartChain(ctx, devnet.ChainConfig{
			Tools: tools, FromPath: f.fromPath, Network: f.network, Port: f.rpcPort,
			BlockTime: time.Duration(f.blockTime * float64(time.Second)),
		})
		return err
	})
	if databaseURL == "" {
		start.Go(func() (err error) {
			postgres, err = devnet.StartPostgres(ctx, devnet.PostgresConfig{Tools: tools, FromPath: f.fromPath, Durable: true})
			if err == nil {
				databaseURL = postgres.URL()
			}
			return err
		})
	}
	if err := start.Wait(); err != nil {
		return err
	}
	e := &environment{flags: f, tools: tools, chain: chain, databaseURL: databaseURL, console: c, started: started}
	return e.run(ctx)
}

// environment is a running development chain and database.
type environment struct {
	console
	flags       devFlags
	tools       string
	chain       *devnet.Chain
	databaseURL string
	started     time.Time
}

// ready is what load generators and test suites start from.
type ready struct {
	FacilitatorURL string       `json:"facilitator_url,omitempty"`
	MetricsURL     string       `json:"metrics_url,omitempty"`
	RPCURL         string       `json:"rpc_url"`
	DatabaseURL    string       `json:"database_url"`
	Network        string       `json:"network"`
	ChainID        uint64       `json:"chain_id"`
	Asset          string       `json:"asset"`
	PayTo          string       `json:"pay_to"`
	Payers         []devAccount `json:"payers"`
	Lanes          []devAccount `json:"lanes,omitempty"`
}

type devAccount struct {
	Address    string `json:"address"`
	PrivateKey string `json:"private_key,omitempty"`
}

func (e *environment) run(ctx context.Context) error {
	if err := e.fund(ctx); err != nil {
		return err
	}
	if e.flags.noService {
		return e.stay(ctx, e.ready())
	}
	cfg, err := e.configure()
	if err != nil {
		return err
	}
	a, err := app.New(ctx, cfg, app.Options{Log: newLogger(cfg, e.err), Now: time.Now, Version: version, Crash: crashPoint(e.console)})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	var service errgroup.Group
	service.Go(func() error {
		defer stop()
		return a.Run(running)
	})
	err = e.serve(running, a)
	stop()
	return errors.Join(err, service.Wait())
}

// serve tells that everything answers, and stays until ctx ends.
func (e *environment) serve(ctx context.Context, a *app.App) error {
	r := e.ready()
	r.FacilitatorURL, r.MetricsURL = a.URL(), a.MetricsURL()
	for _, k := range e.laneKeys() {
		r.Lanes = append(r.Lanes, devAccount{Address: k.Address.Hex()})
	}
	if err := waitReady(ctx, r.FacilitatorURL); err != nil {
		return err
	}
	if !e.flags.purchase {
		return e.stay(ctx, r)
	}
	file := e.flags.readyFile
	if file == "" {
		folder, err := os.MkdirTemp("", "facilitator-demo-")
		if err != nil {
			return fmt.Errorf("ready file: %w", err)
		}
		defer func() { _ = os.RemoveAll(folder) }() // a temporary folder
		file = filepath.Join(folder, "ready.json")
	}
	if err := writeReady(file, r); err != nil {
		return err
	}
	return purchase(ctx, e.console, e.tools, file, r)
}

// stay tells what there is until ctx ends.
func (e *environment) stay(ctx context.Context, r ready) error {
	if file := e.flags.readyFile; file != "" {
		if err := writeReady(file, r); err != nil {
			return err
		}
	}
	if err := e.announce(r); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// fund gives every payer 1,000 USDC and every lane 100 ETH.
func (e *environment) fund(ctx context.Context) error {
	if err := e.chain.FundUSDC(ctx, big.NewInt(1_000_000_000), addresses(devnet.Keys(devnet.RolePayer, e.flags.payers))...); err != nil {
		return err
	}
	wei := new(big.Int).Exp(big.NewInt(10), big.NewInt(20), nil)
	return e.chain.FundETH(ctx, wei, addresses(e.laneKeys())...)
}

// laneKeys are those of the service, if there is one.
func (e *environment) laneKeys() []devnet.Key {
	if e.flags.noService {
		return nil
	}
	return devnet.Keys(devnet.RoleLane, e.flags.lanes)
}

// configure builds the development configuration: the environment's
// FACILITATOR_ variables do not count, the file given by -config does.
func (e *environment) configure() (*config.Config, error) {
	rpcURL := e.flags.serviceRPC
	if rpcURL == "" {
		rpcURL = e.chain.URL()
	}
	var lanes []map[string]string
	for _, k := range e.laneKeys() {
		lanes = append(lanes, map[string]string{"private_key": k.Hex()})
	}
	poll := 100 * time.Millisecond
	if e.flags.blockTime == 0 {
		poll = 20 * time.Millisecond
	}
	defaults, err := json.Marshal(map[string]any{ // JSON is YAML
		"http":     map[string]any{"address": "127.0.0.1:0", "drain_delay": "0s"},
		"clients":  map[string]any{"anonymous": map[string]any{"scopes": []string{"verify", "settle", "read"}, "rate": 0, "gas_per_day": 0}},
		"metrics":  map[string]any{"address": "127.0.0.1:0"},
		"log":      map[string]any{"level": e.flags.logLevel, "format": "text"},
		"database": map[string]any{"url": e.databaseURL, "migrate": true},
		"chains": map[string]any{e.flags.network: map[string]any{
			"rpc_url": rpcURL, "lanes": lanes, "poll_interval": poll.String(),
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("development defaults: %w", err)
	}
	overlays := [][]byte{defaults}
	if e.flags.configFile != "" {
		file, err := os.ReadFile(e.flags.configFile)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		overlays = append(overlays, file)
	}
	return config.Load("", nil, overlays...)
}

// ready is what there is beside the service.
func (e *environment) ready() ready {
	r := ready{
		RPCURL: e.chain.URL(), DatabaseURL: e.databaseURL, Network: e.chain.Network(), ChainID: e.chain.ChainID(), Asset: e.chain.USDC().Hex(),
		PayTo: devnet.Keys(devnet.RolePayee, 1)[0].Address.Hex(),
	}
	for _, k := range devnet.Keys(devnet.RolePayer, e.flags.payers) {
		r.Payers = append(r.Payers, devAccount{Address: k.Address.Hex(), PrivateKey: k.Hex()})
	}
	return r
}

// writeReady puts the file there in one piece.
func writeReady(file string, r ready) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	temporary := file + ".part"
	if err := os.WriteFile(temporary, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	if err := os.Rename(temporary, file); err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}

// announce prints what a person needs to try the service, or to start one.
func (e *environment) announce(r ready) error {
	service := ""
	if r.FacilitatorURL != "" {
		service = fmt.Sprintf("  facilitator  %s\n  metrics      %s\n", r.FacilitatorURL, r.MetricsURL)
	}
	if _, err := fmt.Fprintf(e.out, `
Everything runs after %s. Interrupt (Ctrl-C) to stop.

%s  chain        %s  (%s)
  database     %s
  USDC         %s
  payer        %s  (1,000 USDC)
  pay to       %s

`, time.Since(e.started).Round(time.Millisecond), service, r.RPCURL, r.Network, r.DatabaseURL, r.Asset, r.Payers[0].Address, r.PayTo); err != nil {
		return err
	}
	if service == "" {
		return nil
	}
	return e.offer(r)
}

// offer prints a payment that is signed already, as commands.
func (e *environment) offer(r ready) error {
	payer, payee := devnet.Keys(devnet.RolePayer, 1)[0], devnet.Keys(devnet.RolePayee, 1)[0]
	sale := devnet.Sale{Payer: payer, PayTo: payee.Address, Amount: 10_000}.ForNow(time.Now(), time.Hour)
	request, err := e.chain.Request(sale)
	if err != nil {
		return err
	}
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	curl := func(path string) string {
		return "curl -sS " + r.FacilitatorURL + path + " -H 'Content-Type: application/json' -d '" + string(body) + "'"
	}
	_, err = fmt.Fprintf(e.out, `Verify a freshly signed payment of 0.01 USDC (valid for an hour):

  %s

Settle it:

  %s

`, curl("/verify"), curl("/settle"))
	return err
}

// waitReady asks until the service says it is ready.
func waitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		status, body, err := get(ctx, url+"/readyz")
		if err == nil && status == http.StatusOK {
			return nil
		}
		wait := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("the service did not become ready: %s%w", strings.TrimSpace(string(body)), ctx.Err())
		case <-wait.C:
		}
	}
}

func get(ctx context.Context, url string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }() // read to its end or of no use
	body, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, body, err
}

func addresses(keys []devnet.Key) []common.Address {
	list := make([]common.Address, len(keys))
	for i, k := range keys {
		list[i] = k.Address
	}
	return list
}
