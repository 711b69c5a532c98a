package stranger

import (
	"fmt"
	"regexp"
	"strings"
)

// block is a piece of the page that is pasted into a shell, and the lines that
// the page says it prints.
type block struct {
	line   int // of the page, where it begins
	script string
	prints []string
}

// blocks are those of a page, in order: fenced as sh, each with the text below it.
func blocks(page string) ([]block, error) {
	var all []block
	var fence string
	for i, line := range strings.Split(page, "\n") {
		switch {
		case fence == "" && strings.HasPrefix(line, "```"):
			switch fence = strings.TrimPrefix(line, "```"); {
			case fence == "sh":
				all = append(all, block{line: i + 1})
			case fence != "text" || len(all) == 0 || len(all[len(all)-1].prints) > 0:
				return nil, fmt.Errorf("line %d: neither a block for the shell nor what it prints", i+1)
			}
		case line == "```":
			fence = ""
		case fence == "sh":
			all[len(all)-1].script += line + "\n"
		case fence == "text":
			all[len(all)-1].prints = append(all[len(all)-1].prints, line)
		}
	}
	if fence != "" {
		return nil, fmt.Errorf("the last block has no end")
	}
	return all, nil
}

// missing is the first of the lines that the output lacks, in order; "" if none.
// "…" stands for anything.
func (b block) missing(output string) string {
	lines := strings.Split(output, "\n")
	for _, want := range b.prints {
		like := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*") + "$")
		for len(lines) > 0 && !like.MatchString(lines[0]) {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			return want
		}
		lines = lines[1:]
	}
	return ""
}
