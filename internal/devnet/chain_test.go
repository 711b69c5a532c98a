package devnet_test

import (
	"context"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"golang.org/x/sync/errgroup"

	"facilitator/internal/devnet"
)

func TestChain(t *testing.T) {
	t.Parallel()
	for _, network := range []string{devnet.Base, devnet.BaseSepolia} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			chain := startChain(t, devnet.ChainConfig{Network: network})
			if chain.Network() != network {
				t.Errorf("Network() = %q, want %q", chain.Network(), network)
			}
			checkMoney(t, chain)
			checkRoles(t, chain)
			checkReorg(t, chain)
		})
	}
}

func TestChainWithBlockTime(t *testing.T) {
	t.Parallel()
	chain := startChain(t, devnet.ChainConfig{Network: devnet.Base, BlockTime: 200 * time.Millisecond})
	awaitHeight(t, chain, height(t, chain)+5) // nobody sends anything
	checkMoney(t, chain)
}

func TestChainUnknownNetwork(t *testing.T) {
	t.Parallel()
	_, err := devnet.StartChain(t.Context(), devnet.ChainConfig{Network: "eip155:1"})
	if err == nil || !strings.Contains(err.Error(), "eip155:1") {
		t.Errorf("StartChain(eip155:1) = %v, want an error naming the network", err)
	}
}

func TestChainFork(t *testing.T) {
	t.Parallel()
	origin := startChain(t, devnet.ChainConfig{Network: devnet.Base})
	payer := devnet.Keys(devnet.RolePayer, 1)[0].Address
	if err := origin.FundUSDC(t.Context(), big.NewInt(5), payer); err != nil {
		t.Fatal(err)
	}

	fork := startChain(t, devnet.ChainConfig{Network: devnet.Base, ForkURL: origin.URL()})
	wantBalance(t, fork, payer, 5)
	if err := fork.FundUSDC(t.Context(), big.NewInt(7), payer); err != nil {
		t.Fatal(err)
	}
	wantBalance(t, fork, payer, 12)
	wantBalance(t, origin, payer, 5)
	checkRoles(t, fork)

	_, err := devnet.StartChain(t.Context(), devnet.ChainConfig{Network: devnet.BaseSepolia, ForkURL: origin.URL()})
	if err == nil || !strings.Contains(err.Error(), "chain id is 8453") {
		t.Errorf("a fork of another network = %v, want an error naming its chain id", err)
	}
}

func TestChainForkError(t *testing.T) {
	t.Parallel()
	needTools(t)
	const secret = "http://user:hunter2@127.0.0.1:1/key"
	_, err := devnet.StartChain(t.Context(), devnet.ChainConfig{Network: devnet.Base, ForkURL: secret})
	if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "/key") {
		t.Errorf("fork of nothing = %v, want an error without the URL", err)
	}
}

// On Base the master minter is a contract.
func TestFundFromContractMinter(t *testing.T) {
	t.Parallel()
	chain := startChain(t, devnet.ChainConfig{Network: devnet.Base})
	var master common.Hash
	selector := map[string]any{"to": chain.USDC(), "data": "0x35d99f35"} // masterMinter()
	if err := chain.RPC().CallContext(t.Context(), &master, "eth_call", selector, "latest"); err != nil {
		t.Fatal(err)
	}
	if err := chain.SetCode(t.Context(), common.BytesToAddress(master[:]), []byte{0xfe}); err != nil {
		t.Fatal(err)
	}
	checkMoney(t, chain)
}

