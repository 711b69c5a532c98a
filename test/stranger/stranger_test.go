//go:build unix

// Package stranger does what a stranger would: it pastes docs/first-hour.md, block
// by block, into a shell, and looks whether it prints what the page says.
package stranger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"facilitator/internal/devnet"
)

var root = filepath.Join("..", "..")

// TestFirstHour: the page leads from an empty folder to its end, and leaves nothing
// running.
func TestFirstHour(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "first-hour.md"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := blocks(string(page))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "facilitator"), checkout{os.DirFS(root)}); err != nil {
		t.Fatal(err)
	}
	output, failed := paste(t, dir, all)
	begin, printed := output[0], output[1:]
	for i, text := range printed {
		if failed != nil && i == len(printed)-1 {
			t.Fatalf("first-hour.md:%d: %v\n%s\n%s", all[i].line, failed, text, logs(t, dir))
		}
		if want := all[i].missing(text); want != "" {
			t.Errorf("first-hour.md:%d does not print %q, but\n%s", all[i].line, want, text)
		}
	}
	if failed != nil || len(printed) != len(all) {
		t.Fatalf("%d of %d blocks: %v\n%s", len(printed), len(all), failed, begin)
	}
}

// mark stands in the output before what each block prints.
const mark = "\n==== next block\n"

// paste runs the blocks in one shell, which ends with the first command that
// fails, and returns what it printed: before the first block, and then by block.
func paste(t *testing.T, dir string, all []block) ([]string, error) {
	t.Helper()
	var script strings.Builder
	// The last started first, so that none logs that it lost what it needs.
	script.WriteString("set -euo pipefail\ntrap 'set +e; for job in $(jobs -p | sort -rn); do kill $job; wait $job; done 2>/dev/null' EXIT\n")
	for _, b := range all {
		fmt.Fprintf(&script, "printf '%s'\n%s", mark, b.script)
	}
	script.WriteString("test -z \"$(jobs -pr)\" || { echo 'still running:'; jobs -r; exit 1; }\n")
	file, err := os.Create(filepath.Join(dir, "printed")) // not a pipe, which what runs on would hold open
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-c", script.String())
	shell.Dir, shell.Env, shell.Stdout, shell.Stderr = dir, environment(t), file, file
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The group: a shell alone would wait for its foreground command first.
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGTERM) }
	shell.WaitDelay = 30 * time.Second
	failed := shell.Run()
	if shell.Process != nil && !errors.Is(syscall.Kill(-shell.Process.Pid, syscall.SIGKILL), syscall.ESRCH) {
		failed = errors.Join(failed, errors.New("something ran on after the shell"))
	}
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), mark), failed
}

// environment is this one without what would decide for the page, with ports that
// are free and the tools that stand here already.
func environment(t *testing.T) []string {
	t.Helper()
	tools, err := devnet.Tools("")
	if err != nil {
		t.Fatal(err)
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return slices.ContainsFunc([]string{"FACILITATOR_", "DATABASE_URL=", "MAKE", "MFLAGS=", "BASH_ENV="}, func(prefix string) bool {
			return strings.HasPrefix(v, prefix)
		})
	})
	env = append(env, "FACILITATOR_TOOLS="+tools)
	for i, name := range []string{"PORT_A", "PORT_B", "PORT_METRICS_A", "PORT_METRICS_B", "PORT_PROMETHEUS"} {
		env = append(env, fmt.Sprintf("%s=%d", name, freePort(t, 10_000+4_000*i)))
	}
	return env
}

// freePort is one of the 4,000 from a first one on, below those that systems give
// to who asks for any: nobody gets it before the page does.
func freePort(t *testing.T, first int) int {
	t.Helper()
	for range 100 {
		port := first + rand.IntN(4_000)
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
	t.Fatal("no port is free")
	return 0
}

// logs are the last lines of what the page's programs logged.
func logs(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "first-hour", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		fmt.Fprintf(&all, "%s:\n%s\n", filepath.Base(file), strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	return all.String()
}

// checkout is the project without what was built or installed in it.
type checkout struct{ fs.FS }

// ReadDir leaves that out.
func (c checkout) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(c.FS, name)
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		return slices.Contains([]string{".git", "bin", "dist", "node_modules", ".cache"}, e.Name())
	}), err
}
