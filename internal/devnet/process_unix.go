//go:build unix && !linux

package devnet

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// processAttributes gives the child a process group of its own.
func processAttributes(p program) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: p.as.credential()}
}

// guardProcess starts a shell that sends death to pid once this process is
// gone: then the pipe it reads from has no writer any more. The returned
// function ends the guard; call it when pid has ended.
func guardProcess(ctx context.Context, pid int, death syscall.Signal) (func(), error) {
	const script = `read -r _; kill "-$0" "$1"`
	signal, child := strconv.Itoa(int(death)), strconv.Itoa(pid)
	guard := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", script, signal, child) //nolint:gosec // two numbers
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := guard.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	if err := guard.Start(); err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	return func() {
		_ = guard.Process.Kill() // before the pipe closes, or it would act
		_ = guard.Wait()
		_ = pipe.Close()
	}, nil
}
