package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
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
	v1Name string
	client *evm.Client
	// senders are all nodes that transactions are handed to, client among them.
	senders *evm.Senders
	others  []*evm.Client
	signers *signers
	relayer *relayer.Chain
	lanes   []chain.Address
	// offer is what /supported says of it beside the confirmation.
	offer  map[string]any
	verify verify.Network
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
		if w.relayer.Ready() != nil { // what can't be settled is not offered
			continue
		}
		extra := confirmation(w.relayer.DefaultLevel(), wait)
		maps.Copy(extra, w.offer)
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
	if answer.Kinds == nil {
		answer.Kinds = []v2.Kind{}
	}
	answer.Signers["eip155:*"] = signers
	return answer
}

func wireChains(ctx context.Context, a *App, o Options, meters instruments) (chains, error) {
	all := make(chains)
	for name, cfg := range a.cfg.Chains {
		w, err := wireChain(ctx, x402.Network(name), cfg, a, o, meters)
		if w != nil {
			all[x402.Network(name)] = w // to be closed, whatever happened
		}
		if err != nil {
			return all, fmt.Errorf("chains.%s: %w", name, err)
		}
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

func wireChain(ctx context.Context, n x402.Network, cfg *config.Chain, a *App, o Options, meters instruments) (*wiredChain, error) {
	chainID, err := chainIDOf(string(n))
	if err != nil {
		return nil, err
	}
	w := &wiredChain{v1Name: cfg.V1Name}
	if w.v1Name == "" {
		w.v1Name = x402.V1Name(n)
	}
	if err := w.dial(ctx, cfg, evm.Options{
		Timeout: cfg.RPCTimeout, Network: string(n), ChainID: chainID, MaxLag: cfg.MaxLag, Now: o.Now, Metrics: meters.nodes, Tracer: a.tracer.Provider(),
	}); err != nil {
		return w, err
	}
	if w.signers, err = wireSigners(ctx, cfg, chainID); err != nil {
		return w, err
	}
	for _, s := range w.signers.lanes {
		w.lanes = append(w.lanes, s.Address())
	}
	assets, err := wireAssets(cfg.Assets)
	if err != nil {
		return w, fmt.Errorf("assets: %w", err)
	}
	factories, err := parseAddresses(cfg.Factories)
	if err != nil {
		return w, fmt.Errorf("eip6492_factories: %w", err)
	}
	schemes := map[x402.SchemeName]scheme.Scheme{
		x402.SchemeExact: exact.New(exact.Config{
			Network: n, ChainID: chainID, Sender: w.lanes[0], Factories: factories, MaxGas: cfg.Gas.MaxPerPayment, Tokens: assets.tokens, ExpirySlack: cfg.ExpirySlack,
		}, w.client, evm.NewTokens(w.client)),
	}
	contracts := assets.addresses
	if len(factories) > 0 {
		contracts = append(contracts, evm.Multicall3())
	}
	deps := relayer.Deps{
		Config: relayer.Config{
			Network: n, ChainID: chainID, Holder: a.replica, LeaseTTL: cfg.LaneLease,
			MaxInFlight: cfg.MaxInFlight,
			MaxBatch:    cfg.Batch.MaxPayments, BatchAssets: assets.wellBehaved, BlockShare: cfg.Batch.BlockShare, Aggregator: evm.Multicall3(),
			BlockTime: cfg.BlockTime, PollInterval: cfg.PollInterval, ResendInterval: cfg.ResendInterval,
			BumpAfter: cfg.BumpAfter, StallAfter: cfg.StallAfter, MaxClockSkew: cfg.MaxClockSkew, PrepareTimeout: a.cfg.Database.Timeout + 2*cfg.RPCTimeout + cfg.SignTimeout, SignTimeout: cfg.SignTimeout,
			Confirmations: cfg.Confirmations, FinalityDepth: cfg.FinalityDepth,
			MaxFeePerGas: cfg.Fees.MaxFeePerGas, MaxTip: cfg.Fees.MaxPriorityFeePerGas,
			MaxGas: cfg.Gas.MaxPerPayment, MaxTxGas: cfg.Gas.MaxPerTransaction, GasPerPayment: cfg.Batch.GasPerPayment,
			GasMarginPercent: cfg.Gas.MarginPercent, MaxSpendPerDay: cfg.Gas.MaxSpendPerDay, Contracts: contracts,
			Treasury: relayer.Treasury{Below: cfg.Treasury.Below, UpTo: cfg.Treasury.UpTo, MaxPerDay: cfg.Treasury.MaxPerDay},
		},
		Node: w.client, Sender: w.senders, Store: a.ledger, Signers: w.signers.lanes, TreasurySigner: w.signers.treasury, Schemes: schemes,
		Moved: a.moved, Ended: a.ended,
		Now: o.Now, Log: a.log.With(slog.String("network", string(n))), Metrics: meters.relayer, Claims: a.claims, Crash: o.Crash,
	}
	if cfg.WSURL != "" {
		deps.Heads = evm.NewHeadFeed(cfg.WSURL.Reveal(), cfg.RPCTimeout)
	}
	w.relayer = relayer.New(deps)
	w.offer = offer(cfg, factories)
	w.verify = verify.Network{Schemes: schemes, Exposure: payment.ExposureMode(cfg.Exposure), Assets: assets.least, AnyAsset: cfg.AllowAnyAsset, Ready: w.relayer.Ready}
	return w, nil
}

// assets are the configured tokens, as each part of the service needs them.
type assets struct {
	addresses, wellBehaved []chain.Address
	tokens                 map[chain.Address]exact.Token
	least                  map[chain.Address]x402.Uint256
}

func wireAssets(configured []config.Asset) (assets, error) {
	all := assets{tokens: make(map[chain.Address]exact.Token), least: make(map[chain.Address]x402.Uint256)}
	for _, cfg := range configured {
		a, err := chain.ParseAddress(cfg.Address)
		if err != nil {
			return all, fmt.Errorf("%s: %w", cfg.Address, err)
		}
		t := exact.Token{WellBehaved: cfg.WellBehaved == "yes"}
		switch cfg.Overloads {
		case "vrs":
			t.Overloads = evm.VRSOverload
		case "bytes":
			t.Overloads = evm.BytesOverload
		}
		all.addresses, all.tokens[a], all.least[a] = append(all.addresses, a), t, x402.NewUint256(cfg.MinAmount)
		if t.WellBehaved {
			all.wellBehaved = append(all.wellBehaved, a)
		}
	}
	return all, nil
}

// dial prepares the clients of all nodes.
func (w *wiredChain) dial(ctx context.Context, cfg *config.Chain, o evm.Options) (err error) {
	if w.client, err = evm.DialAll(ctx, readNodes(cfg), o); err != nil {
		return err
	}
	for i, node := range cfg.SendTo {
		client, err := evm.DialAll(ctx, []evm.Node{{Name: fmt.Sprintf("send_to_%d", i), URL: node.URL.Reveal()}}, o)
		if err != nil {
			return err
		}
		w.others = append(w.others, client)
	}
	w.senders = evm.NewSenders(append([]*evm.Client{w.client}, w.others...)...)
	return nil
}

// readNodes are those that are asked, in their order.
func readNodes(cfg *config.Chain) []evm.Node {
	nodes := []evm.Node{{Name: "rpc_url", URL: cfg.RPCURL.Reveal()}}
	for i, node := range cfg.ReadFrom {
		nodes = append(nodes, evm.Node{Name: node.NameAt(i), URL: node.URL.Reveal()})
	}
	return nodes
}

// close waits for sends and drops connections.
func (w *wiredChain) close() {
	if w.senders != nil {
		w.senders.Close()
	}
	if w.client != nil {
		w.client.Close()
	}
	for _, c := range w.others {
		c.Close()
	}
	if w.signers != nil {
		w.signers.close()
	}
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
