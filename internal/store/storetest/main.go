package storetest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"facilitator/internal/devnet"
)

// Main runs a package's tests with a server, which is nil for them in a short run
// and where there are no tools, and returns what to exit with. No goroutine may
// outlive them.
func Main(m *testing.M, server **Server) int {
	flag.Parse()
	if testing.Short() {
		return m.Run()
	}
	s, err := Start(context.Background())
	if err != nil && (os.Getenv("CI") != "" || !errors.Is(err, devnet.ErrNoTools)) {
		fmt.Fprintln(os.Stderr, "test set-up:", err)
		return 1
	}
	*server = s
	code := m.Run()
	if s == nil {
		return code
	}
	if err := errors.Join(s.Close(), goleak.Find()); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "test end:", err)
		return 1
	}
	return code
}
