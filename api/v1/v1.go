// Package v1 is the wire format of x402 version 1. Its short network names end
// here: within the service every network is a CAIP-2 id.
package v1

import (
	"time"

	v2 "facilitator/api/v2"
	"facilitator/internal/x402"
)

// Names maps the short names of configured networks to CAIP-2 ids. Any other
// name, a CAIP-2 id among them, is refused like a network that is not configured.
type Names map[string]x402.Network

func (n Names) network(name string) x402.Network {
	if id, ok := n[name]; ok {
		return id
	}
	return x402.Network("v1:" + name)
}

// Decode reads {x402Version, paymentPayload, paymentRequirements} of version 1.
func Decode(payload, requirements x402.Object, names Names) (*x402.Request, error) {
	req := &x402.Request{Version: x402.V1}
	to, o := &req.Requirements, requirements
	scheme, err := o.String("scheme")
	if err != nil {
		return nil, err
	}
	network, err := o.String("network")
	if err != nil {
		return nil, err
	}
	to.Scheme, to.Network = x402.SchemeName(scheme), names.network(network)
	if to.Amount, err = o.Uint256("maxAmountRequired"); err != nil {
		return nil, err
	}
	if to.Asset, err = o.String("asset"); err != nil {
		return nil, err
	}
	if to.PayTo, err = o.String("payTo"); err != nil {
		return nil, err
	}
	seconds, _, err := o.OptionalInt("maxTimeoutSeconds", 0, v2.MaxTimeoutSeconds)
	if err != nil {
		return nil, err
	}
	to.MaxTimeout = time.Duration(seconds) * time.Second
	if to.Extra, err = o.OptionalObject("extra"); err != nil {
		return nil, err
	}
	if req.Resource, err = o.OptionalString("resource"); err != nil {
		return nil, err
	}
	if scheme, err = payload.String("scheme"); err != nil {
		return nil, err
	}
	if network, err = payload.String("network"); err != nil {
		return nil, err
	}
	req.AcceptedScheme, req.AcceptedNetwork = x402.SchemeName(scheme), names.network(network)
	req.Payload, err = payload.Object("payload")
	return req, err
}
