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
	network, err := v2.DecodeTerms(requirements, "maxAmountRequired", &req.Requirements)
	if err != nil {
		return nil, err
	}
	var served bool
	if req.Requirements.Network, served = names[network]; !served {
		return nil, x402.Reject(x402.ReasonInvalidNetwork, fmt.Sprintf(
			"network %.64q is not supported here in version 1; supported: %s", network, strings.Join(slices.Sorted(maps.Keys(names)), ", ")))
	}
	if req.Resource, err = requirements.OptionalString("resource"); err != nil {
		return nil, err
	}
	if req.AcceptedScheme, network, err = v2.Choice(payload); err != nil {
		return nil, err
	}
	if req.AcceptedNetwork, served = names[network]; !served {
		// No name of version 1, though it may look like a network: it never matches.
		req.AcceptedNetwork = x402.Network("v1:" + network)
	}
	req.Payload, err = payload.Object("payload")
	return req, err
}
