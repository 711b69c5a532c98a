package test

import (
	"context"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/jackc/pgx/v5"

	"facilitator/internal/devnet"
	"facilitator/internal/x402"
)

// badCount counts the rows of a table.
func badCount(ctx context.Context, t *testing.T, databaseURL, table string) int {
	t.Helper()
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	n := -1
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// badNow is a time from now in Unix seconds.
func badNow(in time.Duration) uint64 { return uint64(time.Now().Add(in).Unix()) }

// badHighS is the other signature of the same key over the same digest.
func badHighS(sig []byte) []byte {
	s := new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(sig[32:64]))
	s.FillBytes(sig[32:64])
	sig[64] ^= 27 ^ 28
	return sig
}

func TestBadInputPayment(t *testing.T) {
	t.Parallel()
	d := newBadDesk(t, world.chain, "")
	stranger := newKey(t, devnet.RolePayer)
	poor := newKey(t, devnet.RolePayer)
	if err := world.chain.FundUSDC(t.Context(), big.NewInt(9_999), poor.Address); err != nil {
		t.Fatal(err)
	}
	const signature = "invalid_exact_evm_signature"
	sign := func(change func([]byte) []byte) func(badBody) { return func(b badBody) { b.resign(change) } }
	d.refuses(t, []badRow{
		{
			sentence: "the client chose another scheme in version 1", version: x402.V1, path: "paymentPayload.scheme", value: "upto",
			reason: "invalid_exact_evm_scheme", says: []string{"upto", "exact"},
		},
		{
			sentence: "the client chose another scheme in version 2", version: x402.V2, path: "paymentPayload.accepted.scheme", value: "upto",
			reason: "invalid_exact_evm_scheme", says: []string{"upto", "exact"},
		},
		{
			sentence: "the client chose another network in version 1", version: x402.V1, path: "paymentPayload.network", value: "base-sepolia",
			reason: "invalid_exact_evm_network_mismatch",
		},
		{
			sentence: "the client chose another network in version 2", version: x402.V2, path: "paymentPayload.accepted.network", value: "eip155:84532",
			reason: "invalid_exact_evm_network_mismatch", says: []string{"eip155:84532", "eip155:8453"},
		},
		{
			sentence: "the asset is not accepted here", path: "paymentRequirements.asset", value: world.chain.Multicall3().Hex(),
			reason: "invalid_payment_requirements", says: []string{"paymentRequirements.asset", world.chain.Multicall3().Hex()},
		},
		{sentence: "somebody else signed", sign: func(s *devnet.Sale) { s.From, s.Payer = s.Payer.Address, stranger }, reason: signature},
		{sentence: "the payer is another than who signed", path: badAuthorization + ".from", value: stranger.Address.Hex(), reason: signature},
		{sentence: "the nonce is another than was signed", path: badAuthorization + ".nonce", value: "0x" + strings.Repeat("00", 32), reason: signature},
		{sentence: "the value is another than was signed", path: badAuthorization + ".value", value: "10001", reason: signature},
		{sentence: "the start is another than was signed", path: badAuthorization + ".validAfter", value: "1", reason: signature},
		{sentence: "the end is another than was signed", path: badAuthorization + ".validBefore", value: "99999999999", reason: signature},
		{sentence: "the recipient is another than was signed", path: badAuthorization + ".to", value: stranger.Address.Hex(), reason: signature},
		{sentence: "the signature is of another digest", edit: sign(func(s []byte) []byte { s[0] ^= 1; return s }), reason: signature},
		{sentence: "the signature is all zeros", edit: sign(func([]byte) []byte { return make([]byte, 65) }), reason: signature},
		{sentence: "the signature is one byte", edit: sign(func([]byte) []byte { return []byte{1} }), reason: signature},
		{
			sentence: "the signature is compact (EIP-2098)", reason: signature,
			edit: sign(func(s []byte) []byte { s[32] |= (s[64] - 27) << 7; return s[:64] }),
		},
		{sentence: "the signature has a byte more", edit: sign(func(s []byte) []byte { return append(s, 0) }), reason: signature},
		{sentence: "the signature has a high s", edit: sign(badHighS), reason: signature},
		{sentence: "v is 5", edit: sign(func(s []byte) []byte { s[64] = 5; return s }), reason: signature},
		{sentence: "v is the other one", edit: sign(func(s []byte) []byte { s[64] ^= 27 ^ 28; return s }), reason: signature},
		{sentence: "v is 255", edit: sign(func(s []byte) []byte { s[64] = 255; return s }), reason: signature},
		{sentence: "the signature is as large as may be", edit: sign(func([]byte) []byte { return make([]byte, 8192) }), reason: signature},
		{
			sentence: "the resource server is to be paid at another address", path: "paymentRequirements.payTo", value: stranger.Address.Hex(),
			reason: "invalid_exact_evm_recipient_mismatch", says: []string{stranger.Address.Hex()},
		},
		{
			sentence: "version 1 asks for more than was signed", version: x402.V1, path: "paymentRequirements.amount", value: "10001",
			reason: "invalid_exact_evm_authorization_value", says: []string{"10000", "10001"},
		},
		{
			sentence: "version 2 asks for more than was signed", version: x402.V2, path: "paymentRequirements.amount", value: "10001",
			reason: "invalid_exact_evm_payload_authorization_value_mismatch", says: []string{"10000", "10001"},
		},
		{
			sentence: "version 1 asks for less than was signed", version: x402.V1, path: "paymentRequirements.amount", value: "9999",
			reason: "invalid_exact_evm_authorization_value",
		},
		{
			sentence: "version 2 asks for less than was signed", version: x402.V2, path: "paymentRequirements.amount", value: "9999",
			reason: "invalid_exact_evm_payload_authorization_value_mismatch",
		},
		{
			sentence: "version 2 asks for as much as there are numbers", version: x402.V2, path: "paymentRequirements.amount",
			value:  new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1)).String(),
			reason: "invalid_exact_evm_payload_authorization_value_mismatch",
		},
		{
			sentence: "it has expired", sign: func(s *devnet.Sale) { s.ValidBefore = badNow(-time.Second) },
			reason: "invalid_exact_evm_payload_authorization_valid_before",
		},
		{
			sentence: "it expires within six seconds", sign: func(s *devnet.Sale) { s.ValidBefore = badNow(4 * time.Second) },
			reason: "invalid_exact_evm_payload_authorization_valid_before", says: []string{"6 s"},
		},
		{
			sentence: "it is valid before the beginning of time", sign: func(s *devnet.Sale) { s.ValidBefore = 0 },
			reason: "invalid_exact_evm_payload_authorization_valid_before",
		},
		{
			sentence: "it is not valid yet", sign: func(s *devnet.Sale) { s.ValidAfter = badNow(time.Minute) },
			reason: "invalid_exact_evm_payload_authorization_valid_after",
		},
		{
			sentence: "the resource server names another token than was signed for", path: "paymentRequirements.extra.name", value: "USDC",
			reason: signature, says: []string{`extra.name: expected "USD Coin"`, `given "USDC"`},
		},
		{
			sentence: "the resource server names another token version than was signed for", path: "paymentRequirements.extra.version", value: "1",
			reason: signature, says: []string{`extra.version: expected "2"`, `given "1"`},
		},
		{
			sentence: "the payer signed for the wrong name that the resource server gave", reason: "invalid_exact_evm_token_name_mismatch",
			sign: func(s *devnet.Sale) { s.Asset, s.Name = world.chain.USDC(), "USDC" },
			says: []string{`extra.name: expected "USD Coin"`, `given "USDC"`},
		},
		{
			sentence: "the payee is the zero address", sign: func(s *devnet.Sale) { s.PayTo = common.Address{} },
			reason: "invalid_exact_evm_transaction_simulation_failed", says: []string{"zero address"},
		},
		{
			sentence: "the payer has nothing", sign: func(s *devnet.Sale) { s.Payer = stranger },
			reason: "invalid_exact_evm_insufficient_balance", says: []string{"has 0,", "takes 10000"},
		},
		{
			sentence: "the payer lacks one unit", sign: func(s *devnet.Sale) { s.Payer = poor },
			reason: "invalid_exact_evm_insufficient_balance", says: []string{"has 9999,", "takes 10000"},
		},
	})
}

