package x402

// V1Name returns the short name that version 1 of the protocol gives to a
// chain, or "". Source: EVM_NETWORK_CHAIN_ID_MAP of the official SDK 2.27;
// chains that are not in it speak version 2 only.
func V1Name(n Network) string {
	switch n {
	case "eip155:1":
		return "ethereum"
	case "eip155:11155111":
		return "sepolia"
	case "eip155:8453":
		return "base"
	case "eip155:84532":
		return "base-sepolia"
	case "eip155:137":
		return "polygon"
	case "eip155:80002":
		return "polygon-amoy"
	case "eip155:43114":
		return "avalanche"
	case "eip155:43113":
		return "avalanche-fuji"
	case "eip155:2741":
		return "abstract"
	case "eip155:11124":
		return "abstract-testnet"
	case "eip155:1329":
		return "sei"
	case "eip155:1328":
		return "sei-testnet"
	case "eip155:4689":
		return "iotex"
	case "eip155:3338":
		return "peaq"
	case "eip155:1514":
		return "story"
	case "eip155:41923":
		return "educhain"
	case "eip155:324705682":
		return "skale-base-sepolia"
	case "eip155:4326":
		return "megaeth"
	case "eip155:143":
		return "monad"
	case "eip155:988":
		return "stable"
	case "eip155:2201":
		return "stable-testnet"
	case "eip155:42220":
		return "celo"
	case "eip155:14":
		return "flare"
	default:
		return ""
	}
}
