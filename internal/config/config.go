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
	Clients  Clients  `yaml:"clients"`
	Metrics  Metrics  `yaml:"metrics"`
	Tracing  Tracing  `yaml:"tracing"`
	Log      Log      `yaml:"log"`
	Database Database `yaml:"database"`
	Settle   Settle   `yaml:"settle"`
	Policy   Policy   `yaml:"policy"`
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
	// Proxies, as CIDR networks, whose X-Forwarded-For is believed.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// Connections held open at most. Further ones are closed at once. 0: any number.
	MaxConnections int `yaml:"max_connections" default:"20_000" range:"0..1000000"`
	// Calls a second that one address may make to one replica, with a key or without. Ten times as many may come at once.
	// 0: any number.
	MaxCallsPerAddress int `yaml:"max_calls_per_address" default:"0" range:"0..1000000"`
	// Verifications under way at most. Further ones are answered with 503 at once. 0: any number.
	MaxVerifying int `yaml:"max_verifying" default:"4096" range:"0..1000000"`
	// Time to read one request, headers and body.
	ReadTimeout time.Duration `yaml:"read_timeout" default:"10s" range:"100ms..1m"`
	// Time at shutdown in which /readyz says no and requests are still taken, so
	// that load balancers can look elsewhere.
	DrainDelay time.Duration `yaml:"drain_delay" default:"3s" range:"0s..1m"`
	// Time that requests in flight get at shutdown. Keep it above settle.wait.
	DrainTimeout time.Duration `yaml:"drain_timeout" default:"25s" range:"100ms..10m"`
}

// Clients is who may call. Clients with keys are made by "facilitator clients".
type Clients struct {
	Anonymous Anonymous `yaml:"anonymous"`
	// Hosts that a signed token (JWT) may be made for: the public names of this service, and those that a client insists on. One
	// without a port is good with any. Empty: no token is accepted.
	TokenHosts []string `yaml:"token_hosts"`
	// Calls a second without a good key that one address may make. Ten times as many may come at once. A good key is let
	// through all the same. 0: any number.
	MaxGuesses int `yaml:"max_guesses" default:"10" range:"0..1000000"`
}

// Anonymous is the client of callers without a key.
type Anonymous struct {
	// What they may do: `verify`, `settle`, `read`. Empty: nothing, a key is needed.
	Scopes []string `yaml:"scopes"`
	// Networks they may use. Empty: all.
	Networks []string `yaml:"networks"`
	// Token contracts they may use. Empty: all that are accepted.
	Assets []string `yaml:"assets"`
	// Payees they may have paid. Empty: all.
	PayTo []string `yaml:"pay_to"`
	// Requests a second of all of them, by all replicas. 0: any number.
	Rate int `yaml:"rate" default:"50" range:"0..1000000"`
	// How many of these may come at once. 0: as many as in a second.
	Burst int `yaml:"burst" default:"0" range:"0..1000000"`
	// What their payments' gas may cost on a day (UTC), in wei. 0.05 ETH by default; 0: no limit.
	GasPerDay uint64 `yaml:"gas_per_day" default:"50_000_000_000_000_000" range:"0..18_000_000_000_000_000_000"`
}

// Metrics is the listener for Prometheus.
type Metrics struct {
	// Host and port to listen on; `same` serves /metrics on the HTTP listener, `off` nowhere.
	Address string `yaml:"address" default:"127.0.0.1:9402"`
	// Serve Go's profiles at /debug/pprof/ beside /metrics, on a listener of its own only.
	Profiles bool `yaml:"profiles" default:"false"`
}