func TestBadInputAsset(t *testing.T) {
	t.Parallel()
	d := newBadDesk(t, world.chain, badAnyAsset)
	nowhere := newKey(t, devnet.RolePayee).Address
	asset := func(a common.Address) func(*devnet.Sale) {
		return func(s *devnet.Sale) { s.Asset, s.Name = a, "Token" }
	}
	d.refuses(t, []badRow{
		{sentence: "the asset has no code", sign: asset(nowhere), reason: "asset_not_deployed_contract", says: []string{nowhere.Hex()}},
		{
			sentence: "the asset is the zero address", sign: asset(common.Address{19: 0xff}), reason: "asset_not_deployed_contract",
		},
		{
			sentence: "the asset has no code and the domain is left to it", sign: asset(nowhere),
			path: "paymentRequirements.extra", value: badAbsent{}, reason: "invalid_exact_evm_missing_eip712_domain",
		},
		{
			sentence: "the asset is no token and the domain is left to it", sign: asset(world.chain.Multicall3()),
			path: "paymentRequirements.extra", value: badAbsent{}, reason: "invalid_exact_evm_missing_eip712_domain",
		},
		{
			sentence: "the asset is no token", sign: asset(world.chain.Multicall3()), reason: "invalid_exact_evm_eip3009_not_supported",
		},
	})
}

