package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"facilitator/internal/doctor"
)

func TestDoctorFailsWhereSomethingIsWrong(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "facilitator.yaml")
	// Port 9 of this machine: nobody listens.
	const dead = `
database: {url: "postgres://me:hunter2@127.0.0.1:9/hunter2"}
chains: {"eip155:8453": {rpc_url: "http://127.0.0.1:9/hunter2", lanes: [{private_key: "0x0000000000000000000000000000000000000000000000000000000000000777"}]}}`
	for _, row := range []struct {
		name, config string
		lines        []string
	}{
		{"wrong configuration", "http: {port: 1}", []string{
			"fail configuration http.port: is no setting", "fail configuration database.url: is required", "fail configuration chains: needs at least one entry",
		}},
		{"nothing answers", dead, []string{"ok   configuration: 1 networks", "fail database: it can't be reached: connection refused", "fail node eip155:8453 rpc_url: node unavailable"}},
	} {
		if err := os.WriteFile(file, []byte(row.config), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, problem := command(t, "doctor", "-config", file)
		if code != 1 || !strings.Contains(problem, "checks failed") {
			t.Errorf("%s: exit code %d, %q", row.name, code, problem)
		}
		for _, line := range row.lines {
			if !strings.Contains(out, line) {
				t.Errorf("%s: no %q in\n%s", row.name, line, out)
			}
		}
		code, asJSON, _ := command(t, "doctor", "-json", "-config", file)
		var report doctor.Report
		if err := json.Unmarshal([]byte(asJSON), &report); err != nil || code != 1 || report.Healthy || report.Failures() == 0 {
			t.Errorf("%s: exit code %d, %v, %s", row.name, code, err, asJSON)
		}
		if strings.Contains(out+problem+asJSON, "hunter2") {
			t.Errorf("%s: a secret is printed:\n%s%s%s", row.name, out, problem, asJSON)
		}
	}
	if code, _, _ := command(t, "doctor", "-config", file, "now"); code != 1 {
		t.Errorf("an argument too many: exit code %d", code)
	}
}
