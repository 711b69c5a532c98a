package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/jackc/pgx/v5"
)

// Answer is what a caller of /settle was told, kept by whoever called.
type Answer struct {
	Key Key `json:"key"`
	// Success as in the body; Replayed if the answer was marked so, by the header
	// Idempotent-Replayed.
	Success  bool `json:"success"`
	Replayed bool `json:"replayed"`
	// Transaction as in the body, empty where there was none.
	Transaction string `json:"transaction"`
	// Reason of a refusal.
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// longestLine bounds a line of answers.
const longestLine = 1 << 20

// compareAnswers judges what callers were told (I2, I5).
func (c *comparison) compareAnswers(ctx context.Context, tx pgx.Tx) error {
	first := map[Key]Answer{}
	lines := bufio.NewScanner(c.options.Answers)
	lines.Buffer(nil, longestLine)
	for number := 1; lines.Scan(); number++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var a Answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		c.report.Counts["answers"]++
		if !a.Success {
			continue
		}
		if err := c.compareSuccess(ctx, tx, a); err != nil {
			return err
		}
		if a.Replayed {
			c.report.Counts["answers replayed"]++
			continue
		}
		c.report.Counts["answers success"]++
		if earlier, twice := first[a.Key]; twice {
			c.report.violation("two_successes", a.Key.Network, a.Key.String(), "was answered success at %s with %s and at %s with %s",
				earlier.At.Format(time.RFC3339Nano), earlier.Transaction, a.At.Format(time.RFC3339Nano), a.Transaction)
			continue
		}
		first[a.Key] = a
	}
	return lines.Err()
}

// compareSuccess looks for the transfer that a success was told of.
func (c *comparison) compareSuccess(ctx context.Context, tx pgx.Tx, a Answer) error {
	p := c.record.byKey[a.Key]
	if p == nil {
		c.report.violation("success_unrecorded", a.Key.Network, a.Key.String(), "was answered success, and the record does not know it")
		return nil
	}
	if _, read := c.options.Nodes[a.Key.Network]; !read || p.settled() && p.block < c.options.SinceBlock {
		return nil
	}
	fit := c.fitting(p)
	switch {
	case fit == nil && p.reversed:
		c.report.warning("success_reversed", a.Key.Network, p.id, "was answered success with %s, and a reorganisation took it back", a.Transaction)
		return nil
	case fit == nil && p.open() && !c.options.Settled:
		return nil // taken out of its block, and on its way again
	case fit == nil:
		c.report.violation("success_without_transfer", a.Key.Network, p.id, "was answered success with %s, and the chain has no such transfer; it is %s", a.Transaction, p.state)
		return nil
	case strings.EqualFold(fit.tx.Hex(), a.Transaction):
		return nil
	}
	// Before a reorganisation another transaction of ours may have paid it.
	carried, err := carries(ctx, tx, common.HexToHash(a.Transaction), a.Key.Nonce)
	switch {
	case err != nil:
		return err
	case !carried:
		c.report.violation("success_with_wrong_hash", a.Key.Network, p.id, "was answered success with %s, but %s paid it", a.Transaction, fit.tx)
	default:
		c.report.Counts["answers with another attempt's hash"]++
	}
	return nil
}

// carries says whether an attempt holds an authorization nonce.
func carries(ctx context.Context, tx pgx.Tx, attempt, nonce common.Hash) (bool, error) {
	var raw []byte
	err := tx.QueryRow(ctx, sqlRaw, attempt[:]).Scan(&raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return bytes.Contains(raw, nonce[:]), err
}
