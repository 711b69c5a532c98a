package devnet

import (
	"fmt"

	"github.com/ethereum/go-ethereum/common"
)

// Networks that a chain can stand in for.
const (
	Base        = "eip155:8453"
	BaseSepolia = "eip155:84532"
)

// multicall3 is where Multicall3 lies on every network.
const multicall3 = "0xcA11bde05977b3631167028862bE2a173976CA11"

// network is what a chain must look like.
type network struct {
	name       string
	chainID    uint64
	usdc, eurc coin
	domain     common.Hash // USDC's DOMAIN_SEPARATOR()
}

// coin is one of Circle's tokens.
type coin struct {
	address          common.Address
	name             string // of the EIP-712 domain; the version is 2
	symbol, currency string
}

func lookupNetwork(name string) (network, error) {
	switch name {
	case Base:
		return network{
			name: name, chainID: 8453,
			usdc:   coin{common.HexToAddress("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"), "USD Coin", "USDC", "USD"},
			eurc:   coin{common.HexToAddress("0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42"), "EURC", "EURC", "EUR"},
			domain: common.HexToHash("0x02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f"),
		}, nil
	case BaseSepolia:
		return network{
			name: name, chainID: 84532,
			usdc:   coin{common.HexToAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e"), "USDC", "USDC", "USD"},
			eurc:   coin{common.HexToAddress("0x808456652fdb597867f38412077A9182bf77359F"), "EURC", "EURC", "EUR"},
			domain: common.HexToHash("0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818"),
		}, nil
	default:
		return network{}, fmt.Errorf("no development chain for network %q, only for %s and %s", name, Base, BaseSepolia)
	}
}
