package store_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/client"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

func newClient(t *testing.T, r record, name string) (client.Client, client.Key) {
	t.Helper()
	c := client.Client{
		ID: uuid.NewString(), Name: name, Scopes: []client.Scope{client.ScopeVerify, client.ScopeSettle},
		Networks: []x402.Network{network}, Assets: []chain.Address{{1}, {2}}, PayTo: []chain.Address{{3}},
		Rate: 5, Burst: 7, GasPerDay: big.NewInt(1e18),
	}
	_, key, err := client.NewKey(c.ID)
	must(t, err)
	must(t, r.AddClient(t.Context(), &c, &key))
	return c, key
}

// all reads what is recorded, with the times taken out.
func (r record) allClients(t *testing.T, stamp string) (clients []client.Client, keys []client.Key, now string, changed bool) {
	t.Helper()
	clients, keys, now, changed, err := r.Clients(t.Context(), stamp)
	must(t, err)
	for i := range clients {
		clients[i].CreatedAt = time.Time{}
	}
	for i := range keys {
		keys[i].CreatedAt = time.Time{}
	}
	return clients, keys, now, changed
}

func TestClientsAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	r := open(t)
	if _, _, _, changed := r.allClients(t, ""); !changed {
		t.Error("the first look is one at nothing")
	}
	b, keyB := newClient(t, r, "b")
	a, keyA := newClient(t, r, "a")
	clients, keys, stamp, _ := r.allClients(t, "")
	byNumber := cmp.Comparer(func(x, y *big.Int) bool { return x.Cmp(y) == 0 })
	if diff := cmp.Diff([]client.Client{a, b}, clients, byNumber); diff != "" {
		t.Errorf("clients (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]client.Key{keyB, keyA}, keys); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if clients, keys, same, changed := r.allClients(t, stamp); changed || clients != nil || keys != nil || same != stamp {
		t.Error("nothing has changed, and something was read")
	}

	wantErr(t, r.AddClient(t.Context(), &client.Client{ID: uuid.NewString(), Name: "a", Scopes: a.Scopes}, &client.Key{}), store.ErrClientExists)
	other := client.Client{ID: uuid.NewString(), Name: "c", Scopes: a.Scopes}
	wantErr(t, r.AddClient(t.Context(), &other, &keyA), store.ErrClientExists) // somebody else's key
	if clients, _, _, _ := r.allClients(t, ""); len(clients) != 2 {
		t.Errorf("%d clients: one without its key was kept", len(clients))
	}
}

func TestKeysRotateAndClientsAreDisabled(t *testing.T) {
	t.Parallel()
	r := open(t)
	a, first := newClient(t, r, "a")
	newClient(t, r, "b")
	_, second, err := client.NewKey(a.ID)
	must(t, err)
	must(t, r.RotateKey(t.Context(), "a", &second, time.Hour))
	_, third, err := client.NewKey(a.ID)
	must(t, err)
	must(t, r.RotateKey(t.Context(), "a", &third, 24*time.Hour))
	_, keys, _, _ := r.allClients(t, "")
	left := map[string]time.Duration{}
	for _, k := range keys {
		if !k.ExpiresAt.IsZero() {
			left[k.ID] = time.Until(k.ExpiresAt).Round(time.Hour)
		}
	}
	if diff := cmp.Diff(map[string]time.Duration{first.ID: time.Hour, second.ID: 24 * time.Hour}, left); diff != "" {
		t.Errorf("keys that end (-want +got):\n%s", diff)
	}
	must(t, r.DisableClient(t.Context(), "a", true))
	at := one[time.Time](t, r.conn, "SELECT disabled_at FROM clients WHERE name = 'a'")
	must(t, r.DisableClient(t.Context(), "a", true))
	if clients, _, _, _ := r.allClients(t, ""); !clients[0].DisabledAt.Equal(at) || !clients[1].DisabledAt.IsZero() {
		t.Errorf("disabled: %v, %v", clients[0].DisabledAt, clients[1].DisabledAt)
	}
	must(t, r.DisableClient(t.Context(), "a", false))
	if clients, _, _, _ := r.allClients(t, ""); !clients[0].DisabledAt.IsZero() {
		t.Error("it is still disabled")
	}
	for _, err := range []error{r.DisableClient(t.Context(), "z", true), r.RotateKey(t.Context(), "z", &third, 0)} {
		wantErr(t, err, store.ErrNoClient)
	}
}

