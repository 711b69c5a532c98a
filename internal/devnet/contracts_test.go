package devnet_test

import (
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/devnet"
)

const contractsDir = "../../test/contracts"

// bench is a chain with the test contracts compiled.
type bench struct {
	*devnet.Chain
	contracts map[string]devnet.Contract
}

func startBench(t *testing.T) bench {
	t.Helper()
	chain := startChain(t, devnet.ChainConfig{Network: devnet.Base})
	contracts, err := devnet.CompileContracts(t.Context(), "", contractsDir)
	if err != nil {
		t.Fatal(err)
	}
	return bench{Chain: chain, contracts: contracts}
}

func TestWalletContracts(t *testing.T) {
	t.Parallel()
	b := startBench(t)
	owner := devnet.Keys(devnet.RolePayer, 1)[0]
	digest := crypto.Keccak256Hash([]byte("what the owner signs"))
	good, bad := signature(t, owner, digest), signature(t, devnet.Keys(devnet.RoleLane, 1)[0], digest)

	accepts := func(wallet common.Address, signed []byte) bool {
		t.Helper()
		var answer [4]byte
		b.read(t, "Wallet1271", wallet, &answer, "isValidSignature", digest, signed)
		return answer == [4]byte{0x16, 0x26, 0xba, 0x7e}
	}
	wallet := b.deploy(t, "Wallet1271", owner.Address)
	if !accepts(wallet, good) || accepts(wallet, bad) || accepts(wallet, good[:64]) {
		t.Error("the wallet does not accept its owner's signature alone")
	}

	factory := b.deploy(t, "WalletFactory")
	salt := common.HexToHash("0x01")
	var predicted common.Address
	b.read(t, "WalletFactory", factory, &predicted, "predict", owner.Address, salt)
	for range 2 { // the second time it is there already
		if receipt := b.send(t, "WalletFactory", factory, "deploy", owner.Address, salt); receipt.Status != 1 {
			t.Fatal("the factory reverted")
		}
	}
	if !accepts(predicted, good) {
		t.Error("no wallet at the predicted address")
	}

	for name, want := range map[string]bool{"Delegate7702Accepts": true, "Delegate7702Rejects": false} {
		delegate := b.deploy(t, name)
		if err := b.SetCode(t.Context(), owner.Address, types.AddressToDelegation(delegate)); err != nil {
			t.Fatal(err)
		}
		if accepts(owner.Address, good) != want || accepts(owner.Address, bad) {
			t.Errorf("%s accepts the account's signature: %v, want %v", name, !want, want)
		}
	}

	burner := b.deploy(t, "GasBurnerWallet")
	data, err := b.contracts["GasBurnerWallet"].ABI.Pack("isValidSignature", digest, good)
	if err != nil {
		t.Fatal(err)
	}
	if receipt := b.sendData(t, burner, data); receipt.Status != 0 || receipt.GasUsed != 1_000_000 {
		t.Errorf("the gas burner used %d gas with status %d", receipt.GasUsed, receipt.Status)
	}
}

