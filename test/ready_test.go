package test

import (
	"net/http"
	"sync"
	"testing"
)

// TestAFloodOfReadyzIsNoneOfTheDatabase: anybody may ask, so askers share answers.
func TestAFloodOfReadyzIsNoneOfTheDatabase(t *testing.T) {
	t.Parallel()
	s := setup{chain: world.chain}.start(t)
	eventually(t, "it is ready", func() bool { return s.get(t, "/readyz").status == http.StatusOK })
	acquires := func() float64 { return s.metric(t, "facilitator_database_acquires_total", "api") }
	const askers, times = 8, 500
	before := acquires()
	var flood sync.WaitGroup
	for range askers {
		flood.Go(func() {
			for range times {
				if r := s.get(t, "/readyz"); r.status != http.StatusOK {
					t.Errorf("/readyz: %d %s", r.status, r.text)
				}
			}
		})
	}
	flood.Wait()
	// Some are the service's own, a few a second.
	if asked := acquires() - before; asked > askers*times/4 {
		t.Errorf("the database was asked %v times for %d answers", asked, askers*times)
	}
}
