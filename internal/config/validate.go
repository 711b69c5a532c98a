package config

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"facilitator/internal/chain"
)

// check looks at the whole configuration, after every source has spoken.
func (l *loader) check() {
	each("", reflect.ValueOf(l.config).Elem(), l.checkTags)
	c := l.config
	l.checkHTTP(c.HTTP)
	l.checkMetrics(c.Metrics, c.HTTP)
	l.checkClients(c.Clients)
	l.checkTracing(c.Tracing)
	if c.Log.Format != "json" && c.Log.Format != "text" {
		l.wrong("log.format", "must be json or text")
	}
	l.checkURL("database.url", c.Database.URL, "postgres", "postgresql")
	l.checkScreening("policy.screening", c.Policy.Screening)

	named := map[string]string{} // v1 name → path of its chain
	for _, network := range slices.Sorted(maps.Keys(c.Chains)) {
		path := join("chains", network)
		l.checkChain(path, network, c.Chains[network])
		name := c.Chains[network].V1Name
		if other, taken := named[name]; taken && name != "" {
			l.wrong(join(path, "v1_name"), "is the name of %s too", other)
		}
		named[name] = path
	}
}

// wrong reports a problem with the value of a setting, unless the setting has
// one already: a value that could not be read leaves another in its place.
func (l *loader) wrong(path, format string, args ...any) {
	if slices.ContainsFunc(l.problems, func(p Problem) bool { return p.Path == path }) {
		return
	}
	l.problem(path, l.origin(path), format, args...)
}

// origin is where the setting was given, or the nearest section around it.
func (l *loader) origin(path string) string {
	for path != "" {
		if where, ok := l.origins[path]; ok {
			return where
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return ""
}

func (l *loader) checkTags(path string, field reflect.StructField, v reflect.Value) {
	if field.Tag.Get("required") != "" {
		switch {
		case isSecret(v.Type()) && v.IsZero():
			l.wrong(path, "is required: set it, %s%s or %s", field.Tag.Get("yaml"), fileSuffix, envName(path))
		case v.Kind() != reflect.String && v.Len() == 0:
			l.wrong(path, "needs at least one entry")
		}
	}
	if limits := field.Tag.Get("range"); limits != "" {
		switch ok, err := inRange(v, limits); {
		case err != nil:
			l.wrong(path, "%v", err)
		case !ok:
			low, high, _ := strings.Cut(limits, "..")
			l.wrong(path, "must be between %s and %s", low, high)
		}
	}
}

var pathPrefix = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)

func (l *loader) checkHTTP(c HTTP) {
	if !isHostPort(c.Address) {
		l.wrong("http.address", "must be host:port")
	}
	for i, text := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(text); err != nil {
			l.wrong(index("http.trusted_proxies", i), "must be a network such as 10.0.0.0/8")
		}
	}
	if !pathPrefix.MatchString(c.PathPrefix) {
		l.wrong("http.path_prefix", "must begin with a slash, end without one, and hold only letters, digits and . _ ~ -")
	}
}

func (l *loader) checkClients(c Clients) {
	for i, scope := range c.Anonymous.Scopes {
		if !slices.Contains([]string{"verify", "settle", "read"}, scope) {
			l.wrong(index("clients.anonymous.scopes", i), "must be verify, settle or read")
		}
	}
	for i, n := range c.Anonymous.Networks {
		if l.config.Chains[n] == nil {
			l.wrong(index("clients.anonymous.networks", i), "is not one of chains")
		}
	}
	l.checkAddresses("clients.anonymous.assets", "", c.Anonymous.Assets)
	l.checkAddresses("clients.anonymous.pay_to", "", c.Anonymous.PayTo)
}

func (l *loader) checkMetrics(c Metrics, http HTTP) {
	switch {
	case c.Address == "same" || c.Address == "off":
	case !isHostPort(c.Address):
		l.wrong("metrics.address", "must be host:port, same or off")
	case c.Address == http.Address && !strings.HasSuffix(c.Address, ":0"):
		l.wrong("metrics.address", "is http.address: say same to share the listener")
	}
	if c.Profiles && (c.Address == "same" || c.Address == "off") {
		l.wrong("metrics.profiles", "needs a metrics.address of its own: profiles are not for callers")
	}
}

var traceHeaders = regexp.MustCompile(`^( *[A-Za-z0-9-]+=[^,[:cntrl:]]*(,|$))*$`)