// Tracing sends OpenTelemetry traces of requests. It is off without an endpoint.
type Tracing struct {
	// The collector, by OTLP over HTTP: http or https, as in http://127.0.0.1:4318/v1/traces. Empty: nothing is traced.
	Endpoint string `yaml:"endpoint"`
	// Headers sent to it, as name=value, separated by commas. Often hold a key, so they are treated as a secret.
	Headers Secret `yaml:"headers"`
	// How many requests of a million are traced.
	SamplePerMillion int `yaml:"sample_per_million" default:"10_000" range:"1..1000000"`
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

// Policy is which payments are taken beside those that the protocol refuses.
type Policy struct {
	// Take payments whose payer is the payee. They pay nobody, at our cost.
	AllowSelfSend bool      `yaml:"allow_self_send" default:"false"`
	Screening     Screening `yaml:"screening"`
	Rate          Rate      `yaml:"rate"`
	Breaker       Breaker   `yaml:"breaker"`
}

// Screening asks about everybody a payment deals with: payer, payee, token and wallet factory. A sanctions oracle is a
// setting of each chain.
type Screening struct {
	// Let payments go on that a source can't tell about: a list that is too old, a hook or an oracle that does not answer.
	FailOpen bool `yaml:"fail_open" default:"false"`
	// Files with addresses to refuse.
	Lists []ScreeningList `yaml:"lists"`
	// How often the files are looked at. One that changed is read again.
	CheckInterval time.Duration `yaml:"check_interval" default:"1m" range:"100ms..24h"`
	// How long a sanctions oracle's answer about an address is kept.
	OracleTTL time.Duration `yaml:"oracle_ttl" default:"10m" range:"1s..24h"`
	Hook      Hook          `yaml:"hook"`
}

// ScreeningList is one file. Replace it by renaming another one over it.
type ScreeningList struct {
	// The file. Who may write it decides whom you deal with.
	Path string `yaml:"path"`
	// What it holds: `plain`, one address in a line and comments after a #; or `ofac`, the OFAC's SDN list as advanced XML.
	Format string `yaml:"format" default:"plain"`
	// What it is called in logs and metrics. Letters, digits, - and _. Empty: its place, such as list_0.
	Name string `yaml:"name"`
	// How old the file may be before it says nothing any more about those it does not hold. 0: as old as it likes.
	MaxAge time.Duration `yaml:"max_age" default:"0s" range:"0s..8760h"`
}

// Hook is a service of yours that is asked about payments by HTTP.
type Hook struct {
	// Where it is asked, http or https. No other address is ever called. Empty: nothing is asked.
	URL Secret `yaml:"url"`
	// Sent to it as a bearer token.
	Token Secret `yaml:"token"`
	// Longest that an answer may take.
	Timeout time.Duration `yaml:"timeout" default:"2s" range:"10ms..30s"`
	// How long an answer about a payer and a payee is kept.
	TTL time.Duration `yaml:"ttl" default:"10m" range:"1s..24h"`
}

// Rate bounds good payments, by each replica. A payment counts once, by /verify or by /settle.
type Rate struct {
	// Payments of one payer in an interval. 0: no limit.
	PerPayer int64 `yaml:"per_payer" default:"0" range:"0..1000000"`
	// Payments to one payee in an interval. 0: no limit.
	PerPayee int64 `yaml:"per_payee" default:"0" range:"0..1000000"`
	// The interval.
	Interval time.Duration `yaml:"interval" default:"1m" range:"1s..24h"`
}

// Breaker refuses for a while those whose settles keep failing after they were found good, by each replica.
type Breaker struct {
	// Failures of one payer until it is refused; from half as many on it is slowed. 0: never.
	PayerFailures int64 `yaml:"payer_failures" default:"0" range:"0..1000000"`
	// Failures of payments to one payee until it is refused; from half as many on it is slowed. 0: never.
	PayeeFailures int64 `yaml:"payee_failures" default:"0" range:"0..1000000"`
	// Failures count for nothing while they are a smaller part of all settles than this, in percent.
	Percent int64 `yaml:"percent" default:"50" range:"1..100"`
	// After this long, what happened counts half.
	HalfLife time.Duration `yaml:"half_life" default:"10m" range:"1s..24h"`
	// Who is slowed is found good once in this time.
	SlowTo time.Duration `yaml:"slow_to" default:"10s" range:"100ms..1h"`
	// How long who is refused is refused.
	RefuseFor time.Duration `yaml:"refuse_for" default:"10m" range:"1s..24h"`
}

// Chain is one EVM network.
type Chain struct {
	// JSON-RPC endpoint, http or https. Often carries a key, so it is treated as a secret.
	RPCURL Secret `yaml:"rpc_url" required:"true"`
	// Further nodes to read from: asked when the one before fails, lags or is slow, in this order.
	ReadFrom []ReadNode `yaml:"read_from"`
	// How many blocks a node of several may be behind the one that is furthest. 0: the profile's.
	MaxLag uint64 `yaml:"max_lag" default:"0" range:"0..1000"`
	// Longest that one round trip may take.
	RPCTimeout time.Duration `yaml:"rpc_timeout" default:"5s" range:"50ms..1m"`
	// Endpoint for `newHeads`, ws or wss. Empty: new blocks are asked for every poll_interval.
	WSURL Secret `yaml:"ws_url"`
	// Further nodes that signed transactions are handed to, all at once.
	SendTo []SendNode `yaml:"send_to"`
	// What is usual on this kind of chain: `base`, `base-sepolia`, `l2` or `l1`. Settings that are not given come from
	// it. Empty: by the network.
	Profile string `yaml:"profile"`
	// Time between two blocks. 0: the profile's.
	BlockTime time.Duration `yaml:"block_time" default:"0s" range:"0s..10m"`
	// An authorization that expires within this is refused: it takes time to be mined. 0: the profile's.
	ExpirySlack time.Duration `yaml:"expiry_slack" default:"0s" range:"0s..10m"`
	// How far our clock and the chain's may differ before /readyz says so. Whether a payment is valid is judged by ours.
	MaxClockSkew time.Duration `yaml:"max_clock_skew" default:"30s" range:"1s..1h"`
	// The chain's name in version 1 of the protocol. Empty: the name that the protocol knows (`base` for eip155:8453), if any.
	V1Name string `yaml:"v1_name"`
	// Tokens accepted. Not given: the chain's USDC and EURC where they are known, and required elsewhere.
	Assets []Asset `yaml:"assets"`
	// Accept every token contract, the listed ones aside.
	AllowAnyAsset bool `yaml:"allow_any_asset" default:"false"`
	// ERC-6492 wallet factories that a payment may call at our cost. Empty: none.
	Factories []string `yaml:"eip6492_factories"`
	// Contract that is asked `isSanctioned(address)` about everybody a payment deals with. Empty: none.
	SanctionsOracle string `yaml:"sanctions_oracle"`
	// What of a payer's balance counts as promised to other payments, so that it can't be promised again: `off`, nothing;
	// `in_flight`, what is claimed by /settle and not decided yet; `reserve`, also what /verify found good and nobody
	// settled yet, which costs a write for each such answer. The same for all replicas.
	Exposure string `yaml:"exposure" default:"in_flight"`
	// Relayer wallets, which pay the gas. At least one. Replicas are given the same ones and share them.
	Lanes []Lane `yaml:"lanes" required:"true"`
	// Longest that one signature may take. A lane whose signer takes longer, or fails, is parked, and tried again after a
	// rest. Local keys need no time; database.timeout bounds it too.
	SignTimeout time.Duration `yaml:"sign_timeout" default:"2s" range:"50ms..30s"`
	// How long a lane stays a replica's that says nothing. A lane of one that died is idle about that long.
	LaneLease time.Duration `yaml:"lane_lease" default:"5s" range:"1s..1m"`
	// Open transactions per lane. Nodes promise room for 16 of one sender.
	MaxInFlight int   `yaml:"max_in_flight" default:"16" range:"1..64"`
	Batch       Batch `yaml:"batch"`
	// How often a new block is looked for. 0: the profile's.
	PollInterval time.Duration `yaml:"poll_interval" default:"0s" range:"0s..30s"`
	// How often the same signed bytes are sent again. 0: the profile's.
	ResendInterval time.Duration `yaml:"resend_interval" default:"0s" range:"0s..10m"`
	// How long a transaction may wait for a block before its fees are raised. 0: the profile's.
	BumpAfter time.Duration `yaml:"bump_after" default:"0s" range:"0s..1h"`
	// How long the chain may make no block before it counts as standing still: no fee is raised and nothing new is
	// taken. 0: the profile's.
	StallAfter time.Duration `yaml:"stall_after" default:"0s" range:"0s..1h"`
	// Blocks before success is said where a caller asks for nothing else, the including one counted.
	Confirmations uint64 `yaml:"confirmations" default:"1" range:"1..10000"`
	// Blocks below the head at which a payment is final. 0: the node's `finalized` tag.
	FinalityDepth uint64   `yaml:"finality_depth" default:"0" range:"0..1000000"`
	Fees          Fees     `yaml:"fees"`
	Gas           Gas      `yaml:"gas"`
	Treasury      Treasury `yaml:"treasury"`
}

// Asset is a token that may be paid with. Others are accepted only with allow_any_asset.
type Asset struct {
	// The token contract.
	Address string `yaml:"address"`
	// Whether it moves exactly what was signed for, or reverts, also where an authorization was used before: `yes`, `no`,
	// or `auto`, which is yes for the chain's USDC and EURC. Payments with such a token share transactions and
	// simulations. With another each goes alone, and what its simulation does is looked at.
	WellBehaved string `yaml:"well_behaved" default:"auto"`
	// Forms of transferWithAuthorization it has: `both`, `vrs` or `bytes`.
	Overloads string `yaml:"overloads" default:"both"`
	// Least that a payment may be of, in atomic units.
	MinAmount uint64 `yaml:"min_amount" default:"0" range:"0..18_000_000_000_000_000_000"`
}

// ReadNode is one more node that the chain is read from.
type ReadNode struct {
	// Its JSON-RPC endpoint, http or https.
	URL Secret `yaml:"url" required:"true"`
	// What it is called in logs and metrics. Letters, digits, - and _. Empty: its place, such as read_from_0.
	Name string `yaml:"name"`
}

// SendNode is one more node that transactions are handed to.
type SendNode struct {
	// Its JSON-RPC endpoint, http or https.
	URL Secret `yaml:"url" required:"true"`
}

// Lane is one relayer wallet. Its key is in exactly one of these places.
type Lane struct {
	// The wallet's key: 32 bytes in hex, with or without 0x. It holds nothing but gas money. A file that holds it must not
	// be readable to everybody.
	PrivateKey Secret       `yaml:"private_key"`
	Keystore   Keystore     `yaml:"keystore"`
	Remote     RemoteSigner `yaml:"remote"`
	AWSKMS     AWSKMS       `yaml:"aws_kms"`
	GCPKMS     GCPKMS       `yaml:"gcp_kms"`
}

// Keystore is a key in an encrypted file (Web3 Secret Storage, version 3), as `facilitator keys` makes them.
type Keystore struct {
	// Path of the file.
	File string `yaml:"file"`
	// The password that it was encrypted with.
	Password Secret `yaml:"password"`
}

// RemoteSigner is a key at a signer that speaks JSON-RPC, such as web3signer or clef.
type RemoteSigner struct {
	// The signer's endpoint, http or https. Whoever can reach it can sign: keep it to this service.
	URL Secret `yaml:"url"`
	// The wallet, which the signer must have.
	Address string `yaml:"address"`
	// `eth_signTransaction`, or `account_signTransaction` for clef.
	Method string `yaml:"method" default:"eth_signTransaction"`
}

// AWSKMS is a key of AWS KMS, of spec ECC_SECG_P256K1. Credentials are found as the AWS SDK does: environment, shared
// files, the identity of a pod or machine. It needs kms:Sign and kms:GetPublicKey.
type AWSKMS struct {
	// The key's id, ARN or alias.
	KeyID string `yaml:"key_id"`
	// Empty: the ARN's, or AWS_REGION.
	Region string `yaml:"region"`
	// An endpoint instead of the region's own, http or https.
	Endpoint string `yaml:"endpoint"`
	// The wallet. Given, a key of another one is refused, and the service starts while KMS can't be reached.
	Address string `yaml:"address"`
}

// GCPKMS is a key of Google Cloud KMS, of algorithm EC_SIGN_SECP256K1_SHA256. Credentials are the application default
// ones. They need cloudkms.signerVerifier.
type GCPKMS struct {
	// The key version's resource name: projects/…/locations/…/keyRings/…/cryptoKeys/…/cryptoKeyVersions/….
	KeyVersion string `yaml:"key_version"`
	// An endpoint instead of Google's own. One of http:// is sent no credentials.
	Endpoint string `yaml:"endpoint"`
	// The wallet. Given, a key of another one is refused, and the service starts while KMS can't be reached.
	Address string `yaml:"address"`
}

// Batch bounds transactions that carry many payments, by way of Multicall3.
type Batch struct {
	// Payments in one transaction at most. 1: each goes alone. 0: the profile's.
	MaxPayments int `yaml:"max_payments" default:"0" range:"0..50"`
	// Gas reserved for each payment of a batch, until the chain's own receipts tell better. What is not used is not paid.
	GasPerPayment uint64 `yaml:"gas_per_payment" default:"100_000" range:"50_000..1_000_000"`
	// Share of a block's gas that one batch may take, in percent.
	BlockShare uint64 `yaml:"block_share" default:"10" range:"1..100"`
}

// Fees caps EIP-1559 fees. Wei per gas.
type Fees struct {
	// Cap of the whole fee, in wei per gas. 10 gwei by default.
	MaxFeePerGas uint64 `yaml:"max_fee_per_gas" default:"10_000_000_000" range:"1_000_000..100_000_000_000_000"`
	// Cap of the tip, in wei per gas. 0.1 gwei by default.
	MaxPriorityFeePerGas uint64 `yaml:"max_priority_fee_per_gas" default:"100_000_000" range:"0..100_000_000_000_000"`
}

// Gas bounds what payments may burn.
type Gas struct {
	// A payment that would need more gas is refused.
	MaxPerPayment uint64 `yaml:"max_per_payment" default:"500_000" range:"100_000..16_000_000"`
	// Added to an estimate, in percent of it.
	MarginPercent uint64 `yaml:"margin_percent" default:"25" range:"0..300"`
	// Gas that one transaction may have on this chain. 0: the profile's.
	MaxPerTransaction uint64 `yaml:"max_per_transaction" default:"0" range:"0..100_000_000"`
	// What gas may cost on a day (UTC), in wei, by all lanes and replicas. Reached, nothing more is settled until
	// midnight. 0.5 ETH by default; 0: no limit.
	MaxSpendPerDay uint64 `yaml:"max_spend_per_day" default:"500_000_000_000_000_000" range:"0..18_000_000_000_000_000_000"`
}

// Treasury is a wallet that keeps the lanes in gas money. It is used where it has a key.
type Treasury struct {
	// The funding wallet's key: 32 bytes in hex, with or without 0x. Or one of the sections below says where it is, as for
	// a lane.
	PrivateKey Secret       `yaml:"private_key"`
	Keystore   Keystore     `yaml:"keystore"`
	Remote     RemoteSigner `yaml:"remote"`
	AWSKMS     AWSKMS       `yaml:"aws_kms"`
	GCPKMS     GCPKMS       `yaml:"gcp_kms"`
	// A lane with less than this is topped up, in wei. 0.005 ETH by default.
	Below uint64 `yaml:"below" default:"5_000_000_000_000_000" range:"1..18_000_000_000_000_000_000"`
	// It is topped up to this, in wei. 0.02 ETH by default.
	UpTo uint64 `yaml:"up_to" default:"20_000_000_000_000_000" range:"1..18_000_000_000_000_000_000"`
	// What the treasury may send on a day (UTC), in wei. 0.1 ETH by default.
	MaxPerDay uint64 `yaml:"max_per_day" default:"100_000_000_000_000_000" range:"1..18_000_000_000_000_000_000"`
}
