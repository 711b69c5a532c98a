package devnet

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// CommandConfig says which program to run beside the chain.
type CommandConfig struct {
	Path string
	Args []string
	// Env is the program's environment, beside PATH, HOME and TMPDIR of ours.
	Env []string
	// Ready is text in the program's output that says that it serves.
	Ready string
	// Files are written into a directory of the command's own, which only this
	// user can read: by name, their text.
	Files map[string]string
}

// Command is a running program of the caller's. It does not outlive this process.
type Command struct {
	process *process
	scratch *scratch
	ready   string
}

// filesPlace stands in an argument for the directory of the command's files.
const filesPlace = "$FILES"

// StartCommand runs a program and returns when it says that it serves. $FILES
// in an argument is replaced by the directory of its files.
func StartCommand(ctx context.Context, cfg CommandConfig) (*Command, error) {
	space, err := newScratch()
	if err != nil {
		return nil, err
	}
	c := &Command{scratch: space}
	if err := c.start(ctx, cfg); err != nil {
		_ = c.Close() // the reason why it did not start says more
		return nil, err
	}
	return c, nil
}

func (c *Command) start(ctx context.Context, cfg CommandConfig) error {
	for name, text := range cfg.Files {
		if err := os.WriteFile(filepath.Join(c.scratch.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	args := make([]string, len(cfg.Args))
	for i, arg := range cfg.Args {
		args[i] = strings.ReplaceAll(arg, filesPlace, c.scratch.dir)
	}
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return err
	}
	c.process, err = start(ctx, program{
		path: path, args: args, dir: c.scratch.dir, death: syscall.SIGKILL, ready: cfg.Ready,
		env: append(env, cfg.Env...),
	})
	if err != nil {
		return err
	}
	c.ready, err = c.process.awaitReady(ctx)
	return err
}

// Ready is the line that said that the program serves, from the text on.
func (c *Command) Ready() string { return c.ready }

// Output is the end of what the program printed.
func (c *Command) Output() string { return c.process.out.String() }

// PID is the process id of the program.
func (c *Command) PID() int { return c.process.cmd.Process.Pid }

// Done is closed when the program has ended.
func (c *Command) Done() <-chan struct{} { return c.process.done }

// Kill ends the program as a power cut does, and returns when it is gone.
func (c *Command) Kill() { c.process.stop(syscall.SIGKILL) }

// Close stops the program in order, or by force if it takes long, and removes
// its files.
func (c *Command) Close() error {
	if c.process != nil {
		c.process.stop(syscall.SIGTERM)
	}
	return c.scratch.Close()
}
