package deploy

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// section is a mapping inside a document.
func section(t *testing.T, d document, path ...any) document {
	t.Helper()
	found, ok := d.at(path...).(map[string]any)
	if !ok {
		t.Fatalf("no section %v", path)
	}
	return found
}

// entries is a list inside a document.
func entries(t *testing.T, d document, path ...any) []any {
	t.Helper()
	found, ok := d.at(path...).([]any)
	if !ok {
		t.Fatalf("no list %v", path)
	}
	return found
}

func TestTheComposeFileConfiguresTheService(t *testing.T) {
	text, err := os.ReadFile(root + "/deploy/compose.yaml")
	must(t, err)
	compose := documents(t, string(text))[0]
	service := section(t, compose, "services", "facilitator")
	files := map[string]string{}
	declared, _ := compose.at("secrets").(map[string]any)
	environment := map[string]string{}
	for name, value := range section(t, service, "environment") {
		environment[name] = fmt.Sprint(value)
		if setting, isFile := strings.CutSuffix(name, "_FILE"); isFile {
			secret := strings.TrimPrefix(environment[name], "/run/secrets/")
			if declared[secret] == nil {
				t.Errorf("%s: there is no secret %s", name, secret)
			}
			files[environment[name]] = secretOf(setting)
		}
	}
	for _, v := range entries(t, service, "volumes") {
		from, rest, _ := strings.Cut(fmt.Sprint(v), ":")
		to, _, _ := strings.Cut(rest, ":")
		mounted, err := os.ReadFile(filepath.Join(root, "deploy", from))
		must(t, err)
		files[to] = string(mounted)
	}
	cfg := load(t, environment, files)
	grace, err := time.ParseDuration(service.text("stop_grace_period"))
	must(t, err)
	if grace <= cfg.HTTP.DrainDelay+cfg.HTTP.DrainTimeout {
		t.Errorf("killed after %s", grace)
	}
	for _, name := range []string{"facilitator", "postgres", "prometheus", "grafana"} {
		s := compose.at("services", name)
		if s == nil {
			t.Errorf("there is no %s", name)
			continue
		}
		ports, _ := document(s.(map[string]any)).at("ports").([]any)
		for _, port := range ports {
			if !strings.HasPrefix(fmt.Sprint(port), "127.0.0.1:") {
				t.Errorf("%s is open to other machines: %s", name, port)
			}
		}
		if one, ok := s.(map[string]any); !ok || document(one).text("cap_drop", 0) != "ALL" {
			t.Errorf("%s keeps capabilities", name)
		}
	}
}

// TestEverySecretOfTheComposeFileCanBeRead by the user of its container: Compose
// mounts a file with the mode that it has outside, and programs other than the
// facilitator run as users of their own.
func TestEverySecretOfTheComposeFileCanBeRead(t *testing.T) {
	text, err := os.ReadFile(root + "/deploy/compose.yaml")
	must(t, err)
	_, open, _ := strings.Cut(string(text), "chmod 444 ")
	open, _, _ = strings.Cut(open, "\n")
	for name := range section(t, documents(t, string(text))[0], "services") {
		s := section(t, documents(t, string(text))[0], "services", name)
		secrets, _ := s.at("secrets").([]any)
		for _, secret := range secrets {
			if readable := slices.Contains(strings.Fields(open), "deploy/secrets/"+fmt.Sprint(secret)); readable == (name == "facilitator") {
				t.Errorf("%s of %s: readable to all is %t", secret, name, readable)
			}
		}
	}
}