const badAnyAsset = "chains: {'eip155:8453': {allow_any_asset: true}}"

func TestBadInputSpentAuthorization(t *testing.T) {
	t.Parallel()
	d := newBadDesk(t, world.chain, "")
	for _, version := range []int{x402.V1, x402.V2} {
		for name, spend := range map[string]func(*testing.T, *devnet.Chain, badBody, devnet.Key) (common.Address, []byte){
			"used outside the service": func(t *testing.T, c *devnet.Chain, b badBody, _ devnet.Key) (common.Address, []byte) {
				t.Helper()
				return c.USDC(), foreignTransfer(t, b)
			},
			"cancelled by the payer": func(t *testing.T, c *devnet.Chain, b badBody, payer devnet.Key) (common.Address, []byte) {
				t.Helper()
				return c.USDC(), foreignCancel(t, c, b, payer)
			},
		} {
			deal := sale(t, payers(t, world.chain, 1)[0])
			deal.Version = version
			body := badCopy(t, request(t, world.chain, deal))
			to, data := spend(t, world.chain, body, deal.Payer)
			foreignSend(t, world.chain, newKey(t, devnet.RoleLane), to, data)
			d.refusesBody(t, fmt.Sprintf("v%d %s", version, name), body, badRefusal{
				200, "invalid_exact_evm_nonce_already_used", []string{"used or cancelled"}, body.str("paymentRequirements.network"),
			})
		}
	}
}

