// Package deploy checks what people deploy with: the Helm chart by helm itself,
// the Compose file, the systemd unit, and that a build can be repeated. What each
// configures is loaded as the service would load it.
package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"facilitator/internal/config"
)

// root of the repository.
const root = "../.."

// secretOf makes up what a Secret, or a secret's file, holds.
func secretOf(setting string) string {
	switch {
	case strings.HasSuffix(setting, "PRIVATE_KEY"):
		return fmt.Sprintf("0x%064x", 7+len(setting))
	case strings.HasSuffix(setting, "DATABASE_URL"):
		return "postgres://facilitator:hunter2@postgres:5432/facilitator"
	default:
		return "https://node.example.com/hunter2"
	}
}

// load reads a configuration as the service would.
func load(t *testing.T, environment, files map[string]string) *config.Config {
	t.Helper()
	file, environ := localize(t, environment, files)
	cfg, err := config.Load(file, environ)
	must(t, err)
	return cfg
}

// localize puts files at places of ours, and returns the configuration's and an
// environment in which they are found there.
func localize(t *testing.T, environment, files map[string]string) (file string, environ []string) {
	t.Helper()
	folder := t.TempDir()
	local := map[string]string{}
	for path, text := range files {
		name := filepath.Join(folder, strings.ReplaceAll(path, "/", "_"))
		must(t, os.WriteFile(name, []byte(text), 0o600))
		local[path] = name
	}
	for name, value := range environment {
		if value[0] == '/' {
			if local[value] == "" {
				t.Errorf("%s: nothing is mounted at %s", name, value)
			}
			value = local[value]
		}
		environ = append(environ, name+"="+value)
	}
	return local[environment["FACILITATOR_CONFIG"]], environ
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// output runs a program and returns what it printed.
func output(t *testing.T, dir, name string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	command := exec.CommandContext(t.Context(), name, args...)
	command.Dir, command.Stdout, command.Stderr = dir, &out, &out
	err := command.Run()
	return out.String(), err
}

// document is a YAML document, read by paths.
type document map[string]any

// at follows keys and indices; nil where there is nothing.
func (d document) at(path ...any) any {
	var v any = map[string]any(d)
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

func (d document) text(path ...any) string {
	v := d.at(path...)
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// list of sections.
func (d document) list(path ...any) []document {
	items, _ := d.at(path...).([]any)
	var list []document
	for _, item := range items {
		if m, ok := item.(map[string]any); ok {
			list = append(list, m)
		}
	}
	return list
}

func documents(t *testing.T, text string) []document {
	t.Helper()
	var all []document
	decoder := yaml.NewDecoder(strings.NewReader(text))
	for {
		var d map[string]any
		err := decoder.Decode(&d)
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		if len(d) > 0 {
			all = append(all, d)
		}
	}
}

// needsTools skips what takes programs that are not built in every run.
func needsTools(t *testing.T) {
	t.Helper()
	if os.Getenv("TEST_DEPLOY") == "" {
		t.Skip("make deploy/check runs it")
	}
}

// helm runs the helm that HELM names.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	words := strings.Fields(os.Getenv("HELM"))
	if len(words) == 0 {
		t.Fatal("HELM is not set")
	}
	return output(t, root, words[0], append(words[1:], args...)...)
}