// TestTheComposeFileCanHaveScreening, as its comments say: where they are taken off,
// each secret and list is where the service looks for it.
func TestTheComposeFileCanHaveScreening(t *testing.T) {
	text, err := os.ReadFile(root + "/deploy/compose.yaml")
	must(t, err)
	var lines []string
	for line := range strings.Lines(string(text)) {
		indent, rest, commented := strings.Cut(line, "# ")
		if strings.Contains(rest, "# screening") && commented && strings.TrimSpace(indent) == "" {
			if strings.Contains(rest, "in place of the line above") {
				lines = lines[:len(lines)-1]
			}
			line = indent + rest
		}
		lines = append(lines, line)
	}
	compose := documents(t, strings.Join(lines, ""))[0]
	service := section(t, compose, "services", "facilitator")
	mounted := fmt.Sprint(service.at("secrets"))
	for _, name := range []string{"screening_url", "screening_token"} {
		if compose.text("secrets", name, "file") != "./secrets/"+name || !strings.Contains(mounted, name) {
			t.Errorf("there is no secret %s: %s", name, mounted)
		}
	}
	for setting, secret := range map[string]string{"URL": "screening_url", "TOKEN": "screening_token"} {
		if got := service.text("environment", "FACILITATOR_POLICY_SCREENING_HOOK_"+setting+"_FILE"); got != "/run/secrets/"+secret {
			t.Errorf("the hook's %s is in %q", setting, got)
		}
	}
	if volumes := fmt.Sprint(service.at("volumes")); !strings.Contains(volumes, "./screening:/var/lib/screening:ro") {
		t.Errorf("volumes %s", volumes)
	}
}

const unit = root + "/deploy/systemd/facilitator.service"

func TestTheUnitConfiguresTheService(t *testing.T) {
	text, err := os.ReadFile(unit)
	must(t, err)
	example, err := os.ReadFile(root + "/deploy/facilitator.example.yaml")
	must(t, err)
	files, environment := map[string]string{"/etc/facilitator/facilitator.yaml": string(example)}, map[string]string{}
	credentials := map[string]bool{}
	var stop time.Duration
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "LoadCredential":
			name, _, _ := strings.Cut(value, ":")
			credentials[name] = true
		case "Environment":
			name, path, _ := strings.Cut(value, "=")
			if credential, ok := strings.CutPrefix(path, "%d/"); ok {
				if !credentials[credential] {
					t.Errorf("%s: there is no credential %s", name, credential)
				}
				path = "/credentials/" + credential
				files[path] = secretOf(strings.TrimSuffix(name, "_FILE"))
			}
			environment[name] = path
		case "TimeoutStopSec":
			stop, err = time.ParseDuration(value)
			must(t, err)
		}
	}
	cfg := load(t, environment, files)
	if stop <= cfg.HTTP.DrainDelay+cfg.HTTP.DrainTimeout {
		t.Errorf("killed after %s", stop)
	}
}

func TestSystemdTakesTheUnit(t *testing.T) {
	needsTools(t)
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("no systemd-analyze")
	}
	text, err := os.ReadFile(unit)
	must(t, err)
	// It looks whether the program is there.
	file := filepath.Join(t.TempDir(), "facilitator.service")
	must(t, os.WriteFile(file, []byte(strings.Replace(string(text), "ExecStart=/usr/local/bin/facilitator", "ExecStart=/usr/bin/env", 1)), 0o600))
	if out, err := output(t, ".", "systemd-analyze", "verify", "--man=no", file); err != nil || strings.Contains(out, "facilitator.service:") {
		t.Errorf("%v: %s", err, out)
	}
	// 100 is 10.0, no protection at all; 20 is "OK" by its own scale.
	if out, err := output(t, ".", "systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", file); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestBuildsRepeat: the same sources give the same bytes wherever they stand,
// with the flags of the Makefile and the Dockerfile.
func TestBuildsRepeat(t *testing.T) {
	needsTools(t)
	var sums [2][32]byte
	for i := range sums {
		folder := filepath.Join(t.TempDir(), strings.Repeat("deeper/", i), "src")
		must(t, os.MkdirAll(folder, 0o700))
		must(t, os.CopyFS(folder, sources{os.DirFS(root)}))
		out := filepath.Join(t.TempDir(), "facilitator")
		command := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath",
			"-ldflags=-s -w -buildid= -X main.version=v1.2.3", "-o", out, "./cmd/facilitator")
		command.Dir = folder
		command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
		if text, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		built, err := os.ReadFile(out)
		must(t, err)
		sums[i] = sha256.Sum256(built)
	}
	if sums[0] != sums[1] {
		t.Errorf("%x and then %x", sums[0], sums[1])
	}
}
