package payment

import (
	"errors"
	"strconv"
)

// Level is how settled a payment must be before its caller is told success.
type Level struct {
	kind levelKind
	// blocks on top of each other that hold the payment, for levelBlocks.
	blocks uint64
}

type levelKind int

const (
	levelDefault levelKind = iota
	levelSubmitted
	levelBlocks
	levelSafe
	levelFinalized
)

// MaxBlocks bounds a level that counts blocks.
const MaxBlocks = 10_000

// Errors of levels.
var (
	// ErrLevel says that a text is no level.
	ErrLevel = errors.New("must be submitted, mined, safe, finalized or a number of blocks from 1 to 10000")
	// ErrNoPreconfirmations says that a level is known, and not to be had.
	ErrNoPreconfirmations = errors.New("this network has no preconfirmations; must be submitted, mined, safe, finalized or a number of blocks from 1 to 10000")
)

// ParseLevel reads submitted, mined, safe, finalized or a number of blocks. An
// empty text is the network's default.
func ParseLevel(s string) (Level, error) {
	switch s {
	case "":
		return Level{}, nil
	case "submitted":
		return Level{kind: levelSubmitted}, nil
	case "mined":
		return Blocks(1), nil
	case "safe":
		return Level{kind: levelSafe}, nil
	case "finalized":
		return Level{kind: levelFinalized}, nil
	case "preconfirmed":
		return Level{}, ErrNoPreconfirmations
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < 1 || n > MaxBlocks || s[0] == '+' || s[0] == '0' {
		return Level{}, ErrLevel
	}
	return Blocks(n), nil
}

// Blocks is the level at which n blocks, the including one counted, hold a
// payment. 1 is mined.
func Blocks(n uint64) Level { return Level{kind: levelBlocks, blocks: n} }

// String is the text that ParseLevel reads.
func (l Level) String() string {
	switch l.kind {
	case levelDefault:
		return ""
	case levelSubmitted:
		return "submitted"
	case levelBlocks:
		if l.blocks == 1 {
			return "mined"
		}
		return strconv.FormatUint(l.blocks, 10)
	case levelSafe:
		return "safe"
	case levelFinalized:
		return "finalized"
	}
	return ""
}

// IsDefault says whether the network decides.
func (l Level) IsDefault() bool { return l.kind == levelDefault }

// IsSubmitted says whether the caller does not wait for a block at all. Success
// is never said at this level.
func (l Level) IsSubmitted() bool { return l.kind == levelSubmitted }

// IsSafe says whether the including block must be at or below the chain's safe one.
func (l Level) IsSafe() bool { return l.kind == levelSafe }

// IsFinalized says whether the including block must be final.
func (l Level) IsFinalized() bool { return l.kind == levelFinalized }

// Depth is how many blocks must hold the payment; 0 for other kinds of level.
func (l Level) Depth() uint64 { return l.blocks }
