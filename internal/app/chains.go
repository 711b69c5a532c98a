package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "facilitator/api/v1"
	v2 "facilitator/api/v2"
	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/config"
	"facilitator/internal/payment"
	"facilitator/internal/relayer"
	"facilitator/internal/scheme"
	"facilitator/internal/scheme/exact"
	"facilitator/internal/verify"
	"facilitator/internal/x402"
)

// wiredChain is one configured network.
type wiredChain struct {
	v1Name  string
	client  *evm.Client
	relayer *relayer.Chain
	lanes   []chain.Address
	verify  verify.Network
}

// chains is every configured network; it is the relayer that settle sees.
type chains map[x402.Network]*wiredChain

func (c chains) Wake(n x402.Network)        { c[n].relayer.Wake() }
func (c chains) Ready(n x402.Network) error { return c[n].relayer.Ready() }
func (c chains) SettledUpTo(n x402.Network, l payment.Level) uint64 {
	return c[n].relayer.SettledUpTo(l)
}

func (c chains) networks() map[x402.Network]verify.Network {
	networks := make(map[x402.Network]verify.Network, len(c))
	for n, w := range c {
		networks[n] = w.verify
	}
	return networks
}

func (c chains) names() v1.Names {
	names := make(v1.Names)
	for n, w := range c {
		if w.v1Name != "" {
			names[w.v1Name] = n
		}
	}
	return names
}

// supported is the answer to GET /supported: concrete networks only, since
// resource servers compare strings.
func (c chains) supported(wait time.Duration) v2.SupportedResponse {
	answer := v2.SupportedResponse{Extensions: []string{}, Signers: map[string][]string{}}
	signers := []string{}
	for _, n := range slices.Sorted(maps.Keys(c)) {
		w := c[n]
		extra := confirmation(w.relayer.DefaultLevel(), wait)
		for _, name := range slices.Sorted(maps.Keys(w.verify.Schemes)) {
			answer.Kinds = append(answer.Kinds, v2.Kind{X402Version: x402.V2, Scheme: string(name), Network: string(n), Extra: extra})
			if w.v1Name != "" {
				answer.Kinds = append(answer.Kinds, v2.Kind{X402Version: x402.V1, Scheme: string(name), Network: w.v1Name, Extra: extra})
			}
		}
		for _, lane := range w.lanes {
			if text := lane.String(); !slices.Contains(signers, text) {
				signers = append(signers, text)
			}
		}
	}
	answer.Signers["eip155:*"] = signers
	return answer
}

func wireChains(ctx context.Context, a *App, o Options, metrics *relayer.Metrics) (chains, error) {
	all := make(chains)
	for name, cfg := range a.cfg.Chains {
		w, err := wireChain(ctx, x402.Network(name), cfg, a, o, metrics)
		if err != nil {
			return all, fmt.Errorf("chains.%s: %w", name, err)
		}
		all[x402.Network(name)] = w
		err = w.relayer.Prepare(ctx)
		switch {
		case err == nil:
			if err := w.relayer.Ready(); err != nil {
				a.log.WarnContext(ctx, "not ready", slog.String("reason", err.Error()))
			}
		case errors.Is(err, chain.ErrUnavailable), errors.Is(err, payment.ErrUnavailable):
			a.log.WarnContext(ctx, "chain can't be checked yet, the service is not ready", slog.String("network", name), slog.Any("error", err))
		default:
			return all, fmt.Errorf("chains.%s: %w", name, err)
		}
	}
	return all, nil
}

func wireChain(ctx context.Context, n x402.Network, cfg *config.Chain, a *App, o Options, metrics *relayer.Metrics) (*wiredChain, error) {
	chainID, err := strconv.ParseUint(strings.TrimPrefix(string(n), "eip155:"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("chain id: %w", err)
	}
	w := &wiredChain{v1Name: cfg.V1Name}
	if w.v1Name == "" {
		w.v1Name = x402.V1Name(n)
	}
	if w.client, err = evm.Dial(ctx, cfg.RPCURL.Reveal(), cfg.RPCTimeout); err != nil {
		return nil, err
	}
	var signers []relayer.Signer
	for i, lane := range cfg.Lanes {
		s, err := evm.NewKeySigner(lane.PrivateKey.Reveal(), chainID)
		if err != nil {
			return nil, fmt.Errorf("lanes[%d]: %w", i, err)
		}
		signers = append(signers, s)
		w.lanes = append(w.lanes, s.Address())
	}
	assets, err := parseAddresses(cfg.Assets)
	if err != nil {
		return nil, fmt.Errorf("assets: %w", err)
	}
	factories, err := parseAddresses(cfg.Factories)
	if err != nil {
		return nil, fmt.Errorf("eip6492_factories: %w", err)
	}
	schemes := map[x402.SchemeName]scheme.Scheme{
		x402.SchemeExact: exact.New(exact.Config{
			Network: n, ChainID: chainID, Sender: w.lanes[0], Factories: factories, MaxGas: cfg.Gas.MaxPerPayment,
		}, w.client, evm.NewTokens(w.client)),
	}
	contracts := assets
	if len(factories) > 0 {
		contracts = append(slices.Clone(assets), evm.Multicall3())
	}
	w.relayer = relayer.New(relayer.Deps{
		Config: relayer.Config{
			Network: n, ChainID: chainID, MaxInFlight: cfg.MaxInFlight, MaxQueued: a.cfg.Settle.MaxQueued,
			PollInterval: cfg.PollInterval, ResendInterval: cfg.ResendInterval,
			Confirmations: cfg.Confirmations, FinalityDepth: cfg.FinalityDepth,
			MaxFeePerGas: cfg.Fees.MaxFeePerGas, MaxTip: cfg.Fees.MaxPriorityFeePerGas,
			MaxGas: cfg.Gas.MaxPerPayment, GasMarginPercent: cfg.Gas.MarginPercent, Contracts: contracts,
		},
		Node: w.client, Store: a.ledger, Signers: signers, Schemes: schemes, Moved: a.moved,
		Now: o.Now, Log: a.log.With(slog.String("network", string(n))), Metrics: metrics, Crash: o.Crash,
	})
	w.verify = verify.Network{Schemes: schemes, Assets: assets, AnyAsset: cfg.AllowAnyAsset, Ready: w.relayer.Ready}
	return w, nil
}

func parseAddresses(texts []string) ([]chain.Address, error) {
	addresses := make([]chain.Address, len(texts))
	for i, text := range texts {
		a, err := chain.ParseAddress(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		addresses[i] = a
	}
	return addresses, nil
}
