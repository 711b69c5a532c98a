package config

import (
	"slices"
	"strings"
	"time"
)

// profile is what is usual on a kind of chain. The chain's own word is compared
// with it at start; a setting that is given wins.
type profile struct {
	blockTime, pollInterval, resendInterval, bumpAfter, stallAfter time.Duration
	maxTxGas                                                       uint64
	// expirySlack of an authorization: the official six seconds, or two slow blocks.
	expirySlack time.Duration
	// maxLag of a node in blocks: two or three seconds, or one block.
	maxLag uint64
	// maxPayments of a batch: the slower the blocks, the more wait for each.
	maxPayments int
}

// profileOf returns a profile by its name.
func profileOf(name string) (profile, bool) {
	// EIP-7825's cap, which OP-stack chains share.
	const maxTxGas = 1 << 24
	switch name {
	case "base", "base-sepolia": // a canonical block every 200 ms
		return profile{
			blockTime: 200 * time.Millisecond, pollInterval: 100 * time.Millisecond, resendInterval: 2 * time.Second,
			bumpAfter: 3 * time.Second, stallAfter: 15 * time.Second, maxTxGas: maxTxGas, maxPayments: 25, maxLag: 15,
			expirySlack: 6 * time.Second,
		}, true
	case "l2":
		return profile{
			blockTime: 2 * time.Second, pollInterval: 250 * time.Millisecond, resendInterval: 4 * time.Second,
			bumpAfter: 8 * time.Second, stallAfter: time.Minute, maxTxGas: maxTxGas, maxPayments: 40, maxLag: 2,
			expirySlack: 6 * time.Second,
		}, true
	case "l1":
		return profile{
			blockTime: 12 * time.Second, pollInterval: 2 * time.Second, resendInterval: 12 * time.Second,
			bumpAfter: 40 * time.Second, stallAfter: 3 * time.Minute, maxTxGas: maxTxGas, maxPayments: 50, maxLag: 1,
			expirySlack: 24 * time.Second,
		}, true
	default:
		return profile{}, false
	}
}

// defaultProfile names a network's profile where the configuration does not.
func defaultProfile(network string) string {
	switch network {
	case "eip155:8453":
		return "base"
	case "eip155:84532":
		return "base-sepolia"
	case "eip155:1", "eip155:11155111":
		return "l1"
	default:
		return "l2"
	}
}

// applyProfile fills what was not given.
func (c *Chain) applyProfile(network string) {
	if c.Profile == "" {
		c.Profile = defaultProfile(network)
	}
	p, ok := profileOf(c.Profile)
	if !ok {
		return // reported by the checks
	}
	for _, setting := range []struct {
		to   *time.Duration
		from time.Duration
	}{
		{&c.BlockTime, p.blockTime},
		{&c.PollInterval, p.pollInterval},
		{&c.ResendInterval, p.resendInterval},
		{&c.BumpAfter, p.bumpAfter},
		{&c.StallAfter, p.stallAfter},
		{&c.ExpirySlack, p.expirySlack},
	} {
		if *setting.to == 0 {
			*setting.to = setting.from
		}
	}
	if c.MaxLag == 0 {
		c.MaxLag = p.maxLag
	}
	if c.Batch.MaxPayments == 0 {
		c.Batch.MaxPayments = p.maxPayments
	}
	if c.Gas.MaxPerTransaction == 0 {
		c.Gas.MaxPerTransaction = p.maxTxGas
	}
}

// applyAssets decides what is known of the tokens.
func (c *Chain) applyAssets(network string) {
	for i := range c.Assets {
		a := &c.Assets[i]
		if a.WellBehaved != "auto" {
			continue
		}
		a.WellBehaved = "no"
		if slices.ContainsFunc(defaultAssets(network), func(known string) bool { return strings.EqualFold(known, a.Address) }) {
			a.WellBehaved = "yes"
		}
	}
}
