package test

import (
	"bytes"
	"context"
	"math/big"
	"slices"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/devnet"
)

const (
	badSign        = "invalid_exact_evm_signature"
	simFailed      = "invalid_exact_evm_transaction_simulation_failed"
	factoryRefused = "eip6492_factory_not_allowed"
)

// walletDigest is what a request's payer is to sign, under the domain of a sale.
func walletDigest(t *testing.T, c *devnet.Chain, deal devnet.Sale, body badBody) []byte {
	t.Helper()
	name, asset := deal.Name, deal.Asset
	if asset == (common.Address{}) {
		name, asset = "USD Coin", c.USDC()
	}
	digest := foreignAuthorization(t, body).Digest(evm.DomainSeparator(name, "2", c.ChainID(), chain.Address(asset)))
	return digest[:]
}

// walletSign signs a hash as it is, with v of 27 or 28.
func walletSign(t *testing.T, key devnet.Key, hash []byte) []byte {
	t.Helper()
	sig, err := crypto.Sign(hash, key.Private)
	if err != nil {
		t.Fatal(err)
	}
	sig[64] += 27
	return sig
}

// walletTyped is an EIP-712 hash of a wallet's own domain.
func walletTyped(domain, message [][]byte) []byte {
	return crypto.Keccak256([]byte{0x19, 0x01}, crypto.Keccak256(domain...), crypto.Keccak256(message...))
}

func walletWord(n int64) []byte { return common.BigToHash(big.NewInt(n)).Bytes() }

// safeHash is what the owners of an OwnersWallet sign.
func safeHash(c *devnet.Chain, wallet common.Address, digest []byte) []byte {
	return walletTyped(
		[][]byte{
			crypto.Keccak256([]byte("EIP712Domain(uint256 chainId,address verifyingContract)")),
			walletWord(int64(c.ChainID())), common.LeftPadBytes(wallet[:], 32),
		},
		[][]byte{crypto.Keccak256([]byte("SafeMessage(bytes message)")), crypto.Keccak256(digest)},
	)
}

// safe is an OwnersWallet with money and its owners by rising address.
type safe struct {
	address common.Address
	owners  []devnet.Key
}

func newSafe(t *testing.T, c *devnet.Chain, owners, threshold int) safe {
	t.Helper()
	w := safe{owners: newKeys(t, devnet.RolePayer, owners)}
	slices.SortFunc(w.owners, func(a, b devnet.Key) int { return a.Address.Cmp(b.Address) })
	w.address = foreignDeploy(t, c, "OwnersWallet", addresses(w.owners), big.NewInt(int64(threshold)))
	walletFund(t, c, w.address)
	return w
}

// sale is one that these keys sign for the wallet.
func (w safe) sale(t *testing.T, c *devnet.Chain, by ...devnet.Key) (devnet.Sale, badBody) {
	t.Helper()
	deal, body := walletSale(t, c, 2, by[0], w.address)
	w.sign(t, c, deal, body, by...)
	return deal, body
}

func (w safe) sign(t *testing.T, c *devnet.Chain, deal devnet.Sale, body badBody, by ...devnet.Key) {
	t.Helper()
	hash := safeHash(c, w.address, walletDigest(t, c, deal, body))
	var sigs []byte
	for _, key := range by {
		sigs = append(sigs, walletSign(t, key, hash)...)
	}
	body.set(badSignature, hexutil.Encode(sigs))
}

