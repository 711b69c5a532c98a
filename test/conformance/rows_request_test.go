package conformance

import (
	"encoding/json"
	"strings"

	"facilitator/internal/devnet"
)

// tokens are rows about the asset and how it is advertised.
func tokens() []row {
	const extra = requirements + ".extra"
	in := func(name string) func(*desk) body {
		return func(d *desk) body { return d.payIn(d.token(d.T, name), name) }
	}
	advertised := func(path string, value any) func(*desk) body {
		return func(d *desk) body { return d.pay().set(path, value) }
	}
	signedFor := func(name, version string) func(*desk) body {
		return func(d *desk) body { return d.signedFor(d.pay(), d.payer, name, version) }
	}
	return []row{
		{name: "the resource server names another token than was signed for", want: badSignature, make: advertised(extra+".name", "USDC")},
		{name: "the resource server names another token version than was signed for", want: badSignature, make: advertised(extra+".version", "1")},
		{name: "the payer signed for the wrong name that is advertised", want: wrongName, make: signedFor("USDC", "2")},
		{name: "the payer signed for the wrong version that is advertised", want: wrongVersion, make: signedFor("USD Coin", "1")},
		{name: "the token's name is not advertised", want: accepted, make: advertised(extra+".name", absent{})},
		{name: "the token's version is not advertised", want: accepted, make: advertised(extra+".version", absent{})},
		{name: "neither name nor version is advertised", want: accepted, make: advertised(extra, absent{})},
		{
			name: "neither name nor version is advertised, and the asset tells none", want: noDomain,
			make: func(d *desk) body { return d.payIn(d.chain.Multicall3(), "Token").set(extra, absent{}) },
		},
		{
			name: "the asset has no code", want: "asset_not_deployed_contract",
			make: func(d *desk) body { return d.payIn(d.newKey().Address, "Token") },
		},
		{name: "the token has no EIP-3009", want: "invalid_exact_evm_eip3009_not_supported", make: in("PlainToken")},
		{
			name: "the asset is no token", want: "invalid_exact_evm_eip3009_not_supported",
			make: func(d *desk) body { return d.payIn(d.chain.Multicall3(), "Token") },
		},
		{name: "the token takes v, r and s only", want: accepted, make: in("VRSOnlyToken")},
		{name: "the token takes bytes only", want: simulationFailed, make: in("BytesOnlyToken")},
		{name: "the payment takes millions of gas", want: simulationFailed, make: in("HungryToken")},
		{
			name: "the token keeps a fee", want: "invalid_exact_evm_transfer_event_mismatch",
			make: in("FeeToken"),
		},
		{
			name: "the token says nothing of a used authorization", want: "invalid_exact_evm_nonce_already_used",
			make: func(d *desk) body { return d.submitted(d.payIn(d.token(d.T, "SilentToken"), "SilentToken")) },
		},
		{
			name: "the token pays only whoever asks", want: accepted, settle: "invalid_exact_evm_transaction_failed",
			make: in("FickleToken"),
		},
		{
			name: "the payer is the payee", want: "self_send_not_allowed", strict: true,
			make: func(d *desk) body { return d.pay(func(s *devnet.Sale) { s.PayTo = s.Payer.Address }) },
		},
		{
			name: "less is asked for than is accepted", want: "amount_too_low", strict: true,
			make: func(d *desk) body { return d.pay().set(d.amount(), "9999") },
		},
		{name: "the token is not one that is accepted by default", want: invalidTerms, strict: true, make: in("SilentToken")},
	}
}

// requests are rows about the envelope, and what does not look as it should. It is
// judged before anything is simulated, or not at all.
func requests() []row {
	rows := requestRows()
	for i := range rows {
		rows[i].calls = []string{callVerify, callSettle}
	}
	return rows
}

