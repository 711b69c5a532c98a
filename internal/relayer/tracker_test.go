package relayer

import (
	"context"
	"slices"
	"testing"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

func TestAReceiptOfAnyAttemptCounts(t *testing.T) {
	t.Parallel()
	first, second := chain.Hash{1}, chain.Hash{2}
	tx := &payment.Transaction{Attempts: []payment.Attempt{{Hash: first}, {Hash: second}}}
	mined := &chain.Receipt{TxHash: first}
	for _, row := range []struct {
		name    string
		found   map[chain.Hash]evm.Lookup
		mined   bool
		unknown bool
	}{
		{"the older one is mined", map[chain.Hash]evm.Lookup{first: {Receipt: mined}, second: {Unknown: true}}, true, false},
		{"the newer one is mined", map[chain.Hash]evm.Lookup{first: {}, second: {Receipt: mined}}, true, false},
		{"none is mined", map[chain.Hash]evm.Lookup{first: {}, second: {}}, false, false},
		{"one is doubtful", map[chain.Hash]evm.Lookup{first: {}, second: {Unknown: true}}, false, true},
		{"one was not asked about", map[chain.Hash]evm.Lookup{first: {}}, false, true},
	} {
		if r, unknown := lookup(tx, row.found); (r == mined) != row.mined || unknown != row.unknown {
			t.Errorf("%s: %+v, doubtful %t", row.name, r, unknown)
		}
	}
}

func TestEveryAttemptOfWhatIsNotMinedIsAskedAbout(t *testing.T) {
	t.Parallel()
	c, now := newChain(t, Config{})
	waits, bumped, mined, given, judged := pending(1, chain.Hash{1}), pending(2, chain.Hash{2}, chain.Hash{3}), pending(3, chain.Hash{4}),
		pending(4, chain.Hash{5}), pending(5, chain.Hash{6})
	mined.receipt = &chain.Receipt{}
	given.Transaction.State = payment.TxReplaced
	judged.Transaction.State = payment.TxIncluded // as the record has it: its receipt is needed to judge its payment
	for _, tx := range []*openTx{waits, bumped, judged} {
		tx.looked = *now
	}
	l := withLane(c, waits, bumped, mined, given, judged)
	ask := func() ([]chain.Hash, bool) { return openHashes([]followed{{lane: l, txs: l.transactions()}}) }
	hashes, fresh := ask()
	if want := []chain.Hash{{1}, {2}, {3}, {6}}; !slices.Equal(hashes, want) || fresh {
		t.Errorf("asked about %v, fresh %t; want %v", hashes, fresh, want)
	}
	bumped.looked = time.Time{}
	if _, fresh := ask(); !fresh {
		t.Error("a transaction that was never asked about is not fresh")
	}
	if hashes, fresh := openHashes(nil); len(hashes) != 0 || fresh {
		t.Errorf("of nothing: %v %t", hashes, fresh)
	}
}

func TestAPaymentIsJudgedHoweverOldItsTransaction(t *testing.T) {
	t.Parallel()
	for _, state := range []payment.TxState{payment.TxSigned, payment.TxIncluded, payment.TxFinal} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			c, now := newChain(t, Config{})
			record := &ledger{}
			c.Store, c.Schemes = record, map[x402.SchemeName]scheme.Scheme{"exact": paying{}}
			tx := pending(1, chain.Hash{1})
			tx.Transaction.State = state
			l := withLane(c, tx)
			if l.inFlight != 1 && state == payment.TxSigned || l.inFlight != 0 && state != payment.TxSigned {
				t.Errorf("%d transactions take a place in the lane", l.inFlight)
			}
			row, _ := l.lease()
			found := map[chain.Hash]evm.Lookup{{1}: {Receipt: &chain.Receipt{TxHash: chain.Hash{1}, Succeeded: true, BlockNumber: 7}}}
			if err := c.conclude(t.Context(), followed{lane: l, row: row, txs: l.transactions()}, found, *now); err != nil {
				t.Fatal(err)
			}
			if len(record.inclusions) != 1 || len(record.inclusions[0].Outcomes) != 1 || record.inclusions[0].Outcomes[0].To != payment.StateIncluded {
				t.Errorf("recorded %+v", record.inclusions)
			}
			if len(l.open) != 0 {
				t.Errorf("still open: %+v", l.open)
			}
		})
	}
}

