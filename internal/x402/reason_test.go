package x402

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestReasonsListsTheWholeTable: dashboards and metrics are made of the list.
func TestReasonsListsTheWholeTable(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("reason.go")
	if err != nil {
		t.Fatal(err)
	}
	var declared []Reason
	for _, m := range regexp.MustCompile(`(?m)^\tReason\w+\s+Reason = "(\w+)"`).FindAllSubmatch(source, -1) {
		declared = append(declared, Reason(m[1]))
	}
	if !slices.Equal(Reasons(), declared) {
		t.Errorf("listed %v\ndeclared %v", Reasons(), declared)
	}
}
