package relayer

import (
	"context"
	"errors"
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
	l := withLane(c, waits, bumped, mined, given, judged)
	hashes, _ := c.openHashes([]followed{{lane: l, txs: l.transactions()}}, false)
	if want := []chain.Hash{{1}, {2}, {3}, {6}}; !slices.Equal(hashes, want) {
		t.Errorf("asked about %v, want %v", hashes, want)
	}
	*now = now.Add(time.Hour)
	if hashes, due := c.openHashes(nil, true); len(hashes) != 0 || due {
		t.Errorf("of nothing: %v %t", hashes, due)
	}
}

func TestATransactionIsAskedAboutWhenItIsDue(t *testing.T) {
	t.Parallel()
	const poll = 100 * time.Millisecond
	ago := func(ms int) time.Duration { return time.Duration(ms) * time.Millisecond }
	for _, row := range []struct {
		name                   string
		signed, asked, looked  int // milliseconds ago; negative: never
		polled, unsettled, due bool
	}{
		{name: "just signed", signed: 9, asked: -1, looked: -1},
		{name: "time for the first question", signed: 10, asked: -1, looked: -1, due: true},
		{name: "asked before its bytes were these", signed: 9, asked: 20, looked: 20},
		{name: "waited as long as before", signed: 20, asked: 10, looked: 10, due: true},
		{name: "not yet", signed: 21, asked: 10, looked: 10},
		{name: "the poll comes first", signed: 400, asked: 200, looked: 200},
		{name: "the poll asks for a block", signed: 400, asked: 200, looked: 200, polled: true},
		{name: "asked without an answer", signed: 400, asked: 200, looked: -1},
		{name: "asked without an answer, at the poll", signed: 400, asked: 200, looked: -1, polled: true, due: true},
		{name: "of a lane that was just taken over", signed: 0, asked: -1, looked: -1, unsettled: true, due: true},
		{name: "of one that was looked at", signed: 1, asked: 0, looked: 0, unsettled: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, now := newChain(t, Config{PollInterval: poll})
			c.pace.first = 10 * time.Millisecond
			tx := pending(1, chain.Hash{1})
			at := func(ms int) time.Time {
				if ms < 0 {
					return time.Time{}
				}
				return now.Add(-ago(ms))
			}
			tx.signedAt, tx.asked, tx.looked = at(row.signed), at(row.asked), at(row.looked)
			l := withLane(c, tx)
			l.settled = !row.unsettled
			_, due := c.openHashes([]followed{{lane: l, txs: l.transactions()}}, row.polled)
			if due != row.due {
				t.Errorf("due: %t", due)
			}
			// The tracker never sleeps past what is due, and never wakes for what is not.
			next, some := c.nextLook()
			if early := some && !next.After(*now); early && !due {
				t.Error("it would ask without end")
			} else if due && !early && !row.polled && !row.unsettled {
				t.Error("it would not ask in time")
			}
		})
	}
}

func TestNothingIsAskedWithoutALease(t *testing.T) {
	t.Parallel()
	c, now := newChain(t, Config{PollInterval: time.Second})
	tx := pending(1, chain.Hash{1})
	tx.signedAt = now.Add(-time.Hour)
	l := withLane(c, tx)
	if _, some := c.nextLook(); !some {
		t.Fatal("nothing is due with a lease")
	}
	l.until = *now
	if _, some := c.nextLook(); some {
		t.Error("a tracker that may not ask wakes up to ask")
	}
}

