package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"facilitator/internal/config"
)

const chart = "deploy/helm/facilitator"

// values that every installation has.
const values = `
image: {repository: registry.example.com/facilitator, tag: v1.2.3}
config:
  http: {path_prefix: /x402}
  settle: {wait: 15s}
  chains: {"eip155:8453": {confirmations: 2}}
secrets:
- {setting: FACILITATOR_DATABASE_URL, secret: facilitator-db, key: url}
- {setting: FACILITATOR_CHAINS_EIP155_8453_RPC_URL, secret: facilitator, key: rpc}
- {setting: FACILITATOR_CHAINS_EIP155_8453_LANES_0_PRIVATE_KEY, secret: facilitator, key: lane-0}
`

// render returns what the chart makes of these values, each laid over the one before.
func render(t *testing.T, texts ...string) ([]document, string, error) {
	t.Helper()
	args := []string{"template", "pay", chart, "--namespace", "payments", "--kube-version", "1.30.0"}
	for _, text := range texts {
		file := filepath.Join(t.TempDir(), "values.yaml")
		must(t, os.WriteFile(file, []byte(text), 0o600))
		args = append(args, "--values", file)
	}
	out, err := helm(t, args...)
	if err != nil {
		return nil, out, err
	}
	return documents(t, out), out, nil
}

