package devnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"
)

const (
	// listening precedes the address in the node's output.
	listening = "Listening on "
	// buried is how many blocks a new chain mines before it is handed out: the
	// set-up survives a reorganization of fewer, and calls, which run at the
	// latest block's time, run at today's.
	buried = 8
)

// ChainConfig says which chain to start.
type ChainConfig struct {
	// Tools is where the pinned tools are; see [Tools]. Not used if FromPath
	// and ForkURL are both given.
	Tools string
	// FromPath takes anvil from PATH instead of the pinned tools.
	FromPath bool
	// Network is the network to stand in for: Base or BaseSepolia.
	Network string
	// BlockTime mines a block at this interval, of which fractions of a second
	// work. Zero mines one at every transaction.
	BlockTime time.Duration
	// Port is the port to listen on; zero picks a free one.
	Port int
	// ForkURL is a node of the network to fork at its latest block. The token
	// and Multicall3 are then the network's own.
	ForkURL string
	// KeepStates is of how many of the latest blocks the node keeps the state,
	// each of them a whole copy in memory. Zero stands for 256.
	KeepStates int
	// Args are further arguments for anvil, such as "--enable-tx-gas-limit".
	// What a prepared state says of blocks, as their gas limit and base fee,
	// wins over arguments; see SetBlockGasLimit.
	Args []string
}

// Chain is a running development chain with USDC, EURC and Multicall3 at their
// canonical addresses. Its methods may be called concurrently, but those that
// change how blocks are made change it for everybody.
type Chain struct {
	network network
	process *process
	scratch *scratch
	url     string
	http    *http.Transport
	rpc     *rpc.Client
	token   abi.ABI
	batcher abi.ABI

	// sending is held while transactions of ours are under way: the node chooses their
	// wallet nonces, and gives two of one sender the same one while it mines.
	sending sync.Mutex

	mu        sync.Mutex
	stopMiner func() // ends the interval mining that anvil cannot do itself
}

// StartChain starts a chain and returns when it answers and has been checked:
// chain id, the token's domain separator and decimals, Multicall3. The first
// start prepares a state that later ones load.
func StartChain(ctx context.Context, cfg ChainConfig) (*Chain, error) {
	chain, err := startChain(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start chain %s: %w", cfg.Network, err)
	}
	return chain, nil
}

func startChain(ctx context.Context, cfg ChainConfig) (*Chain, error) {
	net, err := lookupNetwork(cfg.Network)
	if err != nil {
		return nil, err
	}
	node, err := locateAnvil(cfg)
	if err != nil {
		return nil, err
	}
	// Without a bound to the states it fills its disk.
	args := []string{"--port", strconv.Itoa(cfg.Port), "--prune-history", strconv.Itoa(cmp.Or(cfg.KeepStates, 256))}
	if cfg.BlockTime > 0 {
		args = append(args, "--block-time", strconv.FormatFloat(cfg.BlockTime.Seconds(), 'f', -1, 64))
	}
	if cfg.ForkURL != "" {
		args = append(args, "--fork-url", cfg.ForkURL)
	} else {
		state, err := preparedState(ctx, cfg, node, net)
		if err != nil {
			return nil, err
		}
		args = append(args, "--chain-id", strconv.FormatUint(net.chainID, 10), "--load-state", state)
	}
	chain, err := launch(ctx, node, net, cfg.ForkURL != "", append(args, cfg.Args...))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(chain.Mine(ctx, buried), chain.check(ctx)); err != nil {
		return nil, errors.Join(err, chain.Close())
	}
	return chain, nil
}

// launch runs the node and connects to it. With forking, the arguments hold a
// URL to keep out of errors.
func launch(ctx context.Context, node string, net network, forking bool, args []string) (*Chain, error) {
	token, err := abi.JSON(strings.NewReader(tokenABI))
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	batcher, err := abi.JSON(strings.NewReader(multicallABI))
	if err != nil {
		return nil, fmt.Errorf("multicall: %w", err)
	}
	space, err := newScratch()
	if err != nil {
		return nil, err
	}
	chain := &Chain{network: net, scratch: space, token: token, batcher: batcher, stopMiner: func() {}}
	if err := chain.connect(ctx, node, forking, args); err != nil {
		return nil, errors.Join(err, chain.Close())
	}
	return chain, nil
}

