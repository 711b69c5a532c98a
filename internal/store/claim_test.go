package store_test

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// together runs f n times at once.
func together(n int, f func(i int)) {
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			f(i)
		})
	}
	done.Wait()
}

func TestOfManyConcurrentClaimsExactlyOneIsFresh(t *testing.T) {
	t.Parallel()
	r := open(t)
	replicas := []*store.Store{r.Store, openStore(t, r.url)}
	const callers = 64
	var (
		claimed [callers]payment.Payment
		fresh   [callers]bool
		errs    [callers]error
	)
	together(callers, func(i int) {
		claimed[i], fresh[i], errs[i] = replicas[i%2].ClaimPayment(t.Context(), sale(1), nil)
	})
	winners := 0
	for i := range callers {
		must(t, errs[i])
		if fresh[i] {
			winners++
		}
		if diff := cmp.Diff(claimed[0], claimed[i]); diff != "" {
			t.Fatalf("two callers were given two payments:\n%s", diff)
		}
	}
	if rows := one[int](t, r.conn, "SELECT count(*) FROM payments"); winners != 1 || rows != 1 {
		t.Errorf("%d callers were first, %d rows", winners, rows)
	}
}

func TestAnotherKeyIsAnotherPayment(t *testing.T) {
	t.Parallel()
	r := open(t)
	ids := map[payment.ID]bool{}
	for name, change := range map[string]func(*payment.Key){
		"nothing":  func(*payment.Key) {},
		"network":  func(k *payment.Key) { k.Network = "eip155:84532" },
		"contract": func(k *payment.Key) { k.Contract[0] = 1 },
		"payer":    func(k *payment.Key) { k.Payer[0] = 1 },
		"nonce":    func(k *payment.Key) { k.Nonce[1] = 1 },
	} {
		p := sale(1)
		change(&p.Terms.Key)
		got, fresh, err := r.ClaimPayment(t.Context(), p, nil)
		if err != nil || !fresh || ids[got.ID] {
			t.Errorf("another %s: fresh %t, %v", name, fresh, err)
		}
		ids[got.ID] = true
	}
}

func TestASecondClaimGetsTheFirstOneWhateverItAsks(t *testing.T) {
	t.Parallel()
	r := open(t)
	first := r.claim(t, 1)
	other := sale(1)
	other.Terms.PayTo[0], other.Terms.Amount, other.Terms.SignatureHash = 9, x402.NewUint256(1), chain.Hash{9}
	got, fresh, err := r.ClaimPayment(t.Context(), other, nil)
	must(t, err)
	if diff := cmp.Diff(first, got); fresh || diff != "" {
		t.Errorf("fresh %t (-first +second):\n%s", fresh, diff)
	}
}

func TestTheRecordKeepsWhatWasClaimed(t *testing.T) {
	t.Parallel()
	r := open(t)
	all := x402.Uint256{}
	for i := range all {
		all[i] = 0xff
	}
	want := sale(1)
	want.Version, want.Resource, want.ClaimedAtBlock = 1, "", 1<<62
	want.Terms.Amount, want.Terms.ValidAfter, want.Terms.ValidBefore = all, all, all
	want.Terms.Key.Nonce = chain.Hash(all)
	claimed, fresh, err := r.ClaimPayment(t.Context(), want, nil)
	if err != nil || !fresh {
		t.Fatalf("fresh %t, %v", fresh, err)
	}
	byID := r.payment(t, claimed.ID)
	byKey, err := r.PaymentByKey(t.Context(), want.Terms.Key)
	must(t, err)
	byNonce, err := r.PaymentsByNonce(t.Context(), network, want.Terms.Key.Payer, want.Terms.Key.Nonce)
	must(t, err)
	if len(byNonce) != 1 {
		t.Fatalf("%d payments of this payer and nonce", len(byNonce))
	}
	want.ID, want.State = claimed.ID, payment.StateQueued
	for _, got := range []payment.Payment{claimed, byID, byKey, byNonce[0]} {
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(payment.Payment{}, "CreatedAt", "UpdatedAt")); diff != "" {
			t.Errorf("record (-claimed +read):\n%s", diff)
		}
		if got.CreatedAt.IsZero() || !got.CreatedAt.Equal(got.UpdatedAt) {
			t.Errorf("created %v, updated %v", got.CreatedAt, got.UpdatedAt)
		}
		if got.Terms.Fingerprint() != want.Terms.Fingerprint() {
			t.Error("the fingerprint changed on the way")
		}
	}
	if stored := one[[]byte](t, r.conn, "SELECT fingerprint FROM payments"); chain.Hash(stored) != want.Terms.Fingerprint() {
		t.Errorf("stored fingerprint %x", stored)
	}
}

