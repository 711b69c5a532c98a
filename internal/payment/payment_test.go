package payment_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

func TestTransitionsStayWithinTheStates(t *testing.T) {
	t.Parallel()
	states := payment.States()
	for _, to := range states {
		from := payment.From(to)
		if len(from) == 0 {
			t.Errorf("nothing leads to %s", to)
		}
		for i, s := range from {
			switch {
			case !slices.Contains(states, s):
				t.Errorf("%s is left for %s, but is no state", s, to)
			case s == to:
				t.Errorf("%s is left for itself", s)
			case slices.Contains(from[i+1:], s):
				t.Errorf("%s is left for %s twice", s, to)
			}
		}
	}
	if from := payment.From("paid"); from != nil {
		t.Errorf("%v are left for a state that there is not", from)
	}
}

func TestTheStateMachineHasThesePathsAndNoOther(t *testing.T) {
	t.Parallel()
	paths := map[payment.State][]payment.State{}
	for _, to := range payment.States() {
		for _, from := range payment.From(to) {
			paths[from] = append(paths[from], to)
		}
	}
	want := map[payment.State][]payment.State{
		payment.StateQueued:    {payment.StateSigned, payment.StateIncluded, payment.StateFailed},
		payment.StateSigned:    {payment.StateQueued, payment.StateBroadcast, payment.StateIncluded, payment.StateFailed},
		payment.StateBroadcast: {payment.StateQueued, payment.StateIncluded, payment.StateFailed},
		payment.StateIncluded:  {payment.StateQueued, payment.StateBroadcast, payment.StateFinal},
		payment.StateFailed:    {payment.StateQueued, payment.StateIncluded},
		// Nothing leaves final.
	}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

func TestEveryStateIsReachedFromQueued(t *testing.T) {
	t.Parallel()
	reached := []payment.State{payment.StateQueued}
	for range payment.States() {
		for _, to := range payment.States() {
			if slices.Contains(reached, to) {
				continue
			}
			if slices.ContainsFunc(payment.From(to), func(s payment.State) bool { return slices.Contains(reached, s) }) {
				reached = append(reached, to)
			}
		}
	}
	if len(reached) != len(payment.States()) {
		t.Errorf("from queued one reaches only %v", reached)
	}
}

func TestNoStateAllowsProofAndFailureAtOnce(t *testing.T) {
	t.Parallel()
	for _, s := range payment.States() {
		allowed := 0
		for _, f := range everyFact() {
			if !s.Allows(f) {
				continue
			}
			allowed++
			if f.Block && f.Reason {
				t.Errorf("%s may be in a block and have failed", s)
			}
			if (f.Block || f.Reason) && !f.Evidence {
				t.Errorf("%s may be decided without evidence", s)
			}
		}
		if allowed == 0 {
			t.Errorf("no row can be %s", s)
		}
	}
	for _, f := range everyFact() {
		if payment.State("paid").Allows(f) {
			t.Errorf("a state that there is not may hold %+v", f)
		}
	}
}

func everyFact() []payment.Facts {
	var all []payment.Facts
	for n := range 16 {
		all = append(all, payment.Facts{Transaction: n&1 != 0, Block: n&2 != 0, Reason: n&4 != 0, Evidence: n&8 != 0})
	}
	return all
}

// TestTheFingerprintCoversTheSaleAndNothingElse changes every field of Terms in
// turn: a new field must be put into one of the two lists.
func TestTheFingerprintCoversTheSaleAndNothingElse(t *testing.T) {
	t.Parallel()
	sale := []string{"Key.Network", "Key.Contract", "Key.Payer", "Key.Nonce", "Scheme", "Asset", "PayTo", "Amount"}
	rest := []string{"ValidAfter", "ValidBefore", "Call.To", "Call.Data", "SignatureHash"}
	var fields []string
	seen := map[chain.Hash]string{payment.Terms{}.Fingerprint(): "nothing"}
	eachField("", reflect.TypeFor[payment.Terms](), nil, func(name string, index []int) {
		fields = append(fields, name)
		var terms payment.Terms
		field := reflect.ValueOf(&terms).Elem().FieldByIndex(index)
		switch {
		case field.Kind() == reflect.String:
			field.SetString("x")
		case field.Kind() == reflect.Array:
			field.Index(field.Len() - 1).SetUint(1)
		case field.Kind() == reflect.Slice:
			field.SetBytes([]byte{1})
		default:
			t.Fatalf("%s is of kind %s: teach this test to change it", name, field.Kind())
		}
		got := terms.Fingerprint()
		if slices.Contains(rest, name) {
			if seen[got] != "nothing" {
				t.Errorf("%s changes the fingerprint", name)
			}
			return
		}
		if other, twice := seen[got]; twice {
			t.Errorf("a change of %s has the fingerprint of a change of %s", name, other)
		}
		seen[got] = name
	})
	slices.Sort(fields)
	want := slices.Concat(sale, rest)
	slices.Sort(want)
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("fields of Terms (-known +got):\n%s", diff)
	}
}