func (l *loader) checkTracing(c Tracing) {
	l.checkURL("tracing.endpoint", Secret(c.Endpoint), "http", "https")
	if u, err := url.Parse(c.Endpoint); err == nil && u.User != nil {
		l.wrong("tracing.endpoint", "must hold no password: use tracing.headers")
	}
	if !traceHeaders.MatchString(c.Headers.Reveal()) {
		l.wrong("tracing.headers", "must be name=value, separated by commas")
	}
}

func (l *loader) checkScreening(path string, c Screening) {
	names := map[string]bool{}
	for i, list := range c.Lists {
		at := index(join(path, "lists"), i)
		if list.Path == "" {
			l.wrong(join(at, "path"), "is required")
		}
		if list.Format != "plain" && list.Format != "ofac" {
			l.wrong(join(at, "format"), "must be plain or ofac")
		}
		switch name := list.NameAt(i); {
		case !nodeName.MatchString(name):
			l.wrong(join(at, "name"), "must be 1 to 32 letters, digits, - or _")
		case names[name]:
			l.wrong(join(at, "name"), "is another list's name")
		default:
			names[name] = true
		}
	}
	l.checkURL(join(path, "hook.url"), c.Hook.URL, "http", "https")
	if c.Hook.Token != "" && c.Hook.URL == "" {
		l.wrong(join(path, "hook.token"), "is of no use without url")
	}
	if !headerText.MatchString(c.Hook.Token.Reveal()) {
		l.wrong(join(path, "hook.token"), "must be printable ASCII without spaces")
	}
}

var headerText = regexp.MustCompile(`^[!-~]*$`)

