// Package v2 is the wire format of x402 version 2, and the answers, which both
// versions share.
package v2

import (
	"facilitator/internal/x402"
)

// MaxTimeoutSeconds bounds maxTimeoutSeconds: ten years are absurd already.
const MaxTimeoutSeconds = 10 * 365 * 24 * 3600

// Decode reads {x402Version, paymentPayload, paymentRequirements} of version 2.
// maxTimeoutSeconds and extra may be missing, as they are in the payloads that
// public documentation prints.
func Decode(payload, requirements x402.Object) (*x402.Request, error) {
	req := &x402.Request{Version: x402.V2}
	network, err := DecodeTerms(requirements, "amount", &req.Requirements)
	if err != nil {
		return nil, err
	}
	req.Requirements.Network = x402.Network(network)
	accepted, err := payload.Object("accepted")
	if err != nil {
		return nil, err
	}
	scheme, network, err := Choice(accepted)
	if err != nil {
		return nil, err
	}
	req.AcceptedScheme, req.AcceptedNetwork = scheme, x402.Network(network)
	if req.Payload, err = payload.Object("payload"); err != nil {
		return nil, err
	}
	resource, err := payload.OptionalObject("resource")
	if err != nil {
		return nil, err
	}
	req.Resource, err = resource.OptionalString("url")
	return req, err
}

// Choice reads scheme and network, the latter as it is spelled.
func Choice(o x402.Object) (scheme x402.SchemeName, network string, err error) {
	text, err := o.String("scheme")
	if err != nil {
		return "", "", err
	}
	network, err = o.String("network")
	return x402.SchemeName(text), network, err
}

// DecodeTerms reads what requirements of both versions have in common; only the
// amount's key differs. The network is returned as it is spelled.
func DecodeTerms(o x402.Object, amountKey string, to *x402.Requirements) (network string, err error) {
	if to.Scheme, network, err = Choice(o); err != nil {
		return "", err
	}
	if to.Amount, err = o.Uint256(amountKey); err != nil {
		return "", err
	}
	if to.Asset, err = o.String("asset"); err != nil {
		return "", err
	}
	if to.PayTo, err = o.String("payTo"); err != nil {
		return "", err
	}
	if to.MaxTimeoutSeconds, _, err = o.OptionalInt("maxTimeoutSeconds", 0, MaxTimeoutSeconds); err != nil {
		return "", err
	}
	to.Extra, err = o.OptionalObject("extra")
	return network, err
}

// VerifyResponse answers POST /verify.
type VerifyResponse struct {
	IsValid        bool   `json:"isValid"`
	InvalidReason  string `json:"invalidReason,omitempty"`
	InvalidMessage string `json:"invalidMessage,omitempty"`
	Payer          string `json:"payer,omitempty"`
	// Error repeats the message where the status is not 200.
	Error string `json:"error,omitempty"`
}

// SettleResponse answers POST /settle. Transaction and Network are there always:
// clients take an answer without them for a broken facilitator.
type SettleResponse struct {
	Success      bool   `json:"success"`
	ErrorReason  string `json:"errorReason,omitempty"`
	ErrorMessage string `json:"errorMessage,omitempty"`
	Payer        string `json:"payer,omitempty"`
	Transaction  string `json:"transaction"`
	Network      string `json:"network"`
	// Error repeats the message where the status is not 200.
	Error string `json:"error,omitempty"`
}

// SupportedResponse answers GET /supported.
type SupportedResponse struct {
	Kinds      []Kind              `json:"kinds"`
	Extensions []string            `json:"extensions"`
	Signers    map[string][]string `json:"signers"`
}

// Kind is one (version, scheme, network) that can be paid with.
type Kind struct {
	X402Version int            `json:"x402Version"`
	Scheme      string         `json:"scheme"`
	Network     string         `json:"network"`
	Extra       map[string]any `json:"extra,omitempty"`
}
