package test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"facilitator/internal/devnet"
)

// TestTheQueueIsBoundedWhateverArrives floods a service whose lane has no place.
func TestTheQueueIsBoundedWhateverArrives(t *testing.T) {
	t.Parallel()
	const bound, calls = 50, 400
	c := startChain(t, devnet.ChainConfig{})
	deals := manySales(t, c, calls)
	held(t, c)
	s := setup{chain: c, overlay: "settle: {wait: 5s, max_queued: 50}\nchains: {'" + c.Network() + "': {max_in_flight: 1}}"}.start(t)
	refused, pending := 0, 0
	for _, r := range settleAll(t, deals.bodies, calls, s) {
		switch {
		case r.str("errorReason") == "settlement_pending":
			pending++
		case r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "":
			t.Errorf("%d %s", r.status, r.text)
		case strings.Contains(r.text, "too many payments are queued"):
			if refused++; r.header.Get("Settlement-Id") != "" {
				t.Errorf("refused, but recorded as %s", r.header.Get("Settlement-Id"))
			}
		}
	}
	// Those that were queued were taken back when their callers gave up.
	rows := queryRows[int64](t, s.databaseURL, "SELECT count(*) FROM payments WHERE state = 'failed'")[0]
	if rows > bound || rows < bound/2 || refused != calls-int(rows)-pending {
		t.Errorf("%d were queued, %d sent, %d refused of %d", rows, pending, refused, calls)
	}
}

func TestWhatReachesTheDatabaseIsMeasured(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t)
	wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payers(t, c, 1)[0]))))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.metricsURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"facilitator_store_commits_total", "facilitator_store_reads_total"} {
		_, after, found := strings.Cut(string(text), "\n"+name+" ")
		if value, _, _ := strings.Cut(after, "\n"); !found || value == "0" {
			t.Errorf("%s is %q", name, value)
		}
	}
}