func TestFundingsAtOnce(t *testing.T) {
	t.Parallel()
	chain := startChain(t, devnet.ChainConfig{Network: devnet.Base})
	payees := devnet.Keys(devnet.RolePayee, 24)
	var funders errgroup.Group
	for _, payee := range payees {
		funders.Go(func() error {
			for range 4 {
				if err := chain.FundUSDC(t.Context(), big.NewInt(1), payee.Address); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := funders.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, payee := range payees {
		wantBalance(t, chain, payee.Address, 4)
	}
}

// TestFundingThatTheNodeLoses: it can lose what it is given while it mines.
func TestFundingThatTheNodeLoses(t *testing.T) {
	t.Parallel()
	chain := startChain(t, devnet.ChainConfig{Network: devnet.Base})
	payer := devnet.Keys(devnet.RolePayer, 1)[0].Address
	if err := chain.FundUSDC(t.Context(), big.NewInt(1), payer); err != nil { // the minter is there
		t.Fatal(err)
	}
	if err := chain.SetAutomine(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for funded, lost := int64(1), false; !lost; {
		var work errgroup.Group
		work.Go(func() error { return chain.FundUSDC(ctx, big.NewInt(1), payer) })
		lost = loseOne(ctx, t, chain)
		if err := work.Wait(); err != nil {
			t.Fatal(err)
		}
		funded++
		wantBalance(t, chain, payer, funded)
	}
}

// loseOne has the node lose the next transaction in its pool, and says whether it
// was there still.
func loseOne(ctx context.Context, t *testing.T, chain *devnet.Chain) bool {
	t.Helper()
	for {
		var pool struct {
			Pending map[common.Address]map[string]struct{ Hash common.Hash }
		}
		if err := chain.RPC().CallContext(ctx, &pool, "txpool_content"); err != nil {
			t.Error(err)
			return true
		}
		for _, sent := range pool.Pending {
			for _, tx := range sent {
				var dropped *common.Hash
				if err := chain.RPC().CallContext(ctx, &dropped, "anvil_dropTransaction", tx.Hash); err != nil {
					t.Error(err)
				}
				return dropped != nil
			}
		}
	}
}

func TestFundThousand(t *testing.T) {
	t.Parallel()
	payers := addresses(devnet.RolePayer, 1000)
	for _, mode := range []struct {
		name string
		set  func(context.Context, *devnet.Chain) error
	}{
		{"automine", func(ctx context.Context, c *devnet.Chain) error { return c.SetAutomine(ctx, true) }},
		{"interval", func(ctx context.Context, c *devnet.Chain) error { return c.SetIntervalMining(ctx, 2*time.Second) }},
		{"manual", func(ctx context.Context, c *devnet.Chain) error { return c.SetAutomine(ctx, false) }},
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			chain := startChain(t, devnet.ChainConfig{Network: devnet.Base})
			if err := mode.set(t.Context(), chain); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := chain.FundETH(t.Context(), big.NewInt(9), payers...); err != nil {
				t.Fatal(err)
			}
			if err := chain.FundUSDC(t.Context(), big.NewInt(1_000_000), payers...); err != nil {
				t.Fatal(err)
			}
			t.Logf("1,000 payers funded in %v", time.Since(began))
			for _, payer := range payers {
				wantBalance(t, chain, payer, 1_000_000)
			}
			transfers, err := chain.Transfers(t.Context(), chain.USDC(), 0)
			if err != nil || len(transfers) != len(payers) {
				t.Errorf("%d transfers (%v), want %d", len(transfers), err, len(payers))
			}
			wei, err := chain.Client().BalanceAt(t.Context(), payers[999], nil)
			if err != nil || wei.Int64() != 9 {
				t.Errorf("the last payer has %v wei (%v), want 9", wei, err)
			}
		})
	}
}

func TestMiningModes(t *testing.T) {
	t.Parallel()
	chain := startChain(t, devnet.ChainConfig{Network: devnet.Base, BlockTime: 100 * time.Millisecond})
	if err := chain.SetAutomine(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	before := height(t, chain)
	if err := chain.Mine(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if mined := height(t, chain) - before; mined != 3 {
		t.Errorf("Mine(3) mined %d blocks", mined)
	}
	if err := chain.SetIntervalMining(t.Context(), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	awaitHeight(t, chain, before+13)
}

// awaitHeight looks until the chain has grown by itself; the test's own time
// limit ends it.
func awaitHeight(t *testing.T, chain *devnet.Chain, want uint64) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for height(t, chain) < want {
		select {
		case <-look.C:
		case <-t.Context().Done():
			t.Fatal("the chain does not grow")
		}
	}
}

func TestSnapshotAndTime(t *testing.T) {
	t.Parallel()
	chain := startChain(t, devnet.ChainConfig{Network: devnet.Base})
	payer := devnet.Keys(devnet.RolePayer, 1)[0].Address
	snapshot, err := chain.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := chain.FundUSDC(t.Context(), big.NewInt(5), payer); err != nil {
		t.Fatal(err)
	}
	if err := chain.Revert(t.Context(), snapshot); err != nil {
		t.Fatal(err)
	}
	wantBalance(t, chain, payer, 0)
	if err := chain.FundUSDC(t.Context(), big.NewInt(6), payer); err != nil {
		t.Fatalf("fund after a revert: %v", err)
	}
	wantBalance(t, chain, payer, 6)
	if err := chain.Revert(t.Context(), snapshot); err == nil {
		t.Error("a snapshot could be used twice")
	}

	before := chainTime(t, chain)
	if drift := time.Since(time.Unix(before, 0)); drift < -2*time.Second || drift > 5*time.Second {
		t.Errorf("the chain's clock is %v behind", drift)
	}
	if err := chain.IncreaseTime(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if passed := chainTime(t, chain) - before; passed < 3600 || passed > 3610 {
		t.Errorf("IncreaseTime(1h) moved the clock by %d s", passed)
	}
}

func TestBlockGasLimit(t *testing.T) {
	t.Parallel()
	chain := startChain(t, devnet.ChainConfig{Network: devnet.Base, Args: []string{"--enable-tx-gas-limit"}})
	limit := func() uint64 {
		t.Helper()
		header, err := chain.Client().HeaderByNumber(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return header.GasLimit
	}
	if got := limit(); got != 40_000_000 {
		t.Errorf("a block holds %d gas, want Base's 40,000,000", got)
	}
	if err := chain.SetBlockGasLimit(t.Context(), 50_000_000); err != nil {
		t.Fatal(err)
	}
	if err := chain.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got := limit(); got != 50_000_000 {
		t.Errorf("a block holds %d gas, want 50,000,000", got)
	}
	checkMoney(t, chain) // within the gas limit of one transaction
}

// checkMoney funds two payers and finds the money again.
func checkMoney(t *testing.T, chain *devnet.Chain) {
	t.Helper()
	payers := addresses(devnet.RolePayer, 2)
	from := height(t, chain)
	if err := chain.FundUSDC(t.Context(), big.NewInt(1_500_000), payers...); err != nil {
		t.Fatal(err)
	}
	for _, payer := range payers {
		wantBalance(t, chain, payer, 1_500_000)
	}
	transfers, err := chain.Transfers(t.Context(), chain.USDC(), from)
	if err != nil {
		t.Fatal(err)
	}
	if len(transfers) != len(payers) {
		t.Fatalf("%d transfers, want %d", len(transfers), len(payers))
	}
	for i, transfer := range transfers {
		if transfer.To != payers[i] || transfer.From != (common.Address{}) || transfer.Value.Int64() != 1_500_000 ||
			transfer.TxHash == (common.Hash{}) || transfer.Block <= from {
			t.Errorf("transfer %d is %+v", i, transfer)
		}
	}
}

// checkRoles blacklists, pauses, and takes both back.
func checkRoles(t *testing.T, chain *devnet.Chain) {
	t.Helper()
	ctx := t.Context()
	payee := devnet.Keys("payee", 1)[0].Address
	fund := func() error { return chain.FundUSDC(ctx, big.NewInt(1), payee) }
	steps := []struct {
		name   string
		act    func() error
		reason string // why funding fails afterwards
	}{
		{"pause", func() error { return chain.Pause(ctx) }, "paused"},
		{"unpause", func() error { return chain.Unpause(ctx) }, ""},
		{"blacklist", func() error { return chain.Blacklist(ctx, payee) }, "Multicall3: call failed"},
		{"unblacklist", func() error { return chain.Unblacklist(ctx, payee) }, ""},
	}
	for _, step := range steps {
		if err := step.act(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		err := fund()
		if (err != nil) != (step.reason != "") {
			t.Errorf("funding after %s: %v", step.name, err)
		}
	}
	wantBalance(t, chain, payee, 2)
}

// checkReorg drops the last transfer and finds that it does not count.
func checkReorg(t *testing.T, chain *devnet.Chain) {
	t.Helper()
	victim := devnet.Keys("victim", 1)[0].Address
	from := height(t, chain) + 1
	if err := chain.FundUSDC(t.Context(), big.NewInt(3), victim); err != nil {
		t.Fatal(err)
	}
	if err := chain.RPC().CallContext(t.Context(), nil, "anvil_reorg", 5, []any{}); err != nil {
		t.Fatal(err)
	}
	wantBalance(t, chain, victim, 0)
	transfers, err := chain.Transfers(t.Context(), chain.USDC(), from)
	if err != nil || len(transfers) != 0 {
		t.Errorf("transfers after the reorganization: %v (%v)", transfers, err)
	}
}

func addresses(role string, n int) []common.Address {
	var addrs []common.Address
	for _, key := range devnet.Keys(role, n) {
		addrs = append(addrs, key.Address)
	}
	return addrs
}

func wantBalance(t *testing.T, chain *devnet.Chain, addr common.Address, want int64) {
	t.Helper()
	balance, err := chain.BalanceOf(t.Context(), chain.USDC(), addr)
	if err != nil || balance.Int64() != want {
		t.Errorf("%v has %v USDC units (%v), want %d", addr, balance, err, want)
	}
}

func height(t *testing.T, chain *devnet.Chain) uint64 {
	t.Helper()
	number, err := chain.Client().BlockNumber(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func chainTime(t *testing.T, chain *devnet.Chain) int64 {
	t.Helper()
	header, err := chain.Client().HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return int64(header.Time)
}