func TestBadInputTokenRefuses(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	d := newBadDesk(t, c, "")
	for _, step := range []struct {
		name, says string
		do, undo   func() error
	}{
		{
			"the payer is blacklisted", "account is blacklisted",
			func() error { return c.Blacklist(t.Context(), d.payer.Address) },
			func() error { return c.Unblacklist(t.Context(), d.payer.Address) },
		},
		{
			"the token is paused", "paused",
			func() error { return c.Pause(t.Context()) },
			func() error { return c.Unpause(t.Context()) },
		},
	} {
		for _, version := range []int{x402.V1, x402.V2} {
			deal := sale(t, d.payer)
			deal.Version = version
			body := badCopy(t, request(t, c, deal))
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			d.refusesBody(t, fmt.Sprintf("v%d %s", version, step.name), body, badRefusal{
				200, "invalid_exact_evm_transaction_simulation_failed", []string{step.says}, body.str("paymentRequirements.network"),
			})
			if err := step.undo(); err != nil {
				t.Fatal(err)
			}
			if r := d.post(t, "/verify", body); !r.is("isValid") {
				t.Errorf("v%d: it is no longer so that %s: %d %s", version, step.name, r.status, r.text)
			}
		}
	}
}

// TestBadInputOrder sends every pair of faults: the reason is that of the check
// that comes first in the official order.
func TestBadInputOrder(t *testing.T) {
	t.Parallel()
	d := newBadDesk(t, world.chain, badAnyAsset)
	stranger := newKey(t, devnet.RolePayer)
	codeless := func(s *devnet.Sale) { s.Asset, s.Name = stranger.Address, "Token" }
	faults := []badRow{
		{sentence: "the scheme differs", edit: func(b badBody) { b.setAccepted("scheme", "upto") }, reason: "invalid_exact_evm_scheme"},
		{
			sentence: "there is no domain", sign: codeless, reason: "invalid_exact_evm_missing_eip712_domain",
			edit: func(b badBody) { b.set("paymentRequirements.extra", badAbsent{}) },
		},
		{sentence: "the network differs", edit: func(b badBody) { b.setAccepted("network", "eip155:84532") }, reason: "invalid_exact_evm_network_mismatch"},
		{
			sentence: "the wallet's factory is not allowed", reason: "eip6492_factory_not_allowed",
			edit: func(b badBody) {
				// An address without code can only be a wallet that is not deployed yet.
				b.resign(func(s []byte) []byte { return walletWrap(stranger.Address, []byte{1}, s) })
			},
		},
		{
			sentence: "the signature is wrong", reason: "invalid_exact_evm_signature",
			edit: func(b badBody) { b.set(badAuthorization+".nonce", "0x"+strings.Repeat("00", 32)) },
		},
		{
			sentence: "the recipient differs", reason: "invalid_exact_evm_recipient_mismatch",
			edit: func(b badBody) { b.set("paymentRequirements.payTo", stranger.Address.Hex()) },
		},
		{
			sentence: "it has expired", reason: "invalid_exact_evm_payload_authorization_valid_before",
			sign: func(s *devnet.Sale) { s.ValidBefore = badNow(0) },
		},
		{
			sentence: "it is not valid yet", reason: "invalid_exact_evm_payload_authorization_valid_after",
			sign: func(s *devnet.Sale) { s.ValidAfter = badNow(time.Minute) },
		},
		{
			sentence: "the amount differs", reason: "invalid_exact_evm_payload_authorization_value_mismatch",
			edit: func(b badBody) { b.setAmount("10001") },
		},
		{sentence: "the asset has no code", sign: codeless, reason: "asset_not_deployed_contract"},
		{
			sentence: "the payer has nothing", reason: "invalid_exact_evm_insufficient_balance",
			sign: func(s *devnet.Sale) { s.Payer = stranger },
		},
	}
	var rows []badRow
	for i, first := range faults {
		rows = append(rows, first)
		for _, second := range faults[i+1:] {
			rows = append(rows, badRow{
				sentence: first.sentence + " and " + second.sentence, reason: first.reason,
				sign: func(s *devnet.Sale) {
					for _, f := range []badRow{first, second} {
						if f.sign != nil {
							f.sign(s)
						}
					}
				},
				edit: func(b badBody) {
					for _, f := range []badRow{second, first} { // the factory wraps what the second spoiled
						if f.edit != nil {
							f.edit(b)
						}
					}
				},
			})
		}
	}
	var both []badRow
	for _, version := range []int{x402.V1, x402.V2} {
		for _, row := range rows {
			row.version = version
			if version == x402.V1 && strings.HasSuffix(row.reason, "value_mismatch") {
				row.reason = "invalid_exact_evm_authorization_value"
			}
			both = append(both, row)
		}
	}
	d.refuses(t, both)
}

