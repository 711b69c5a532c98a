package audit

import (
	"math/big"

	"github.com/ethereum/go-ethereum/common"
)

// comparison gathers what the three sides say.
type comparison struct {
	options Options
	record  *record
	report  *Report
	// movements on chain by authorization.
	movements map[Key][]*movement
}

// compareRows judges the record by itself.
func (c *comparison) compareRows() {
	seen := map[Key]string{}
	for _, p := range c.record.payments {
		c.report.Counts["payments"]++
		c.report.Counts["payments "+p.state]++
		if other, twice := seen[p.key]; twice {
			c.report.violation("two_payments", p.key.Network, p.id, "is of the same authorization as payment %s: %s", other, p.key)
		}
		seen[p.key] = p.id
		if p.open() && c.options.Settled {
			c.report.violation("open_payment", p.key.Network, p.id, "is %s", p.state)
		}
	}
	for _, t := range c.record.transactions {
		c.report.Counts["transactions"]++
		c.report.Counts["transactions "+t.state]++
	}
	for hash, a := range c.record.attempts {
		c.report.Counts["attempts"]++
		t := c.record.transactions[a.transaction]
		switch {
		case a.broken != "":
			c.report.violation("broken_attempt", "", hash.Hex(), "%s", a.broken)
		case t == nil || t.nonce != a.nonce:
			c.report.violation("broken_attempt", "", hash.Hex(), "was signed with wallet nonce %d, which is not its transaction's", a.nonce)
		}
	}
	for _, l := range c.record.lanes {
		c.report.Counts["lanes"]++
		c.compareOpenTransactions(l)
	}
}

func (c *comparison) compareOpenTransactions(l laneRow) {
	for _, t := range c.record.ofLane(l.id) {
		if c.options.Settled && !t.consumed() {
			c.report.violation("open_transaction", l.network, l.address.Hex(), "wallet nonce %d is %s", t.nonce, t.state)
		}
	}
}

// compareLedger holds a network's rows against its chain.
func (c *comparison) compareLedger(network string, l *ledger) {
	c.report.Counts["blocks"] += int(l.head - l.since + 1) //nolint:gosec // a count of blocks
	lanes := map[common.Address]bool{}
	for _, lane := range c.record.lanesOf(network) {
		lanes[lane.address] = true
		c.compareWallet(lane, l)
	}
	total := new(big.Int)
	for _, m := range l.movements {
		key := Key{Network: network, Contract: m.contract, Payer: m.payer, Nonce: m.nonce}
		c.movements[key] = append(c.movements[key], m)
		p := c.record.byKey[key]
		switch {
		case p != nil:
			c.report.Counts["authorizations used on chain"]++
			if m.value != nil {
				total.Add(total, m.value)
			}
		case lanes[m.sender]:
			c.report.violation("unrecorded_payment", network, key.String(), "was settled by our wallet %s in %s, and the record does not know it", m.sender, m.tx)
		}
	}
	if total.IsInt64() {
		c.report.Counts["atomic units moved"] += int(total.Int64())
	}
	for _, p := range c.record.paymentsOf(network) {
		c.comparePayment(p, l, lanes)
	}
}

func (c *comparison) comparePayment(p *paymentRow, l *ledger, lanes map[common.Address]bool) {
	found := c.movements[p.key]
	if len(found) > 1 {
		c.report.violation("paid_twice", p.key.Network, p.id, "its authorization was used %d times, in %s and %s", len(found), found[0].tx, found[1].tx)
	}
	fit := c.fitting(p)
	switch {
	case p.settled() && p.block < l.since:
		c.report.Counts["payments older than the first block"]++
	case p.settled():
		c.compareSettled(p, fit, l)
	case p.state == "failed" && fit != nil:
		_, ours := c.record.attempts[fit.tx]
		if ours || lanes[fit.sender] {
			c.report.violation("failed_but_paid", p.key.Network, p.id, "is failed (%s), and %s of ours paid it in block %d", p.evidence, fit.tx, fit.block)
		} else {
			c.report.warning("failed_but_paid_by_another", p.key.Network, p.id, "is failed (%s), and %s of %s paid it in block %d", p.evidence, fit.tx, fit.sender, fit.block)
		}
	case p.open() && fit != nil:
		c.report.Counts["payments open and on chain"]++
	}
}

// fitting returns the movement that paid a payment; the one that the record
// names, if there are several.
func (c *comparison) fitting(p *paymentRow) *movement {
	var fit *movement
	for _, m := range c.movements[p.key] {
		if m.fits(p) && (fit == nil || m.tx == p.txHash) {
			fit = m
		}
	}
	return fit
}

// compareSettled judges a payment that the record calls paid (I5).
func (c *comparison) compareSettled(p *paymentRow, fit *movement, l *ledger) {
	switch {
	case fit == nil:
		c.report.violation("missing_transfer", p.key.Network, p.id, "is %s by %s in block %d, and the chain has no such transfer of %s",
			p.state, p.txHash, p.block, p.key)
	case fit.tx != p.txHash:
		c.report.violation("wrong_transaction", p.key.Network, p.id, "is %s by %s, but %s paid it", p.state, p.txHash, fit.tx)
	case fit.block != p.block || fit.blockHash != p.blockHash:
		c.report.violation("wrong_block", p.key.Network, p.id, "is %s in block %d %s, but was paid in block %d %s",
			p.state, p.block, p.blockHash, fit.block, fit.blockHash)
	case p.evidence == "receipt" && c.record.attempts[p.txHash].transaction != p.transaction:
		c.report.violation("wrong_transaction", p.key.Network, p.id, "is %s by %s, which is no attempt of its transaction %d", p.state, p.txHash, p.transaction)
	case l.hash(p.block) != p.blockHash:
		c.report.violation("wrong_block", p.key.Network, p.id, "block %d %s is not canonical", p.block, p.blockHash)
	}
}
