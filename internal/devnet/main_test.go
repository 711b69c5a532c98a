package devnet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"facilitator/internal/devnet"
)

// ownerEnv makes the test binary start a chain and a Postgres, say what it
// started, and wait to be killed.
const ownerEnv = "DEVNET_TEST_OWNER"

// owned is what the helper says it started.
type owned struct {
	PIDs []int
}

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) != "" {
		if err := own(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

func own(ctx context.Context) error {
	database, err := devnet.StartPostgres(ctx, devnet.PostgresConfig{})
	if err != nil {
		return err
	}
	chain, err := devnet.StartChain(ctx, devnet.ChainConfig{Network: devnet.Base})
	if err != nil {
		return err
	}
	err = json.NewEncoder(os.Stdout).Encode(owned{PIDs: []int{database.PID(), chain.PID()}})
	<-time.After(time.Minute) // it is killed long before
	return errors.Join(err, errors.New("nobody killed the helper"))
}

// needTools skips the test if processes are too much for this run or the tools
// are not installed. In continuous integration they must be.
func needTools(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	if _, err := devnet.Tools(""); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// startChain starts a chain that ends with the test.
func startChain(t *testing.T, cfg devnet.ChainConfig) *devnet.Chain {
	t.Helper()
	needTools(t)
	began := time.Now()
	chain, err := devnet.StartChain(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("chain up in %v", time.Since(began))
	t.Cleanup(func() {
		if err := chain.Close(); err != nil {
			t.Error(err)
		}
	})
	return chain
}
