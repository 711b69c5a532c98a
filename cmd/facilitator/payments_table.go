package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
)

// paymentRecord is a payment as commands print it. Amounts are in atomic units,
// as decimal text: no program that reads them must take them for floats.
type paymentRecord struct {
	ID          payment.ID        `json:"id"`
	CreatedAt   time.Time         `json:"createdAt"`
	UpdatedAt   time.Time         `json:"updatedAt"`
	Network     string            `json:"network"`
	Scheme      string            `json:"scheme"`
	State       payment.State     `json:"state"`
	Asset       chain.Address     `json:"asset"`
	Payer       chain.Address     `json:"payer"`
	PayTo       chain.Address     `json:"payTo"`
	Amount      string            `json:"amount"`
	Nonce       chain.Hash        `json:"nonce"`
	ValidBefore string            `json:"validBefore"`
	Transaction string            `json:"transaction,omitempty"`
	BlockNumber uint64            `json:"blockNumber,omitempty"`
	BlockHash   string            `json:"blockHash,omitempty"`
	Tries       int               `json:"tries"`
	Reorged     bool              `json:"reorged,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	Message     string            `json:"message,omitempty"`
	Evidence    *payment.Evidence `json:"evidence,omitempty"`
	AnsweredAt  *time.Time        `json:"answeredAt,omitempty"`
	Resource    string            `json:"resource"`
}

func recordOf(p *payment.Payment) paymentRecord {
	t := &p.Terms
	r := paymentRecord{
		ID: p.ID, CreatedAt: p.CreatedAt.UTC(), UpdatedAt: p.UpdatedAt.UTC(), Network: string(t.Key.Network), Scheme: string(t.Scheme), State: p.State,
		Asset: t.Asset, Payer: t.Key.Payer, PayTo: t.PayTo, Amount: t.Amount.String(), Nonce: t.Key.Nonce, ValidBefore: t.ValidBefore.String(),
		BlockNumber: p.BlockNumber, Tries: p.Tries, Reorged: p.Reorged, Reason: string(p.Reason), Message: p.Message, Evidence: p.Evidence, Resource: p.Resource,
	}
	if !p.TxHash.IsZero() {
		r.Transaction = p.TxHash.String()
	}
	if !p.BlockHash.IsZero() {
		r.BlockHash = p.BlockHash.String()
	}
	if !p.AnsweredAt.IsZero() {
		at := p.AnsweredAt.UTC()
		r.AnsweredAt = &at
	}
	return r
}

func csvHeader() []string {
	return []string{
		"id", "created_at", "updated_at", "network", "scheme", "state", "asset", "payer", "pay_to", "amount", "nonce", "valid_before",
		"transaction", "block_number", "block_hash", "tries", "reorged", "reason", "message", "answered_at", "resource",
	}
}

func (r *paymentRecord) cells() []string {
	block, answered := "", ""
	if r.BlockNumber > 0 {
		block = strconv.FormatUint(r.BlockNumber, 10)
	}
	if r.AnsweredAt != nil {
		answered = r.AnsweredAt.Format(time.RFC3339Nano)
	}
	cells := []string{
		string(r.ID), r.CreatedAt.Format(time.RFC3339Nano), r.UpdatedAt.Format(time.RFC3339Nano), r.Network, r.Scheme, string(r.State),
		r.Asset.String(), r.Payer.String(), r.PayTo.String(), r.Amount, r.Nonce.String(), r.ValidBefore,
		r.Transaction, block, r.BlockHash, strconv.Itoa(r.Tries), strconv.FormatBool(r.Reorged), r.Reason, r.Message, answered, r.Resource,
	}
	for i := range cells {
		cells[i] = harmless(cells[i])
	}
	return cells
}

// harmless keeps a spreadsheet from taking a text, or a part of it where it splits
// cells at semicolons or tabs, for a formula: callers and nodes have a word in some
// of them.
func harmless(cell string) string {
	cell = strings.NewReplacer(";", "%3B", "\t", "%09").Replace(cell)
	if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}

// table takes payments one by one and keeps none.
type table struct {
	add func(r paymentRecord) error
	end func() error
}

func newTable(format string, w io.Writer) (table, error) {
	switch format {
	case "csv":
		out := csv.NewWriter(w)
		out.UseCRLF = true // RFC 4180
		err := out.Write(csvHeader())
		return table{
			add: func(r paymentRecord) error { return out.Write(r.cells()) },
			end: func() error {
				out.Flush()
				return out.Error()
			},
		}, err
	case "json":
		out := json.NewEncoder(w)
		out.SetEscapeHTML(false)
		return table{add: func(r paymentRecord) error { return out.Encode(r) }, end: func() error { return nil }}, nil
	case "text":
		const line = "%-36s  %-20s  %-16s  %-9s  %-42s  %-42s  %20s  %s\n"
		_, err := fmt.Fprintf(w, line, "ID", "CLAIMED", "NETWORK", "STATE", "PAYER", "PAY TO", "AMOUNT", "TRANSACTION OR REASON")
		return table{
			add: func(r paymentRecord) error {
				last := r.Transaction
				if r.Reason != "" {
					last = r.Reason
				}
				_, err := fmt.Fprintf(w, line, r.ID, r.CreatedAt.Format(time.RFC3339), r.Network, r.State, r.Payer, r.PayTo, r.Amount, last)
				return err
			},
			end: func() error { return nil },
		}, err
	default:
		return table{}, errors.New("-format: must be csv or json, or text for a list")
	}
}

func writeIndented(w io.Writer, r paymentRecord) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(r)
}