// TestWalletsOfSeveralOwners: a Safe's signatures are over a hash of its own, and
// as long as its threshold asks; what it does not like it reverts.
func TestWalletsOfSeveralOwners(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, c *devnet.Chain) {
		t.Helper()
		s := newJudge(t, c, "")
		stranger := newKey(t, devnet.RolePayer)
		two := func(t *testing.T) safe { t.Helper(); return newSafe(t, c, 3, 2) }
		by := func(pick func(safe) []devnet.Key) func(*testing.T) (devnet.Sale, badBody) {
			return func(t *testing.T) (devnet.Sale, badBody) {
				t.Helper()
				w := two(t)
				return w.sale(t, c, pick(w)...)
			}
		}
		s.judges(t, c, []kindRow{
			{"two of three signed", by(func(w safe) []devnet.Key { return []devnet.Key{w.owners[0], w.owners[2]} }), outcome{}},
			{"more than need be signed", by(func(w safe) []devnet.Key { return w.owners }), outcome{}},
			{"one of one signed", func(t *testing.T) (devnet.Sale, badBody) {
				t.Helper()
				w := newSafe(t, c, 1, 1)
				return w.sale(t, c, w.owners[0])
			}, outcome{}},
			{"one of two signed", by(func(w safe) []devnet.Key { return w.owners[:1] }), refused(badSign, "EIP-1271")},
			{"one signed twice", by(func(w safe) []devnet.Key { return []devnet.Key{w.owners[1], w.owners[1]} }), refused(badSign, "EIP-1271")},
			{"they signed in the wrong order", by(func(w safe) []devnet.Key { return []devnet.Key{w.owners[2], w.owners[0]} }), refused(badSign, "EIP-1271")},
			{"one of them is a stranger", by(func(w safe) []devnet.Key { return []devnet.Key{w.owners[0], stranger} }), refused(badSign, "EIP-1271")},
			{"they signed the payment itself", func(t *testing.T) (devnet.Sale, badBody) {
				t.Helper()
				w := two(t)
				deal, body := w.sale(t, c, w.owners...)
				digest := walletDigest(t, c, deal, body)
				body.set(badSignature, hexutil.Encode(append(walletSign(t, w.owners[0], digest), walletSign(t, w.owners[1], digest)...)))
				return deal, body
			}, refused(badSign, "EIP-1271")},
			{"they signed for another wallet of theirs", func(t *testing.T) (devnet.Sale, badBody) {
				t.Helper()
				w := two(t)
				other := safe{foreignDeploy(t, c, "OwnersWallet", addresses(w.owners), big.NewInt(2)), w.owners}
				walletFund(t, c, other.address)
				deal, body := other.sale(t, c, w.owners[:2]...)
				hash := safeHash(c, w.address, walletDigest(t, c, deal, body))
				body.set(badSignature, hexutil.Encode(append(walletSign(t, w.owners[0], hash), walletSign(t, w.owners[1], hash)...)))
				return deal, body
			}, refused(badSign, "EIP-1271")},
		})
	})
}

// smartWallet is a SmartWallet as its factory would make it.
type smartWallet struct {
	walletFactory
	owners []devnet.Key
}

func newSmartWallet(t *testing.T, c *devnet.Chain, factory common.Address, owners ...devnet.Key) smartWallet {
	t.Helper()
	contract := foreignContract(t, "SmartWalletFactory").ABI
	encoded := make([][]byte, len(owners))
	for i, key := range owners {
		encoded[i] = common.LeftPadBytes(key.Address[:], 32)
	}
	salt := big.NewInt(world.accounts.Add(1))
	w := smartWallet{walletFactory{factory: factory}, owners}
	var err error
	if w.data, err = contract.Pack("createAccount", encoded, salt); err != nil {
		t.Fatal(err)
	}
	ask, err := contract.Pack("getAddress", encoded, salt)
	if err != nil {
		t.Fatal(err)
	}
	w.wallet = walletAsk(t, c, factory, ask)
	walletFund(t, c, w.wallet)
	return w
}

// walletAsk calls a function that returns an address.
func walletAsk(t *testing.T, c *devnet.Chain, to common.Address, data []byte) common.Address {
	t.Helper()
	var word hexutil.Bytes
	if err := c.RPC().CallContext(t.Context(), &word, "eth_call", map[string]any{"to": to, "data": hexutil.Bytes(data)}, "latest"); err != nil {
		t.Fatal(err)
	}
	return common.BytesToAddress(word)
}

// sale is one signed by key, who says to be the owner at index, and wrapped by
// ERC-6492 unless bare.
func (w smartWallet) sale(t *testing.T, c *devnet.Chain, key devnet.Key, index int64, bare bool) (devnet.Sale, badBody) {
	t.Helper()
	deal, body := walletSale(t, c, 2, key, w.wallet)
	w.sign(t, c, deal, body, key, index, bare)
	return deal, body
}

