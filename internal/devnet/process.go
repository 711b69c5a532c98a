package devnet

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// stopPatience is how long each signal of an ordered stop gets.
	stopPatience = 5 * time.Second
	// pipePatience is how long a dead process's children may hold its output.
	pipePatience = 2 * time.Second
	// outputKept is how much of a process's last output is kept for errors.
	outputKept = 8 << 10
)

// program says what to run.
type program struct {
	path  string
	args  []string
	env   []string
	dir   string
	as    *account       // nil: as this process
	death syscall.Signal // what the process gets when this one dies
	ready string         // the text in its output that says it serves
	quiet bool           // keep URLs, which may hold passwords, out of errors
}

// process is a running program. It does not outlive this process.
type process struct {
	cmd   *exec.Cmd
	out   *output
	name  string
	quiet bool
	done  chan struct{} // closed when it has ended
	err   error         // how it ended; read after done
}

// start runs the program in a process group of its own, so that an interrupt
// typed in a terminal does not end it before its owner says so.
func start(ctx context.Context, p program) (*process, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.path, p.args...) //nolint:gosec // only pinned tools and what the caller has on PATH
	cmd.Env, cmd.Dir, cmd.WaitDelay = p.env, p.dir, pipePatience
	cmd.SysProcAttr = processAttributes(p)
	out := newOutput(p.ready)
	cmd.Stdout, cmd.Stderr = out, out
	run := &process{cmd: cmd, out: out, name: p.path, quiet: p.quiet, done: make(chan struct{})}

	started := make(chan error)
	go func() {
		// The kernel ties the death signal to the thread that forked, so that
		// thread has to live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		release, err := guardProcess(ctx, cmd.Process.Pid, p.death)
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			started <- err
			return
		}
		started <- nil
		run.err = cmd.Wait()
		release()
		close(run.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.path, err)
	}
	return run, nil
}

// runToEnd runs the program and returns what it printed. It is killed when ctx
// ends.
func runToEnd(ctx context.Context, p program) (string, error) {
	run, err := start(ctx, p)
	if err != nil {
		return "", err
	}
	select {
	case <-run.done:
	case <-ctx.Done():
		run.stop()
		return "", fmt.Errorf("%s: %w", run.name, context.Cause(ctx))
	}
	if run.err != nil {
		return "", run.failure()
	}
	return run.out.String(), nil
}

// awaitReady returns the line of output that says the process serves.
func (p *process) awaitReady(ctx context.Context) (string, error) {
	select {
	case line := <-p.out.found:
		return line, nil
	case <-p.done:
		return "", p.failure()
	case <-ctx.Done():
		return "", fmt.Errorf("wait for %s: %w", p.name, context.Cause(ctx))
	}
}

// failure tells how the process ended, with the end of what it printed.
func (p *process) failure() error {
	printed := strings.TrimSpace(p.out.String())
	if p.quiet {
		printed = regexp.MustCompile(`[a-z]+://[^\s)"']+`).ReplaceAllString(printed, "[URL]")
	}
	return fmt.Errorf("%s ended (%s): %s", p.name, p.cmd.ProcessState, printed)
}

// stop ends the process with the signals in their order, the next one if the
// last had no effect, and returns when it is gone.
func (p *process) stop(signals ...syscall.Signal) {
	for _, signal := range append(signals, syscall.SIGKILL) {
		_ = p.cmd.Process.Signal(signal) // fails only if it has ended
		select {
		case <-p.done:
			return
		case <-time.After(stopPatience):
		}
	}
	<-p.done
}

// output keeps the end of what a process prints and reports the first line
// that contains a given text.
type output struct {
	found chan string

	mu     sync.Mutex
	text   []byte
	marker []byte // nil once it was found
}

func newOutput(marker string) *output {
	return &output{found: make(chan string, 1), marker: []byte(marker)}
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if len(o.marker) > 0 {
		if at := bytes.Index(o.text, o.marker); at >= 0 {
			if length := bytes.IndexByte(o.text[at:], '\n'); length >= 0 {
				o.found <- string(o.text[at : at+length])
				o.marker = nil
			}
		}
	}
	if len(o.text) > 2*outputKept {
		o.text = append(o.text[:0], o.text[len(o.text)-outputKept:]...)
	}
	return len(p), nil
}

// String returns the end of the output.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}