func TestReplicasLearnWhatOthersLetThrough(t *testing.T) {
	t.Parallel()
	r := open(t)
	first, two, three := uuid.NewString(), uuid.NewString(), uuid.NewString()
	a := uuid.NewString()
	share := func(replica string, used map[string]uint64, want map[string]uint64) {
		t.Helper()
		got, err := r.ShareUsage(t.Context(), replica, used)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("others (-want +got):\n%s", diff)
		}
	}
	share(first, map[string]uint64{a: 5, "": 1}, map[string]uint64{})
	share(two, map[string]uint64{a: 3}, map[string]uint64{a: 5})
	share(three, map[string]uint64{a: 1, "": 7}, map[string]uint64{a: 8, "": 1})
	share(first, map[string]uint64{a: 9, "": 1}, map[string]uint64{a: 4, "": 7})
	_, err := r.conn.Exec(t.Context(), "UPDATE client_usage SET seen_at = now() - interval '61 seconds' WHERE replica = $1", first)
	must(t, err)
	share(two, map[string]uint64{a: 3}, map[string]uint64{a: 1})
}

// TestGasIsSpentByClients: of a transaction each payment has cost its part.
func TestGasIsSpentByClients(t *testing.T) {
	t.Parallel()
	r := open(t)
	lane := r.lane(t, 1, 0)
	a, b := uuid.NewString(), uuid.NewString()
	var ids []payment.ID
	for n, who := range []string{a, a, b, ""} {
		p := sale(n)
		p.Client = who
		claimed, _, err := r.ClaimPayment(t.Context(), p, nil)
		must(t, err)
		if claimed.Client != who {
			t.Errorf("claimed by %q, recorded for %q", who, claimed.Client)
		}
		ids = append(ids, claimed.ID)
	}
	tx := r.sign(t, lane, ids...)
	receipt := &chain.Receipt{TxHash: chain.Hash{1}, BlockHash: head(7).Hash, BlockNumber: 7, Succeeded: true, GasUsed: 100, EffectiveGasPrice: 3, L1Fee: 6}
	in := payment.Inclusion{Transaction: tx.ID, Receipt: receipt}
	for _, id := range ids {
		p := r.payment(t, id)
		in.Outcomes = append(in.Outcomes, p.Paid(payment.EvidenceReceipt, receipt))
	}
	must(t, r.RecordInclusions(t.Context(), lane, []payment.Inclusion{in, in}))
	nobody := uuid.NewString()
	spending := func() map[string]client.Spending {
		t.Helper()
		got, err := r.ClientSpending(t.Context(), []string{a, b, "", nobody})
		must(t, err)
		return got
	}
	wei := func(n int64) *big.Int {
		return new(big.Int).Mul(new(big.Int).Div(receipt.Cost(), big.NewInt(4)), big.NewInt(n))
	}
	today := one[time.Time](t, r.conn, "SELECT (now() AT TIME ZONE 'utc')::date")
	day := func(spent int64, open int) client.Spending {
		return client.Spending{Day: today, Today: wei(spent), Open: open, Each: wei(1)}
	}
	same := cmp.Comparer(func(x, y *big.Int) bool { return x == y || x != nil && y != nil && x.Cmp(y) == 0 })
	if diff := cmp.Diff(map[string]client.Spending{a: day(2, 0), b: day(1, 0), "": day(1, 0), nobody: day(0, 0)}, spending(), same); diff != "" {
		t.Errorf("spent (-want +got):\n%s", diff)
	}
	for n, who := range []string{a, a, ""} { // what is under way
		p := sale(10 + n)
		p.Client = who
		_, _, err := r.ClaimPayment(t.Context(), p, nil)
		must(t, err)
	}
	// The next day: what one costs is still known.
	_, err := r.conn.Exec(t.Context(), "UPDATE client_spending SET day = day - 1")
	must(t, err)
	_, err = r.conn.Exec(t.Context(), "UPDATE client_spending SET payments = 4 WHERE client = $1", a)
	must(t, err)
	ofA := day(0, 2)
	ofA.Each = new(big.Int).Div(wei(2), big.NewInt(4))
	ofNobody := day(0, 0)
	ofNobody.Each = new(big.Int).Div(wei(4), big.NewInt(6))
	if diff := cmp.Diff(map[string]client.Spending{a: ofA, b: day(0, 0), "": day(0, 1), nobody: ofNobody}, spending(), same); diff != "" {
		t.Errorf("the next day (-want +got):\n%s", diff)
	}
	_, err = r.conn.Exec(t.Context(), "DELETE FROM client_spending")
	must(t, err)
	if each := spending()[a].Each; each != nil {
		t.Errorf("nothing was ever mined, and one costs %s", each)
	}
}

// TestAClientThatIsBoundToNonsenseMayDoNothing, and others are known all the same.
func TestAClientThatIsBoundToNonsenseMayDoNothing(t *testing.T) {
	t.Parallel()
	r := open(t)
	newClient(t, r, "a")
	newClient(t, r, "b")
	for _, column := range []string{"assets", "pay_to"} {
		_, err := r.conn.Exec(t.Context(), "UPDATE clients SET "+column+` = ARRAY['\x01'::bytea] WHERE name = 'a'`)
		must(t, err)
		clients, _, _, _ := r.allClients(t, "")
		if len(clients) != 2 || len(clients[0].Scopes) != 0 || len(clients[1].Scopes) == 0 {
			t.Errorf("%s: %+v", column, clients)
		}
	}
}
