package store_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

const hitDay = "2026-11-28"

// refusal is a hit of today at a second of it.
func refusal(address byte, second int64) payment.Hits {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC).Add(time.Duration(second) * time.Second)
	return payment.Hits{
		HitKey: payment.HitKey{Day: hitDay, Network: network, Source: "own", Role: "payer", Address: chain.Address{address}},
		Kind:   "plain", Count: 1, FirstAt: at, LastAt: at, Payer: chain.Address{address}, PayTo: chain.Address{2}, Asset: chain.Address{3},
		Nonce: chain.Hash{byte(second)}, Amount: x402.NewUint256(uint64(second)),
	}
}

func (r record) allHits(t *testing.T, f payment.HitFilter) []payment.Hits {
	t.Helper()
	if f.Limit == 0 {
		f.Limit = 100
	}
	page, err := r.Hits(t.Context(), f)
	must(t, err)
	for i := range page {
		page[i].FirstAt, page[i].LastAt = page[i].FirstAt.UTC(), page[i].LastAt.UTC()
	}
	return page
}

var exactly = cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b x402.Uint256) bool { return a.String() == b.String() })}

// TestHitsOfReplicasAddUp, whoever is first: with the same rows in another order,
// none waits for the other for ever.
func TestHitsOfReplicasAddUp(t *testing.T) {
	t.Parallel()
	r := open(t)
	const rounds, people = 25, 40
	var replicas sync.WaitGroup
	for replica := range int64(2) {
		s := openStore(t, r.url)
		replicas.Go(func() {
			for round := range int64(rounds) {
				var batch []payment.Hits
				for n := range byte(people) {
					who := n
					if replica == 1 {
						who = people - 1 - n
					}
					h := refusal(who, 2*round+replica)
					h.Count = 3
					batch = append(batch, h)
				}
				if err := s.AddHits(t.Context(), batch); err != nil {
					t.Error(err)
				}
			}
		})
	}
	replicas.Wait()
	all := r.allHits(t, payment.HitFilter{})
	if len(all) != people {
		t.Fatalf("%d rows of %d people", len(all), people)
	}
	for _, got := range all {
		// The replica that came last need not be the one that wrote last.
		want := refusal(got.Address[0], 2*rounds-1)
		want.Count, want.FirstAt = 2*rounds*3, refusal(0, 0).FirstAt
		if diff := cmp.Diff(want, got, exactly); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestTheLatestPaymentIsShown, also where a replica writes late what came early.
func TestTheLatestPaymentIsShown(t *testing.T) {
	t.Parallel()
	r := open(t)
	early, late := refusal(1, 3), refusal(1, 9)
	early.Reason, early.Client, late.Reason = "early", uuid.NewString(), "late"
	must(t, r.AddHits(t.Context(), []payment.Hits{late}))
	must(t, r.AddHits(t.Context(), []payment.Hits{early}))
	late.FirstAt, late.Count = early.FirstAt, 2
	if diff := cmp.Diff([]payment.Hits{late}, r.allHits(t, payment.HitFilter{}), exactly); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHitsAreListedByWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	r := open(t)
	c, _ := newClient(t, r, "shop")
	base := refusal(1, 10)
	var all []payment.Hits // in the order in which they are listed
	add := func(of func(*payment.Hits)) {
		h := base
		of(&h)
		all = append([]payment.Hits{h}, all...)
	}
	add(func(h *payment.Hits) {
		h.Day, h.FirstAt, h.LastAt = "2026-11-27", h.FirstAt.AddDate(0, 0, -1), h.LastAt.AddDate(0, 0, -1)
	})
	add(func(h *payment.Hits) { h.Network = "eip155:1" })
	add(func(h *payment.Hits) { h.Source, h.Kind, h.Reason = "hook", "hook", "mixer" })
	add(func(h *payment.Hits) { h.Address, h.Rest = chain.Address{}, true })
	add(func(h *payment.Hits) { h.Address = chain.Address{} })
	add(func(h *payment.Hits) { h.Client, h.ClientName = c.ID, c.Name })
	add(func(h *payment.Hits) { h.Address, h.LastAt = chain.Address{2}, h.LastAt.Add(time.Hour) })
	must(t, r.AddHits(t.Context(), all))

	one := chain.Address{1}
	for name, row := range map[string]struct {
		filter payment.HitFilter
		want   []payment.Hits
	}{
		"all":                    {payment.HitFilter{}, all},
		"the newest":             {payment.HitFilter{Limit: 2}, all[:2]},
		"of a network":           {payment.HitFilter{Network: "eip155:1"}, all[5:6]},
		"of a source":            {payment.HitFilter{Source: "hook"}, all[4:5]},
		"of an address":          {payment.HitFilter{Address: &one}, append(append([]payment.Hits{}, all[1]), all[4:]...)},
		"since a day":            {payment.HitFilter{Since: time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)}, all[:6]},
		"since a moment":         {payment.HitFilter{Since: base.LastAt.Add(time.Second)}, all[:1]},
		"until a moment":         {payment.HitFilter{Until: base.FirstAt}, all[6:]},
		"within a count's times": {payment.HitFilter{Since: base.LastAt.Add(time.Minute), Until: base.LastAt.Add(2 * time.Minute)}, all[:1]},
		"of nobody":              {payment.HitFilter{Source: "other"}, nil},
	} {
		if diff := cmp.Diff(row.want, r.allHits(t, row.filter), exactly); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}

	var paged []payment.Hits
	for f := (payment.HitFilter{Limit: 2}); ; {
		page := r.allHits(t, f)
		paged = append(paged, page...)
		if len(page) < f.Limit {
			break
		}
		f.After = &page[len(page)-1].HitKey
	}
	if diff := cmp.Diff(all, paged, exactly); diff != "" {
		t.Errorf("by pages (-want +got):\n%s", diff)
	}

	n, err := r.ForgetHits(t.Context(), time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC))
	must(t, err)
	if left := r.allHits(t, payment.HitFilter{}); n != 1 || len(left) != 6 {
		t.Errorf("%d forgotten, %d left", n, len(left))
	}
}

// TestNoNumberOfHitsIsTooMany for one commit.
func TestNoNumberOfHitsIsTooMany(t *testing.T) {
	t.Parallel()
	r := open(t)
	const many = 3 * 4096
	batch := make([]payment.Hits, many)
	for i := range batch {
		batch[i] = refusal(1, 1)
		copy(batch[i].Address[:], fmt.Sprintf("%020d", i))
	}
	before := r.Stats().Commits
	must(t, r.AddHits(t.Context(), batch))
	if rows := one[int](t, r.conn, "SELECT count(*) FROM screening_hits"); rows != many || r.Stats().Commits != before+1 {
		t.Errorf("%d rows in %d commits", rows, r.Stats().Commits-before)
	}
}
