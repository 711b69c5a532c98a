package devnet_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"facilitator/internal/devnet"
)

// Not parallel: it changes where scratch directories are.
func TestKilledOwner(t *testing.T) {
	needTools(t)
	temp := tempDir(t)
	owner := exec.CommandContext(t.Context(), os.Args[0])
	owner.Env = append(os.Environ(), ownerEnv+"=1")
	owner.Stderr = os.Stderr
	pipe, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var said owned
	if err := json.NewDecoder(pipe).Decode(&said); err != nil {
		t.Fatal(err)
	}
	if len(said.PIDs) != 2 || len(scratches(t, temp)) != 2 {
		t.Fatalf("the owner started %v in %v", said.PIDs, scratches(t, temp))
	}

	// A living owner's directories are not touched.
	if err := startPostgres(t, devnet.PostgresConfig{}).Close(); err != nil {
		t.Fatal(err)
	}
	if left := scratches(t, temp); len(left) != 2 {
		t.Fatalf("the directories of a living owner: %v", left)
	}

	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()
	for _, pid := range said.PIDs {
		waitFor(t, "the death of the owner's processes", func() bool { return !alive(pid) })
	}
	if err := startPostgres(t, devnet.PostgresConfig{}).Close(); err != nil {
		t.Fatal(err)
	}
	if left := scratches(t, temp); len(left) != 0 {
		t.Errorf("a dead owner's directories are still there: %v", left)
	}
}

// Not parallel: it changes the environment.
func TestTools(t *testing.T) {
	empty := t.TempDir()
	if _, err := devnet.Tools(empty); err == nil {
		t.Error("a directory without node_modules passes")
	}
	full := t.TempDir()
	if err := os.Mkdir(filepath.Join(full, "node_modules"), 0o750); err != nil {
		t.Fatal(err)
	}
	if got, err := devnet.Tools(full); err != nil || got != full {
		t.Errorf("Tools(dir) = %q, %v", got, err)
	}
	t.Setenv("FACILITATOR_TOOLS", full)
	if got, err := devnet.Tools(""); err != nil || got != full {
		t.Errorf("Tools with the environment = %q, %v", got, err)
	}
	t.Setenv("FACILITATOR_TOOLS", "")
	t.Chdir(empty)
	if _, err := devnet.Tools(""); err == nil {
		t.Error("tools were found where there are none")
	}
	if err := os.MkdirAll(filepath.Join(empty, "tools", "node_modules"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(empty, "tools", "package.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(empty, "a", "b")
	if err := os.MkdirAll(below, 0o750); err != nil {
		t.Fatal(err)
	}
	t.Chdir(below)
	if got, err := devnet.Tools(""); err != nil || filepath.Base(got) != "tools" {
		t.Errorf("Tools below the checkout = %q, %v", got, err)
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	look, enough := time.NewTicker(10*time.Millisecond), time.NewTimer(30*time.Second)
	defer look.Stop()
	defer enough.Stop()
	for !done() {
		select {
		case <-look.C:
		case <-enough.C:
			t.Fatalf("waited too long for %s", what)
		}
	}
}