// TestAPaymentThatWasGivenUpIsPaidAfterAll: its transaction was mined when it
// had failed already, and beside one that is open.
func TestAPaymentThatWasGivenUpIsPaidAfterAll(t *testing.T) {
	t.Parallel()
	c, now := newChain(t, Config{})
	record := &ledger{}
	c.Store, c.Schemes = record, map[x402.SchemeName]scheme.Scheme{"exact": paying{}}
	tx := pending(1, chain.Hash{1})
	for _, state := range []payment.State{payment.StateFailed, payment.StateQueued, payment.StateIncluded} {
		tx.Payments = append(tx.Payments, payment.Payment{ID: payment.ID(state), Terms: payment.Terms{Scheme: "exact"}, State: state, TransactionID: 1})
	}
	l := withLane(c, tx)
	row, _ := l.lease()
	found := map[chain.Hash]evm.Lookup{{1}: {Receipt: &chain.Receipt{TxHash: chain.Hash{1}, Succeeded: true, BlockNumber: 7}}}
	if err := c.conclude(t.Context(), followed{lane: l, row: row, txs: l.transactions()}, found, *now); err != nil {
		t.Fatal(err)
	}
	var paid []payment.ID
	for _, o := range record.inclusions[0].Outcomes {
		paid = append(paid, o.Payment)
	}
	if want := []payment.ID{"p", "failed"}; !slices.Equal(paid, want) {
		t.Errorf("paid %v, want %v", paid, want)
	}
}

func TestAnUnansweredLookIsNoLook(t *testing.T) {
	t.Parallel()
	c, now := newChain(t, Config{})
	tx := pending(1, chain.Hash{1})
	l := withLane(c, tx)
	row, _ := l.lease()
	look := func(found map[chain.Hash]evm.Lookup) {
		t.Helper()
		if err := c.conclude(t.Context(), followed{lane: l, row: row, txs: l.transactions()}, found, *now); err != nil {
			t.Fatal(err)
		}
	}
	look(map[chain.Hash]evm.Lookup{{1}: {Unknown: true}})
	if !tx.looked.IsZero() {
		t.Error("a node that could not tell counts as a look")
	}
	look(map[chain.Hash]evm.Lookup{{1}: {}})
	if !tx.looked.Equal(*now) {
		t.Error("a look is not noted")
	}
}

// silentOnce is a scheme that can't tell the fate of a payment at first.
type silentOnce struct {
	scheme.Scheme
	asked int
}

func (*silentOnce) Proves(payment.Terms, *chain.Receipt) bool { return false }

func (s *silentOnce) Fate(context.Context, payment.Terms, uint64, uint64) (scheme.Fate, error) {
	s.asked++
	if s.asked == 1 {
		return scheme.Fate{}, chain.ErrUnavailable
	}
	return scheme.Fate{Kind: scheme.FateUnused}, nil
}

// TestAPaymentThatCouldNotBeJudgedIsJudgedLater, although nothing else is open
// and no receipt is asked for any more.
func TestAPaymentThatCouldNotBeJudgedIsJudgedLater(t *testing.T) {
	t.Parallel()
	mined := func(tx *openTx) { tx.receipt = &chain.Receipt{BlockNumber: 7} }
	void := func(tx *openTx) { tx.Transaction.State = payment.TxReplaced }
	for name, end := range map[string]func(*openTx){"its transaction reverted": mined, "its transaction is void": void} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, now := newChain(t, Config{})
			record := &ledger{}
			c.Store, c.Schemes = record, map[x402.SchemeName]scheme.Scheme{"exact": &silentOnce{}}
			tx := pending(1, chain.Hash{1})
			end(tx)
			l := withLane(c, tx)
			row, _ := l.lease()
			c.judgeAll(t.Context(), followed{lane: l, row: row, txs: l.transactions()}) // the node is silent
			c.judging.Wait()
			if len(record.outcomes) != 0 {
				t.Fatalf("judged without an answer: %+v", record.outcomes)
			}
			*now = now.Add(firstDeferral)
			last := chain.Hash{}
			if err := c.follow(t.Context(), &last); err != nil {
				t.Fatal(err)
			}
			c.judging.Wait()
			if len(record.outcomes) != 1 || record.outcomes[0].To != payment.StateQueued {
				t.Errorf("after the node answers again: outcomes %+v", record.outcomes)
			}
		})
	}
}
