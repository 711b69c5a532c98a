package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"facilitator/internal/chain/evm"
	"facilitator/internal/config"
	"facilitator/internal/doctor"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// Examine looks at everything that the service needs, as it is configured. What
// can't be looked at is a check that fails, and keeps nothing else from being.
func Examine(ctx context.Context, cfg *config.Config, now func() time.Time, r *doctor.Report) {
	plan := doctor.Plan{Migrates: cfg.Database.Migrate, Now: now}
	record, err := store.Open(ctx, cfg.Database.URL.Reveal(), store.Options{MaxConnections: 2, Timeout: cfg.Database.Timeout})
	if err != nil {
		plan.RecordProblem = databaseProblem(err)
	} else {
		defer record.Close()
		plan.Record = record
	}
	sources, closing, err := Screening(ctx, cfg, now)
	defer closing()
	if err != nil {
		r.Add(doctor.Check{Area: "screening", Status: doctor.Fail, Detail: err.Error()})
	} else if sources != nil {
		plan.Screening = sources
	}
	keys := CheckKeys(ctx, cfg, true, now)
	for _, name := range slices.Sorted(maps.Keys(cfg.Chains)) {
		c := cfg.Chains[name]
		plan.MaxClockSkew = max(plan.MaxClockSkew, c.MaxClockSkew)
		n, hangUp, err := examinedNetwork(ctx, x402.Network(name), c, now)
		defer hangUp()
		if err != nil {
			r.Add(doctor.Check{Area: "network", Network: name, Status: doctor.Fail, Detail: err.Error()})
		}
		for _, k := range keys {
			if k.Network == n.Name {
				n.Keys = append(n.Keys, doctor.Key{Name: k.Name, Treasury: k.Name == treasuryName, Address: k.Address, Took: k.Took, Err: k.Err})
			}
		}
		plan.Networks = append(plan.Networks, n)
	}
	doctor.Run(ctx, plan, r)
}

// examinedNetwork is a network with a client of its own for each node. hangUp
// drops their connections, whatever the error.
func examinedNetwork(ctx context.Context, name x402.Network, cfg *config.Chain, now func() time.Time) (_ doctor.Network, hangUp func(), _ error) {
	var clients []*evm.Client
	hangUp = func() {
		for _, c := range clients {
			c.Close()
		}
	}
	chainID, err := chainIDOf(string(name))
	if err != nil {
		return doctor.Network{Name: name}, hangUp, err
	}
	n := doctor.Network{
		Name: name, ChainID: chainID, FinalizedTag: cfg.FinalityDepth == 0, StallAfter: cfg.StallAfter, MaxClockSkew: cfg.MaxClockSkew, MaxLag: cfg.MaxLag,
		Multicall: evm.Multicall3(), Batches: cfg.Batch.MaxPayments > 1, TopUpTo: cfg.Treasury.UpTo,
		MaxGas: cfg.Gas.MaxPerPayment, MaxFeePerGas: cfg.Fees.MaxFeePerGas, MaxTip: cfg.Fees.MaxPriorityFeePerGas,
	}
	dial := func(nodeName string, url config.Secret, sendsOnly bool) error {
		c, err := evm.DialAll(ctx, []evm.Node{{Name: nodeName, URL: url.Reveal()}}, evm.Options{Timeout: cfg.RPCTimeout, Network: string(name), Now: now})
		if err != nil {
			return err
		}
		clients = append(clients, c)
		n.Nodes = append(n.Nodes, doctor.NamedNode{Name: nodeName, Node: c, SendsOnly: sendsOnly})
		return nil
	}
	err = dial("rpc_url", cfg.RPCURL, false)
	for i, node := range cfg.ReadFrom {
		err = errors.Join(err, dial(node.NameAt(i), node.URL, false))
	}
	for i, node := range cfg.SendTo {
		err = errors.Join(err, dial(fmt.Sprintf("send_to_%d", i), node.URL, true))
	}
	if err != nil {
		return n, hangUp, err
	}
	if cfg.WSURL != "" {
		n.Feed = evm.NewHeadFeed(cfg.WSURL.Reveal(), cfg.RPCTimeout)
	}
	tokens, err := wireAssets(cfg.Assets)
	if err != nil {
		return n, hangUp, fmt.Errorf("assets: %w", err)
	}
	n.Assets = tokens.addresses
	if n.Factories, err = parseAddresses(cfg.Factories); err != nil {
		return n, hangUp, fmt.Errorf("eip6492_factories: %w", err)
	}
	return n, hangUp, nil
}

// databaseProblem says why a database can't be opened, without a piece of its
// URL: the driver's own text names host, user and database (I10).
func databaseProblem(err error) string {
	const cannot = "it can't be reached: "
	var (
		pg   *pgconn.PgError
		name *net.DNSError
		op   *net.OpError
	)
	switch {
	case errors.As(err, &pg):
		return cannot + "SQLSTATE " + pg.Code + " " + sqlStates()[pg.Code]
	case errors.As(err, &name):
		return cannot + "its host is not known"
	case errors.As(err, &op) && op.Err != nil && !op.Timeout():
		return cannot + innermost(op.Err).Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &op):
		return cannot + "no answer in time"
	default:
		return cannot + "the connection was not made"
	}
}

// sqlStates are those that a wrong URL ends in.
func sqlStates() map[string]string {
	return map[string]string{
		"28P01": "(wrong password)", "28000": "(not authorized)", "3D000": "(no such database)", "42501": "(no privilege)",
		"53300": "(too many connections)", "57P03": "(it is starting up)",
	}
}

// innermost is the cause at the end of a chain: of a dial, the system's own word.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
