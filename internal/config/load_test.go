package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const valid = `
database:
  url: postgres://facilitator:` + password + `@db.example/facilitator
chains:
  eip155:8453:
    rpc_url: https://rpc.example/` + password + `
    lanes:
      - private_key: "` + keyA + `"
`

// write puts text into a file of its own and returns the file's path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t *testing.T, environ []string, overlays ...string) *Config {
	t.Helper()
	c, err := Load("", environ, asBytes(overlays)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func asBytes(texts []string) [][]byte {
	var out [][]byte
	for _, text := range texts {
		out = append(out, []byte(text))
	}
	return out
}

// wantProblems checks that err is exactly those problems, in that order, and
// that none of them shows a secret.
func wantProblems(t *testing.T, err error, want ...string) {
	t.Helper()
	problems, ok := errors.AsType[Problems](err)
	if !ok {
		t.Fatalf("got error %v, want Problems", err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, p.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("problems:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	for _, secret := range []string{password, keyA[2:], keyB[2:]} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func TestLoadDefaults(t *testing.T) {
	t.Parallel()
	const (
		usdc = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
		eurc = "0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42"
	)
	got := mustLoad(t, nil, valid)
	want := &Config{
		HTTP:     HTTP{Address: ":4020", MaxBodyBytes: 262144, MaxConnections: 20_000, MaxVerifying: 4096, ReadTimeout: 10 * time.Second, DrainDelay: 3 * time.Second, DrainTimeout: 25 * time.Second},
		Metrics:  Metrics{Address: "127.0.0.1:9402"},
		Tracing:  Tracing{SamplePerMillion: 10_000},
		Log:      Log{Level: slog.LevelInfo, Format: "json"},
		Database: Database{URL: "postgres://facilitator:" + password + "@db.example/facilitator", MaxConnections: 16, Timeout: 5 * time.Second},
		Clients:  Clients{MaxGuesses: 10, Anonymous: Anonymous{Rate: 50, GasPerDay: 50_000_000_000_000_000}},
		Settle:   Settle{Wait: 20 * time.Second, MaxQueued: 20000},
		Policy: Policy{
			Screening: Screening{CheckInterval: time.Minute, OracleTTL: 10 * time.Minute, Hook: Hook{Timeout: 2 * time.Second, TTL: 10 * time.Minute}},
			Rate:      Rate{Interval: time.Minute},
			Breaker:   Breaker{Percent: 50, HalfLife: 10 * time.Minute, SlowTo: 10 * time.Second, RefuseFor: 10 * time.Minute},
		},
		Chains: map[string]*Chain{"eip155:8453": {
			RPCURL:         "https://rpc.example/" + password,
			RPCTimeout:     5 * time.Second,
			Profile:        "base",
			Exposure:       "in_flight",
			BlockTime:      200 * time.Millisecond,
			Assets:         []Asset{{Address: usdc, WellBehaved: "yes", Overloads: "both"}, {Address: eurc, WellBehaved: "yes", Overloads: "both"}},
			Lanes:          []Lane{{PrivateKey: keyA, Remote: RemoteSigner{Method: "eth_signTransaction"}}},
			SignTimeout:    2 * time.Second,
			LaneLease:      5 * time.Second,
			MaxInFlight:    16,
			MaxLag:         15,
			ExpirySlack:    6 * time.Second,
			MaxClockSkew:   30 * time.Second,
			Batch:          Batch{MaxPayments: 25, GasPerPayment: 100_000, BlockShare: 10},
			PollInterval:   100 * time.Millisecond,
			ResendInterval: 2 * time.Second,
			BumpAfter:      3 * time.Second,
			StallAfter:     15 * time.Second,
			Confirmations:  1,
			Fees:           Fees{MaxFeePerGas: 10_000_000_000, MaxPriorityFeePerGas: 100_000_000},
			Gas:            Gas{MaxPerPayment: 500_000, MarginPercent: 25, MaxPerTransaction: 1 << 24, MaxSpendPerDay: 500_000_000_000_000_000},
			Treasury:       Treasury{Remote: RemoteSigner{Method: "eth_signTransaction"}, Below: 5_000_000_000_000_000, UpTo: 20_000_000_000_000_000, MaxPerDay: 100_000_000_000_000_000},
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\n%+v\nwant\n%+v\n%+v", got, got.Chains["eip155:8453"], want, want.Chains["eip155:8453"])
	}
}

// TestLoadOneProblem: a valid configuration, one change, one problem.
func TestLoadOneProblem(t *testing.T) {
	t.Parallel()
	const (
		inChain = "chains.eip155:8453."
		lane0   = "chains.eip155:8453.lanes[0].private_key"
		asset0  = "chains.eip155:8453.assets[0].address"
	)
	for _, test := range []struct{ change, path, text string }{
		{"htpp: {}", "htpp", "is no setting"},
		{"http: {addr: ':80'}", "http.addr", "is no setting"},
		{"http: [1]", "http", "must be a mapping"},
		{"http: {address: [1]}", "http.address", "must be a single value"},
		{"http: {address: localhost}", "http.address", "must be host:port"},
		{"http: {address: ':65536'}", "http.address", "must be host:port"},
		{"http: {path_prefix: x402}", "http.path_prefix", "must begin with a slash, end without one, and hold only letters, digits and . _ ~ -"},
		{"http: {path_prefix: /x402/}", "http.path_prefix", "must begin with a slash, end without one, and hold only letters, digits and . _ ~ -"},
		{"http: {max_body_bytes: 16383}", "http.max_body_bytes", "must be between 16384 and 4194304"},
		{"http: {max_body_bytes: 1e6}", "http.max_body_bytes", "must be a whole number"},
		{"http: {read_timeout: 10}", "http.read_timeout", "must be a duration such as 200ms or 20s"},
		{"http: {read_timeout: -1s}", "http.read_timeout", "must be between 100ms and 1m"},
		{"http: {drain_timeout: 0s}", "http.drain_timeout", "must be between 100ms and 10m"},
		{"tracing: {endpoint: 'ftp://a'}", "tracing.endpoint", "must begin with http:// or https://"},
		{"tracing: {endpoint: 'http://user:password@a'}", "tracing.endpoint", "must hold no password: use tracing.headers"},
		{"tracing: {headers: the-key}", "tracing.headers", "must be name=value, separated by commas"},
		{"metrics: {address: on}", "metrics.address", "must be host:port, same or off"},
		{"metrics: {address: ':4020'}", "metrics.address", "is http.address: say same to share the listener"},
		{"metrics: {address: same, profiles: true}", "metrics.profiles", "needs a metrics.address of its own: profiles are not for callers"},
		{"log: {level: loud}", "log.level", "must be debug, info, warn or error"},
		{"log: {format: xml}", "log.format", "must be json or text"},
		{"database: {url: ''}", "database.url", "is required: set it, url_file or FACILITATOR_DATABASE_URL"},
		{"database: {url: 'mysql://u:" + password + "@h/d'}", "database.url", "must begin with postgres:// or postgresql://"},
		{"database: {url: 'host=h password=" + password + "'}", "database.url", "must begin with postgres:// or postgresql://"},
		{"database: {url: 'postgres://u:" + password + "%zz@h/d'}", "database.url", "is not a valid URL"},
		{"database: {url: {password: " + password + "}}", "database.url", "must be a single value"},
		{"database: {max_connections: 1}", "database.max_connections", "must be between 2 and 1000"},
		{"database: {migrate: maybe}", "database.migrate", "must be true or false"},
		{"database: {timeout: 2m}", "database.timeout", "must be between 100ms and 1m"},
		{"settle: {wait: 81s}", "settle.wait", "must be between 1s and 80s"},
		{"settle: {max_queued: 0}", "settle.max_queued", "must be between 1 and 1000000"},
		{"chains: {eip155:8453: {rpc_url: 'wss://rpc.example/" + password + "'}}", inChain + "rpc_url", "must begin with http:// or https://"},
		{"chains: {eip155:8453: {rpc_url: 'https:///" + password + "'}}", inChain + "rpc_url", "names no host"},
		{"chains: {eip155:8453: {rpc_url: 'https:" + password + "'}}", inChain + "rpc_url", "is not a valid URL"},
		{"chains: {eip155:8453: {rpc_timeout: 1ms}}", inChain + "rpc_timeout", "must be between 50ms and 1m"},
		{"chains: {eip155:8453: {v1_name: Base}}", inChain + "v1_name", "must be lower-case letters, digits and hyphens, 64 at most"},
		{"chains: {eip155:8453: {assets: []}}", inChain + "assets", "needs at least one token contract, or set allow_any_asset"},
		{"chains: {eip155:8453: {assets: 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913}}", inChain + "assets", "must be a list"},
		{"chains: {eip155:8453: {assets: [{address: 0x833589}]}}", asset0, "must be an address: 0x and 40 hex digits"},
		{"chains: {eip155:8453: {assets: [{address: 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02914}]}}", asset0, "has a wrong checksum (EIP-55): look for a typing error"},
		{"chains: {eip155:8453: {assets: [{address: '0x0000000000000000000000000000000000000000'}]}}", asset0, "must not be the zero address"},
		{
			"chains: {eip155:8453: {assets: [{address: 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913}, {address: 0x833589fcd6edb6e08f4c7c32d4f71b54bda02913}]}}",
			inChain + "assets[1].address", "is the address of chains.eip155:8453.assets[0] too",
		},
		{"chains: {eip155:8453: {eip6492_factories: [nonsense]}}", inChain + "eip6492_factories[0]", "must be an address: 0x and 40 hex digits"},
		{"chains: {eip155:8453: {lanes: []}}", inChain + "lanes", "needs at least one entry"},
		{"chains: {eip155:8453: {lanes: [{private_key: '" + keyB + "0'}]}}", lane0, "must be 32 bytes in hex"},
		{"chains: {eip155:8453: {lanes: [{private_key: '0x" + strings.Repeat("0", 64) + "'}]}}", lane0, "is outside the range of private keys"},
		{"chains: {eip155:8453: {lanes: [{private_key: '0x" + strings.Repeat("f", 64) + "'}]}}", lane0, "is outside the range of private keys"},
		{
			"chains: {eip155:8453: {lanes: [{private_key: '" + keyB + "'}, {private_key: '" + strings.ToUpper(keyB[2:]) + "'}]}}",
			inChain + "lanes[1].private_key", "is the key of chains.eip155:8453.lanes[0] too",
		},
		{"chains: {eip155:8453: {max_in_flight: 65}}", inChain + "max_in_flight", "must be between 1 and 64"},
		{"chains: {eip155:8453: {poll_interval: 9ms}}", inChain + "poll_interval", "must be 0 or at least 10ms"},
		{"chains: {eip155:8453: {poll_interval: 31s}}", inChain + "poll_interval", "must be between 0s and 30s"},
		{"clients: {anonymous: {scopes: [verify, all]}}", "clients.anonymous.scopes[1]", "must be verify, settle or read"},
		{"clients: {anonymous: {networks: [eip155:1]}}", "clients.anonymous.networks[0]", "is not one of chains"},
		{"clients: {anonymous: {pay_to: [0x8335]}}", "clients.anonymous.pay_to[0]", "must be an address: 0x and 40 hex digits"},
		{"http: {trusted_proxies: [10.0.0.1]}", "http.trusted_proxies[0]", "must be a network such as 10.0.0.0/8"},
		{"chains: {eip155:8453: {resend_interval: 11m}}", inChain + "resend_interval", "must be between 0s and 10m"},
		{"chains: {eip155:8453: {resend_interval: 99ms}}", inChain + "resend_interval", "must be 0 or at least 100ms"},
		{"chains: {eip155:8453: {exposure: all}}", inChain + "exposure", "must be off, in_flight or reserve"},
		{"chains: {eip155:8453: {profile: l3}}", inChain + "profile", "must be base, base-sepolia, l2 or l1"},
		{"chains: {eip155:8453: {lane_lease: 999ms}}", inChain + "lane_lease", "must be between 1s and 1m"},
		{"chains: {eip155:8453: {bump_after: -1s}}", inChain + "bump_after", "must be between 0s and 1h"},
		{"chains: {eip155:8453: {batch: {max_payments: 51}}}", inChain + "batch.max_payments", "must be between 0 and 50"},
		{"chains: {eip155:8453: {batch: {block_share: 0}}}", inChain + "batch.block_share", "must be between 1 and 100"},
		{"chains: {eip155:8453: {assets: [{}]}}", asset0, "must be an address: 0x and 40 hex digits"},
		{"chains: {eip155:8453: {assets: [{address: 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913, overloads: v}]}}", inChain + "assets[0].overloads", "must be both, vrs or bytes"},
		{"chains: {eip155:8453: {assets: [{address: 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913, well_behaved: maybe}]}}", inChain + "assets[0].well_behaved", "must be yes, no or auto"},
		{"chains: {eip155:8453: {ws_url: 'https://rpc.example/" + password + "'}}", inChain + "ws_url", "must begin with ws:// or wss://"},
		{"chains: {eip155:8453: {ws_url: 'wss:///" + password + "'}}", inChain + "ws_url", "names no host"},
		{
			"chains: {eip155:8453: {send_to: [{}]}}", inChain + "send_to[0].url",
			"is required: set it, url_file or FACILITATOR_CHAINS_EIP155_8453_SEND_TO_0_URL",
		},
		{"chains: {eip155:8453: {read_from: [{url: 'ftp://a.example'}]}}", inChain + "read_from[0].url", "must begin with http:// or https://"},
		{"chains: {eip155:8453: {read_from: [{url: 'http://a.example', name: 'a b'}]}}", inChain + "read_from[0].name", "must be 1 to 32 letters, digits, - or _"},
		{"chains: {eip155:8453: {read_from: [{url: 'http://a.example', name: rpc_url}]}}", inChain + "read_from[0].name", "is another node's name"},
		{"chains: {eip155:8453: {send_to: [{url: 'https://a.example'}, {url: 'wss://b.example/" + password + "'}]}}", inChain + "send_to[1].url", "must begin with http:// or https://"},
		{"chains: {eip155:8453: {gas: {max_per_payment: 2_000_000, max_per_transaction: 1_999_999}}}", inChain + "gas.max_per_payment", "must not exceed gas.max_per_transaction"},
		{"chains: {eip155:8453: {treasury: {below: 0}}}", inChain + "treasury.below", "must be between 1 and 18_000_000_000_000_000_000"},
		{"chains: {eip155:8453: {treasury: {private_key: '" + keyB + "0'}}}", inChain + "treasury.private_key", "must be 32 bytes in hex"},
		{"chains: {eip155:8453: {treasury: {private_key: '" + strings.ToUpper(keyA[2:]) + "'}}}", inChain + "treasury.private_key", "is the key of lanes[0] too"},
		{"chains: {eip155:8453: {treasury: {private_key: '" + keyB + "', below: 7, up_to: 7}}}", inChain + "treasury.up_to", "must be above below"},
		{"chains: {eip155:8453: {treasury: {private_key: '" + keyB + "', below: 7, up_to: 9, max_per_day: 8}}}", inChain + "treasury.max_per_day", "must not be below up_to"},
		{"chains: {eip155:8453: {confirmations: 0}}", inChain + "confirmations", "must be between 1 and 10000"},
		{"chains: {eip155:8453: {confirmations: -1}}", inChain + "confirmations", "must be a whole number, not negative"},
		{"chains: {eip155:8453: {confirmations: 9, finality_depth: 8}}", inChain + "finality_depth", "must be 0 or at least confirmations"},
		{"chains: {eip155:8453: {fees: {max_fee_per_gas: 10, max_priority_fee_per_gas: 0}}}", inChain + "fees.max_fee_per_gas", "must be between 1_000_000 and 100_000_000_000_000"},
		{"chains: {eip155:8453: {fees: {max_fee_per_gas: 90_000_000}}}", inChain + "fees.max_priority_fee_per_gas", "must not exceed max_fee_per_gas"},
		{"chains: {eip155:8453: {gas: {max_per_payment: 99999}}}", inChain + "gas.max_per_payment", "must be between 100_000 and 16_000_000"},
		{"chains: {eip155:8453: {gas: {margin_percent: 301}}}", inChain + "gas.margin_percent", "must be between 0 and 300"},
	} {
		t.Run(test.change, func(t *testing.T) {
			t.Parallel()
			_, err := Load("", nil, []byte(valid), []byte(test.change))
			problems, _ := errors.AsType[Problems](err)
			where := ""
			if len(problems) > 0 {
				where = problems[0].Where
			}
			want := Problem{Path: test.path, Text: test.text, Where: where}
			wantProblems(t, err, want.String())
		})
	}
}

// TestLoadMisplacedKey: a private key in a place where its message would quote it.
func TestLoadMisplacedKey(t *testing.T) {
	t.Parallel()
	for lane, want := range map[string]string{
		"'" + keyB + "'":         "must be a mapping",
		"{'" + keyB + "': null}": "holds a key that is no setting",
		"{? [" + keyB + "] : x}": "holds a key that is no setting",
	} {
		_, err := Load("", nil, []byte(valid), []byte("chains: {eip155:8453: {lanes: ["+lane+"]}}"))
		wantProblems(t, err, "chains.eip155:8453.lanes[0]: "+want+" (overlay 2:1)")
	}
}

func TestLoadNetworks(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"base":                           "is not a CAIP-2 EVM network such as eip155:8453",
		"eip155:0":                       "is not a CAIP-2 EVM network such as eip155:8453",
		"eip155:08453":                   "is not a CAIP-2 EVM network such as eip155:8453",
		"solana:5eykt4UsFv8P8NJdTREpY1v": "is not a CAIP-2 EVM network such as eip155:8453",
		"eip155:9007199254740992":        "has a chain id above 2^53-1",
		"eip155:9007199254740991":        "",
		"eip155:1":                       "",
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			asset := "assets: [{address: 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913}]"
			_, err := Load("", nil, []byte(strings.Replace(valid, "eip155:8453:", key+":\n    "+asset, 1)))
			if want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantProblems(t, err, fmt.Sprintf("chains.%s: %s (overlay 1:5)", key, want))
		})
	}
}

// TestLoadManyProblems: all of them in one error, each with its line.
func TestLoadManyProblems(t *testing.T) {
	t.Parallel()
	path := write(t, "facilitator.yaml", `
log:
  level: loud
  lvl: info
  level: info
database:
  url: `+password+`
  url_file: /nowhere/`+"database"+`
chains:
  eip155:10:
    poll_interval: 5ms
    lanes:
      - private_key: `+keyA+`
        keystor: x
      - private_key:
  <<: {}
`)
	_, err := Load(path, []string{"FACILITATOR_DATABSE_URL=" + password, "FACILITATOR_SETTLE_WAIT=20", "PATH=/bin"})
	wantProblems(
		t, err,
		"log.level: is given twice, first on line 3 ("+path+":5)",
		"log.level: must be debug, info, warn or error ("+path+":3)",
		"log.lvl: is no setting ("+path+":4)",
		"database.url: is given twice, as url and as url_file ("+path+":7)",
		"chains: holds a merge key (<<), which is not supported ("+path+":16)",
		"chains.eip155:10.lanes[0].keystor: is no setting ("+path+":14)",
		"FACILITATOR_DATABSE_URL: is an environment variable that names no setting",
		"settle.wait: must be a duration such as 200ms or 20s (FACILITATOR_SETTLE_WAIT)",
		"database.url: cannot be read from /nowhere/database: no such file or directory ("+path+":8)",
		"chains.eip155:10.rpc_url: is required: set it, rpc_url_file or FACILITATOR_CHAINS_EIP155_10_RPC_URL ("+path+":10)",
		"chains.eip155:10.assets: needs at least one token contract, or set allow_any_asset ("+path+":10)",
		"chains.eip155:10.lanes[1]: needs a key: private_key, private_key_file, keystore, remote, aws_kms or gcp_kms ("+path+":15)",
		"chains.eip155:10.poll_interval: must be 0 or at least 10ms ("+path+":11)",
	)
	if !strings.HasPrefix(err.Error(), "configuration: 13 problems\n  log.level: ") {
		t.Errorf("message: %v", err)
	}
}

func TestLoadNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "# nothing\n", "---\n", "http:\nchains:\n"} {
		_, err := Load(write(t, "empty.yaml", text), nil)
		wantProblems(
			t, err,
			"database.url: is required: set it, url_file or FACILITATOR_DATABASE_URL",
			"chains: needs at least one entry",
		)
	}
}

func TestLoadUnreadable(t *testing.T) {
	t.Parallel()
	if _, err := Load("/nowhere/facilitator.yaml", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
	for text, want := range map[string]string{
		"a: [":            "is not valid YAML: line 1: did not find expected node content",
		"url: *" + keyA:   "is not valid YAML: an alias without its anchor (quote a value that begins with *)",
		valid + "---\n{}": "holds more than one document",
		"- " + password:   "must be a mapping",
		password:          "must be a mapping",
	} {
		_, err := Load("", nil, []byte(text))
		problems, _ := errors.AsType[Problems](err)
		if len(problems) == 0 || problems[0].Text != want {
			t.Errorf("%q gives %v, want %q", text, err, want)
		}
		if strings.Contains(err.Error(), password) || strings.Contains(err.Error(), keyA[2:]) {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func TestLoadOverlays(t *testing.T) {
	t.Parallel()
	path := write(t, "facilitator.yaml", valid+"      - private_key: '"+keyB+"'\nhttp: {path_prefix: /x402, address: ':1'}\n")
	c, err := Load(
		path, []string{"FACILITATOR_HTTP_ADDRESS=:3"},
		[]byte(`{http: {address: ":2"}, chains: {eip155:31337: {rpc_url: "http://127.0.0.1:8545", allow_any_asset: true}}}`),
		[]byte(`{log: {level: debug}, chains: {eip155:31337: {lanes: [{private_key: "`+keyB+`"}]}, eip155:8453: {lanes: [{private_key: "`+keyB+`"}]}}}`),
	)
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTP.Address != ":3" || c.HTTP.PathPrefix != "/x402" || c.Log.Level != slog.LevelDebug {
		t.Errorf("later does not win, or forgets what it does not say: %+v %+v", c.HTTP, c.Log)
	}
	if len(c.Chains) != 2 || c.Chains["eip155:8453"].RPCURL.Reveal() != "https://rpc.example/"+password {
		t.Errorf("maps do not merge: %+v", c.Chains)
	}
	for network, chain := range c.Chains {
		if len(chain.Lanes) != 1 || chain.Lanes[0].PrivateKey.Reveal() != keyB {
			t.Errorf("%s: lists do not replace: %d lanes", network, len(chain.Lanes))
		}
	}
}

func TestLoadEnvironment(t *testing.T) {
	t.Parallel()
	environ := []string{
		"FACILITATOR_LOG_LEVEL=warn",
		"FACILITATOR_SETTLE_WAIT=30s",
		"FACILITATOR_SETTLE_MAX_QUEUED=", // empty says nothing
		"FACILITATOR_CHAINS_EIP155_8453_LANES_1_PRIVATE_KEY=" + keyB,
		"FACILITATOR_CHAINS_EIP155_8453_GAS_MARGIN_PERCENT=0",
		"FACILITATOR_CHAINS_EIP155_10_RPC_URL=http://127.0.0.1:8545",
		"FACILITATOR_CHAINS_EIP155_10_ASSETS_0_ADDRESS=0x0b2c639c533813f4aa9d7837caf62653d097ff85",
		"FACILITATOR_CHAINS_EIP155_10_ASSETS_0_MIN_AMOUNT=1_000",
		"FACILITATOR_CHAINS_EIP155_10_LANES_0_PRIVATE_KEY=" + keyA,
		"FACILITATOR_TOOLS=/elsewhere", "FACILITATOR_CRASH_AT=sent", "FACILITATOR_CONFIG=x.yaml",
		// What Kubernetes adds for services named facilitator and facilitator-metrics.
		"FACILITATOR_SERVICE_HOST=10.0.0.1", "FACILITATOR_SERVICE_PORT=4020", "FACILITATOR_SERVICE_PORT_HTTP=4020",
		"FACILITATOR_PORT=tcp://10.0.0.1:4020", "FACILITATOR_PORT_4020_TCP=tcp://10.0.0.1:4020",
		"FACILITATOR_PORT_4020_TCP_PROTO=tcp", "FACILITATOR_PORT_4020_TCP_PORT=4020", "FACILITATOR_PORT_4020_TCP_ADDR=10.0.0.1",
		"FACILITATOR_METRICS_SERVICE_HOST=10.0.0.2", "FACILITATOR_METRICS_PORT=tcp://10.0.0.2:9402",
	}
	c := mustLoad(t, environ, valid)
	base, op := c.Chains["eip155:8453"], c.Chains["eip155:10"]
	if c.Log.Level != slog.LevelWarn || c.Settle.Wait != 30*time.Second || c.Settle.MaxQueued != 20000 {
		t.Errorf("got %+v %+v", c.Log, c.Settle)
	}
	if len(base.Lanes) != 2 || base.Lanes[1].PrivateKey.Reveal() != keyB || base.Gas.MarginPercent != 0 {
		t.Errorf("eip155:8453: %d lanes, %+v", len(base.Lanes), base.Gas)
	}
	if op == nil || len(op.Assets) != 1 || op.Assets[0].Overloads != "both" || op.Assets[0].WellBehaved != "no" || op.Assets[0].MinAmount != 1000 || len(op.Lanes) != 1 || op.MaxInFlight != 16 {
		t.Errorf("a chain that only the environment has: %+v", op)
	}

	_, err := Load("", []string{
		"FACILITATOR_HTTP_PORT=8080",
		"FACILITATOR_CHAINS_EIP155_10_RPC=x",
		"FACILITATOR_CHAINS_EIP155_10_LANES_100_PRIVATE_KEY=x",
		"FACILITATOR_CHAINS_BASE_RPC_URL=x",
		"FACILITATOR_HTTP_ADDRESS_FILE=x",
		"FACILITATOR_DATABASE_URL=postgres://other.example/d",
		"FACILITATOR_DATABASE_URL_FILE=/nowhere",
	}, []byte(valid))
	wantProblems(
		t, err,
		"FACILITATOR_CHAINS_BASE_RPC_URL: is an environment variable that names no setting",
		"FACILITATOR_CHAINS_EIP155_10_LANES_100_PRIVATE_KEY: is an environment variable that names no setting",
		"FACILITATOR_CHAINS_EIP155_10_RPC: is an environment variable that names no setting",
		"FACILITATOR_DATABASE_URL_FILE: is given together with FACILITATOR_DATABASE_URL",
		"FACILITATOR_HTTP_ADDRESS_FILE: is an environment variable that names no setting",
		"FACILITATOR_HTTP_PORT: is an environment variable that names no setting",
	)
}

// TestEveryVariable sets every setting by the name that the documentation gives.
func TestEveryVariable(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, nil, valid)
	each("", reflect.ValueOf(c).Elem(), func(path string, _ reflect.StructField, v reflect.Value) {
		if !isLeaf(v.Type()) {
			return
		}
		for name, file := range map[string]bool{envName(path): false, envName(path) + "_FILE": true} {
			steps, isFile := findVariable(reflect.TypeFor[Config](), strings.TrimPrefix(name, envPrefix))
			if want := !file || isSecret(v.Type()); (steps != nil) != want || want && isFile != file {
				t.Errorf("%s is found as %v, file %t", name, steps, isFile)
			}
		}
	})
}

func TestLoadSecretFiles(t *testing.T) {
	t.Parallel()
	key := write(t, "key", keyB+"\n")
	database := write(t, "database", "postgresql://other.example/d\r\n")
	overlay := "chains: {eip155:8453: {lanes: [{private_key_file: '" + key + "'}]}}"

	c := mustLoad(t, []string{"FACILITATOR_DATABASE_URL_FILE=" + database}, valid, overlay)
	if got := c.Chains["eip155:8453"].Lanes[0].PrivateKey.Reveal(); got != keyB {
		t.Errorf("key of %d characters, want that of the file without its newline", len(got))
	}
	if got := c.Database.URL.Reveal(); got != "postgresql://other.example/d" {
		t.Errorf("the environment does not win: %q", got)
	}

	t.Run("a file that was overridden is not read", func(t *testing.T) {
		t.Parallel()
		missing := "database: {url_file: /nowhere}\nchains: {eip155:8453: {lanes: [{}, {private_key_file: /nowhere}]}}"
		mustLoad(t, []string{"FACILITATOR_DATABASE_URL=postgres://other.example/d"}, valid, missing, overlay)
	})

	for name, test := range map[string]struct{ file, want string }{
		"missing":           {"/nowhere/key", "cannot be read from /nowhere/key: no such file or directory"},
		"a folder":          {"/", "cannot be read from /: is a directory"},
		"empty":             {write(t, "empty", "\n"), "it is empty"},
		"too large":         {write(t, "large", strings.Repeat(password, 1<<13)), "it is too large for a secret"},
		"the secret itself": {keyB, "cannot be read from a file (its name looks like the secret itself): no such file or directory"},
		"a URL":             {"postgres://u:" + password + "@h/d", "looks like the secret itself"},
		"malformed content": {write(t, "bad", keyB+"0"), "must be 32 bytes in hex"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load("", []string{"FACILITATOR_CHAINS_EIP155_8453_LANES_0_PRIVATE_KEY_FILE=" + test.file}, []byte(valid))
			problems, _ := errors.AsType[Problems](err)
			if len(problems) != 1 || problems[0].Path != "chains.eip155:8453.lanes[0].private_key" ||
				!strings.Contains(problems[0].Text, test.want) {
				t.Errorf("got %v, want one problem: %s", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), password) || strings.Contains(err.Error(), keyB[2:])) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// FuzzLoad: nothing that a file or a variable says makes Load panic, and what
// it accepts keeps the bounds.
func FuzzLoad(f *testing.F) {
	f.Add(valid, "FACILITATOR_SETTLE_WAIT=30s")
	f.Add("a: &a [*a]", "FACILITATOR_CHAINS_EIP155_1_LANES_7_PRIVATE_KEY=x")
	f.Add("chains: {eip155:1: {lanes: [[], {}]}}", "FACILITATOR_CHAINS_EIP155_1_LANES__=x")
	f.Fuzz(func(t *testing.T, text, variable string) {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasSuffix(name, "_FILE") || strings.Contains(text, "_file") {
			t.Skip("would open a file that the fuzzer names")
		}
		c, err := Load("", []string{name + "=" + value}, []byte(text))
		if err == nil && (len(c.Chains) == 0 || c.Settle.Wait < time.Second || c.Settle.Wait > 80*time.Second) {
			t.Errorf("accepted out of bounds: %+v", c)
		}
	})
}

// TestTheDatabaseAloneNeedsNoOtherSecret: neither a chain nor a key, nor a file that
// only the service has.
func TestTheDatabaseAloneNeedsNoOtherSecret(t *testing.T) {
	t.Parallel()
	url := write(t, "url", "postgres://facilitator:"+password+"@db.example/facilitator\n")
	away := filepath.Join(t.TempDir(), "away")
	file := write(t, "facilitator.yaml", "database: {url_file: "+url+", timeout: 7s}\nchains: {'eip155:8453': {lanes: [{private_key_file: "+away+"}, {keystore: {file: x, password_file: "+away+"}}]}}")
	d, err := LoadDatabase(file, []string{"FACILITATOR_CHAINS_EIP155_8453_RPC_URL_FILE=" + away, "FACILITATOR_TRACING_HEADERS_FILE=" + away})
	if err != nil || !strings.Contains(d.URL.Reveal(), password) || d.Timeout != 7*time.Second {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := LoadDatabase("", []string{"FACILITATOR_DATABASE_URL_FILE=" + url}); err != nil || d.URL == "" {
		t.Errorf("from the environment: %v", err)
	}
	for text, want := range map[string]string{
		"":                                     "database.url: is required",
		"database: {url_file: " + away + "}":   "database.url: cannot be read",
		"database: {url: 'http://db.example'}": "database.url: ",
		"database: {url_file: " + url + ", timeout: 1ms}": "database.timeout: must be between",
		"database: {uri: x}":                              "database.uri: is no setting",
		"database: [":                                     "is not valid YAML",
	} {
		if _, err := LoadDatabase(write(t, "facilitator.yaml", text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	both := []string{"FACILITATOR_DATABASE_URL=x", "FACILITATOR_DATABASE_URL_FILE=" + url}
	if _, err := LoadDatabase("", both); err == nil || !strings.Contains(err.Error(), "is given together with FACILITATOR_DATABASE_URL") {
		t.Errorf("two URLs: %v", err)
	}
}
