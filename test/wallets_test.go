package test

import (
	"bytes"
	"context"
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"

	"facilitator/internal/devnet"
	"facilitator/internal/x402"
)

// walletWrap wraps a signature by ERC-6492.
func walletWrap(factory common.Address, data, inner []byte) []byte {
	word := func(n int) []byte { return common.BigToHash(big.NewInt(int64(n))).Bytes() }
	padded := func(b []byte) []byte {
		return append(word(len(b)), common.RightPadBytes(b, (len(b)+31)/32*32)...)
	}
	first := padded(data)
	return bytes.Join([][]byte{
		common.LeftPadBytes(factory[:], 32), word(96), word(96 + len(first)), first, padded(inner),
		bytes.Repeat([]byte{0x64, 0x92}, 16),
	}, nil)
}

// walletFund gives a wallet 1,000 USDC.
func walletFund(t *testing.T, c *devnet.Chain, wallet common.Address) {
	t.Helper()
	if err := c.FundUSDC(t.Context(), big.NewInt(1_000_000_000), wallet); err != nil {
		t.Fatal(err)
	}
}

// walletSettles verifies and settles body, and returns the transaction.
func walletSettles(t *testing.T, s *service, c *devnet.Chain, deal devnet.Sale, body badBody) common.Hash {
	t.Helper()
	if r := s.post(t, "/verify", body); !r.is("isValid") || r.str("payer") != body.str(badAuthorization+".from") {
		t.Fatalf("v%d verify: %d %s", deal.Version, r.status, r.text)
	}
	r := s.post(t, "/settle", body)
	if !r.is("success") || len(r.str("transaction")) != 66 {
		t.Fatalf("v%d settle: %d %s", deal.Version, r.status, r.text)
	}
	if got := received(t, c, deal.PayTo); got != 10_000 {
		t.Fatalf("v%d: the payee has %d, want 10000", deal.Version, got)
	}
	again := s.post(t, "/settle", body)
	if again.is("success") || again.str("errorReason") != "duplicate_settlement" {
		t.Fatalf("v%d repeat: %d %s", deal.Version, again.status, again.text)
	}
	return common.HexToHash(r.str("transaction"))
}

// walletSale is a sale paid by a wallet, as its owner signs it.
func walletSale(t *testing.T, c *devnet.Chain, version int, owner devnet.Key, wallet common.Address) (devnet.Sale, badBody) {
	t.Helper()
	deal := sale(t, owner)
	deal.From, deal.Version = wallet, version
	return deal, badCopy(t, request(t, c, deal))
}

func TestWalletsWithCodeSettle(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, c *devnet.Chain) {
		t.Helper()
		s := setup{chain: c}.start(t)
		for _, version := range []int{x402.V1, x402.V2} {
			owner := newKey(t, devnet.RolePayer)
			wallet := foreignDeploy(t, c, "Wallet1271", owner.Address)
			walletFund(t, c, wallet)
			deal, body := walletSale(t, c, version, owner, wallet)
			walletSettles(t, s, c, deal, body)

			account := newKey(t, devnet.RolePayer) // an EOA that delegated (EIP-7702)
			walletFund(t, c, account.Address)
			delegate := foreignDeploy(t, c, "Delegate7702Accepts")
			if err := c.SetCode(t.Context(), account.Address, types.AddressToDelegation(delegate)); err != nil {
				t.Fatal(err)
			}
			deal, body = walletSale(t, c, version, account, account.Address)
			walletSettles(t, s, c, deal, body)
		}
	})
}

// TestWalletsWithoutCodeSettle: v of 0 or 1 is lifted to what tokens ask for,
// whichever of the two it is.
func TestWalletsWithoutCodeSettle(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t)
	payer := payers(t, c, 1)[0]
	seen := map[byte]bool{}
	for version := 1; len(seen) < 2; version = 3 - version {
		deal, body := walletSale(t, c, version, payer, payer.Address)
		v := byte(0)
		body.resign(func(sig []byte) []byte { sig[64] -= 27; v = sig[64]; return sig })
		if !seen[v] {
			seen[v] = true
			walletSettles(t, s, c, deal, body)
		}
	}
}

