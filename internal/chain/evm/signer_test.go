package evm

import (
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"facilitator/internal/chain"
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
