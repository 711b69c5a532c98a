package metrics

import (
	"fmt"
	"io"
	"strings"
)

// WriteReference prints what all metrics are, as docs/reference/metrics.md has it.
func (r *Registry) WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Metrics

Written by ` + "`facilitator doc metrics`" + ` from what the service registers; run ` + "`make docs`" + ` after a change.

Every label has a closed set of values, or values that the configuration tells. None is ever told by a request, and
nodes stand in them by name, never by URL. Besides these there are Go's own (` + "`go_*`" + `, ` + "`process_*`" + `).
A histogram ` + "`x`" + ` has the series ` + "`x_bucket`, `x_sum` and `x_count`" + `.

| Metric | Type | Unit | Meaning |
|---|---|---|---|
`)
	all := r.All()
	for _, m := range all {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, m.Unit, m.Help)
	}
	b.WriteString("\n## Labels\n")
	for _, m := range all {
		if len(m.Labels) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n", m.Name)
		for _, l := range m.Labels {
			fmt.Fprintf(&b, "- `%s`: %s\n", l.Name, l.set())
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (l *Label) set() string {
	if l.Of != "" {
		return l.Of
	}
	return "`" + strings.Join(l.Values, "`, `") + "`"
}
