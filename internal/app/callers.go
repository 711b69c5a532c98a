package app

import (
	"fmt"
	"math/big"
	"net/netip"

	"facilitator/internal/client"
	"facilitator/internal/config"
	"facilitator/internal/x402"
)

// wireCallers reads who may call without a key, and whose word on who calls is
// taken.
func wireCallers(cfg *config.Config) (*client.Client, []netip.Prefix, error) {
	a := cfg.Clients.Anonymous
	c := &client.Client{Name: "anonymous", Rate: a.Rate, Burst: a.Burst, GasPerDay: new(big.Int).SetUint64(a.GasPerDay)}
	for _, scope := range a.Scopes {
		c.Scopes = append(c.Scopes, client.Scope(scope))
	}
	for _, n := range a.Networks {
		c.Networks = append(c.Networks, x402.Network(n))
	}
	var err error
	if c.Assets, err = parseAddresses(a.Assets); err != nil {
		return nil, nil, fmt.Errorf("clients.anonymous.assets: %w", err)
	}
	if c.PayTo, err = parseAddresses(a.PayTo); err != nil {
		return nil, nil, fmt.Errorf("clients.anonymous.pay_to: %w", err)
	}
	proxies := make([]netip.Prefix, len(cfg.HTTP.TrustedProxies))
	for i, text := range cfg.HTTP.TrustedProxies {
		if proxies[i], err = netip.ParsePrefix(text); err != nil {
			return nil, nil, fmt.Errorf("http.trusted_proxies: %w", err)
		}
	}
	return c, proxies, nil
}