func TestTokenContracts(t *testing.T) {
	t.Parallel()
	b := startBench(t)
	payer := devnet.Keys(devnet.RolePayer, 1)[0]
	payee := devnet.Keys("payee", 1)[0].Address
	for _, test := range []struct {
		name, method string
		again        uint64 // status of the second use
	}{
		{"SilentToken", "transferWithAuthorization", 1},  // v, r, s
		{"SilentToken", "transferWithAuthorization0", 1}, // bytes
		{"VRSOnlyToken", "transferWithAuthorization", 0},
	} {
		token := b.deploy(t, test.name, "Test", "1")
		b.send(t, test.name, token, "mint", payer.Address, big.NewInt(100))
		var domain, typeHash [32]byte
		b.read(t, test.name, token, &domain, "DOMAIN_SEPARATOR")
		b.read(t, test.name, token, &typeHash, "TRANSFER_WITH_AUTHORIZATION_TYPEHASH")

		value, after, before, nonce := big.NewInt(40), new(big.Int), big.NewInt(1<<40), common.HexToHash("0x07")
		message := crypto.Keccak256(typeHash[:], word(payer.Address), word(payee),
			common.BigToHash(value).Bytes(), common.BigToHash(after).Bytes(), common.BigToHash(before).Bytes(), nonce[:])
		signed := signature(t, payer, crypto.Keccak256Hash([]byte("\x19\x01"), domain[:], message))
		args := []any{payer.Address, payee, value, after, before, nonce}
		if len(b.contracts[test.name].ABI.Methods[test.method].Inputs) == 7 {
			args = append(args, signed)
		} else {
			args = append(args, signed[64], [32]byte(signed[:32]), [32]byte(signed[32:64]))
		}

		if first := b.send(t, test.name, token, test.method, args...); first.Status != 1 || len(first.Logs) != 2 {
			t.Errorf("%s: the first use has status %d and %d logs", test.name, first.Status, len(first.Logs))
		}
		if again := b.send(t, test.name, token, test.method, args...); again.Status != test.again || len(again.Logs) != 0 {
			t.Errorf("%s: the second use has status %d and %d logs", test.name, again.Status, len(again.Logs))
		}
		balance, err := b.BalanceOf(t.Context(), token, payee)
		if err != nil || balance.Int64() != 40 {
			t.Errorf("%s: the payee has %v (%v), want 40", test.name, balance, err)
		}
		args[2] = big.NewInt(41)
		args[5] = common.HexToHash("0x08")
		if forged := b.send(t, test.name, token, test.method, args...); forged.Status != 0 {
			t.Errorf("%s: a forged authorization passes", test.name)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	t.Parallel()
	needTools(t)
	if _, err := devnet.CompileContracts(t.Context(), "", t.TempDir()); err == nil {
		t.Error("an empty directory compiles")
	}
}

func (b bench) deploy(t *testing.T, name string, args ...any) common.Address {
	t.Helper()
	code, err := b.contracts[name].Creation(args...)
	if err != nil {
		t.Fatal(err)
	}
	address, err := b.Deploy(t.Context(), code)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return address
}

func (b bench) read(t *testing.T, name string, to common.Address, out any, method string, args ...any) {
	t.Helper()
	contract := b.contracts[name].ABI
	data, err := contract.Pack(method, args...)
	if err != nil {
		t.Fatal(err)
	}
	var raw hexutil.Bytes
	call := map[string]any{"to": to, "data": hexutil.Bytes(data)}
	if err := b.RPC().CallContext(t.Context(), &raw, "eth_call", call, "latest"); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	if err := contract.UnpackIntoInterface(out, method, raw); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
}

func (b bench) send(t *testing.T, name string, to common.Address, method string, args ...any) *types.Receipt {
	t.Helper()
	data, err := b.contracts[name].ABI.Pack(method, args...)
	if err != nil {
		t.Fatal(err)
	}
	return b.sendData(t, to, data)
}

// sendData sends a transaction from an account that the node funds.
func (b bench) sendData(t *testing.T, to common.Address, data []byte) *types.Receipt {
	t.Helper()
	var hash common.Hash
	transaction := map[string]any{
		"from": "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "to": to, "data": hexutil.Bytes(data), "gas": hexutil.Uint64(1_000_000),
	}
	if err := b.RPC().CallContext(t.Context(), &hash, "eth_sendTransaction", transaction); err != nil {
		t.Fatal(err)
	}
	var receipt *types.Receipt
	waitFor(t, "a receipt", func() bool {
		if err := b.RPC().CallContext(t.Context(), &receipt, "eth_getTransactionReceipt", hash); err != nil {
			t.Fatal(err)
		}
		return receipt != nil
	})
	return receipt
}

// signature is r, s and v, as Solidity wants it.
func signature(t *testing.T, key devnet.Key, digest common.Hash) []byte {
	t.Helper()
	signed, err := crypto.Sign(digest[:], key.Private)
	if err != nil {
		t.Fatal(err)
	}
	signed[64] += 27
	return signed
}

func word(addr common.Address) []byte { return common.LeftPadBytes(addr[:], 32) }
