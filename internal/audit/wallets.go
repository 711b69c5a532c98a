package audit

import (
	"cmp"
	"maps"
	"slices"
)

// ofLane returns a lane's transactions by wallet nonce.
func (r *record) ofLane(lane int64) []*transactionRow {
	var list []*transactionRow
	for _, t := range r.transactions {
		if t.lane == lane {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b *transactionRow) int { return cmp.Or(cmp.Compare(a.nonce, b.nonce), cmp.Compare(a.id, b.id)) })
	return list
}

// compareWallet judges a lane's wallet nonces (I4).
func (c *comparison) compareWallet(lane laneRow, l *ledger) {
	rows := c.record.ofLane(lane.id)
	sent, count, name := l.sent[lane.address], l.counts[lane.address], lane.address.Hex()
	recorded := map[uint64]bool{}
	for i, t := range rows {
		recorded[t.nonce] = true
		c.compareTransaction(lane, t, l)
		if i == 0 {
			continue
		}
		if rows[i-1].nonce == t.nonce {
			c.report.violation("wallet_nonce_twice", lane.network, name, "transactions %d and %d both have wallet nonce %d", rows[i-1].id, t.id, t.nonce)
		}
		for missing := rows[i-1].nonce + 1; missing < t.nonce; missing++ {
			if s, used := sent[missing]; used {
				c.report.warning("foreign_wallet_nonce", lane.network, name, "wallet nonce %d was used by %s, which is not in the record", missing, s.hash)
			} else {
				c.report.violation("wallet_nonce_gap", lane.network, name, "there is no transaction with wallet nonce %d, but one with %d", missing, t.nonce)
			}
		}
	}
	next := lane.floor
	if len(rows) > 0 {
		next = max(next, rows[len(rows)-1].nonce+1)
	}
	if c.options.Settled && count != next {
		c.report.violation("transaction_count", lane.network, name, "the chain counts %d transactions, the record %d", count, next)
	}
	for _, nonce := range slices.Sorted(maps.Keys(sent)) {
		c.report.Counts["transactions sent by lanes"]++
		if !recorded[nonce] {
			c.report.warning("unknown_transaction", lane.network, name, "%s with wallet nonce %d in block %d is not in the record", sent[nonce].hash, nonce, sent[nonce].block)
		}
	}
}

// compareTransaction holds one row against what the chain has of its wallet nonce.
func (c *comparison) compareTransaction(lane laneRow, t *transactionRow, l *ledger) {
	s, onChain := l.sent[lane.address][t.nonce]
	name := lane.address.Hex()
	ours := onChain && c.record.attempts[s.hash].transaction == t.id
	switch {
	case t.mined() && t.block < l.since:
		c.report.Counts["transactions older than the first block"]++
	case t.consumed() && t.nonce >= l.counts[lane.address]:
		c.report.violation("not_mined", lane.network, name, "wallet nonce %d is %s, but the chain counts only %d transactions", t.nonce, t.state, l.counts[lane.address])
	case t.mined() && !onChain:
		c.report.violation("not_mined", lane.network, name, "wallet nonce %d is %s in block %d, but no block has it", t.nonce, t.state, t.block)
	case t.mined() && !ours:
		c.report.violation("foreign_transaction", lane.network, name, "wallet nonce %d is %s, but %s has it, which is no attempt of transaction %d", t.nonce, t.state, s.hash, t.id)
	case t.mined() && (s.block != t.block || l.hash(t.block) != t.blockHash):
		c.report.violation("wrong_block", lane.network, name, "wallet nonce %d is %s in block %d %s, but the chain has it in block %d %s",
			t.nonce, t.state, t.block, t.blockHash, s.block, l.hash(s.block))
	case t.state == "replaced" && ours:
		c.report.violation("not_replaced", lane.network, name, "wallet nonce %d is replaced, but %s of ours has it", t.nonce, s.hash)
	case !t.consumed() && onChain && !ours:
		c.report.warning("foreign_transaction", lane.network, name, "wallet nonce %d is %s, but %s of somebody else has it", t.nonce, t.state, s.hash)
	}
}
