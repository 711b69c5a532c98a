package relayer

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/x402"
)

// ledger is a record whose transactions are all written already.
type ledger struct {
	Store
	outcomes  []payment.Outcome
	broadcast []int64
}

func (l *ledger) RecordInclusion(context.Context, payment.Inclusion) error {
	return payment.ErrTransition
}

func (l *ledger) RecordOutcome(_ context.Context, o payment.Outcome) error {
	l.outcomes = append(l.outcomes, o)
	return nil
}

func (l *ledger) MarkBroadcast(_ context.Context, ids []int64) error {
	l.broadcast = append(l.broadcast, ids...)
	return nil
}

// paying is a scheme by which every receipt pays.
type paying struct{ scheme.Scheme }

func (paying) Proves(payment.Terms, *chain.Receipt) bool { return true }

// silent is a node that answers no send after the first few.
type silent struct {
	Node
	answers, asked int
}

func (n *silent) SendRaw(context.Context, []byte) (evm.SendOutcome, error) {
	n.asked++
	if n.asked > n.answers {
		return evm.SendUnavailable, fmt.Errorf("%w: timeout", chain.ErrUnavailable)
	}
	return evm.SendAccepted, nil
}

func TestAPaymentIsJudgedHoweverOldItsTransaction(t *testing.T) {
	t.Parallel()
	for _, state := range []payment.TxState{payment.TxIncluded, payment.TxFinal} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			c, _ := newChain(t, Config{})
			record := &ledger{}
			c.Store, c.Schemes = record, map[x402.SchemeName]scheme.Scheme{"exact": paying{}}
			c.Moved, c.Crash = func(...payment.ID) {}, func(string) {}
			carried := payment.Carried{
				Transaction: payment.Transaction{ID: 1, State: state},
				Payments:    []payment.Payment{{ID: "p", Terms: payment.Terms{Scheme: "exact"}, State: payment.StateBroadcast, TransactionID: 1, Tries: 1}},
			}
			c.lanes = []*lane{{chain: c, signer: nobody{}}}
			c.countOpen([]payment.Carried{carried})
			if c.lanes[0].open != 0 {
				t.Error("a mined transaction takes a place in its lane")
			}
			done, err := c.conclude(t.Context(), carried, &chain.Receipt{Succeeded: true, BlockNumber: 7})
			if err != nil || !done || len(record.outcomes) != 1 || record.outcomes[0].To != payment.StateIncluded {
				t.Errorf("done %t, error %v, outcomes %+v", done, err, record.outcomes)
			}
		})
	}
}

type nobody struct{ Signer }

func (nobody) Address() chain.Address { return chain.Address{} }

func TestASilentNodeIsNotAskedForEveryTransaction(t *testing.T) {
	t.Parallel()
	c, _ := newChain(t, Config{})
	record, node := &ledger{}, &silent{answers: 2}
	c.Store, c.Node, c.Crash = record, node, func(string) {}
	var txs []payment.Carried
	for id := range int64(16) {
		txs = append(txs, payment.Carried{Transaction: payment.Transaction{ID: id, Attempts: []payment.Attempt{{Raw: []byte{2}}}}})
	}
	if err := c.broadcast(t.Context(), txs); err != nil {
		t.Fatal(err)
	}
	if node.asked != 3 || !slices.Equal(record.broadcast, []int64{0, 1, 2}) {
		t.Errorf("asked %d times, recorded as handed over: %v", node.asked, record.broadcast)
	}
}
