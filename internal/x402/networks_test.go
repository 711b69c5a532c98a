package x402_test

import (
	"errors"
	"fmt"
	"testing"

	"facilitator/internal/x402"
)

// TestV1NamesAreThoseOfTheOfficialSDK holds EVM_NETWORK_CHAIN_ID_MAP of SDK 2.27.
func TestV1NamesAreThoseOfTheOfficialSDK(t *testing.T) {
	t.Parallel()
	for id, name := range map[x402.Network]string{
		"eip155:1": "ethereum", "eip155:11155111": "sepolia",
		"eip155:8453": "base", "eip155:84532": "base-sepolia",
		"eip155:137": "polygon", "eip155:80002": "polygon-amoy",
		"eip155:43114": "avalanche", "eip155:43113": "avalanche-fuji",
		"eip155:2741": "abstract", "eip155:11124": "abstract-testnet",
		"eip155:1329": "sei", "eip155:1328": "sei-testnet",
		"eip155:4689": "iotex", "eip155:3338": "peaq",
		"eip155:1514": "story", "eip155:41923": "educhain",
		"eip155:324705682": "skale-base-sepolia", "eip155:4326": "megaeth",
		"eip155:143": "monad", "eip155:988": "stable",
		"eip155:2201": "stable-testnet", "eip155:42220": "celo",
		"eip155:14": "flare",
		// Version 2 only.
		"eip155:42161": "", "eip155:10": "", "eip155:480": "", "eip155:31337": "",
		"eip155:08453": "", "EIP155:8453": "", "base": "", "": "", "eip155:*": "",
	} {
		if got := x402.V1Name(id); got != name {
			t.Errorf("V1Name(%s) = %q, want %q", id, got, name)
		}
	}
}

func TestARejectionIsFoundThroughWrapping(t *testing.T) {
	t.Parallel()
	r := x402.Reject(x402.ReasonInvalidNetwork, "no such network")
	got, ok := x402.AsRejection(fmt.Errorf("verify: %w", r))
	if !ok || got != r {
		t.Errorf("AsRejection = %v, %t", got, ok)
	}
	if text := r.Error(); text != "invalid_network: no such network" {
		t.Errorf("text %q", text)
	}
	if text := x402.Reject(x402.ReasonInvalidNetwork, "").Error(); text != "invalid_network" {
		t.Errorf("text without message %q", text)
	}
	if _, ok := x402.AsRejection(errors.New("invalid_network")); ok {
		t.Error("a plain error is taken for a judgement")
	}
	if _, ok := x402.AsRejection(nil); ok {
		t.Error("nil is taken for a judgement")
	}
}