// NameAt is what the i-th of these lists is called.
func (n ScreeningList) NameAt(i int) string {
	if n.Name != "" {
		return n.Name
	}
	return "list_" + strconv.Itoa(i)
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// NameAt is what the i-th of these nodes is called.
func (n ReadNode) NameAt(i int) string {
	if n.Name != "" {
		return n.Name
	}
	return "read_from_" + strconv.Itoa(i)
}

func isHostPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// checkURL looks at the form only. It drops the parser's message, which quotes the URL.
func (l *loader) checkURL(path string, value Secret, schemes ...string) {
	if value == "" {
		return // required, and reported as such
	}
	u, err := url.Parse(value.Reveal())
	switch {
	case err != nil || u.Opaque != "":
		l.wrong(path, "is not a valid URL")
	case !slices.Contains(schemes, u.Scheme):
		l.wrong(path, "must begin with %s://", strings.Join(schemes, ":// or "))
	case u.Host == "" && !slices.Contains(schemes, "postgres"): // a Postgres URL may name a socket in its query
		l.wrong(path, "names no host")
	}
}

var (
	caip2  = regexp.MustCompile(`^eip155:([1-9][0-9]{0,15})$`)
	v1Name = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
)

// maxChainID is the largest integer that every JSON reader keeps exact.
const maxChainID = 1<<53 - 1

func (l *loader) checkChain(path, network string, c *Chain) {
	if m := caip2.FindStringSubmatch(network); m == nil {
		l.wrong(path, "is not a CAIP-2 EVM network such as eip155:8453")
	} else if id, err := strconv.ParseUint(m[1], 10, 64); err != nil || id > maxChainID {
		l.wrong(path, "has a chain id above 2^53-1")
	}
	l.checkURL(join(path, "rpc_url"), c.RPCURL, "http", "https")
	l.checkURL(join(path, "ws_url"), c.WSURL, "ws", "wss")
	names := map[string]bool{"rpc_url": true}
	for i, node := range c.ReadFrom {
		at := index(join(path, "read_from"), i)
		l.checkURL(join(at, "url"), node.URL, "http", "https")
		name := node.NameAt(i)
		switch {
		case !nodeName.MatchString(name):
			l.wrong(join(at, "name"), "must be 1 to 32 letters, digits, - or _")
		case names[name]:
			l.wrong(join(at, "name"), "is another node's name")
		}
		names[name] = true
	}
	for i, node := range c.SendTo {
		l.checkURL(join(index(join(path, "send_to"), i), "url"), node.URL, "http", "https")
	}
	if c.V1Name != "" && !v1Name.MatchString(c.V1Name) {
		l.wrong(join(path, "v1_name"), "must be lower-case letters, digits and hyphens, 64 at most")
	}
	if len(c.Assets) == 0 && !c.AllowAnyAsset {
		l.wrong(join(path, "assets"), "needs at least one token contract, or set allow_any_asset")
	}
	l.checkAssets(join(path, "assets"), c.Assets)
	l.checkAddresses(join(path, "eip6492_factories"), "", c.Factories)
	if c.SanctionsOracle != "" {
		if _, problem := parseAddress(c.SanctionsOracle); problem != "" {
			l.wrong(join(path, "sanctions_oracle"), "%s", problem)
		}
	}
	if !slices.Contains([]string{"off", "in_flight", "reserve"}, c.Exposure) {
		l.wrong(join(path, "exposure"), "must be off, in_flight or reserve")
	}
	l.checkLanes(join(path, "lanes"), c.Lanes)
	l.checkProfile(path, c)
	l.checkTreasury(join(path, "treasury"), c)
	if c.FinalityDepth != 0 && c.FinalityDepth < c.Confirmations {
		l.wrong(join(path, "finality_depth"), "must be 0 or at least confirmations")
	}
	if c.Fees.MaxPriorityFeePerGas > c.Fees.MaxFeePerGas {
		l.wrong(join(path, "fees.max_priority_fee_per_gas"), "must not exceed max_fee_per_gas")
	}
}

// checkProfile looks at what only the profile and the settings together say.
func (l *loader) checkProfile(path string, c *Chain) {
	if _, ok := profileOf(c.Profile); !ok {
		l.wrong(join(path, "profile"), "must be base, base-sepolia, l2 or l1")
		return
	}
	if c.PollInterval < 10*time.Millisecond {
		l.wrong(join(path, "poll_interval"), "must be 0 or at least 10ms")
	}
	if c.ResendInterval < 100*time.Millisecond {
		l.wrong(join(path, "resend_interval"), "must be 0 or at least 100ms")
	}
	if c.Gas.MaxPerPayment > c.Gas.MaxPerTransaction {
		l.wrong(join(path, "gas.max_per_payment"), "must not exceed gas.max_per_transaction")
	}
}

func (l *loader) checkTreasury(path string, c *Chain) {
	t := c.Treasury
	if len(l.keys(path, t.Wallet())) == 0 {
		return
	}
	if t.UpTo <= t.Below {
		l.wrong(join(path, "up_to"), "must be above below")
	}
	if t.MaxPerDay < t.UpTo {
		l.wrong(join(path, "max_per_day"), "must not be below up_to")
	}
	l.checkWallet(path, t.Wallet())
	if t.PrivateKey == "" {
		return
	}
	at, key := join(path, "private_key"), normalKey(t.PrivateKey)
	for i, lane := range c.Lanes {
		if normalKey(lane.PrivateKey) == key {
			l.wrong(at, "is the key of %s too", index("lanes", i))
		}
	}
}

func (l *loader) checkAssets(path string, assets []Asset) {
	addresses := make([]string, len(assets))
	for i, a := range assets {
		addresses[i] = a.Address
		if a.WellBehaved != "yes" && a.WellBehaved != "no" { // auto is one of them by now
			l.wrong(join(index(path, i), "well_behaved"), "must be yes, no or auto")
		}
		if !slices.Contains([]string{"both", "vrs", "bytes"}, a.Overloads) {
			l.wrong(join(index(path, i), "overloads"), "must be both, vrs or bytes")
		}
	}
	l.checkAddresses(path, "address", addresses)
}

// checkAddresses looks at a list of addresses, or of sections with one at key.
func (l *loader) checkAddresses(path, key string, addresses []string) {
	first := map[chain.Address]int{}
	for i, text := range addresses {
		at := index(path, i)
		if key != "" {
			at = join(at, key)
		}
		address, problem := parseAddress(text)
		j, seen := first[address]
		switch {
		case problem != "":
			l.wrong(at, "%s", problem)
		case seen:
			l.wrong(at, "is the address of %s too", index(path, j))
		default:
			first[address] = i
		}
	}
}

// parseAddress reads an address, or says what is wrong with it.
func parseAddress(text string) (_ chain.Address, problem string) {
	address, err := chain.ParseAddress(text)
	switch {
	case errors.Is(err, chain.ErrAddressChecksum):
		return address, "has a wrong checksum (EIP-55): look for a typing error"
	case err != nil:
		return address, "must be an address: 0x and 40 hex digits"
	case address == chain.Address{}:
		return address, "must not be the zero address"
	default:
		return address, ""
	}
}
