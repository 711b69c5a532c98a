package watching

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Dashboard is what a file of deploy/grafana/dashboards holds.
type Dashboard struct {
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

// Dashboards reads those of a directory, by the names of their files.
func Dashboards(dir string) (map[string]Dashboard, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	all := make(map[string]Dashboard)
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // the caller says where
		if err != nil {
			return nil, err
		}
		var d Dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = d
	}
	return all, nil
}

// Ask has a Prometheus evaluate every query of a dashboard, over all networks and
// with rates over interval, until each has told a number. How many there are is
// returned, and an error if one did not until ctx ended.
func (d *Dashboard) Ask(ctx context.Context, prometheus, interval string) (asked int, err error) {
	look := time.NewTicker(250 * time.Millisecond)
	defer look.Stop()
	variables := strings.NewReplacer("$__rate_interval", interval, "$network", ".*")
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			asked++
			q := variables.Replace(target.Expr)
			for {
				found, err := Query(ctx, prometheus, q)
				if err != nil {
					return asked, fmt.Errorf("panel %q, %s: %w", panel.Title, q, err)
				}
				if numbers(found) {
					break
				}
				select {
				case <-look.C:
				case <-ctx.Done():
					return asked, fmt.Errorf("panel %q: no number for %s", panel.Title, q)
				}
			}
		}
	}
	return asked, nil
}

// Sample is one series of an answer.
type Sample struct {
	Metric map[string]string
	Value  [2]any // when, and what as text
}

func numbers(found []Sample) bool {
	for _, f := range found {
		if text, _ := f.Value[1].(string); text != "NaN" {
			return true
		}
	}
	return false
}

// Query asks a Prometheus.
func Query(ctx context.Context, prometheus, q string) ([]Sample, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, prometheus+"/api/v1/query?query="+url.QueryEscape(q), http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var body struct {
		Status, Error string
		Data          struct{ Result []Sample }
	}
	if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
		return nil, err
	}
	if body.Status != "success" {
		return nil, fmt.Errorf("%s: %s", q, body.Error)
	}
	return body.Data.Result, nil
}