func find(t *testing.T, all []document, kind, name string) document {
	t.Helper()
	for _, d := range all {
		if d.text("kind") == kind && d.text("metadata", "name") == name {
			return d
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

func kinds(all []document) []string {
	var list []string
	for _, d := range all {
		list = append(list, d.text("kind"))
	}
	slices.Sort(list)
	return list
}

func TestTheChartIsLinted(t *testing.T) {
	needsTools(t)
	file := filepath.Join(t.TempDir(), "values.yaml")
	must(t, os.WriteFile(file, []byte(values), 0o600))
	if out, err := helm(t, "lint", "--strict", chart, "--values", file); err != nil {
		t.Error(out)
	}
}

func TestTheChartMakesWhatIsSafe(t *testing.T) {
	needsTools(t)
	all, text, err := render(t, values)
	if err != nil {
		t.Fatal(text)
	}
	want := []string{"ConfigMap", "ConfigMap", "Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service"}
	if got := kinds(all); !slices.Equal(got, want) {
		t.Errorf("it makes %q, want %q", got, want)
	}
	deployment := find(t, all, "Deployment", "pay-facilitator")
	if n, _ := deployment.at("spec", "replicas").(int); n < 2 {
		t.Errorf("%d replicas", n)
	}
	cfg := wantContainer(t, all, deployment, "serve")
	if cfg.Metrics.Address != ":9402" || cfg.HTTP.Address != ":4020" || cfg.Chains["eip155:8453"].Confirmations != 2 || cfg.Database.Migrate {
		t.Errorf("configuration %+v", cfg)
	}
	if pod := deployment.at("spec", "template", "spec"); pod != nil {
		grace, _ := deployment.at("spec", "template", "spec", "terminationGracePeriodSeconds").(int)
		if drain := (cfg.HTTP.DrainDelay + cfg.HTTP.DrainTimeout).Seconds(); float64(grace) <= drain {
			t.Errorf("killed after %d s, requests are drained for %v s", grace, drain)
		}
	}
	container := deployment.list("spec", "template", "spec", "containers")[0]
	for probe, path := range map[string]string{"livenessProbe": "/x402/livez", "readinessProbe": "/x402/readyz", "startupProbe": "/x402/livez"} {
		if got := container.text(probe, "httpGet", "path"); got != path {
			t.Errorf("%s asks %q, want %q", probe, got, path)
		}
	}
	selector := deployment.at("spec", "selector", "matchLabels")
	for _, d := range []document{find(t, all, "PodDisruptionBudget", "pay-facilitator"), find(t, all, "NetworkPolicy", "pay-facilitator")} {
		labels := d.at("spec", "selector", "matchLabels")
		if labels == nil {
			labels = d.at("spec", "podSelector", "matchLabels")
		}
		if !equalYAML(labels, selector) {
			t.Errorf("%s selects %v, not %v", d.text("kind"), labels, selector)
		}
	}
	job := find(t, all, "Job", "pay-facilitator-migrate")
	wantContainer(t, all, job, "migrate up")
	if hook := job.text("metadata", "annotations", "helm.sh/hook"); hook != "pre-install,pre-upgrade" {
		t.Errorf("the migration runs at %q", hook)
	}
	for name, value := range section(t, job, "spec", "template", "metadata", "labels") {
		if m, _ := selector.(map[string]any); name == "app.kubernetes.io/name" && m[name] == value {
			t.Error("the service would send traffic to the migration")
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Error("a secret is in what is rendered")
	}
}

func equalYAML(a, b any) bool {
	x, _ := a.(map[string]any)
	y, _ := b.(map[string]any)
	if len(x) == 0 || len(x) != len(y) {
		return false
	}
	for k := range x {
		if x[k] != y[k] {
			return false
		}
	}
	return true
}

// wantContainer checks a workload's only container and loads what it is configured with.
func wantContainer(t *testing.T, all []document, workload document, args string) *config.Config {
	t.Helper()
	pod := section(t, workload, "spec", "template", "spec")
	container := pod.list("containers")[0]
	var words []string
	for _, a := range entries(t, container, "args") {
		words = append(words, fmt.Sprint(a))
	}
	if strings.Join(words, " ") != args || container.text("image") != "registry.example.com/facilitator:v1.2.3" {
		t.Errorf("%s runs %q of %s", workload.text("kind"), words, container.text("image"))
	}
	for path, want := range map[string]string{
		"automountServiceAccountToken": "false", "enableServiceLinks": "false",
	} {
		if got := pod.text(path); got != want {
			t.Errorf("%s is %q, want %s", path, got, want)
		}
	}
	security, own := section(t, pod, "securityContext"), section(t, container, "securityContext")
	if security.text("runAsNonRoot") != "true" || security.text("runAsUser") == "0" || security.text("seccompProfile", "type") != "RuntimeDefault" {
		t.Errorf("the pod may %v", security)
	}
	if own.text("readOnlyRootFilesystem") != "true" || own.text("allowPrivilegeEscalation") != "false" || own.text("capabilities", "drop", 0) != "ALL" {
		t.Errorf("the container may %v", own)
	}
	files := map[string]string{}
	for _, mount := range container.list("volumeMounts") {
		for _, volume := range pod.list("volumes") {
			if volume.text("name") != mount.text("name") {
				continue
			}
			if name := volume.text("configMap", "name"); name != "" {
				data, _ := find(t, all, "ConfigMap", name).at("data").(map[string]any)
				for key, text := range data {
					files[mount.text("mountPath")+"/"+key] = fmt.Sprint(text)
				}
			}
			for _, source := range volume.list("projected", "sources") {
				for _, item := range source.list("secret", "items") {
					path := item.text("path")
					files[mount.text("mountPath")+"/"+path] = secretOf(path)
				}
			}
		}
	}
	environment := map[string]string{}
	for _, variable := range container.list("env") {
		environment[variable.text("name")] = variable.text("value")
	}
	return load(t, environment, files)
}

func TestTheChartsChoices(t *testing.T) {
	needsTools(t)
	all, text, err := render(t, values, `
replicas: 5
migrate: start
autoscaling: {enabled: true, maxReplicas: 7}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
networkPolicy: {enabled: false}
podLabels: {team: payments}
podAnnotations: {note: "a: b"}
imagePullSecrets: [{name: pull}]
`)
	if err != nil {
		t.Fatal(text)
	}
	want := []string{"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service", "Service", "ServiceMonitor"}
	if got := kinds(all); !slices.Equal(got, want) {
		t.Errorf("it makes %q, want %q", got, want)
	}
	deployment := find(t, all, "Deployment", "pay-facilitator")
	if deployment.at("spec", "replicas") != nil {
		t.Error("the deployment and its autoscaler both say how many replicas there are")
	}
	if !wantContainer(t, all, deployment, "serve").Database.Migrate {
		t.Error("nobody applies migrations")
	}
	if find(t, all, "HorizontalPodAutoscaler", "pay-facilitator").text("spec", "maxReplicas") != "7" {
		t.Error("the autoscaler has another limit")
	}
	// The monitor finds the metrics' service, and that one only.
	monitor := find(t, all, "ServiceMonitor", "pay-facilitator")
	selected := 0
	for _, d := range all {
		labels, _ := d.at("metadata", "labels").(map[string]any)
		wanted, _ := monitor.at("spec", "selector", "matchLabels").(map[string]any)
		matches := d.text("kind") == "Service"
		for k, v := range wanted {
			matches = matches && labels[k] == v
		}
		if matches {
			selected++
		}
	}
	if selected != 1 {
		t.Errorf("the monitor selects %d services", selected)
	}
}

func TestTheChartRefuses(t *testing.T) {
	needsTools(t)
	for _, row := range []struct{ values, says string }{
		{"secrets: []", "secrets is empty"},
		{`config: {database: {url: "postgres://me:hunter2@db/x"}}`, "config holds a secret"},
		{`config: {chains: {"eip155:8453": {lanes: [{private_key: "0x12"}]}}}`, "config holds a secret"},
		{"replica: 4", "replica"},
		{"migrate: maybe", "migrate"},
		{"secrets: [{setting: FACILITATOR_DATABASE_URL_FILE, secret: a, key: b}]", "secrets"},
	} {
		if _, text, err := render(t, values, row.values); err == nil || !strings.Contains(text, row.says) {
			t.Errorf("%s: %v, %s", row.values, err, text)
		}
	}
}
