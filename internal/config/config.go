// Package config turns a YAML file and the environment into one checked
// value. Everything wrong with it is reported at once, each problem with the
// path of the setting it is about.
package config

import (
	"log/slog"
	"time"
)

// Config is everything the service can be told.
//
// The struct is the reference. A field's comment is its entry in
// docs/configuration.md, which a test keeps current, and its tags say the rest:
//   - yaml: the key; the path of keys names the setting, here and in the environment;
//   - default: the value where nothing is said;
//   - range: the smallest and the largest value accepted;
//   - required: there is no default, and nothing starts without it.
//
// What ties several settings together is checked in validate.go.
type Config struct {
	HTTP     HTTP     `yaml:"http"`
	Metrics  Metrics  `yaml:"metrics"`
	Log      Log      `yaml:"log"`
	Database Database `yaml:"database"`
	Settle   Settle   `yaml:"settle"`
	// Keyed by CAIP-2 network, such as eip155:8453.
	Chains map[string]*Chain `yaml:"chains" required:"true"`
}

// HTTP is the listener that resource servers call.
type HTTP struct {
	// Host and port to listen on. Port 0 picks a free one.
	Address string `yaml:"address" default:":4020"`
	// Put before every route: /x402 serves /x402/verify. Empty: routes stand at the root.
	PathPrefix string `yaml:"path_prefix"`
	// Largest request body read. A larger one is refused.
	MaxBodyBytes int64 `yaml:"max_body_bytes" default:"262144" range:"16384..4194304"`
	// Time to read one request, headers and body.
	ReadTimeout time.Duration `yaml:"read_timeout" default:"10s" range:"100ms..1m"`
	// Time at shutdown in which /readyz says no and requests are still taken, so
	// that load balancers can look elsewhere.
	DrainDelay time.Duration `yaml:"drain_delay" default:"3s" range:"0s..1m"`
	// Time that requests in flight get at shutdown. Keep it above settle.wait.
	DrainTimeout time.Duration `yaml:"drain_timeout" default:"25s" range:"100ms..10m"`
}

// Metrics is the listener for Prometheus.
type Metrics struct {
	// Host and port to listen on; `same` serves /metrics on the HTTP listener, `off` nowhere.
	Address string `yaml:"address" default:"127.0.0.1:9402"`
}

// Log is the event log on standard error.
type Log struct {
	// The least level written: debug, info, warn or error.
	Level slog.Level `yaml:"level" default:"info"`
	// One JSON object per line (`json`), or `text`.
	Format string `yaml:"format" default:"json"`
}

// Database is the Postgres that holds the record.
type Database struct {
	// postgres://user:password@host:port/database, with any parameters of a Postgres URL.
	URL Secret `yaml:"url" required:"true"`
	// Connections held open at most, by this replica.
	MaxConnections int `yaml:"max_connections" default:"16" range:"2..1000"`
	// Apply outstanding migrations at start. Replicas may start together.
	Migrate bool `yaml:"migrate" default:"false"`
	// Longest that one statement or transaction may take.
	Timeout time.Duration `yaml:"timeout" default:"5s" range:"100ms..1m"`
}

// Settle bounds what a caller of /settle waits for.
type Settle struct {
	// Longest that a caller waits for the chain. Then the answer is settlement_pending, and the work goes on.
	Wait time.Duration `yaml:"wait" default:"20s" range:"1s..80s"`
	// Payments that may wait for a lane. Past it /settle answers 503 before it claims anything.
	MaxQueued int `yaml:"max_queued" default:"20000" range:"1..1000000"`
}

// Chain is one EVM network.
type Chain struct {
	// JSON-RPC endpoint, http or https. Often carries a key, so it is treated as a secret.
	RPCURL Secret `yaml:"rpc_url" required:"true"`
	// Longest that one round trip may take.
	RPCTimeout time.Duration `yaml:"rpc_timeout" default:"5s" range:"50ms..1m"`
	// The chain's name in version 1 of the protocol. Empty: the name that the protocol knows (`base` for eip155:8453), if any.
	V1Name string `yaml:"v1_name"`
	// Token contracts accepted. Not given: the chain's USDC where it is known, and required elsewhere.
	Assets []string `yaml:"assets"`
	// Accept every token contract, the listed ones aside.
	AllowAnyAsset bool `yaml:"allow_any_asset" default:"false"`
	// ERC-6492 wallet factories that a payment may call at our cost. Empty: none.
	Factories []string `yaml:"eip6492_factories"`
	// Relayer wallets, which pay the gas. At least one.
	Lanes []Lane `yaml:"lanes" required:"true"`
	// Open transactions per lane. Nodes promise room for 16 of one sender.
	MaxInFlight int `yaml:"max_in_flight" default:"16" range:"1..64"`
	// How often the receipts of open transactions are asked for.
	PollInterval time.Duration `yaml:"poll_interval" default:"200ms" range:"10ms..30s"`
	// How often the same signed bytes are sent again.
	ResendInterval time.Duration `yaml:"resend_interval" default:"3s" range:"100ms..10m"`
	// Blocks before success is said, the including one counted.
	Confirmations uint64 `yaml:"confirmations" default:"1" range:"1..10000"`
	// Blocks below the head at which a payment is final. 0: the node's `finalized` tag.
	FinalityDepth uint64 `yaml:"finality_depth" default:"0" range:"0..1000000"`
	Fees          Fees   `yaml:"fees"`
	Gas           Gas    `yaml:"gas"`
}

// Lane is one relayer wallet.
type Lane struct {
	// The wallet's key: 32 bytes in hex, with or without 0x. It holds nothing but gas money.
	PrivateKey Secret `yaml:"private_key" required:"true"`
}

// Fees caps EIP-1559 fees. Wei per gas.
type Fees struct {
	// Cap of the whole fee, in wei per gas. 10 gwei by default.
	MaxFeePerGas uint64 `yaml:"max_fee_per_gas" default:"10_000_000_000" range:"1_000_000..100_000_000_000_000"`
	// Cap of the tip that the node suggests, in wei per gas. 0.1 gwei by default.
	MaxPriorityFeePerGas uint64 `yaml:"max_priority_fee_per_gas" default:"100_000_000" range:"0..100_000_000_000_000"`
}

// Gas bounds what one payment may burn.
type Gas struct {
	// A payment that would need more gas is refused.
	MaxPerPayment uint64 `yaml:"max_per_payment" default:"500_000" range:"100_000..16_000_000"`
	// Added to the estimate, in percent of it.
	MarginPercent uint64 `yaml:"margin_percent" default:"25" range:"0..300"`
}