// setAccepted changes what the client says it chose.
func (b badBody) setAccepted(key, value string) {
	if b.str("paymentPayload.scheme") == "" { // version 2 has it in an object of its own
		key = "accepted." + key
	}
	b.set("paymentPayload."+key, value)
}

func (b badBody) setAmount(value string) {
	if b.str("paymentRequirements.amount") == "" {
		b.set("paymentRequirements.maxAmountRequired", value)
		return
	}
	b.set("paymentRequirements.amount", value)
}

// TestBadInputOddButGood settles what looks strange and is right.
func TestBadInputOddButGood(t *testing.T) {
	t.Parallel()
	s := setup{chain: world.chain}.start(t)
	const extra = "paymentRequirements.extra"
	lower := func(path string) func(badBody) {
		return func(b badBody) { b.set(path, strings.ToLower(b.str(path))) }
	}
	for _, row := range []badRow{
		{sentence: "the token's name is missing", path: extra + ".name", value: badAbsent{}},
		{sentence: "the token's version is missing", path: extra + ".version", value: badAbsent{}},
		{sentence: "the token's name and version are missing", path: extra, value: map[string]any{}},
		{sentence: "extra is missing", path: extra, value: badAbsent{}},
		{sentence: "extra is null", path: extra, value: nil},
		{sentence: "maxTimeoutSeconds is missing", path: "paymentRequirements.maxTimeoutSeconds", value: badAbsent{}},
		{sentence: "maxTimeoutSeconds is 0", path: "paymentRequirements.maxTimeoutSeconds", value: 0},
		{sentence: "the outer version is missing", path: "x402Version", value: badAbsent{}},
		{sentence: "the payload's version is missing", path: "paymentPayload.x402Version", value: badAbsent{}},
		{sentence: "nobody knows the member", path: "paymentPayload.payload.hello", value: []any{1.5, nil, "x"}},
		{sentence: "the payer is in small letters", edit: lower(badAuthorization + ".from")},
		{sentence: "the recipient is in small letters", edit: lower(badAuthorization + ".to")},
		{sentence: "the asset is in small letters", edit: lower("paymentRequirements.asset")},
		{sentence: "the payee is in small letters", edit: lower("paymentRequirements.payTo")},
		{sentence: "the client claims to have chosen a lower price", version: x402.V2, path: "paymentPayload.accepted.amount", value: "1"},
		{sentence: "it never expires", sign: func(s *devnet.Sale) { s.ValidBefore = 1<<64 - 1 }},
		{sentence: "v is 0 or 1", edit: func(b badBody) { b.resign(func(s []byte) []byte { s[64] -= 27; return s }) }},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			for _, version := range []int{x402.V1, x402.V2} {
				if row.version != 0 && row.version != version {
					continue
				}
				deal := sale(t, payers(t, world.chain, 1)[0])
				deal.Version = version
				if row.sign != nil {
					row.sign(&deal)
				}
				body := badCopy(t, request(t, world.chain, deal))
				if row.path != "" {
					body.set(row.path, row.value)
				}
				if row.edit != nil {
					row.edit(body)
				}
				if r := s.post(t, "/verify", body); !r.is("isValid") {
					t.Errorf("v%d verify: %d %s", version, r.status, r.text)
				}
				if r := s.post(t, "/settle", body); !r.is("success") || received(t, world.chain, deal.PayTo) != 10_000 {
					t.Errorf("v%d settle: %d %s", version, r.status, r.text)
				}
			}
		})
	}
}
