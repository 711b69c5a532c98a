// Package conformance asks this service and the official TypeScript facilitator
// the same questions about the same chain, one for every reason there is, and
// compares the answers. Where they differ docs/divergences.md must say why.
package conformance

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	before := goleak.IgnoreCurrent()
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(before); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
