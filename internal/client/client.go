// Package client says who calls, and what they may: API clients with keys,
// scopes, networks, tokens, payees and limits. It knows nothing of HTTP but the
// headers that a caller is known by.
package client

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// Scope is a kind of call.
type Scope string

// Scopes.
const (
	ScopeVerify Scope = "verify"
	ScopeSettle Scope = "settle"
	ScopeRead   Scope = "read" // of the client's own settlements
)

// Scopes are all of them.
func Scopes() []Scope { return []Scope{ScopeVerify, ScopeSettle, ScopeRead} }

// Client is who calls.
type Client struct {
	// ID is a UUID; empty for callers without a key, who are one client.
	ID   string
	Name string
	// Scopes, Networks, Assets and PayTo that it may use. Empty lists of the last
	// three allow everything that the service does.
	Scopes   []Scope
	Networks []x402.Network
	Assets   []chain.Address
	PayTo    []chain.Address
	// Rate in requests a second of all replicas, of which Burst may come at once; 0
	// is no limit.
	Rate, Burst int
	// GasPerDay is what its payments' gas may cost on a day (UTC), in wei; nil or 0
	// is no limit.
	GasPerDay *big.Int
	// DisabledAt is when it was disabled; zero while it is not.
	DisabledAt time.Time
	CreatedAt  time.Time
}

// Anonymous says whether it is the client of callers without a key.
func (c *Client) Anonymous() bool { return c.ID == "" }

// May says why a client may not use a scope; nil where it may.
func (c *Client) May(scope Scope) error {
	if !slices.Contains(c.Scopes, scope) {
		return &Denial{Check: CheckScope, Text: fmt.Sprintf("this client may not %s", scope)}
	}
	return nil
}

// MayPay says why a client may not have a payment of these terms verified or
// settled; nil where it may. The addresses are as a request spells them.
func (c *Client) MayPay(n x402.Network, asset, payTo string) error {
	if len(c.Networks) > 0 && !slices.Contains(c.Networks, n) {
		return &Denial{Check: CheckNetwork, Text: "this client may not use this network"}
	}
	if !listed(c.Assets, asset) {
		return &Denial{Check: CheckAsset, Text: "this client may not use this asset"}
	}
	if !listed(c.PayTo, payTo) {
		return &Denial{Check: CheckPayee, Text: "this client may not have this payee paid"}
	}
	return nil
}

// listed says whether a text is one of the addresses. What is no address is for
// others to refuse.
func listed(list []chain.Address, text string) bool {
	if len(list) == 0 {
		return true
	}
	a, err := chain.ParseAddress(text)
	return err != nil || slices.Contains(list, a)
}

// KeyKind says how a key proves its holder.
type KeyKind string

// Kinds of keys.
const (
	KindSecret KeyKind = "secret" // it is shown as it is
	KindES256  KeyKind = "es256"  // it signs a JWT
	KindEdDSA  KeyKind = "eddsa"
)

// Key is what is kept of a client's key.
type Key struct {
	ID     string
	Client string
	Kind   KeyKind
	// Material is the SHA-256 of a secret, or a public key (DER, SPKI).
	Material []byte
	// ExpiresAt is zero for a key that does not.
	ExpiresAt time.Time
	CreatedAt time.Time
}

const (
	// keyPrefix begins every key, so that scanners find one that leaked.
	keyPrefix = "x402f_"
	keyIDSize = 8  // bytes
	keySize   = 32 // bytes of the secret
)

// NewKey makes a key for a client. The text is shown once and kept nowhere.
func NewKey(client string) (text string, _ Key, _ error) {
	raw := make([]byte, keyIDSize+keySize)
	if _, err := rand.Read(raw); err != nil {
		return "", Key{}, fmt.Errorf("key: %w", err)
	}
	id, secret := hex.EncodeToString(raw[:keyIDSize]), raw[keyIDSize:]
	hash := sha256.Sum256(secret)
	return keyPrefix + id + "_" + base64.RawURLEncoding.EncodeToString(secret), Key{ID: id, Client: client, Kind: KindSecret, Material: hash[:]}, nil
}

// errNotAKey says that a text has not the form of one.
var errNotAKey = errors.New("not a key of this service")

// parseKey splits a key's text.
func parseKey(text string) (id string, hash [sha256.Size]byte, _ error) {
	rest, ok := strings.CutPrefix(text, keyPrefix)
	if !ok {
		return "", hash, errNotAKey
	}
	id, encoded, ok := strings.Cut(rest, "_")
	secret, err := base64.RawURLEncoding.DecodeString(encoded)
	if !ok || err != nil || len(id) != 2*keyIDSize || len(secret) != keySize {
		return "", hash, errNotAKey
	}
	return id, sha256.Sum256(secret), nil
}
