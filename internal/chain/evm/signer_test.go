package evm

import (
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

func TestASignedTransactionIsWhatWasAsked(t *testing.T) {
	t.Parallel()
	for _, key := range []string{payerKey, "0x" + payerKey} {
		s, err := NewKeySigner(key, 84532)
		if err != nil || s.Address().String() != payerText {
			t.Fatalf("%s, %v", s.Address(), err)
		}
		u := Unsigned{
			Call:        chain.Call{To: address(t, usdcText), Data: []byte{1, 2, 3}},
			WalletNonce: 7, GasLimit: 120_000, Fees: chain.Fees{FeeCap: 2e9, TipCap: 1e6},
		}
		signed, err := s.Sign(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		var tx types.Transaction
		if err := tx.UnmarshalBinary(signed.Raw); err != nil {
			t.Fatal(err)
		}
		sender, err := types.Sender(types.LatestSignerForChainID(big.NewInt(84532)), &tx)
		if err != nil || chain.Address(sender) != s.Address() || chain.Hash(tx.Hash()) != signed.Hash {
			t.Errorf("from %s with hash %s, %v", sender, tx.Hash(), err)
		}
		if tx.Type() != types.DynamicFeeTxType || *tx.To() != common.HexToAddress(usdcText) || string(tx.Data()) != "\x01\x02\x03" || tx.Nonce() != 7 ||
			tx.Gas() != 120_000 || tx.GasFeeCap().Int64() != 2e9 || tx.GasTipCap().Int64() != 1e6 || tx.Value().Sign() != 0 || tx.ChainId().Int64() != 84532 {
			t.Errorf("signed %+v", &tx)
		}
		again, err := s.Sign(t.Context(), u)
		if err != nil || again.Hash != signed.Hash {
			t.Errorf("the same transaction has two hashes: %v", err)
		}
	}
}

func TestAKeyThatIsNoneIsNotShown(t *testing.T) {
	t.Parallel()
	const secret = "59c6995e998f97a5a0044966f0945389"
	for name, key := range map[string]string{
		"half of one": secret, "no hex": secret + strings.Repeat("z", 32), "too long": payerKey + "00", "nothing": "", "zero": strings.Repeat("0", 64),
		"the order of the curve": "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
	} {
		s, err := NewKeySigner(key, 1)
		if err == nil || s != nil {
			t.Errorf("%s is taken", name)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error tells the key: %v", name, err)
		}
	}
}

func TestASignedTransactionTellsWhatWasSigned(t *testing.T) {
	t.Parallel()
	s, err := NewKeySigner(payerKey, 84532)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Unsigned{
		{Call: chain.Call{To: address(t, usdcText), Data: []byte{1, 2, 3}}, WalletNonce: 7, GasLimit: 120_000, Fees: chain.Fees{FeeCap: 2e9, TipCap: 1e6}},
		{Call: chain.Call{To: s.Address(), Data: []byte{}}, Value: x402.NewUint256(1e18), GasLimit: 21_000, Fees: chain.Fees{FeeCap: math.MaxUint64, TipCap: math.MaxUint64}},
		{Call: chain.Call{Data: []byte{}}, Value: x402.Uint256{0: 0xff, 31: 1}, WalletNonce: math.MaxUint64 - 1, GasLimit: math.MaxUint64},
	} {
		signed, err := s.Sign(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Rebuild(signed.Raw)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		again, err := s.Sign(t.Context(), got)
		if err != nil || again.Hash != signed.Hash {
			t.Errorf("signed again it is another transaction: %v", err)
		}
	}
}

func TestWhatWeDoNotSignIsNotRebuilt(t *testing.T) {
	t.Parallel()
	key, err := crypto.HexToECDSA(payerKey)
	if err != nil {
		t.Fatal(err)
	}
	id, to := big.NewInt(84532), common.HexToAddress(usdcText)
	huge := new(big.Int).Lsh(big.NewInt(1), 64)
	for name, inner := range map[string]types.TxData{
		"a legacy transaction": &types.LegacyTx{To: &to, GasPrice: big.NewInt(1)},
		"an access list":       &types.DynamicFeeTx{ChainID: id, To: &to, AccessList: types.AccessList{{Address: to}}},
		"a contract's making":  &types.DynamicFeeTx{ChainID: id},
		"an absurd fee":        &types.DynamicFeeTx{ChainID: id, To: &to, GasFeeCap: huge},
		"an absurd tip":        &types.DynamicFeeTx{ChainID: id, To: &to, GasTipCap: huge},
	} {
		tx, err := types.SignNewTx(key, types.LatestSignerForChainID(id), inner)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := tx.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Rebuild(raw); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, raw := range [][]byte{nil, {2}, {2, 0xc0}, []byte("no transaction")} {
		if got, err := Rebuild(raw); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%x: %+v, %v", raw, got, err)
		}
	}
}
