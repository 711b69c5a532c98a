package watching

import (
	"context"
	"path/filepath"
	"testing"
	"time"
)

var grafana = filepath.Join("..", "..", "deploy", "grafana")

func readDashboards(t *testing.T) map[string]Dashboard {
	t.Helper()
	return must(Dashboards(filepath.Join(grafana, "dashboards")))(t)
}

// TestDashboards: they are there, their panels do not overlap, and they ask the
// provisioned data source for series that exist.
func TestDashboards(t *testing.T) {
	t.Parallel()
	var provisioned struct {
		Datasources []struct{ UID string }
	}
	readYAML(t, filepath.Join(grafana, "provisioning", "datasources", "prometheus.yml"), &provisioned)
	all, exist := readDashboards(t), series(t)
	for _, name := range []string{"overview", "lanes", "nodes", "sellers"} {
		d, ok := all[name]
		if !ok || len(d.Panels) == 0 || d.UID != "facilitator-"+name {
			t.Errorf("dashboard %s: uid %q, %d panels", name, d.UID, len(d.Panels))
		}
		taken := make(map[[2]int]string)
		for _, p := range d.Panels {
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
						t.Errorf("%s: %q lies on %q or beyond the edge", name, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Datasource.UID != provisioned.Datasources[0].UID {
				t.Errorf("%s %q: data source %q", name, p.Title, p.Datasource.UID)
			}
			for _, target := range p.Targets {
				for _, asked := range askedFor(target.Expr) {
					if !exist[asked] {
						t.Errorf("%s %q asks for %s, which does not exist", name, p.Title, asked)
					}
				}
			}
		}
	}
}

// dashboards: every query of every panel returns numbers.
func (s *site) dashboards(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	all := 0
	for name, d := range readDashboards(t) {
		asked, err := d.Ask(ctx, s.prometheus.URL(), "10s")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all += asked
	}
	if all < 50 {
		t.Errorf("only %d queries", all)
	}
}
