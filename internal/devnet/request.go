package devnet

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/x402"
)

// Sale is what a development payer signs and a resource server would ask for.
// Zero values of the EIP-712 domain stand for the chain's USDC.
type Sale struct {
	Payer Key
	// From is who pays, if not the payer's own address: a wallet whose owner the
	// payer is.
	From  common.Address
	PayTo common.Address
	// Amount in atomic units.
	Amount uint64
	// ValidAfter and ValidBefore in Unix seconds.
	ValidAfter, ValidBefore uint64
	// Nonce of the authorization; zero makes a random one.
	Nonce [32]byte
	// Version of the wire format, 1 or 2 (the default).
	Version int
	// Asset and the name of its EIP-712 domain, version 2.
	Asset common.Address
	Name  string
}

// ForNow is a sale that starts now and can be settled for validity.
func (s Sale) ForNow(now time.Time, validity time.Duration) Sale {
	s.ValidBefore = uint64(now.Add(validity).Unix()) //nolint:gosec // a time of ours
	return s
}

// Request signs a sale as an official client does and returns the body that a
// resource server sends to /verify and /settle.
func (c *Chain) Request(s Sale) (map[string]any, error) {
	if s.Asset == (common.Address{}) {
		s.Asset, s.Name = c.network.usdc.address, c.network.usdc.name
	}
	if s.From == (common.Address{}) {
		s.From = s.Payer.Address
	}
	if s.Nonce == ([32]byte{}) {
		if _, err := rand.Read(s.Nonce[:]); err != nil {
			return nil, fmt.Errorf("nonce: %w", err)
		}
	}
	auth := evm.Authorization{
		From: chain.Address(s.From), To: chain.Address(s.PayTo), Value: x402.NewUint256(s.Amount),
		ValidAfter: x402.NewUint256(s.ValidAfter), ValidBefore: x402.NewUint256(s.ValidBefore), Nonce: s.Nonce,
	}
	digest := auth.Digest(evm.DomainSeparator(s.Name, "2", c.network.chainID, chain.Address(s.Asset)))
	signature, err := crypto.Sign(digest[:], s.Payer.Private)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	signature[64] += 27
	amount := strconv.FormatUint(s.Amount, 10)
	payload := map[string]any{
		"signature": hexutil.Encode(signature),
		"authorization": map[string]any{
			"from": s.From.Hex(), "to": s.PayTo.Hex(), "value": amount, "nonce": hexutil.Encode(s.Nonce[:]),
			"validAfter": strconv.FormatUint(s.ValidAfter, 10), "validBefore": strconv.FormatUint(s.ValidBefore, 10),
		},
	}
	// Maps are not shared between payload and requirements: a test may change one.
	terms := func(network, amountKey string) map[string]any {
		return map[string]any{
			"scheme": "exact", "network": network, amountKey: amount, "asset": s.Asset.Hex(), "payTo": s.PayTo.Hex(),
			"maxTimeoutSeconds": 300, "extra": map[string]any{"name": s.Name, "version": "2"},
		}
	}
	const url = "http://127.0.0.1/weather"
	if s.Version == x402.V1 {
		name := x402.V1Name(x402.Network(c.network.name))
		requirements := terms(name, "maxAmountRequired")
		requirements["resource"], requirements["description"], requirements["mimeType"] = url, "", "application/json"
		return map[string]any{
			"x402Version": x402.V1, "paymentRequirements": requirements,
			"paymentPayload": map[string]any{"x402Version": x402.V1, "scheme": "exact", "network": name, "payload": payload},
		}, nil
	}
	return map[string]any{
		"x402Version": x402.V2, "paymentRequirements": terms(c.network.name, "amount"),
		"paymentPayload": map[string]any{
			"x402Version": x402.V2, "accepted": terms(c.network.name, "amount"), "payload": payload,
			"resource": map[string]any{"url": url},
		},
	}, nil
}
