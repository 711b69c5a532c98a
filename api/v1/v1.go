// Package v1 is the wire format of x402 version 1. Its short network names end
// here: within the service every network is a CAIP-2 id.
package v1

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v2 "facilitator/api/v2"
	"facilitator/internal/x402"
)

// Names maps the short names of configured networks to CAIP-2 ids.
type Names map[string]x402.Network

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
	to.Scheme = x402.SchemeName(scheme)
	var served bool
	if to.Network, served = names[network]; !served {
		return nil, x402.Reject(x402.ReasonInvalidNetwork, fmt.Sprintf(
			"network %.64q is not supported here in version 1; supported: %s", network, strings.Join(slices.Sorted(maps.Keys(names)), ", ")))
	}
	if to.Amount, err = o.Uint256("maxAmountRequired"); err != nil {
		return nil, err
	}
	if to.Asset, err = o.String("asset"); err != nil {
		return nil, err
	}
	if to.PayTo, err = o.String("payTo"); err != nil {
		return nil, err
	}
	if _, _, err = o.OptionalInt("maxTimeoutSeconds", 0, v2.MaxTimeoutSeconds); err != nil {
		return nil, err
	}
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
	req.AcceptedScheme = x402.SchemeName(scheme)
	if req.AcceptedNetwork, served = names[network]; !served {
		// No id of version 1, though it may look like one: it never matches.
		req.AcceptedNetwork = x402.Network("v1:" + network)
	}
	req.Payload, err = payload.Object("payload")
	return req, err
}