func requestRows() []row {
	// set changes what is sent, where both versions have it.
	set := func(path string, value any) func(*desk) body {
		return func(d *desk) body { return d.pay().set(path, value) }
	}
	everywhere := func(v1, v2 string) func(*desk) body { // another network than is served
		return func(d *desk) body {
			name := d.of(v1, v2)
			return d.pay().set(requirements+".network", name).set(d.chosen("network"), name)
		}
	}
	// permit2 is a payload of another asset transfer method, for a spender of nobody's.
	permit2 := func(d *desk) map[string]any {
		return map[string]any{
			"from": d.payer.Address.Hex(), "permitted": map[string]any{"token": d.chain.USDC().Hex(), "amount": "10000"},
			"spender": d.newKey().Address.Hex(), "nonce": "1", "deadline": "99999999999",
			"witness": map[string]any{"to": d.newKey().Address.Hex(), "validAfter": "0"},
		}
	}
	onlyPermit2 := func(d *desk) body {
		return d.pay().set("paymentPayload.payload.permit2Authorization", permit2(d)).set(authorization, absent{})
	}
	misspelled := func(path string) func(*desk) body {
		return func(d *desk) body {
			b := d.pay()
			return b.set(path, badChecksum(b.str(path)))
		}
	}
	const unsupportedPayload = "unsupported_payload_type"
	return []row{
		{
			name: "the client chose another scheme", want: "invalid_exact_evm_scheme",
			make: func(d *desk) body { return d.pay().set(d.chosen("scheme"), "upto") },
		},
		{
			name: "the resource server asks for another scheme", want: "unsupported_scheme",
			make: set(requirements+".scheme", "upto"),
		},
		{
			name: "the client chose another network", want: "invalid_exact_evm_network_mismatch",
			make: func(d *desk) body { return d.pay().set(d.chosen("network"), d.of("base-sepolia", devnet.BaseSepolia)) },
		},
		{
			name: "the client chose a network that nobody knows", want: "invalid_exact_evm_network_mismatch",
			make: func(d *desk) body { return d.pay().set(d.chosen("network"), d.of("nowhere", "eip155:999999")) },
		},
		{name: "both chose a network that is not served", want: "invalid_network", make: everywhere("polygon", "eip155:137")},
		{name: "both chose a network that nobody knows", want: "invalid_network", make: everywhere("nowhere", "eip155:999999")},
		{name: "both spell the network as the other version does", want: "invalid_network", make: everywhere(devnet.Base, "base")},
		{
			name: "the version is 3", want: "invalid_x402_version",
			make: func(d *desk) body { return d.pay().set("x402Version", 3).set("paymentPayload.x402Version", 3) },
		},
		{name: "the outer version is missing", want: accepted, make: set("x402Version", absent{})},
		{
			name: "the outer version is the other one", want: "400 " + invalidPayload,
			make: func(d *desk) body { return d.pay().set("x402Version", 3-d.version) },
		},
		{name: "there are no requirements", want: "400 " + invalidTerms, make: set(requirements, absent{})},
		{name: "there is no payload", want: "400 " + invalidPayload, make: set("paymentPayload", absent{})},
		{name: "there is no signature", want: "400 " + invalidPayload, make: set(signature, absent{})},
		{name: "the payload is of no known kind", want: unsupportedPayload, make: set(authorization, absent{})},
		{name: "the payload is one for Permit2", want: unsupportedPayload, make: onlyPermit2},
		{
			name: "the payload is one for Permit2 and the client chose another scheme", want: unsupportedPayload,
			make: func(d *desk) body { return onlyPermit2(d).set(d.chosen("scheme"), "upto") },
		},
		{
			name: "the payload has both kinds of authorization", want: accepted,
			make: func(d *desk) body { return d.pay().set("paymentPayload.payload.permit2Authorization", permit2(d)) },
		},
		{name: "the payer's checksum is wrong", want: invalidPayload, make: misspelled(authorization + ".from")},
		{name: "the signed payee's checksum is wrong", want: invalidPayload, make: misspelled(authorization + ".to")},
		{name: "the payee's checksum is wrong", want: invalidTerms, make: misspelled(requirements + ".payTo")},
		{name: "the asset's checksum is wrong", want: invalidTerms, make: misspelled(requirements + ".asset")},
		{
			name: "the addresses are in small letters", want: accepted,
			make: func(d *desk) body {
				b := d.pay()
				for _, path := range []string{authorization + ".from", authorization + ".to", requirements + ".payTo", requirements + ".asset"} {
					b.set(path, strings.ToLower(b.str(path)))
				}
				return b
			},
		},
		{
			name: "the payer is the zero address", want: invalidPayload,
			make: set(authorization+".from", "0x0000000000000000000000000000000000000000"),
		},
		{name: "the value is in hexadecimal digits", want: invalidPayload, make: set(authorization+".value", "0x2710")},
		{name: "the value is a JSON number", want: "400 " + invalidPayload, make: set(authorization+".value", json.Number("10000"))},
		{name: "the amount is in hexadecimal digits", want: invalidTerms, make: func(d *desk) body { return d.pay().set(d.amount(), "0x2710") }},
		{name: "the nonce is too short", want: invalidPayload, make: set(authorization+".nonce", "0x07")},
		{name: "maxTimeoutSeconds is missing", want: accepted, make: set(requirements+".maxTimeoutSeconds", absent{})},
	}
}

// badChecksum spells an address in mixed case, but wrongly.
func badChecksum(address string) string {
	letters := []byte(address)
	for i := len(letters) - 1; i > 1; i-- {
		if c := letters[i]; c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' {
			letters[i] ^= 'a' ^ 'A'
			break
		}
	}
	return string(letters)
}