// sign puts the signature of key, who says to be the owner at index, into a body.
func (w smartWallet) sign(t *testing.T, c *devnet.Chain, deal devnet.Sale, body badBody, key devnet.Key, index int64, bare bool) {
	t.Helper()
	safeFor := walletTyped(
		[][]byte{
			crypto.Keccak256([]byte("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")),
			crypto.Keccak256([]byte("Coinbase Smart Wallet")), crypto.Keccak256([]byte("1")),
			walletWord(int64(c.ChainID())), common.LeftPadBytes(w.wallet[:], 32),
		},
		[][]byte{crypto.Keccak256([]byte("CoinbaseSmartWalletMessage(bytes32 hash)")), walletDigest(t, c, deal, body)},
	)
	inner := bytes.Join([][]byte{ // abi.encode(SignatureWrapper)
		walletWord(32), walletWord(index), walletWord(64), walletWord(65),
		common.RightPadBytes(walletSign(t, key, safeFor), 96),
	}, nil)
	if !bare {
		inner = walletWrap(w.factory, w.data, inner)
	}
	body.set(badSignature, hexutil.Encode(inner))
}

// TestWalletsLikeCoinbases deploys and charges smart wallets in one transaction,
// and charges them afterwards.
func TestWalletsLikeCoinbases(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, c *devnet.Chain) {
		t.Helper()
		factory := foreignDeploy(t, c, "SmartWalletFactory")
		other := foreignDeploy(t, c, "SmartWalletFactory")
		s := newJudge(t, c, walletAllow(factory))
		owner, second, stranger := newKey(t, devnet.RolePayer), newKey(t, devnet.RolePayer), newKey(t, devnet.RolePayer)
		by := func(factory common.Address, key devnet.Key, index int64, bare bool) func(*testing.T) (devnet.Sale, badBody) {
			return func(t *testing.T) (devnet.Sale, badBody) {
				t.Helper()
				return newSmartWallet(t, c, factory, owner, second).sale(t, c, key, index, bare)
			}
		}
		s.judges(t, c, []kindRow{
			{"its owner signed", by(factory, owner, 0, false), outcome{}},
			{"its second owner signed", by(factory, second, 1, false), outcome{}},
			{"an owner signed as another", by(factory, owner, 1, false), refused(simFailed, "")},
			{"an owner that is none signed", by(factory, owner, 2, false), refused(simFailed, "")},
			{"a stranger signed", by(factory, stranger, 0, false), refused(simFailed, "")},
			{"its factory is not allowed", by(other, owner, 0, false), refused(factoryRefused, other.Hex())},
			{"nothing says how it is deployed", by(factory, owner, 0, true), refused(badSign, "not signed by the payer")},
			{"somebody deployed it between", func(t *testing.T) (devnet.Sale, badBody) {
				t.Helper()
				w := newSmartWallet(t, c, factory, owner, second)
				deal, body := w.sale(t, c, owner, 0, false)
				foreignSend(t, c, newKey(t, devnet.RoleLane), factory, w.data)
				return deal, body
			}, outcome{}},
			{"it is deployed and its signature is bare", func(t *testing.T) (devnet.Sale, badBody) {
				t.Helper()
				w := newSmartWallet(t, c, factory, owner, second)
				foreignSend(t, c, newKey(t, devnet.RoleLane), factory, w.data)
				return w.sale(t, c, second, 1, true)
			}, outcome{}},
			{"it is deployed and a stranger signed", func(t *testing.T) (devnet.Sale, badBody) {
				t.Helper()
				w := newSmartWallet(t, c, factory, owner, second)
				foreignSend(t, c, newKey(t, devnet.RoleLane), factory, w.data)
				return w.sale(t, c, stranger, 1, false)
			}, refused(badSign, "EIP-1271")},
		})
	})
}

