package watching

import (
	"bufio"
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"facilitator/internal/app"
	"facilitator/internal/metrics"
)

// TestWatching: Prometheus scrapes a service under load while a node dies,
// screening can't tell, a transaction sticks and gas runs out. The right alerts fire,
// and they clear.
func TestWatching(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	s := newSite(t)
	s.load(t)
	s.firing(t, "all is well", nil, nil)
	s.dashboards(t)
	s.closed(t)

	s.second.down.Store(true)
	s.firing(t, "a node dies", []string{"FacilitatorNodeDown"}, []string{"FacilitatorNodeFails"})
	s.second.down.Store(false)
	s.firing(t, "it lives again", nil, nil)

	s.silent.Store(true)
	s.firing(t, "screening can't tell", []string{"FacilitatorScreeningFails", "FacilitatorUnavailable"}, nil)
	s.silent.Store(false)
	s.firing(t, "it can again", nil, nil)

	s.first.deaf.Store(true)
	s.firing(t, "a transaction sticks", []string{"FacilitatorTransactionStuck"}, []string{
		// What comes of it once it has gone on for long.
		"FacilitatorNodeFails", "FacilitatorQueueLong", "FacilitatorSettleSlow", "FacilitatorUnavailable",
	})
	s.first.deaf.Store(false)
	s.firing(t, "it is mined", nil, nil)

	s.fund(t, 1)
	s.firing(t, "gas runs out", []string{"FacilitatorLaneParked", "FacilitatorLaneRunwayLow", "FacilitatorNetworkNotReady", "FacilitatorUnavailable"}, []string{
		"FacilitatorTransactionStuck", "FacilitatorSettleSlow", // what was signed before waits for gas, too
	})
	s.fund(t, 1e18)
	s.firing(t, "the lane is funded", nil, nil)
}

// firing waits until all of want fires, and besides these only what may. With
// neither it waits until nothing fires and the service has answered well since.
func (s *site) firing(t *testing.T, when string, want, may []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	alerts := `ALERTS{alertstate="firing"}`
	if len(want) == 0 { // what is about to fire is not quiet
		alerts = "ALERTS"
	}
	quiet := "sum(rate(facilitator_answers_total{route=\"/settle\", reason=\"ok\"}[2s])) > 0"
	for {
		var names []string
		found, err := s.query(ctx, alerts)
		if err == nil && len(want) == 0 && len(found) == 0 {
			if found, err = s.query(ctx, quiet); err == nil && len(found) > 0 {
				return
			}
			found = nil
		}
		for _, a := range found {
			names = append(names, a.Metric["alertname"])
		}
		for _, name := range names {
			// What fired before may take its time to clear; what begins to must be wanted.
			if len(want) > 0 && !slices.Contains(want, name) && !slices.Contains(may, name) {
				t.Fatalf("%s: %s fires, of all %v", when, name, names)
			}
		}
		if len(want) > 0 && !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(names, name) }) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v fire, want %v (%v)", when, names, want, err)
		case <-look.C:
		}
	}
}

var (
	seriesLine = regexp.MustCompile(`^(facilitator_\w+)\{(.*)\} `)
	labelPair  = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// closed: what is exposed is in the reference, with the labels and values that
// stand there; and no node's URL is (I10).
func (s *site) closed(t *testing.T) {
	t.Helper()
	made := app.MetricsMade(prometheus.NewRegistry()).All()
	r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, s.metricsURL, http.NoBody))(t)
	page, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	seen := 0
	for lines := bufio.NewScanner(page.Body); lines.Scan(); {
		line := lines.Text()
		if strings.Contains(line, s.first.url) || strings.Contains(line, s.second.url) || strings.Contains(line, "127.0.0.1") {
			t.Errorf("an address is exposed: %s", line)
		}
		parts := seriesLine.FindStringSubmatch(line)
		if parts == nil {
			continue
		}
		seen++
		i := slices.IndexFunc(made, func(m metrics.Metric) bool {
			return m.Name == parts[1] || m.Type == "histogram" && strings.HasPrefix(parts[1], m.Name+"_")
		})
		if i < 0 {
			t.Errorf("%s is not in the reference", parts[1])
			continue
		}
		for _, pair := range labelPair.FindAllStringSubmatch(parts[2], -1) {
			name, value := pair[1], pair[2]
			at := slices.IndexFunc(made[i].Labels, func(l metrics.Label) bool { return l.Name == name })
			switch {
			case name == "le" && made[i].Type == "histogram":
			case at < 0:
				t.Errorf("%s has label %s, which the reference lacks", parts[1], name)
			case made[i].Labels[at].Of == "" && !slices.Contains(made[i].Labels[at].Values, value):
				t.Errorf("%s: %s is %q, which the reference lacks", parts[1], name, value)
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d series", seen)
	}
}
