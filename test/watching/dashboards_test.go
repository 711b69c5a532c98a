package watching

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dashboard is what a file of deploy/grafana/dashboards holds.
type dashboard struct {
	UID, Title string
	Templating struct {
		List []struct{ Name, Query string }
	}
	Panels []struct {
		ID         int
		Title      string
		Datasource struct{ UID string }
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct{ Expr, RefID string }
	}
}

var grafana = filepath.Join("..", "..", "deploy", "grafana")

func readDashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files := must(filepath.Glob(filepath.Join(grafana, "dashboards", "*.json")))(t)
	all := make(map[string]dashboard)
	for _, file := range files {
		var d dashboard
		if err := json.Unmarshal(must(os.ReadFile(file))(t), &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = d
	}
	return all
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
	look := time.NewTicker(250 * time.Millisecond)
	defer look.Stop()
	asked := 0
	for name, d := range readDashboards(t) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				asked++
				q := strings.NewReplacer("$__rate_interval", "10s", "$network", ".*").Replace(target.Expr)
				for !s.tells(ctx, t, q) {
					select {
					case <-look.C:
					case <-ctx.Done():
						t.Fatalf("%s %q: no number for %s", name, p.Title, q)
					}
				}
			}
		}
	}
	if asked < 50 {
		t.Errorf("only %d queries", asked)
	}
}

// tells says whether a query returns a number.
func (s *site) tells(ctx context.Context, t *testing.T, q string) bool {
	t.Helper()
	found, err := s.query(ctx, q)
	if err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if text, _ := f.Value[1].(string); text != "NaN" {
			return true
		}
	}
	return false
}
