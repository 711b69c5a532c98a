// Package x402 holds the words of the x402 protocol: what a resource server
// sends to a facilitator and what it is told. It does no I/O and knows no
// chain; both wire versions are decoded into these types by api/v1 and api/v2.
//
// Source: x402 specification v1 and v2, and the official SDK 2.27 where the
// two differ (docs/divergences.md).
package x402

// Wire versions, the value of "x402Version".
const (
	V1 = 1
	V2 = 2
)

// Network is a CAIP-2 chain id, "eip155:8453". The short names of version 1
// are mapped in api/v1 and exist nowhere else.
type Network string

// SchemeName names a way to pay.
type SchemeName string

// SchemeExact pays exactly the amount that was asked.
const SchemeExact SchemeName = "exact"

// Requirements is what the resource server asks to be paid. Addresses are
// still text: only a scheme knows the form of its network's addresses.
type Requirements struct {
	Scheme  SchemeName
	Network Network
	// Amount in the asset's atomic units ("maxAmountRequired" in version 1).
	Amount Uint256
	Asset  string
	PayTo  string
	// MaxTimeoutSeconds is how long the resource server has to serve and settle; 0
	// where it does not say.
	MaxTimeoutSeconds int64
	// Extra is the scheme's own object; the zero Object where absent.
	Extra Object
}

// Request is one call of /verify or /settle, in either wire version.
type Request struct {
	Version      int
	Requirements Requirements
	// AcceptedScheme and AcceptedNetwork are what the client says it chose.
	// Nothing else of its choice is ever used: requirements rule.
	AcceptedScheme  SchemeName
	AcceptedNetwork Network
	// Payload is the scheme's own object, signed by the client.
	Payload Object
	// Resource is the URL that was paid for, for the record only.
	Resource string
}