func TestAFailedPaymentIsClaimedAgainOnlyIfNothingWasSigned(t *testing.T) {
	t.Parallel()
	again := func(change func(*payment.Payment)) payment.Payment {
		p := sale(1)
		p.Version, p.Resource, p.ClaimedAtBlock = 1, "https://api.example.com/again", 99
		p.Terms.Call = chain.Call{To: chain.Address{5}, Data: []byte{9}}
		p.Terms.SignatureHash = chain.Hash{9}
		p.Terms.ValidAfter, p.Terms.ValidBefore = x402.NewUint256(7), x402.NewUint256(3000000000)
		if change != nil {
			change(&p)
		}
		return p
	}

	t.Run("the same sale is fresh, keeps its id and takes everything else from the new claim", func(t *testing.T) {
		t.Parallel()
		r := open(t)
		first := r.claim(t, 1)
		must(t, r.Withdraw(t.Context(), first.ID, x402.ReasonUnexpectedSettle, "no wallet"))
		want := again(nil)
		got, fresh, err := r.ClaimPayment(t.Context(), want, nil)
		if err != nil || !fresh {
			t.Fatalf("fresh %t, %v", fresh, err)
		}
		want.ID, want.State, want.CreatedAt = first.ID, payment.StateQueued, first.CreatedAt
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(payment.Payment{}, "UpdatedAt")); diff != "" {
			t.Errorf("record (-claimed +read):\n%s", diff)
		}
		if diff := cmp.Diff(got, r.payment(t, first.ID)); diff != "" {
			t.Errorf("record (-returned +read):\n%s", diff)
		}
	})

	t.Run("of many that claim it again exactly one is fresh", func(t *testing.T) {
		t.Parallel()
		r := open(t)
		must(t, r.Withdraw(t.Context(), r.claim(t, 1).ID, x402.ReasonUnexpectedSettle, "no wallet"))
		var fresh [32]bool
		var errs [32]error
		together(len(fresh), func(i int) { _, fresh[i], errs[i] = r.ClaimPayment(t.Context(), again(nil), nil) })
		winners := 0
		for i := range fresh {
			must(t, errs[i])
			if fresh[i] {
				winners++
			}
		}
		if winners != 1 {
			t.Errorf("%d callers were first", winners)
		}
	})

	for name, change := range map[string]func(*payment.Payment){
		"another payee is refused":  func(p *payment.Payment) { p.Terms.PayTo[0] = 1 },
		"another amount is refused": func(p *payment.Payment) { p.Terms.Amount = x402.NewUint256(9999) },
		"another scheme is refused": func(p *payment.Payment) { p.Terms.Scheme = "upto" },
		"another asset is refused":  func(p *payment.Payment) { p.Terms.Asset[0] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			first := r.claim(t, 1)
			must(t, r.Withdraw(t.Context(), first.ID, x402.ReasonUnexpectedSettle, "no wallet"))
			before := r.payment(t, first.ID)
			got, fresh, err := r.ClaimPayment(t.Context(), again(change), nil)
			must(t, err)
			if diff := cmp.Diff(before, got); fresh || diff != "" {
				t.Errorf("fresh %t (-before +after):\n%s", fresh, diff)
			}
		})
	}

	t.Run("one that was signed is refused", func(t *testing.T) {
		t.Parallel()
		r := open(t)
		lane := r.lane(t, 1, 0)
		id := r.claim(t, 1).ID
		r.sign(t, lane, id)
		p := r.payment(t, id)
		must(t, r.RecordOutcome(t.Context(), p.Failed(x402.ReasonExactNonceUsed, "used", &payment.Evidence{Kind: payment.EvidenceConsumed})))
		got, fresh, err := r.ClaimPayment(t.Context(), again(nil), nil)
		if err != nil || fresh || got.State != payment.StateFailed {
			t.Errorf("fresh %t, %s, %v", fresh, got.State, err)
		}
	})

	t.Run("one that was signed and queued again before it failed is refused", func(t *testing.T) {
		t.Parallel()
		r := open(t)
		id := r.claim(t, 1).ID
		r.sign(t, r.lane(t, 1, 0), id)
		p := r.payment(t, id)
		must(t, r.RecordOutcome(t.Context(), p.Requeued()))
		p = r.payment(t, id)
		must(t, r.RecordOutcome(t.Context(), p.Failed(x402.ReasonExactNonceUsed, "used", &payment.Evidence{Kind: payment.EvidenceUnsendable})))
		if got, fresh, err := r.ClaimPayment(t.Context(), again(nil), nil); err != nil || fresh || got.State != payment.StateFailed {
			t.Errorf("fresh %t, %s, %v", fresh, got.State, err)
		}
	})
}

func TestLookingUpFindsWhatThereIsAndNothingElse(t *testing.T) {
	t.Parallel()
	r := open(t)
	id := r.claim(t, 1).ID
	_, err := r.PaymentByKey(t.Context(), sale(2).Terms.Key)
	wantErr(t, err, payment.ErrNotFound)
	for _, id := range []payment.ID{"", "42", "0198c0de-0000-7000-8000-000000000000", "'; DROP TABLE payments", id + "0"} {
		_, err := r.PaymentByID(t.Context(), id)
		wantErr(t, err, payment.ErrNotFound)
	}
	key := sale(1).Terms.Key
	if list, err := r.PaymentsByNonce(t.Context(), "eip155:1", key.Payer, key.Nonce); err != nil || len(list) != 0 {
		t.Errorf("on another network: %v, %v", list, err)
	}
	if list, err := r.PaymentsByTransaction(t.Context(), network, chain.Hash{1}); err != nil || len(list) != 0 {
		t.Errorf("by an unknown hash: %v, %v", list, err)
	}
	standings, err := r.Standings(t.Context(), []payment.ID{id, "0198c0de-0000-7000-8000-000000000000"})
	if diff := cmp.Diff(map[payment.ID]payment.Standing{id: {State: payment.StateQueued}}, standings); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	settled := r.settledBy(t, 3, r.lane(t, 1, 0), 7)
	standings, err = r.Standings(t.Context(), []payment.ID{settled})
	p := r.payment(t, settled)
	want := payment.Standing{State: payment.StateIncluded, Tries: 1, TxHash: p.TxHash, BlockNumber: 7}
	if diff := cmp.Diff(want, standings[settled]); err != nil || diff != "" || p.Standing() != want {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