func (c *Chain) connect(ctx context.Context, node string, forking bool, args []string) error {
	var err error
	c.process, err = start(ctx, program{
		path: node, dir: c.scratch.dir, death: syscall.SIGKILL,
		ready: listening, quiet: forking,
		args: append([]string{"--host", "127.0.0.1", "--no-request-size-limit"}, args...),
		// It keeps caches at home, and reads its owner's configuration there.
		env: append(os.Environ(), "HOME="+c.scratch.dir, "XDG_CACHE_HOME="+c.scratch.dir,
			"XDG_CONFIG_HOME="+c.scratch.dir, "NO_COLOR=1"),
	})
	if err != nil {
		return err
	}
	line, err := c.process.awaitReady(ctx)
	if err != nil {
		return err
	}
	c.url = "http://" + strings.TrimSpace(strings.TrimPrefix(line, listening))
	c.http = &http.Transport{MaxIdleConnsPerHost: 64}
	c.rpc, err = rpc.DialOptions(ctx, c.url, rpc.WithHTTPClient(&http.Client{Transport: c.http}))
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	// What it prints about every call is read by nobody.
	return c.do(ctx, "anvil_setLoggingEnabled", false)
}

// Close stops the node and removes its files.
func (c *Chain) Close() error {
	c.setMiner(func() {})
	if c.rpc != nil {
		c.rpc.Close()
		c.http.CloseIdleConnections()
	}
	if c.process != nil {
		c.process.stop()
	}
	return c.scratch.Close()
}

// URL is where the node answers JSON-RPC; with ws in place of http it also
// answers on a WebSocket.
func (c *Chain) URL() string { return c.url }

// PID is the process id of the node.
func (c *Chain) PID() int { return c.process.cmd.Process.Pid }

// Network is the chain's CAIP-2 name.
func (c *Chain) Network() string { return c.network.name }

// ChainID is the chain's EIP-155 id.
func (c *Chain) ChainID() uint64 { return c.network.chainID }

// USDC is the address of the token.
func (c *Chain) USDC() common.Address { return c.network.usdc.address }

// EURC is the address of the other token, of the same code; it has none on a fork
// of a chain without it.
func (c *Chain) EURC() common.Address { return c.network.eurc.address }

// Multicall3 is the address of Multicall3.
func (c *Chain) Multicall3() common.Address { return common.HexToAddress(multicall3) }

// RPC is a connection to the node. Close ends it.
func (c *Chain) RPC() *rpc.Client { return c.rpc }

// Client is the same connection with Ethereum's methods.
func (c *Chain) Client() *ethclient.Client { return ethclient.NewClient(c.rpc) }

// check returns an error unless the chain is what its network says.
func (c *Chain) check(ctx context.Context) error {
	id, err := c.Client().ChainID(ctx)
	if err != nil {
		return fmt.Errorf("chain id: %w", err)
	}
	if !id.IsUint64() || id.Uint64() != c.network.chainID {
		return fmt.Errorf("the node's chain id is %v, not %d", id, c.network.chainID)
	}
	code, err := c.Client().CodeAt(ctx, c.Multicall3(), nil)
	if err != nil {
		return fmt.Errorf("multicall3: %w", err)
	}
	if len(code) == 0 {
		return errors.New("the chain has no Multicall3")
	}
	var domain [32]byte
	if err := c.readToken(ctx, c.USDC(), &domain, "DOMAIN_SEPARATOR"); err != nil {
		return err
	}
	if domain != c.network.domain {
		return fmt.Errorf("the token's domain separator is %#x, not %v", domain, c.network.domain)
	}
	var decimals uint8
	if err := c.readToken(ctx, c.USDC(), &decimals, "decimals"); err != nil {
		return err
	}
	if decimals != 6 {
		return fmt.Errorf("the token has %d decimals, not 6", decimals)
	}
	return nil
}

func locateAnvil(cfg ChainConfig) (string, error) {
	if cfg.FromPath {
		path, err := exec.LookPath("anvil")
		if err != nil {
			return "", fmt.Errorf("no anvil on PATH: %w", err)
		}
		return filepath.Abs(path)
	}
	tools, err := Tools(cfg.Tools)
	if err != nil {
		return "", err
	}
	platform, err := npmPlatform(runtime.GOARCH)
	if err != nil {
		return "", err
	}
	path := filepath.Join(module(tools, "@foundry-rs/anvil-"+platform), "bin", "anvil")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoTools, err)
	}
	return path, nil
}