// TestThePaceFollowsTheChain: of a chain that mines after so long, most first
// questions come just after that, and few are wasted.
func TestThePaceFollowsTheChain(t *testing.T) {
	t.Parallel()
	const poll = 100 * time.Millisecond
	for _, mines := range []time.Duration{time.Millisecond, 8 * time.Millisecond, 40 * time.Millisecond, time.Minute, 8 * time.Millisecond} {
		p := newPace(poll)
		start := time.Unix(1_800_000_000, 0)
		questions, late := 0, time.Duration(0)
		const learning, counted = 200, 400
		for i := range learning + counted {
			var asked time.Time
			var byFirst bool
			for {
				next, early := p.next(start, asked)
				if !early {
					next = asked.Add(poll)
				}
				byFirst, asked = asked.IsZero(), next
				if i >= learning {
					questions++
				}
				if next.Sub(start) >= mines {
					break
				}
			}
			if i >= learning {
				late += asked.Sub(start) - mines
			}
			p.learn(start, asked, byFirst)
		}
		if mines >= poll { // the poll does it
			if p.first != poll {
				t.Errorf("mined after %s: the first question comes after %s", mines, p.first)
			}
			continue
		}
		if each := float64(questions) / counted; each > 1.4 {
			t.Errorf("mined after %s: %.2f questions each", mines, each)
		}
		if each := late / counted; each > mines/2+leastPace {
			t.Errorf("mined after %s: seen %s later", mines, each)
		}
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
			if err := c.conclude(t.Context(), followed{lane: l, row: row, txs: l.transactions()}, c.Head(), found, *now); err != nil {
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
	if err := c.conclude(t.Context(), followed{lane: l, row: row, txs: l.transactions()}, c.Head(), found, *now); err != nil {
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
		if err := c.conclude(t.Context(), followed{lane: l, row: row, txs: l.transactions()}, c.Head(), found, *now); err != nil {
			t.Fatal(err)
		}
	}
	look(map[chain.Hash]evm.Lookup{{1}: {Unknown: true}})
	if !tx.looked.IsZero() {
		t.Error("a node that could not tell counts as a look")
	}
	l.nonceHeight = 1 // told by a node that is further
	look(map[chain.Hash]evm.Lookup{{1}: {}})
	if !tx.looked.IsZero() {
		t.Error("a node that lags counts as a look")
	}
	c.see(chain.Head{Number: 1})
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

// standing is a node whose latest block is always the same.
type standing struct {
	Node
	number uint64
}

func (s standing) Head(context.Context) (chain.Head, error) { return chain.Head{Number: s.number}, nil }

// atBlock notes at which block it is asked for the fate of a payment.
type atBlock struct {
	scheme.Scheme
	at []uint64
}

func (s *atBlock) Fate(_ context.Context, _ payment.Terms, _, at uint64) (scheme.Fate, error) {
	s.at = append(s.at, at)
	return scheme.Fate{Kind: scheme.FateUnused}, nil
}

// TestAPaymentIsNotJudgedByAnOlderBlockThanItWasVerifiedOn: the block that was
// seen last may lack the money that was there then.
func TestAPaymentIsNotJudgedByAnOlderBlockThanItWasVerifiedOn(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		latest, claimed uint64
		want            []uint64
	}{{12, 9, []uint64{12}}, {9, 9, []uint64{9}}, {8, 9, nil}} {
		c, _ := newChain(t, Config{})
		exact := &atBlock{}
		c.Schemes, c.Node = map[x402.SchemeName]scheme.Scheme{"exact": exact}, standing{number: row.latest}
		c.see(chain.Head{Number: 7})
		p := &payment.Payment{ID: "p", Terms: payment.Terms{Scheme: "exact"}, ClaimedAtBlock: row.claimed}
		_, err := c.judgeNow(t.Context(), p, lastTry(p))
		if !slices.Equal(exact.at, row.want) || (row.want == nil) != errors.Is(err, chain.ErrUnavailable) {
			t.Errorf("latest %d, verified on %d: judged at %v, %v", row.latest, row.claimed, exact.at, err)
		}
	}
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
			c.Store, c.Schemes, c.Node = record, map[x402.SchemeName]scheme.Scheme{"exact": &silentOnce{}}, standing{number: 8}
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
			if err := c.follow(t.Context(), &last, true); err != nil {
				t.Fatal(err)
			}
			c.judging.Wait()
			if len(record.outcomes) != 1 || record.outcomes[0].To != payment.StateQueued {
				t.Errorf("after the node answers again: outcomes %+v", record.outcomes)
			}
		})
	}
}
