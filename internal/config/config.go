// Package config turns a YAML file and the environment into one checked
// value. Everything wrong with it is reported at once, each problem with the
// path of the setting it is about.
package config

import (
	"log/slog"
	"time"
)

// Config is everything the service can be told.
type Config struct {
	HTTP     HTTP              `yaml:"http"`
	Metrics  Metrics           `yaml:"metrics"`
	Log      Log               `yaml:"log"`
	Database Database          `yaml:"database"`
	Settle   Settle            `yaml:"settle"`
	Chains   map[string]*Chain `yaml:"chains"` // keyed by CAIP-2, "eip155:8453"
}

// HTTP is the listener that resource servers call.
type HTTP struct {
	Address      string        `yaml:"address"`        // default ":4020"
	PathPrefix   string        `yaml:"path_prefix"`    // default "": routes stand at the root
	MaxBodyBytes int64         `yaml:"max_body_bytes"` // default 262144
	ReadTimeout  time.Duration `yaml:"read_timeout"`   // default 10s; headers and body
	DrainTimeout time.Duration `yaml:"drain_timeout"`  // default 25s; in-flight requests at shutdown
}

// Metrics is the listener for Prometheus.
type Metrics struct {
	Address string `yaml:"address"` // default "127.0.0.1:9402"; "same" serves /metrics on the HTTP listener, "off" nowhere
}

// Log is the event log on standard error.
type Log struct {
	Level  slog.Level `yaml:"level"`  // default info
	Format string     `yaml:"format"` // "json" (default) or "text"
}

// Database is the Postgres that holds the record.
type Database struct {
	URL            Secret        `yaml:"url"`             // required
	MaxConnections int           `yaml:"max_connections"` // default 16
	Migrate        bool          `yaml:"migrate"`         // default false: migrate at start
	Timeout        time.Duration `yaml:"timeout"`         // default 5s; one statement or transaction
}

// Settle bounds what a caller of /settle waits for.
type Settle struct {
	Wait      time.Duration `yaml:"wait"`       // default 20s, then settlement_pending
	MaxQueued int           `yaml:"max_queued"` // default 20000; past it /settle answers 503 before claiming
}

// Chain is one EVM network.
type Chain struct {
	RPCURL         Secret        `yaml:"rpc_url"`           // required
	RPCTimeout     time.Duration `yaml:"rpc_timeout"`       // default 5s, one round trip
	V1Name         string        `yaml:"v1_name"`           // default: the protocol's name of the chain ("base"), or none
	Assets         []string      `yaml:"assets"`            // tokens accepted; default: the chain's USDC where it is known
	AllowAnyAsset  bool          `yaml:"allow_any_asset"`   // default false
	Factories      []string      `yaml:"eip6492_factories"` // wallet factories we may call; default none
	Lanes          []Lane        `yaml:"lanes"`             // relayer wallets; at least one
	MaxInFlight    int           `yaml:"max_in_flight"`     // default 16; open transactions per lane
	PollInterval   time.Duration `yaml:"poll_interval"`     // default 200ms; receipts of open transactions
	ResendInterval time.Duration `yaml:"resend_interval"`   // default 3s; the same bytes again
	Confirmations  uint64        `yaml:"confirmations"`     // default 1; blocks, the including one counted, before success is said
	FinalityDepth  uint64        `yaml:"finality_depth"`    // default 0: the node's "finalized" tag; else blocks below the head
	Fees           Fees          `yaml:"fees"`
	Gas            Gas           `yaml:"gas"`
}

// Lane is one relayer wallet.
type Lane struct {
	PrivateKey Secret `yaml:"private_key"` // required; 32 bytes hex
}

// Fees caps EIP-1559 fees. Wei per gas.
type Fees struct {
	MaxFeePerGas         uint64 `yaml:"max_fee_per_gas"`          // default 10 gwei
	MaxPriorityFeePerGas uint64 `yaml:"max_priority_fee_per_gas"` // default 0.1 gwei: cap of the tip the node suggests
}

// Gas bounds what one payment may burn.
type Gas struct {
	MaxPerPayment uint64 `yaml:"max_per_payment"` // default 500000
	MarginPercent uint64 `yaml:"margin_percent"`  // default 25, added to the estimate
}
