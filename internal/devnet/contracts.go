package devnet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common/hexutil"
)

// Contract is a compiled Solidity contract.
type Contract struct {
	ABI              abi.ABI       `json:"abi"`
	Bytecode         hexutil.Bytes `json:"bytecode"`         // creation code, without constructor arguments
	DeployedBytecode hexutil.Bytes `json:"deployedBytecode"` // code on chain, immutables left zero
}

// Creation is the creation code with its constructor arguments, for
// [Chain.Deploy].
func (c Contract) Creation(args ...any) ([]byte, error) {
	encoded, err := c.ABI.Pack("", args...)
	if err != nil {
		return nil, fmt.Errorf("constructor arguments: %w", err)
	}
	return append(append([]byte(nil), c.Bytecode...), encoded...), nil
}

// CompileContracts compiles the Solidity files in contractsDir with the pinned
// compiler and returns the contracts by name. It needs node on PATH, unless
// the same files were compiled before. toolsDir is as for [Tools].
func CompileContracts(ctx context.Context, toolsDir, contractsDir string) (map[string]Contract, error) {
	contracts, err := compileContracts(ctx, toolsDir, contractsDir)
	if err != nil {
		return nil, fmt.Errorf("compile contracts: %w", err)
	}
	return contracts, nil
}

func compileContracts(ctx context.Context, toolsDir, contractsDir string) (map[string]Contract, error) {
	tools, err := Tools(toolsDir)
	if err != nil {
		return nil, err
	}
	script := filepath.Join(tools, "compile.mjs")
	key, err := contractsKey(tools, script, contractsDir)
	if err != nil {
		return nil, err
	}
	path, err := cached(ctx, tools, "contracts-"+key+".json", func(ctx context.Context, w io.Writer) error {
		return compile(ctx, script, contractsDir, w)
	})
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(path) //nolint:gosec // a path of our own making
	if err != nil {
		return nil, err
	}
	var contracts map[string]Contract
	if err := json.Unmarshal(raw, &contracts); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return contracts, nil
}

// contractsKey hashes all that the compiled contracts depend on.
func contractsKey(tools, script, contractsDir string) (string, error) {
	version, err := moduleVersion(tools, "solc")
	if err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(contractsDir, "*.sol"))
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("no Solidity files in %s", contractsDir)
	}
	key := sha256.New()
	_, _ = fmt.Fprintln(key, version)
	for _, file := range append(files, script) {
		raw, err := os.ReadFile(file) //nolint:gosec // the files that the caller asks to compile
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(key, "%s %d\n%s", filepath.Base(file), len(raw), raw)
	}
	return hex.EncodeToString(key.Sum(nil)[:12]), nil
}

func compile(ctx context.Context, script, contractsDir string, w io.Writer) error {
	command := exec.CommandContext(ctx, "node", script, contractsDir) //nolint:gosec // our own script
	output, err := command.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(output)
	return err
}
