// Command facilitator verifies and settles x402 payments.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "dev"

// console is what a command may use of the process it runs in.
type console struct {
	environ  []string
	in       io.Reader
	out, err io.Writer
}

// errUsage says that the command line was wrong and has been explained.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], console{environ: os.Environ(), in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}

// run is main without the process: 0 is success, 1 failure, 2 wrong usage.
func run(ctx context.Context, args []string, c console) int {
	commands := map[string]func(context.Context, []string, console) error{
		"serve": serve, "migrate": migrate, "audit": compare, "doctor": examine, "clients": clients, "keys": keys, "payments": payments,
		"screening": screening, "dev": dev, "doc": doc, "version": printVersion,
	}
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(c.out)
		if len(args) == 0 {
			return 2
		}
		return 0
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(c.err, "facilitator: unknown command %q\n\n", args[0])
		usage(c.err)
		return 2
	}
	switch err := command(ctx, args[1:], c); {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		return 2
	default:
		fmt.Fprintf(c.err, "facilitator %s: %v\n", args[0], err)
		return 1
	}
}

func usage(w io.Writer) {
	fmt.Fprint(w, `facilitator verifies and settles x402 payments.

Commands:
  serve     run the service
  migrate   up, down or status: the database schema
  keys      new, import, address or check: the keys that sign
  audit     compare the record with the chain, and with what callers were told
  clients   create, list, rotate, disable, enable: who may call, with which keys
  doctor    check the configuration, the database, the nodes and the wallets
  payments  list, show or export what the record holds
  screening hits, check or forget: whom screening refused, what its sources say
  dev       run everything on this machine: a chain, a Postgres and the service
  doc       print a reference: doc metrics
  version   print the version

"facilitator COMMAND -h" lists a command's flags.
`)
}
