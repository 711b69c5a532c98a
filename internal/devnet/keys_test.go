package devnet_test

import (
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/devnet"
)

func TestKeys(t *testing.T) {
	t.Parallel()
	seen := make(map[common.Address]bool)
	for _, role := range []string{devnet.RolePayer, devnet.RoleLane} {
		keys := devnet.Keys(role, 20)
		again := devnet.Keys(role, 3)
		for i, key := range keys {
			if seen[key.Address] {
				t.Errorf("%s %d occurs twice", role, i)
			}
			seen[key.Address] = true
			if i < len(again) && again[i].Address != key.Address {
				t.Errorf("%s %d changed", role, i)
			}
			parsed, err := crypto.HexToECDSA(key.Hex()[2:])
			if err != nil || crypto.PubkeyToAddress(parsed.PublicKey) != key.Address {
				t.Errorf("%s %d: %s is not the key of %v (%v)", role, i, key.Hex(), key.Address, err)
			}
		}
	}
	// Configurations and fixtures name it.
	if got := devnet.Keys(devnet.RolePayer, 1)[0].Hex(); got != crypto256("facilitator devnet payer 0") {
		t.Errorf("the first payer's key is %s", got)
	}
}

func crypto256(text string) string { return crypto.Keccak256Hash([]byte(text)).Hex() }
