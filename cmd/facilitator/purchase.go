package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
)

// purchase buys once with the official SDK and shows every step, then the
// ledger row. It is an error if anything of it did not happen.
func purchase(ctx context.Context, c console, tools, readyFile string, r ready) error {
	script := filepath.Join(tools, "sdk", "buy-v2.mjs")
	node := exec.CommandContext(ctx, "node", script, readyFile, "--json") //nolint:gosec // our own script
	var report bytes.Buffer
	node.Stdout, node.Stderr = &report, c.out
	if err := node.Run(); err != nil {
		return fmt.Errorf("the purchase failed: %w", err)
	}
	var bought struct {
		Transaction string `json:"transaction"`
	}
	if err := json.Unmarshal(report.Bytes(), &bought); err != nil || bought.Transaction == "" {
		return errors.New("the purchase reported no transaction")
	}
	query := url.Values{"network": {r.Network}, "transaction": {bought.Transaction}}
	status, body, err := get(ctx, r.FacilitatorURL+"/settlements?"+query.Encode())
	if err != nil {
		return fmt.Errorf("ledger row: %w", err)
	}
	var found struct {
		Settlements []struct {
			Outcome string `json:"outcome"`
		} `json:"settlements"`
	}
	if err := json.Unmarshal(body, &found); err != nil || status != http.StatusOK || len(found.Settlements) != 1 || found.Settlements[0].Outcome != "succeeded" {
		return fmt.Errorf("the ledger has no settled payment for %s: %s", bought.Transaction, body)
	}
	var row bytes.Buffer
	if err := json.Indent(&row, body, "", "  "); err != nil {
		return fmt.Errorf("ledger row: %w", err)
	}
	_, err = fmt.Fprintf(c.out, "\nThe ledger row, as GET /settlements tells it\n\n%s\n", row.String())
	return err
}
