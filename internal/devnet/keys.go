package devnet

import (
	"crypto/ecdsa"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
)

// Roles of test keys.
const (
	RolePayer = "payer" // signs payments
	RoleLane  = "lane"  // sends the facilitator's transactions
	RolePayee = "payee" // is paid
)

// Key is a test key. Anybody can derive it: it must never hold anything of
// value.
type Key struct {
	Private *ecdsa.PrivateKey
	Address common.Address
}

// Keys returns the first n test keys of a role. They are the same in every
// run, differ between roles, and are none of the accounts that development
// nodes fund by themselves. The i-th is keccak256("facilitator devnet <role> <i>").
func Keys(role string, n int) []Key {
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = deriveKey(role, i)
	}
	return keys
}

// Hex is the private key as 0x and 64 digits.
func (k Key) Hex() string { return hexutil.Encode(crypto.FromECDSA(k.Private)) }

func deriveKey(role string, i int) Key {
	seed := crypto.Keccak256(fmt.Appendf(nil, "facilitator devnet %s %d", role, i))
	for {
		private, err := crypto.ToECDSA(seed)
		if err == nil {
			return Key{Private: private, Address: crypto.PubkeyToAddress(private.PublicKey)}
		}
		seed = crypto.Keccak256(seed) // not a number below the curve's order: about never
	}
}

// roleAddress is an address that acts in the chain's set-up and whose key
// nobody has: it sends by impersonation.
func roleAddress(role string) common.Address {
	return common.BytesToAddress(crypto.Keccak256([]byte("facilitator devnet role " + role)))
}
