package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"facilitator/internal/devnet"
)

// report is the tables of a run, by name.
type report struct {
	suite   string // whose places in the document they have
	machine string
	tables  []*table
}

type table struct {
	name, title string
	rows        [][]string // the first is the header
}

// add adds a row to the table called name, which it makes if it is the first.
func (r *report) add(name, title string, header []string, cells ...string) {
	i := slices.IndexFunc(r.tables, func(t *table) bool { return t.name == name })
	if i < 0 {
		i = len(r.tables)
		r.tables = append(r.tables, &table{name: name, title: title, rows: [][]string{header}})
	}
	r.tables[i].rows = append(r.tables[i].rows, cells)
}

// print writes every table as text that is Markdown too.
func (r *report) print(w io.Writer) error {
	for _, t := range r.tables {
		if _, err := fmt.Fprintf(w, "\n%s\n\n%s", t.title, t.markdown()); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s\n", r.machine)
	return err
}

func (t *table) markdown() string {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var text strings.Builder
	line := func(cells []string, fill string) {
		for i, cell := range cells {
			text.WriteString("| " + cell + strings.Repeat(fill, widths[i]-utf8.RuneCountInString(cell)) + " ")
		}
		text.WriteString("|\n")
	}
	line(t.rows[0], " ")
	line(make([]string, len(widths)), "-")
	for _, row := range t.rows[1:] {
		line(row, " ")
	}
	return text.String()
}

// update puts every table of the run between its markers in a file, with the
// machine it was measured on. Tables that the run did not make stay as they are.
func (r *report) update(file string) error {
	text, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return fmt.Errorf("update the document: %w", err)
	}
	document := string(text)
	for _, t := range r.tables {
		place := "<!-- bench/" + r.suite + " " + t.name
		begin, end := place+": begin -->\n", place+": end -->"
		head, rest, found := strings.Cut(document, begin)
		_, tail, closed := strings.Cut(rest, end)
		if !found || !closed {
			return fmt.Errorf("update the document: %s has no place for the table %s of %s", file, t.name, r.suite)
		}
		document = head + begin + "\n" + t.markdown() + "\n" + r.machine + "\n\n" + end + tail
	}
	return os.WriteFile(filepath.Clean(file), []byte(document), 0o644) //nolint:gosec // documentation
}

// describe is the line that says what was measured on what.
func (b *bench) describe(ctx context.Context, o options, begun time.Time) string {
	processor, memory, system := hardware()
	parts := []string{fmt.Sprintf("%d cores", runtime.NumCPU())}
	if processor != "" {
		parts[0] += " (" + processor + ")"
	}
	if memory > 0 {
		parts = append(parts, strconv.FormatUint((memory+1<<29)>>30, 10)+" GB of memory")
	}
	parts = append(parts, strings.TrimSpace(runtime.GOOS+"/"+runtime.GOARCH+" "+system), runtime.Version())
	parts = append(parts, b.versions(ctx)...)
	parts = append(parts, cgo(b.service), "everything on this one machine")
	if b.blockGas > 0 {
		parts = append(parts, count(int(b.blockGas))+" gas in a block") //nolint:gosec // of a flag
	}
	if o.overlay != "" {
		parts = append(parts, "with a configuration overlay")
	}
	if o.quick || o.sizes != (sizes{}) {
		parts = append(parts, "**scaled down or changed by flags**")
	}
	commit := o.commit
	if commit == "" {
		commit = "unknown"
	}
	return fmt.Sprintf("Measured at `%s` on %s: %s.", commit, begun.UTC().Format(time.DateOnly), strings.Join(parts, ", "))
}

// versions of what runs beside the service; what can't be found out is left out.
func (b *bench) versions(ctx context.Context) []string {
	var list []string
	for _, pkg := range []struct{ name, label string }{{"@foundry-rs/anvil", "anvil"}, {"@x402/core", "@x402/core"}, {"viem", "viem"}} {
		if version, err := devnet.ToolVersion(b.tools, pkg.name); err == nil {
			list = append(list, pkg.label+" "+version)
		}
	}
	if b.postgres != "" {
		list = append(list, "Postgres "+b.postgres)
	}
	if output, err := exec.CommandContext(ctx, "node", "--version").Output(); err == nil {
		list = append(list, "Node "+strings.TrimPrefix(strings.TrimSpace(string(output)), "v"))
	}
	return list
}

// cgo says whether the service calls C, which its signature checks gain from.
func cgo(binary string) string {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return "a service that tells nothing of its build"
	}
	for _, s := range info.Settings {
		if s.Key == "CGO_ENABLED" && s.Value == "1" {
			return "the service built with cgo"
		}
	}
	return "the service built without cgo"
}

// What follows writes values for people.

// count groups the digits by thousands.
func count(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func share(part, whole int) string {
	if part == whole && whole > 0 {
		return "100 %"
	}
	// Never rounded up to all of them.
	return fmt.Sprintf("%d.%d %%", part*1000/max(whole, 1)/10, part*1000/max(whole, 1)%10)
}

func ms(d time.Duration) string {
	switch {
	case d == 0:
		return "–"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < 10*time.Second:
		return count(int(d.Round(time.Millisecond)/time.Millisecond)) + " ms"
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func mega(bytes uint64) string {
	if bytes == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f MB", float64(bytes)/(1<<20))
}

func perPayment(d time.Duration, payments int) string {
	if d == 0 || payments == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f s (%.2f ms each)", d.Seconds(), float64(d)/float64(time.Millisecond)/float64(payments))
}
