package conformance

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// difference is a row of the table of differences.
type difference struct {
	ours, official string
	line           int
}

// Who does not give a reason.
const (
	us      = "us"
	anybody = "anybody"
)

// silence is a row of the table of reasons that are never given.
type silence struct {
	reason, call string
	who          string
}

// listed is what docs/divergences.md says.
type listed struct {
	differences map[question]difference
	silences    map[silence]int // the line
}

// Headings of the two tables, which stand nowhere else.
var (
	differenceHead = []string{"Case", "Version", "Call", "Here", "SDK", "Why"}
	silenceHead    = []string{"Reason", "Call", "By", "Why never"}
)

// readListed reads both tables. A cell may hold several versions or calls,
// separated by commas.
func readListed(path string) (*listed, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := &listed{differences: map[question]difference{}, silences: map[silence]int{}}
	var head []string
	for i, line := range strings.Split(string(text), "\n") {
		cells, ok := splitRow(line)
		switch {
		case !ok:
			head = nil
			continue
		case head == nil:
			head = cells
			continue
		case !slices.Equal(head, differenceHead) && !slices.Equal(head, silenceHead), strings.HasPrefix(cells[0], "---"):
			continue
		case len(cells) != len(head) || slices.Contains(cells, ""):
			return nil, fmt.Errorf("%s:%d: %d cells, some of which may be empty, want %d", path, i+1, len(cells), len(head))
		}
		if slices.Equal(head, silenceHead) {
			err = out.addSilence(cells, i+1)
		} else {
			err = out.addDifference(cells, i+1)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
	}
	if len(out.differences) == 0 || len(out.silences) == 0 {
		return nil, fmt.Errorf("%s: a table is missing", path)
	}
	return out, nil
}

// splitRow splits a row of a Markdown table. The line between head and rows
// begins with dashes.
func splitRow(line string) ([]string, bool) {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "|") || !strings.HasSuffix(line, "|") || len(line) < 2 {
		return nil, false
	}
	cells := strings.Split(line[1:len(line)-1], "|")
	for i, c := range cells {
		cells[i] = strings.Trim(strings.TrimSpace(c), "`")
	}
	return cells, true
}

func (l *listed) addDifference(cells []string, line int) error {
	if cells[3] == cells[4] {
		return fmt.Errorf("both say %q", cells[3])
	}
	for version := range strings.SplitSeq(cells[1], ", ") {
		for call := range strings.SplitSeq(cells[2], ", ") {
			q := question{cells[0], version, call}
			if was, ok := l.differences[q]; ok {
				return fmt.Errorf("%v stands in line %d already", q, was.line)
			}
			l.differences[q] = difference{cells[3], cells[4], line}
		}
	}
	return nil
}

func (l *listed) addSilence(cells []string, line int) error {
	for call := range strings.SplitSeq(cells[1], ", ") {
		s := silence{cells[0], call, cells[2]}
		if was, ok := l.silences[s]; ok {
			return fmt.Errorf("%v stands in line %d already", s, was)
		}
		l.silences[s] = line
	}
	return nil
}
