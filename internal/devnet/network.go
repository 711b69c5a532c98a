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
	name        string
	chainID     uint64
	usdc        common.Address
	tokenName   string // of the EIP-712 domain; the version is 2
	tokenSymbol string
	domain      common.Hash // the token's DOMAIN_SEPARATOR()
}

func lookupNetwork(name string) (network, error) {
	switch name {
	case Base:
		return network{
			name: name, chainID: 8453,
			usdc:      common.HexToAddress("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
			tokenName: "USD Coin", tokenSymbol: "USDC",
			domain: common.HexToHash("0x02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f"),
		}, nil
	case BaseSepolia:
		return network{
			name: name, chainID: 84532,
			usdc:      common.HexToAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
			tokenName: "USDC", tokenSymbol: "USDC",
			domain: common.HexToHash("0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818"),
		}, nil
	default:
		return network{}, fmt.Errorf("no development chain for network %q, only for %s and %s", name, Base, BaseSepolia)
	}
}