func TestWalletsRefuse(t *testing.T) {
	t.Parallel()
	c := world.chain
	d := newBadDesk(t, c, "")
	owner, stranger := newKey(t, devnet.RolePayer), newKey(t, devnet.RolePayer)
	wallet := foreignDeploy(t, c, "Wallet1271", owner.Address)
	walletFund(t, c, wallet)
	// A key's own signature proves nothing of an account that delegated.
	delegates := func(to common.Address) devnet.Key {
		account := newKey(t, devnet.RolePayer)
		walletFund(t, c, account.Address)
		if err := c.SetCode(t.Context(), account.Address, types.AddressToDelegation(to)); err != nil {
			t.Fatal(err)
		}
		return account
	}
	rejects := delegates(foreignDeploy(t, c, "Delegate7702Rejects"))
	nothing := delegates(newKey(t, devnet.RolePayee).Address)
	accepts := delegates(foreignDeploy(t, c, "Delegate7702Accepts"))

	const signature = "invalid_exact_evm_signature"
	by := func(signer devnet.Key, from common.Address) func(*devnet.Sale) {
		return func(s *devnet.Sale) { s.Payer, s.From = signer, from }
	}
	factory := newKey(t, devnet.RolePayee).Address
	wrap := func(b badBody) { b.resign(func(sig []byte) []byte { return walletWrap(factory, []byte{1}, sig) }) }
	d.refuses(t, []badRow{
		{sentence: "another than the owner signed for the wallet", sign: by(stranger, wallet), reason: signature, says: []string{"EIP-1271"}},
		{
			sentence: "the owner signed for the wallet in 66 bytes", sign: by(owner, wallet), reason: signature,
			edit: func(b badBody) { b.resign(func(sig []byte) []byte { return append(sig, 0) }) },
		},
		{
			sentence: "the owner signed for the wallet with v of 0 or 1", sign: by(owner, wallet), reason: signature,
			edit: func(b badBody) { b.resign(func(sig []byte) []byte { sig[64] -= 27; return sig }) },
		},
		{sentence: "the payer is a contract that is no wallet", sign: by(owner, c.Multicall3()), reason: signature},
		{sentence: "the payer is the token itself", sign: by(owner, c.USDC()), reason: signature},
		{sentence: "the account delegated to code that rejects", sign: by(rejects, rejects.Address), reason: signature, says: []string{"EIP-7702"}},
		{sentence: "the account delegated to nothing", sign: by(nothing, nothing.Address), reason: signature, says: []string{"EIP-7702"}},
		{sentence: "another signed for the account that delegated", sign: by(stranger, accepts.Address), reason: signature, says: []string{"EIP-1271"}},
		{
			sentence: "another signed for the wallet, wrapped by ERC-6492", sign: by(stranger, wallet), edit: wrap,
			reason: signature, says: []string{"EIP-1271"},
		},
		{
			sentence: "the wallet is not deployed and nothing says how", sign: by(owner, newKey(t, devnet.RolePayee).Address),
			reason: signature, says: []string{"not signed by the payer"},
		},
		{
			sentence: "the wallet's factory is not allowed", sign: by(owner, newKey(t, devnet.RolePayee).Address), edit: wrap,
			reason: "eip6492_factory_not_allowed", says: []string{factory.Hex()},
		},
	})
}

// walletFactory is a factory and the wallet that it would make for an owner.
type walletFactory struct {
	factory, wallet common.Address
	data            []byte // the call that makes it
}

// wrap makes the wallet's signatures say how it is deployed.
func (f walletFactory) wrap(b badBody) {
	b.resign(func(sig []byte) []byte { return walletWrap(f.factory, f.data, sig) })
}

func newWalletFactory(t *testing.T, c *devnet.Chain, factory common.Address, owner devnet.Key) walletFactory {
	t.Helper()
	contract := foreignContract(t, "WalletFactory").ABI
	salt := [32]byte{1}
	f := walletFactory{factory: factory}
	var err error
	if f.data, err = contract.Pack("deploy", owner.Address, salt); err != nil {
		t.Fatal(err)
	}
	ask, err := contract.Pack("predict", owner.Address, salt)
	if err != nil {
		t.Fatal(err)
	}
	var word hexutil.Bytes
	if err := c.RPC().CallContext(t.Context(), &word, "eth_call", map[string]any{"to": factory, "data": hexutil.Bytes(ask)}, "latest"); err != nil {
		t.Fatal(err)
	}
	f.wallet = common.BytesToAddress(word)
	walletFund(t, c, f.wallet)
	return f
}

func (f walletFactory) deployed(t *testing.T, c *devnet.Chain) bool {
	t.Helper()
	code, err := c.Client().CodeAt(t.Context(), f.wallet, nil)
	if err != nil {
		t.Fatal(err)
	}
	return len(code) > 0
}

func walletAllow(factory common.Address) string {
	return "chains: {'eip155:8453': {eip6492_factories: ['" + factory.Hex() + "']}}"
}