// TestWalletsAreDeployedOnlyWithTheirPayment: what is refused deploys nothing,
// what is paid is deployed in the transaction that pays.
func TestWalletsAreDeployedOnlyWithTheirPayment(t *testing.T) {
	t.Parallel()
	c := world.chain
	factory := foreignDeploy(t, c, "SmartWalletFactory")
	s := newJudge(t, c, walletAllow(factory))
	owner, stranger := newKey(t, devnet.RolePayer), newKey(t, devnet.RolePayer)
	w := newSmartWallet(t, c, factory, owner)
	deal, body := w.sale(t, c, stranger, 0, false)
	s.wantOutcome(t, c, deal, body, refused(simFailed, "FiatTokenV2: invalid signature"))
	if w.deployed(t, c) {
		t.Error("a refused payment deployed its wallet")
	}
	deal, body = w.sale(t, c, owner, 0, false)
	s.wantOutcome(t, c, deal, body, outcome{})
	if !w.deployed(t, c) {
		t.Error("the payment did not deploy its wallet")
	}
	settled := recordOf(t, s, body)
	receipt, err := c.Client().TransactionReceipt(t.Context(), common.HexToHash(dig[string](t, settled, "transaction")))
	if err != nil || receipt.GasUsed > gasCap || len(receipt.Logs) != 3 { // AccountCreated, AuthorizationUsed, Transfer
		t.Errorf("receipt: %+v (%v)", receipt, err)
	}
	checkWallets(t, s.databaseURL, c, 1)
}

// TestWalletsAboveTheCapAreNotDeployed: the cap covers both steps.
func TestWalletsAboveTheCapAreNotDeployed(t *testing.T) {
	t.Parallel()
	c := world.chain
	factory := foreignDeploy(t, c, "SmartWalletFactory")
	s := newJudge(t, c, "chains: {'eip155:8453': {eip6492_factories: ['"+factory.Hex()+"'], gas: {max_per_payment: 150000}, batch: {gas_per_payment: 50000}}}")
	w := newSmartWallet(t, c, factory, newKey(t, devnet.RolePayer))
	deal, body := w.sale(t, c, w.owners[0], 0, false)
	s.wantOutcome(t, c, deal, body, refused(simFailed, ""))
	if w.deployed(t, c) {
		t.Error("it is deployed")
	}
}

