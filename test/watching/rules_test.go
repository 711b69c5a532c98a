package watching

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"facilitator/internal/app"
	"facilitator/internal/devnet"
)

var deployed = filepath.Join("..", "..", "deploy", "prometheus")

// rules is what a rule file holds.
type rules struct {
	Groups []struct {
		Rules []struct {
			Alert       string
			Record      string
			Expr        string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestEveryAlertIsTested: promtool runs the unit tests of the rules, and each alert
// has one in which it fires and one in which it does not.
func TestEveryAlertIsTested(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it runs promtool")
	}
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"check", "rules", "rules/recording.yml", "rules/alerts.yml"},
		{"test", "rules", "tests/alerts_test.yml"},
	} {
		if out, err := devnet.Promtool(t.Context(), "", deployed, args...); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	var alerts rules
	readYAML(t, filepath.Join(deployed, "rules", "alerts.yml"), &alerts)
	var tests struct {
		Tests []struct {
			Alerts []struct {
				Name     string           `yaml:"alertname"`
				Expected []map[string]any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, filepath.Join(deployed, "tests", "alerts_test.yml"), &tests)
	fires, rests := make(map[string]bool), make(map[string]bool)
	for _, test := range tests.Tests {
		for _, a := range test.Alerts {
			fires[a.Name] = fires[a.Name] || len(a.Expected) > 0
			rests[a.Name] = rests[a.Name] || len(a.Expected) == 0
		}
	}
	runbooks, err := os.ReadFile(filepath.Join("..", "..", "docs", "runbooks.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for _, r := range alerts.Groups[0].Rules {
		known++
		if !fires[r.Alert] || !rests[r.Alert] {
			t.Errorf("%s: tested firing %v, not firing %v", r.Alert, fires[r.Alert], rests[r.Alert])
		}
		if !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) || r.Annotations["summary"] == "" {
			t.Errorf("%s: severity %q, summary %q", r.Alert, r.Labels["severity"], r.Annotations["summary"])
		}
		if url := r.Annotations["runbook_url"]; url != "docs/runbooks.md#"+strings.ToLower(r.Alert) || !strings.Contains(string(runbooks), "\n## "+r.Alert+"\n") {
			t.Errorf("%s: runbook %q, and a section of that name: %v", r.Alert, url, strings.Contains(string(runbooks), "## "+r.Alert))
		}
	}
	if sections := strings.Count(string(runbooks), "\n## "); known == 0 || sections != known {
		t.Errorf("%d alerts, %d runbooks", known, sections)
	}
}

// TestRulesAskForWhatThereIs: a metric that was renamed takes its alerts along.
func TestRulesAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	exist := series(t)
	for _, name := range []string{"recording.yml", "alerts.yml"} {
		var file rules
		readYAML(t, filepath.Join(deployed, "rules", name), &file)
		for _, r := range file.Groups[0].Rules {
			for _, asked := range askedFor(r.Expr) {
				if !exist[asked] {
					t.Errorf("%s %s%s asks for %s, which does not exist", name, r.Alert, r.Record, asked)
				}
			}
		}
	}
}

var metricName = regexp.MustCompile(`[a-z_]*:?facilitator_[a-z0-9_]+(:[a-z0-9_]+)?`)

// askedFor are the metrics that a query names.
func askedFor(query string) []string {
	return metricName.FindAllString(query, -1)
}

// series are the names that there are: of metrics, by the reference, and of what
// the rules record.
func series(t *testing.T) map[string]bool {
	t.Helper()
	exist := make(map[string]bool)
	for _, m := range app.MetricsMade(prometheus.NewRegistry()).All() {
		exist[m.Name] = m.Type != "histogram"
		if m.Type == "histogram" {
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				exist[m.Name+part] = true
			}
		}
	}
	var recorded rules
	readYAML(t, filepath.Join(deployed, "rules", "recording.yml"), &recorded)
	for _, r := range recorded.Groups[0].Rules {
		exist[r.Record] = true
	}
	if len(exist) < 40 {
		t.Fatal(fmt.Sprint("few metrics: ", len(exist)))
	}
	return exist
}
