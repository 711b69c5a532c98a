package conformance

import (
	"math/big"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

const (
	badSignature     = "invalid_exact_evm_signature"
	simulationFailed = "invalid_exact_evm_transaction_simulation_failed"
	nonceUsed        = "invalid_exact_evm_nonce_already_used"
	expired          = "invalid_exact_evm_payload_authorization_valid_before"
	notYetValid      = "invalid_exact_evm_payload_authorization_valid_after"
	wrongValue       = "invalid_exact_evm_payload_authorization_value_mismatch"
	wrongValueV1     = "invalid_exact_evm_authorization_value"
	wrongRecipient   = "invalid_exact_evm_recipient_mismatch"
	poor             = "invalid_exact_evm_insufficient_balance"
	noDomain         = "invalid_exact_evm_missing_eip712_domain"
	wrongName        = "invalid_exact_evm_token_name_mismatch"
	wrongVersion     = "invalid_exact_evm_token_version_mismatch"
	invalidPayload   = "invalid_payload"
	invalidTerms     = "invalid_payment_requirements"
)

func unix(in time.Duration) uint64 { return uint64(time.Now().Add(in).Unix()) }

// payments are rows about what an account signed, in USDC.
func payments() []row {
	signs := func(change func([]byte) []byte) func(*desk) body {
		return func(d *desk) body { return d.pay().resign(change) }
	}
	sold := func(change func(*devnet.Sale)) func(*desk) body {
		return func(d *desk) body { return d.pay(change) }
	}
	return []row{
		{name: "an account pays", want: accepted, make: sold(func(*devnet.Sale) {})},
		{name: "v is 0 or 1", want: accepted, make: signs(func(s []byte) []byte { s[64] -= 27; return s })},
		{name: "the signature has a high s", want: badSignature, make: signs(highS)},
		{name: "the signature is compact (EIP-2098)", want: badSignature, make: signs(compact)},
		{name: "the signature is one byte", want: badSignature, make: signs(func([]byte) []byte { return []byte{1} })},
		{name: "the signature is empty", want: invalidPayload, make: func(d *desk) body { return d.pay().set(signature, "0x") }},
		{
			name: "somebody else signed", want: badSignature,
			make: func(d *desk) body { return d.payFrom(d.payer.Address, d.newKey()) },
		},
		{
			name: "the nonce is another than was signed", want: badSignature,
			make: func(d *desk) body { return d.pay().set(authorization+".nonce", "0x"+strings.Repeat("07", 32)) },
		},
		{
			name: "the resource server is to be paid at another address", want: wrongRecipient,
			make: func(d *desk) body { return d.pay().set(requirements+".payTo", d.newKey().Address.Hex()) },
		},
		{name: "it has expired", want: expired, make: sold(func(s *devnet.Sale) { s.ValidBefore = unix(-time.Minute) })},
		{name: "it expires within six seconds", want: expired, make: sold(func(s *devnet.Sale) { s.ValidBefore = unix(4 * time.Second) })},
		{name: "it is not valid yet", want: notYetValid, make: sold(func(s *devnet.Sale) { s.ValidAfter = unix(time.Minute) })},
		{
			name: "more is asked for than was signed", want: wrongValue, wantV1: wrongValueV1,
			make: func(d *desk) body { return d.pay().set(d.amount(), "10001") },
		},
		{
			name: "less is asked for than was signed", want: wrongValue, wantV1: wrongValueV1,
			make: func(d *desk) body { return d.pay().set(d.amount(), "9999") },
		},
		{
			name: "the payer lacks one unit", want: poor,
			make: func(d *desk) body {
				payer := d.newKey()
				do(d.T, d.chain.FundUSDC(d.Context(), big.NewInt(9_999), payer.Address))
				return d.pay(func(s *devnet.Sale) { s.Payer = payer })
			},
		},
		{name: "the authorization was used", want: nonceUsed, make: func(d *desk) body { return d.submitted(d.pay()) }},
		{name: "the authorization was cancelled", want: nonceUsed, make: func(d *desk) body { return d.cancelled(d.pay(), d.payer) }},
		{name: "the payee is the zero address", want: simulationFailed, make: sold(func(s *devnet.Sale) { s.PayTo = common.Address{} })},
		{
			name: "the payer is blacklisted", want: simulationFailed,
			make: func(d *desk) body {
				payer := d.newKey()
				d.fund(d.T, payer.Address)
				do(d.T, d.chain.Blacklist(d.Context(), payer.Address))
				return d.pay(func(s *devnet.Sale) { s.Payer = payer })
			},
		},
		{
			name: "the payee is blacklisted", want: simulationFailed,
			make: func(d *desk) body {
				payee := d.newKey().Address
				do(d.T, d.chain.Blacklist(d.Context(), payee))
				return d.pay(func(s *devnet.Sale) { s.PayTo = payee })
			},
		},
		{
			name: "the token is paused", want: simulationFailed, alone: true,
			make: sold(func(*devnet.Sale) {}),
			around: func(d *desk, _ body, ask func() string) string {
				do(d.T, d.chain.Pause(d.Context()))
				defer func() { do(d.T, d.chain.Unpause(d.Context())) }()
				return ask()
			},
		},
	}
}

// wallets are rows about payers with code, or with code to come.
func wallets() []row {
	delegated := func(contract string) func(*desk) body {
		return func(d *desk) body {
			account := d.newKey()
			d.fund(d.T, account.Address)
			d.delegate(d.T, account.Address, d.deploy(d.T, contract))
			return d.payFrom(account.Address, account)
		}
	}
	return []row{
		{name: "a wallet accepts (EIP-1271)", want: accepted, make: func(d *desk) body { return d.payFrom(d.wallet, d.payer) }},
		{
			name: "a wallet refuses (EIP-1271)", want: badSignature,
			make: func(d *desk) body { return d.payFrom(d.wallet, d.newKey()) },
		},
		{
			name: "a wallet burns all gas", want: badSignature,
			make: func(d *desk) body { return d.payFrom(d.deploy(d.T, "GasBurnerWallet"), d.payer) },
		},
		{name: "the payer is a contract that is no wallet", want: badSignature, make: func(d *desk) body { return d.payFrom(d.chain.Multicall3(), d.payer) }},
		{name: "the account delegated to code that accepts (EIP-7702)", want: accepted, make: delegated("Delegate7702Accepts")},
		{name: "the account delegated to code that refuses (EIP-7702)", want: badSignature, make: delegated("Delegate7702Rejects")},
		{
			name: "a deployed wallet's signature is wrapped (ERC-6492)", want: accepted,
			make: func(d *desk) body {
				return d.payFrom(d.wallet, d.payer).resign(wrap(d.chain.Multicall3(), []byte{1, 2, 3, 4}))
			},
		},
		{
			name: "a deployed wallet refuses what is wrapped (ERC-6492)", want: badSignature,
			make: func(d *desk) body { return d.payFrom(d.wallet, d.newKey()).resign(wrap(d.factory, []byte{1, 2, 3, 4})) },
		},
		{
			name: "an account wraps its own signature (ERC-6492)", want: "eip6492_factory_not_allowed",
			make: func(d *desk) body { return d.pay().resign(wrap(d.chain.Multicall3(), []byte{1, 2, 3, 4})) },
		},
		{
			name: "the wallet is not deployed and nothing says how", want: badSignature,
			make: func(d *desk) body { return d.payFrom(d.newKey().Address, d.payer) },
		},
		{
			name: "the wallet is not deployed and its factory is the zero address", want: badSignature,
			make: func(d *desk) body {
				p := d.plan("WalletFactory", d.factory)
				p.factory = common.Address{}
				return p.pays(d, p.owner)
			},
		},
		{
			name: "the wallet is not deployed and its factory is allowed", want: accepted,
			make: func(d *desk) body { p := d.plan("WalletFactory", d.factory); return p.pays(d, p.owner) },
		},
		{
			name: "the wallet is not deployed and its factory is not allowed", want: "eip6492_factory_not_allowed",
			make: func(d *desk) body {
				p := d.plan("WalletFactory", d.deploy(d.T, "WalletFactory"))
				return p.pays(d, p.owner)
			},
		},
		{
			name: "the wallet is not deployed and somebody else signed", want: simulationFailed,
			make: func(d *desk) body { return d.plan("WalletFactory", d.factory).pays(d, d.newKey()) },
		},
		{
			name: "the wallet is not deployed and its factory reverts", want: simulationFailed,
			make: func(d *desk) body {
				p := d.plan("WalletFactory", d.factory)
				p.data = []byte{1, 2, 3, 4}
				return p.pays(d, p.owner)
			},
		},
		{
			name: "the wallet is not deployed and has too little", want: poor,
			make: func(d *desk) body {
				p := d.plan("WalletFactory", d.factory)
				more := func(s *devnet.Sale) { s.Payer, s.From, s.Amount = p.owner, p.wallet, 2_000_000_000 }
				return d.pay(more).resign(wrap(p.factory, p.data))
			},
		},
		{
			name: "the wallet's owner signed for another name that is advertised", want: wrongName,
			make: func(d *desk) body {
				b := d.payFrom(d.wallet, d.payer)
				return d.signedFor(b, d.payer, "USDC", "2")
			},
		},
		{
			name: "the factory is closed before the transaction is mined", want: simulationFailed, alone: true,
			calls: []string{callSettle, callSimulated},
			make:  func(d *desk) body { p := d.plan("DoorFactory", d.doorFactory); return p.pays(d, p.owner) },
			around: func(d *desk, _ body, ask func() string) string {
				set := func(closed bool) []byte { return d.pack(d.T, "DoorFactory", "set", closed) }
				defer func() { d.send(d.T, d.doorFactory, set(false)) }()
				return d.race(ask, d.newKey().Address, d.doorFactory, set(true))
			},
		},
	}
}
