package app

import (
	"strconv"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/config"
	"facilitator/internal/payment"
)

// confirmation tells resource servers what success means on a network, and what
// else they may ask for.
func confirmation(byDefault payment.Level, wait time.Duration) map[string]any {
	return map[string]any{"confirmation": map[string]any{
		"default":     byDefault.String(),
		"levels":      []string{"submitted", "mined", "safe", "finalized", "<n blocks>"},
		"waitSeconds": int64((wait + time.Second - 1) / time.Second),
	}}
}

// offer tells resource servers what may be paid with and by whom.
func offer(cfg *config.Chain, factories []chain.Address) map[string]any {
	wallets := []string{"eoa", "eip7702", "eip1271"}
	if len(factories) > 0 {
		wallets = append(wallets, "erc6492")
	}
	assets := make([]map[string]string, len(cfg.Assets))
	for i, a := range cfg.Assets {
		assets[i] = map[string]string{"address": a.Address, "minAmount": strconv.FormatUint(a.MinAmount, 10)}
	}
	return map[string]any{"assets": assets, "anyAsset": cfg.AllowAnyAsset, "wallets": wallets}
}