// TestWalletsOfHostileFactories: a factory that should not have been allowed costs
// at most the cap, and gets at nothing.
func TestWalletsOfHostileFactories(t *testing.T) {
	t.Parallel()
	c := world.chain
	factory := foreignDeploy(t, c, "HostileFactory")
	s := newJudge(t, c, "chains: {'eip155:8453': {eip6492_factories: ['"+factory.Hex()+"', '"+c.USDC().Hex()+"']}}")
	lane, thief := s.lanes[0].Address, newKey(t, devnet.RolePayee).Address
	walletFund(t, c, lane) // it should have none; then there is something to take
	contract := foreignContract(t, "HostileFactory").ABI
	pack := func(t *testing.T, name string, args ...any) []byte {
		t.Helper()
		data, err := contract.Pack(name, args...)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	salt := [32]byte{1}
	wallet := func(t *testing.T, owner devnet.Key) common.Address {
		t.Helper()
		at := walletAsk(t, c, factory, pack(t, "predict", owner.Address, salt))
		walletFund(t, c, at)
		return at
	}
	does := func(name string, signer func(owner devnet.Key) devnet.Key, more ...any) func(*testing.T) (devnet.Sale, badBody) {
		return func(t *testing.T) (devnet.Sale, badBody) {
			t.Helper()
			owner := newKey(t, devnet.RolePayer)
			deal, body := walletSale(t, c, 2, signer(owner), wallet(t, owner))
			data := pack(t, name, append([]any{owner.Address, salt}, more...)...)
			body.resign(func(sig []byte) []byte { return walletWrap(factory, data, sig) })
			return deal, body
		}
	}
	takes := func(t *testing.T) (devnet.Sale, badBody) { // the token itself as the factory
		t.Helper()
		from, err := foreignContract(t, "SilentToken").ABI.Pack("transferFrom", lane, thief, big.NewInt(1))
		if err != nil {
			t.Fatal(err)
		}
		deal, body := walletSale(t, c, 2, newKey(t, devnet.RolePayer), newKey(t, devnet.RolePayee).Address)
		walletFund(t, c, deal.From)
		body.resign(func(sig []byte) []byte { return walletWrap(c.USDC(), from, sig) })
		return deal, body
	}
	own := func(owner devnet.Key) devnet.Key { return owner }
	t.Cleanup(func() { // after all rows
		for who, want := range map[common.Address]int64{lane: 1_000_000_000, thief: 0, factory: 0} {
			if got, err := c.BalanceOf(context.WithoutCancel(t.Context()), c.USDC(), who); err != nil || got.Int64() != want {
				t.Errorf("%s has %d (%v), want %d", who, got, err, want)
			}
		}
	})
	s.judges(t, c, []kindRow{
		{"it burns all gas once it has deployed the wallet", does("deployAndBurn", own), refused(simFailed, "")},
		{"it reverts", does("deployAndRevert", own), refused(simFailed, "")},
		{"it deploys a wallet that refuses", does("deployAndDrain", func(devnet.Key) devnet.Key { return newKey(t, devnet.RolePayer) }, c.USDC()), refused(simFailed, "")},
		{"it tries to take tokens and ether of who pays", does("deployAndDrain", own, c.USDC()), outcome{}},
		{"it is a token that is to move the lane's", takes, refused(simFailed, "")},
	})
}

// TestWalletsDelegatedByTransaction: accounts delegate as they really do, by a
// transaction of type 4 that their key signs.
func TestWalletsDelegatedByTransaction(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, "")
	accepts, rejects := foreignDeploy(t, c, "Delegate7702Accepts"), foreignDeploy(t, c, "Delegate7702Rejects")
	burns := foreignDeploy(t, c, "GasBurnerWallet")
	plain := func(t *testing.T) (devnet.Key, devnet.Sale, badBody) {
		t.Helper()
		key := payers(t, c, 1)[0]
		deal, body := walletSale(t, c, 2, key, key.Address)
		return key, deal, body
	}
	for _, row := range []struct {
		sentence string
		to       common.Address
		settle   string
	}{
		{"to code that accepts its owner's signature", accepts, ""},
		{"to code that accepts nothing", rejects, badSign},
		{"to code that burns all gas", burns, badSign},
		{"to nobody again", common.Address{}, ""},
	} {
		t.Run("before it is verified, "+row.sentence, func(t *testing.T) {
			t.Parallel()
			key, deal, body := plain(t)
			if row.to == (common.Address{}) {
				delegate(t, c, key, rejects)
			}
			delegate(t, c, key, row.to)
			s.wantOutcome(t, c, deal, body, outcome{verify: row.settle, settle: row.settle})
		})
		t.Run("between verify and settle, "+row.sentence, func(t *testing.T) {
			t.Parallel()
			key, deal, body := plain(t)
			between := func(t *testing.T) { t.Helper(); delegate(t, c, key, row.to) }
			s.wantOutcome(t, c, deal, body, outcome{settle: row.settle, between: between})
		})
	}
	t.Run("a signature wrapped by ERC-6492 is unwrapped for it", func(t *testing.T) {
		t.Parallel()
		key, deal, body := plain(t)
		delegate(t, c, key, accepts)
		body.resign(func(sig []byte) []byte { return walletWrap(c.Multicall3(), []byte{1}, sig) })
		s.wantOutcome(t, c, deal, body, outcome{})
	})
}

// delegate has an account delegate (EIP-7702); to the zero address to end it.
func delegate(t *testing.T, c *devnet.Chain, key devnet.Key, to common.Address) {
	t.Helper()
	sponsor := newKey(t, devnet.RoleLane)
	if err := c.FundETH(t.Context(), new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil), sponsor.Address); err != nil {
		t.Fatal(err)
	}
	nonce, err := c.Client().NonceAt(t.Context(), key.Address, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := new(big.Int).SetUint64(c.ChainID())
	auth, err := types.SignSetCode(key.Private, types.SetCodeAuthorization{ChainID: *uint256.MustFromBig(id), Address: to, Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	gwei := big.NewInt(1_000_000_000)
	tx, err := types.SignNewTx(sponsor.Private, types.NewPragueSigner(id), &types.SetCodeTx{
		ChainID: uint256.MustFromBig(id), To: key.Address, Gas: 200_000, AuthList: []types.SetCodeAuthorization{auth},
		GasFeeCap: uint256.MustFromBig(new(big.Int).Mul(gwei, big.NewInt(100))), GasTipCap: uint256.MustFromBig(gwei),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Client().SendTransaction(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	want := types.AddressToDelegation(to)
	if to == (common.Address{}) {
		want = nil
	}
	eventually(t, "the account has delegated", func() bool {
		code, err := c.Client().CodeAt(t.Context(), key.Address, nil)
		return err == nil && bytes.Equal(code, want)
	})
}
