package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"facilitator/internal/devnet"
	"facilitator/internal/store/storetest"
)

// database is nil where there is no Postgres to test with.
var database *storetest.Server

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if testing.Short() {
		return m.Run()
	}
	var err error
	database, err = storetest.Start(context.Background())
	if err != nil && (os.Getenv("CI") != "" || !errors.Is(err, devnet.ErrNoTools)) {
		fmt.Fprintln(os.Stderr, "test set-up:", err)
		return 1
	}
	code := m.Run()
	if database != nil {
		err = database.Close()
	}
	if err = errors.Join(err, goleak.Find()); err != nil && database != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "test end:", err)
		code = 1
	}
	return code
}

// command runs one and returns its exit code and what it printed.
func command(t *testing.T, args ...string) (code int, out, err string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, console{out: &stdout, err: &stderr})
	return code, stdout.String(), stderr.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