// eachField visits the leaves of a struct type.
func eachField(path string, typ reflect.Type, index []int, visit func(name string, index []int)) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		at := append(slices.Clone(index), i)
		if f.Type.Kind() == reflect.Struct {
			eachField(path+f.Name+".", f.Type, at, visit)
			continue
		}
		visit(path+f.Name, at)
	}
}

func TestTheFingerprintStaysWhatTheRecordHolds(t *testing.T) {
	t.Parallel()
	terms := payment.Terms{
		Key:    payment.Key{Network: "eip155:8453", Contract: chain.Address{1}, Payer: chain.Address{2}, Nonce: chain.Hash{3}},
		Scheme: x402.SchemeExact, Asset: chain.Address{1}, PayTo: chain.Address{4}, Amount: x402.NewUint256(10000),
	}
	// A change makes every recorded payment another sale.
	const want = "0xfce2b1921cedb70ca7203f31caace98efe7e885275125272ff46e015720e1a77"
	if got := terms.Fingerprint().String(); got != want {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
}

func TestPaymentsKnowWhatHappenedToThem(t *testing.T) {
	t.Parallel()
	for _, s := range payment.States() {
		p := payment.Payment{State: s}
		if want := s == payment.StateSigned || s == payment.StateBroadcast; p.Open() != want {
			t.Errorf("a payment that is %s is open: %t", s, p.Open())
		}
		if want := s == payment.StateIncluded || s == payment.StateFinal; p.Settled() != want {
			t.Errorf("a payment that is %s is settled: %t", s, p.Settled())
		}
		if p.Sent() {
			t.Errorf("a payment that is %s and never signed counts as sent", s)
		}
		p.Tries = 1
		if !p.Sent() {
			t.Errorf("a payment that is %s and was signed once counts as not sent", s)
		}
	}
}

func TestOutcomesHoldTheirEvidence(t *testing.T) {
	t.Parallel()
	p := &payment.Payment{ID: "a", TransactionID: 7, Tries: 2}
	r := &chain.Receipt{TxHash: chain.Hash{1}, BlockHash: chain.Hash{2}, BlockNumber: 3}
	for _, c := range []struct{ got, want payment.Outcome }{
		{p.Paid(payment.EvidenceReceipt, r), payment.Outcome{
			Payment: "a", Transaction: 7, Tries: 2, To: payment.StateIncluded, TxHash: r.TxHash, Block: 3, InBlock: r.BlockHash,
			Evidence: &payment.Evidence{Kind: payment.EvidenceReceipt, TxHash: &r.TxHash, BlockNumber: 3, BlockHash: &r.BlockHash},
		}},
		{p.Failed(x402.ReasonExactNonceUsed, "used", payment.ReceiptEvidence(payment.EvidenceReverted, r, "why")), payment.Outcome{
			Payment: "a", Transaction: 7, Tries: 2, To: payment.StateFailed, Reason: x402.ReasonExactNonceUsed, Message: "used",
			Evidence: &payment.Evidence{Kind: payment.EvidenceReverted, TxHash: &r.TxHash, BlockNumber: 3, BlockHash: &r.BlockHash, Detail: "why"},
		}},
		{p.Requeued(), payment.Outcome{Payment: "a", Transaction: 7, Tries: 2, To: payment.StateQueued}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("outcome (-want +got):\n%s", diff)
		}
	}
}

func TestAFilterHoldsWhatItAsksFor(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	payer, payee, other := chain.Address{1}, chain.Address{2}, chain.Address{3}
	p := payment.Payment{State: payment.StateFinal, CreatedAt: at, Terms: payment.Terms{
		Key: payment.Key{Network: "eip155:8453", Payer: payer}, PayTo: payee,
	}}
	for _, row := range []struct {
		name string
		f    payment.Filter
		want bool
	}{
		{"nothing", payment.Filter{}, true},
		{"all of it", payment.Filter{
			Network: "eip155:8453", States: []payment.State{payment.StateFailed, payment.StateFinal}, PayTo: &payee, Payer: &payer,
			Since: at, Until: at.Add(1), After: "any", Limit: 1,
		}, true},
		{"another network", payment.Filter{Network: "eip155:1"}, false},
		{"another state", payment.Filter{States: []payment.State{payment.StateFailed}}, false},
		{"another payee", payment.Filter{PayTo: &other}, false},
		{"another payer", payment.Filter{Payer: &other}, false},
		{"later", payment.Filter{Since: at.Add(1)}, false},
		{"before", payment.Filter{Until: at}, false},
	} {
		if row.f.Holds(&p) != row.want {
			t.Errorf("%s: %t", row.name, !row.want)
		}
	}
}
