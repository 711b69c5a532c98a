package config

import (
	"fmt"
	"strings"
)

// Problem is one thing wrong with the configuration. No part of it ever quotes
// a value, because a value in the wrong place may be a secret (I10).
type Problem struct {
	Path  string // of the setting: "chains.eip155:8453.lanes[0].private_key"
	Text  string // what is wrong: "is required"
	Where string // where that was said: "facilitator.yaml:12", "FACILITATOR_LOG_LEVEL"; "" where nothing was
}

func (p Problem) String() string {
	s := p.Text
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if p.Where != "" {
		s += " (" + p.Where + ")"
	}
	return s
}

// Problems is the error that [Load] returns: everything that is wrong, at once.
type Problems []Problem

func (ps Problems) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "configuration: %d problem", len(ps))
	if len(ps) != 1 {
		b.WriteByte('s')
	}
	for _, p := range ps {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}
