package config

// defaultAssets are the tokens accepted on a chain where the configuration names
// none.
func defaultAssets(network string) (assets []string) {
	for _, a := range []string{dollar(network), euro(network)} {
		if a != "" {
			assets = append(assets, a)
		}
	}
	return assets
}

// euro returns the chain's EURC, of the same code as USDC; "" where there is none.
func euro(network string) string {
	switch network {
	case "eip155:8453": // Base
		return "0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42"
	case "eip155:84532": // Base Sepolia
		return "0x808456652fdb597867f38412077A9182bf77359F"
	case "eip155:1": // Ethereum
		return "0x1aBaEA1f7C830bD89Acc67eC4af516284b1bC33c"
	case "eip155:43114": // Avalanche C
		return "0xC891EB4cbdEFf6e073e859e987815Ed1505c2ACD"
	default:
		return ""
	}
}

// dollar returns the chain's USDC, or the dollar token that the official SDK 2.27
// takes in its place. Only tokens with EIP-3009 are listed; "" elsewhere.
func dollar(network string) string {
	switch network {
	case "eip155:8453": // Base
		return "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
	case "eip155:84532": // Base Sepolia
		return "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
	case "eip155:1": // Ethereum
		return "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"
	case "eip155:137": // Polygon
		return "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359"
	case "eip155:42161": // Arbitrum One
		return "0xaf88d065e77c8cC2239327C5EDb3A432268e5831"
	case "eip155:421614": // Arbitrum Sepolia
		return "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d"
	case "eip155:43114": // Avalanche C
		return "0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E"
	case "eip155:42220": // Celo
		return "0xcebA9300f2b948710d2653dD7B07f33A8B32118C"
	case "eip155:11142220": // Celo Sepolia
		return "0x01C5C0122039549AD1493B8220cABEdD739BC44E"
	case "eip155:1329": // Sei
		return "0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392"
	case "eip155:1328": // Sei testnet
		return "0x4fCF1784B31630811181f670Aea7A7bEF803eaED"
	case "eip155:143": // Monad
		return "0x754704Bc059F8C67012fEd69BC8A327a5aafb603"
	case "eip155:50": // XDC
		return "0xfA2958CB79b0491CC627c1557F441eF849Ca8eb1"
	case "eip155:51": // XDC Apothem
		return "0xb5AB69F7bBada22B28e79C8FFAECe55eF1c771D4"
	case "eip155:14": // Flare
		return "0xe7cd86e13AC4309349F30B3435a9d337750fC82D"
	case "eip155:988": // Stable
		return "0x779Ded0c9e1022225f8E0630b35a9b54bE713736"
	case "eip155:2201": // Stable testnet
		return "0x78Cf24370174180738C5B8E352B6D14c83a6c9A9"
	case "eip155:36900": // ADI
		return "0x9cb8142aEBBcdc60AF7c97Af897A67A8f3CA71C2"
	case "eip155:190415": // HPP
		return "0x401eCb1D350407f13ba348573E5630B83638E30D"
	case "eip155:181228": // HPP Sepolia
		return "0x401eCb1D350407f13ba348573E5630B83638E30D"
	default:
		return ""
	}
}
