package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
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
	for variable, path := range wantMigration(t, all, job) {
		if strings.HasPrefix(variable, "FACILITATOR_CHAINS") || strings.Contains(path, "PRIVATE_KEY") {
			t.Errorf("the migration is given %s", variable)
		}
	}
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
	environment, files := contained(t, all, workload, args)
	return load(t, environment, files)
}

// wantMigration checks the job's container, which needs the database's settings and
// has no others, and returns its environment.
func wantMigration(t *testing.T, all []document, job document) map[string]string {
	t.Helper()
	environment, files := contained(t, all, job, "migrate up")
	for path := range files {
		if strings.Contains(path, "/run/secrets") && !strings.Contains(path, "FACILITATOR_DATABASE_") {
			t.Errorf("the migration is given %s", path)
		}
	}
	file, environ := localize(t, environment, files)
	d, err := config.LoadDatabase(file, environ)
	must(t, err)
	if d.URL == "" {
		t.Error("the migration has no database")
	}
	return environment
}

// contained checks a workload's only container and returns its environment, and
// what is mounted where.
func contained(t *testing.T, all []document, workload document, args string) (environment, files map[string]string) {
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
	files, environment = map[string]string{}, map[string]string{}
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
	for _, variable := range container.list("env") {
		environment[variable.text("name")] = variable.text("value")
	}
	if environment["GOMEMLIMIT"] != "1843MiB" || container.text("resources", "limits", "memory") != "2Gi" {
		t.Errorf("%s of memory, of which Go is to use %s", container.text("resources", "limits", "memory"), environment["GOMEMLIMIT"])
	}
	return environment, files
}

// TestWhatOthersBring: who the pods are, lists and keystores, and what else they
// may reach.
func TestWhatOthersBring(t *testing.T) {
	needsTools(t)
	more := `
serviceAccount: {create: true, annotations: {eks.amazonaws.com/role-arn: arn}}
extraVolumes: [{name: screening, persistentVolumeClaim: {claimName: lists}}]
extraVolumeMounts: [{name: screening, mountPath: /var/lib/screening, readOnly: true}]
networkPolicy: {egress: [{to: [{ipBlock: {cidr: 169.254.169.254/32}}], ports: [{port: 80, protocol: TCP}]}]}
config: {policy: {screening: {lists: [{path: /var/lib/screening/sdn_advanced.xml, format: ofac}]}}}
`
	const hook = `
secrets:
- {setting: FACILITATOR_DATABASE_URL, secret: facilitator-db, key: url}
- {setting: FACILITATOR_CHAINS_EIP155_8453_RPC_URL, secret: facilitator, key: rpc}
- {setting: FACILITATOR_CHAINS_EIP155_8453_LANES_0_PRIVATE_KEY, secret: facilitator, key: lane-0}
- {setting: FACILITATOR_POLICY_SCREENING_HOOK_URL, secret: screening, key: url}
- {setting: FACILITATOR_POLICY_SCREENING_HOOK_TOKEN, secret: screening, key: token}
`
	all, text, err := render(t, values, more, hook)
	if err != nil {
		t.Fatal(text)
	}
	deployment := find(t, all, "Deployment", "pay-facilitator")
	cfg := wantContainer(t, all, deployment, "serve")
	if s := cfg.Policy.Screening; len(s.Lists) != 1 || s.Hook.URL == "" || s.Hook.Token == "" {
		t.Errorf("screening %+v", s)
	}
	account := find(t, all, "ServiceAccount", "pay-facilitator")
	pod := section(t, deployment, "spec", "template", "spec")
	if pod.text("serviceAccountName") != "pay-facilitator" || account.text("metadata", "annotations", "eks.amazonaws.com/role-arn") != "arn" || account.text("automountServiceAccountToken") != "false" {
		t.Errorf("the pods are %q: %v", pod.text("serviceAccountName"), account)
	}
	mounts, volumes := pod.list("containers")[0].list("volumeMounts"), pod.list("volumes")
	if len(mounts) != 3 || mounts[2].text("mountPath") != "/var/lib/screening" || len(volumes) != 3 || volumes[2].text("persistentVolumeClaim", "claimName") != "lists" {
		t.Errorf("mounts %v of volumes %v", mounts, volumes)
	}
	egress := find(t, all, "NetworkPolicy", "pay-facilitator").list("spec", "egress")
	if len(egress) != 3 || egress[2].text("to", 0, "ipBlock", "cidr") != "169.254.169.254/32" || egress[2].text("ports", 0, "port") != "80" {
		t.Errorf("it may reach %v", egress)
	}
	if job := find(t, all, "Job", "pay-facilitator-migrate"); len(section(t, job, "spec", "template", "spec").list("volumes")) != 2 {
		t.Error("the migration has what is the service's")
	}

	all, text, err = render(t, values, "serviceAccount: {name: theirs}\nresources: {limits: {memory: 500M}}")
	if err != nil {
		t.Fatal(text)
	}
	pod = section(t, find(t, all, "Deployment", "pay-facilitator"), "spec", "template", "spec")
	if pod.text("serviceAccountName") != "theirs" || slices.Contains(kinds(all), "ServiceAccount") || strings.Contains(text, "GOMEMLIMIT") {
		t.Errorf("an account that is there: %s", text)
	}
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
		{`config: {chains: {"eip155:8453": {treasury: {keystore: {file: k, password: hunter2}}}}}`, "config holds a secret"},
		{`config: {policy: {screening: {hook: {token: hunter2}}}}`, "config holds a secret"},
		{`config: {tracing: {headers: "authorization=hunter2"}}`, "config holds a secret"},
		{"networkPolicy: {egres: []}", "egres"},
		{"serviceAccount: {annotation: {}}", "annotation"},
		{"replica: 4", "replica"},
		{"migrate: maybe", "migrate"},
		{"secrets: [{setting: FACILITATOR_DATABASE_URL_FILE, secret: a, key: b}]", "secrets"},
	} {
		if _, text, err := render(t, values, row.values); err == nil || !strings.Contains(text, row.says) {
			t.Errorf("%s: %v, %s", row.values, err, text)
		}
	}
}

// TestTheChartKnowsEverySecret by its key, so that none is put into a ConfigMap.
func TestTheChartKnowsEverySecret(t *testing.T) {
	text, err := os.ReadFile(root + "/" + chart + "/templates/_helpers.tpl")
	must(t, err)
	_, rest, _ := strings.Cut(string(text), `regexMatch "(?m)^[\\s-]*(`)
	guarded, _, _ := strings.Cut(rest, ")")
	keys := map[string]bool{}
	secretKeys(reflect.TypeFor[config.Config](), keys)
	if len(keys) < 5 {
		t.Fatalf("the configuration has the secrets %v", keys)
	}
	for key := range keys {
		if !slices.Contains(strings.Split(guarded, "|"), key) {
			t.Errorf("the chart lets %s pass: it guards %s", key, guarded)
		}
	}
}

// secretKeys collects the keys of all secrets of a type.
func secretKeys(of reflect.Type, keys map[string]bool) {
	switch of.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		secretKeys(of.Elem(), keys)
	case reflect.Struct:
		for field := range of.Fields() {
			if field.Type == reflect.TypeFor[config.Secret]() {
				keys[field.Tag.Get("yaml")] = true
				continue
			}
			secretKeys(field.Type, keys)
		}
	}
}
