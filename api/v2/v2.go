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
	to, o := &req.Requirements, requirements
	scheme, err := o.String("scheme")
	if err != nil {
		return nil, err
	}
	network, err := o.String("network")
	if err != nil {
		return nil, err
	}
	to.Scheme, to.Network = x402.SchemeName(scheme), x402.Network(network)
	if to.Amount, err = o.Uint256("amount"); err != nil {
		return nil, err
	}
	if to.Asset, err = o.String("asset"); err != nil {
		return nil, err
	}
	if to.PayTo, err = o.String("payTo"); err != nil {
		return nil, err
	}
	if _, _, err = o.OptionalInt("maxTimeoutSeconds", 0, MaxTimeoutSeconds); err != nil {
		return nil, err
	}
	if to.Extra, err = o.OptionalObject("extra"); err != nil {
		return nil, err
	}
	accepted, err := payload.Object("accepted")
	if err != nil {
		return nil, err
	}
	if scheme, err = accepted.String("scheme"); err != nil {
		return nil, err
	}
	if network, err = accepted.String("network"); err != nil {
		return nil, err
	}
	req.AcceptedScheme, req.AcceptedNetwork = x402.SchemeName(scheme), x402.Network(network)
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
