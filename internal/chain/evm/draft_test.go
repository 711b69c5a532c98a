package evm

import (
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

func draftOf(t *testing.T) (Unsigned, Draft, *KeySigner) {
	t.Helper()
	s, err := NewKeySigner(payerKey, 84532)
	if err != nil {
		t.Fatal(err)
	}
	u := Unsigned{
		Call: chain.Call{To: address(t, usdcText), Data: []byte{1, 2, 3}}, Value: x402.NewUint256(5),
		WalletNonce: 7, GasLimit: 120_000, Fees: chain.Fees{FeeCap: 2e9, TipCap: 1e6},
	}
	return u, NewDraft(u, 84532), s
}

func TestASignatureInEitherHalfMakesTheSameTransaction(t *testing.T) {
	t.Parallel()
	u, d, s := draftOf(t)
	want, err := s.Sign(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	digest := d.Digest()
	signature, err := crypto.Sign(digest[:], s.key)
	if err != nil {
		t.Fatal(err)
	}
	r, low := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:64])
	high := new(big.Int).Sub(crypto.S256().Params().N, low)
	for name, half := range map[string]*big.Int{"low": low, "high": high} {
		got, err := d.WithSignature(r, half, s.Address())
		if err != nil || got.Hash != want.Hash {
			t.Errorf("%s: %s, %v; want %s", name, got.Hash, err, want.Hash)
		}
	}
}

func TestASignatureThatIsNotTheWalletsIsRefused(t *testing.T) {
	t.Parallel()
	u, d, s := draftOf(t)
	digest := d.Digest()
	signature, err := crypto.Sign(digest[:], s.key)
	if err != nil {
		t.Fatal(err)
	}
	r, v := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:64])
	other := u
	other.WalletNonce++
	n := crypto.S256().Params().N
	for name, try := range map[string]func() (Signed, error){
		"another wallet":      func() (Signed, error) { return d.WithSignature(r, v, chain.Address{1}) },
		"another transaction": func() (Signed, error) { return NewDraft(other, 84532).WithSignature(r, v, s.Address()) },
		"another chain":       func() (Signed, error) { return NewDraft(u, 1).WithSignature(r, v, s.Address()) },
		"zero":                func() (Signed, error) { return d.WithSignature(new(big.Int), v, s.Address()) },
		"negative":            func() (Signed, error) { return d.WithSignature(new(big.Int).Neg(r), v, s.Address()) },
		"s is the order":      func() (Signed, error) { return d.WithSignature(r, n, s.Address()) },
		"s is beyond it":      func() (Signed, error) { return d.WithSignature(r, new(big.Int).Lsh(n, 300), s.Address()) },
		"r is beyond it":      func() (Signed, error) { return d.WithSignature(new(big.Int).Lsh(r, 300), v, s.Address()) },
	} {
		if got, err := try(); !errors.Is(err, ErrSignature) || got.Raw != nil {
			t.Errorf("%s: %x, %v", name, got.Raw, err)
		}
	}
}

func TestATransactionSignedElsewhereIsTheOneAskedFor(t *testing.T) {
	t.Parallel()
	u, d, s := draftOf(t)
	honest, err := s.Sign(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Accept(honest.Raw, s.Address()); err != nil || got.Hash != honest.Hash || string(got.Raw) != string(honest.Raw) {
		t.Fatalf("an honest answer: %v", err)
	}

	id, to := big.NewInt(84532), common.HexToAddress(usdcText)
	make1559 := func(change func(*types.DynamicFeeTx)) types.TxData {
		tx := &types.DynamicFeeTx{
			ChainID: id, Nonce: 7, To: &to, Value: big.NewInt(5), Data: []byte{1, 2, 3}, Gas: 120_000,
			GasFeeCap: big.NewInt(2e9), GasTipCap: big.NewInt(1e6),
		}
		change(tx)
		return tx
	}
	thief := common.HexToAddress("0x000000000000000000000000000000000000dead")
	for name, inner := range map[string]types.TxData{
		"to":          make1559(func(tx *types.DynamicFeeTx) { tx.To = &thief }),
		"value":       make1559(func(tx *types.DynamicFeeTx) { tx.Value = big.NewInt(6) }),
		"data":        make1559(func(tx *types.DynamicFeeTx) { tx.Data = []byte{1, 2, 4} }),
		"nonce":       make1559(func(tx *types.DynamicFeeTx) { tx.Nonce = 8 }),
		"gas":         make1559(func(tx *types.DynamicFeeTx) { tx.Gas = 120_001 }),
		"fee cap":     make1559(func(tx *types.DynamicFeeTx) { tx.GasFeeCap = big.NewInt(3e9) }),
		"tip cap":     make1559(func(tx *types.DynamicFeeTx) { tx.GasTipCap = big.NewInt(2e6) }),
		"chain":       make1559(func(tx *types.DynamicFeeTx) { tx.ChainID = big.NewInt(1) }),
		"access list": make1559(func(tx *types.DynamicFeeTx) { tx.AccessList = types.AccessList{{Address: to}} }),
		"type":        &types.LegacyTx{Nonce: 7, To: &to, Value: big.NewInt(5), Data: []byte{1, 2, 3}, Gas: 120_000, GasPrice: big.NewInt(2e9)},
	} {
		chainID := id
		if name == "chain" {
			chainID = big.NewInt(1)
		}
		tx, err := types.SignNewTx(s.key, types.LatestSignerForChainID(chainID), inner)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := tx.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Accept(raw, s.Address()); !errors.Is(err, ErrSignature) || got.Raw != nil {
			t.Errorf("%s changed: %x, %v", name, got.Raw, err)
		}
	}
	if got, err := d.Accept(withHighS(t, honest.Raw), s.Address()); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "changed") {
		t.Errorf("a high s: %x, %v", got.Raw, err)
	}
	for _, raw := range [][]byte{nil, {2}, append(honest.Raw[:len(honest.Raw):len(honest.Raw)], 0), []byte("no transaction")} {
		if got, err := d.Accept(raw, s.Address()); !errors.Is(err, ErrSignature) {
			t.Errorf("%x: %x, %v", raw, got.Raw, err)
		}
	}
}

// withHighS is a transaction with the other of its two signatures.
func withHighS(t *testing.T, raw []byte) []byte {
	t.Helper()
	var tx types.Transaction
	if err := tx.UnmarshalBinary(raw); err != nil {
		t.Fatal(err)
	}
	v, r, s := tx.RawSignatureValues()
	turned, err := types.NewTx(&types.DynamicFeeTx{
		ChainID: tx.ChainId(), Nonce: tx.Nonce(), To: tx.To(), Value: tx.Value(), Data: tx.Data(), Gas: tx.Gas(),
		GasFeeCap: tx.GasFeeCap(), GasTipCap: tx.GasTipCap(), V: new(big.Int).Sub(big.NewInt(1), v), R: r, S: new(big.Int).Sub(crypto.S256().Params().N, s),
	}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return turned
}

func TestAProbeCanNeverBeMined(t *testing.T) {
	t.Parallel()
	_, _, s := draftOf(t)
	u := Probe(s.Address())
	if u.WalletNonce+1 != 0 { // EIP-2681: a wallet's count never passes 2^64-1
		t.Errorf("wallet nonce %d", u.WalletNonce)
	}
	if u.Call.To != s.Address() || len(u.Call.Data) != 0 || u.Value != (x402.Uint256{}) {
		t.Errorf("it would do something: %+v", u)
	}
}