func TestWalletsNotDeployedSettle(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, c *devnet.Chain) {
		t.Helper()
		factory := foreignDeploy(t, c, "WalletFactory")
		s := setup{chain: c, overlay: walletAllow(factory)}.start(t)
		for i, version := range []int{x402.V1, x402.V2} {
			owner := newKey(t, devnet.RolePayer)
			f := newWalletFactory(t, c, factory, owner)
			if f.deployed(t, c) {
				t.Fatal("the wallet is there already")
			}
			deal, body := walletSale(t, c, version, owner, f.wallet)
			f.wrap(body)
			hash := walletSettles(t, s, c, deal, body)
			receipt, err := c.Client().TransactionReceipt(t.Context(), hash)
			if err != nil || !f.deployed(t, c) {
				t.Fatalf("v%d: the wallet is not deployed (%v)", version, err)
			}
			made, moved := 0, 0
			for _, log := range receipt.Logs {
				switch log.Address {
				case factory:
					made++
				case c.USDC():
					moved++
				}
			}
			if made != 1 || moved != 2 { // AuthorizationUsed and Transfer
				t.Errorf("v%d: the transaction has %d logs of the factory and %d of the token, want 1 and 2", version, made, moved)
			}

			// Its next payment finds it deployed: wrapped or not, only the inner
			// signature counts, and the factory is not called.
			deal, body = walletSale(t, c, version, owner, f.wallet)
			f.wrap(body)
			hash = walletSettles(t, s, c, deal, body)
			sent, _, err := c.Client().TransactionByHash(t.Context(), hash)
			if err != nil || *sent.To() != c.USDC() {
				t.Errorf("v%d: the second payment was not sent to the token: %+v (%v)", version, sent, err)
			}
			if n, err := c.Client().NonceAt(t.Context(), s.lanes[0].Address, nil); err != nil || n != uint64(2*(i+1)) {
				t.Errorf("v%d: the lane sent %d transactions (%v), want one per payment", version, n, err)
			}
		}
	})
}

// TestWalletsDeployedAreUnwrapped: an allow-list is about calling factories. A
// wallet that is there needs none.
func TestWalletsDeployedAreUnwrapped(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t)
	for _, version := range []int{x402.V1, x402.V2} {
		owner := newKey(t, devnet.RolePayer)
		wallet := foreignDeploy(t, c, "Wallet1271", owner.Address)
		walletFund(t, c, wallet)
		deal, body := walletSale(t, c, version, owner, wallet)
		body.resign(func(sig []byte) []byte { return walletWrap(c.Multicall3(), []byte{1, 2, 3, 4}, sig) })
		walletSettles(t, s, c, deal, body)
	}
}

func TestWalletsNotDeployedRefuse(t *testing.T) {
	t.Parallel()
	c := world.chain
	owner, stranger := newKey(t, devnet.RolePayer), newKey(t, devnet.RolePayer)
	factory := foreignDeploy(t, c, "WalletFactory")
	f := newWalletFactory(t, c, factory, owner)
	other := f // its call makes another owner's wallet
	other.data = newWalletFactory(t, c, factory, stranger).data
	reverts := f
	reverts.data = []byte{1, 2, 3, 4}
	strange := f
	strange.factory = foreignDeploy(t, c, "WalletFactory")

	d := newBadDesk(t, c, walletAllow(factory))
	t.Cleanup(func() {
		if code, err := c.Client().CodeAt(context.WithoutCancel(t.Context()), f.wallet, nil); err != nil || len(code) > 0 {
			t.Errorf("the wallet has %d bytes of code (%v), want none", len(code), err)
		}
	})
	const failed = "invalid_exact_evm_transaction_simulation_failed"
	by := func(signer devnet.Key) func(*devnet.Sale) {
		return func(s *devnet.Sale) { s.Payer, s.From = signer, f.wallet }
	}
	d.refuses(t, []badRow{
		{sentence: "another than the owner signed", sign: by(stranger), edit: f.wrap, reason: failed},
		{sentence: "the factory makes another wallet", sign: by(owner), edit: other.wrap, reason: failed},
		{sentence: "the factory reverts", sign: by(owner), edit: reverts.wrap, reason: failed},
		{sentence: "another factory is allowed", sign: by(owner), edit: strange.wrap, reason: "eip6492_factory_not_allowed"},
		{
			sentence: "the factory is the zero address", sign: by(owner), reason: "invalid_exact_evm_signature",
			edit: func(b badBody) {
				b.resign(func(sig []byte) []byte { return walletWrap(common.Address{}, f.data, sig) })
			},
		},
	})
}

// Code that runs into INVALID has judged the signature: it is not the node that
// failed.
func TestWalletsThatBurnAllGasAreRefused(t *testing.T) {
	t.Parallel()
	c := world.chain
	d := newBadDesk(t, c, "")
	owner := newKey(t, devnet.RolePayer)
	burner := foreignDeploy(t, c, "GasBurnerWallet")
	account := newKey(t, devnet.RolePayer)
	walletFund(t, c, burner)
	walletFund(t, c, account.Address)
	if err := c.SetCode(t.Context(), account.Address, types.AddressToDelegation(burner)); err != nil {
		t.Fatal(err)
	}
	const signature = "invalid_exact_evm_signature"
	d.refuses(t, []badRow{
		{sentence: "the owner signed for a wallet that burns all gas", sign: func(s *devnet.Sale) { s.Payer, s.From = owner, burner }, reason: signature, says: []string{"EIP-1271"}},
		{sentence: "the account delegated to code that burns all gas", sign: func(s *devnet.Sale) { s.Payer, s.From = account, account.Address }, reason: signature, says: []string{"EIP-7702"}},
	})
}
