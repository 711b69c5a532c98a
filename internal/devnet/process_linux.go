package devnet

import (
	"context"
	"syscall"
)

// processAttributes gives the child a process group of its own and has the
// kernel send it p.death when this process dies.
func processAttributes(p program) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: p.death, Credential: p.as.credential()}
}

// guardProcess has nothing to do: the kernel guards.
func guardProcess(context.Context, int, syscall.Signal) (func(), error) {
	return func() {}, nil
}
