package main

import (
	"bytes"
	"os"
	"testing"

	"facilitator/internal/store/storetest"
)

// database is nil where there is no Postgres to test with.
var database *storetest.Server

func TestMain(m *testing.M) { os.Exit(storetest.Main(m, &database)) }

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
