package test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"facilitator/api/apitest"
	"facilitator/internal/devnet"
)

// TestAnotherClientsPaymentIsAsUnknown: wherever a settlement, its transaction or
// its authorization is asked for, what another client settled is answered as what
// nobody did, byte for byte.
func TestAnotherClientsPaymentIsAsUnknown(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t)
	owner, stranger := newClient(t, s, "owner", nil), newClient(t, s, "stranger", nil)
	key := payers(t, c, 1)[0]
	deal := sale(t, key)
	body := request(t, c, deal)
	settled := s.post(t, "/settle", body, "Authorization", owner)
	wantSuccess(t, settled)
	id, hash, nonce := settled.header.Get("Settlement-Id"), settled.str("transaction"), dig[string](t, body, "paymentPayload", "payload", "authorization", "nonce")
	next, err := uuid.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	next[15]++ // stands beside it in every order of ids
	another := newKey(t, devnet.RolePayee).Address.Hex()
	other := strings.Repeat("ab", 32)

	// Each asks for what the owner has, and for the like that nobody has.
	type query struct{ theirs, nobodys string }
	routes := map[string][]query{
		"/settlements/{id}": {
			{"/settlements/" + id, "/settlements/" + next.String()},
			{"/settlements/" + id, "/settlements/none"},
			{"/settlements/" + strings.ToUpper(id), "/settlements/" + strings.ToUpper(next.String())},
		},
		"/settlements": {
			{"?transaction=" + hash, "?transaction=0x" + other},
			{"?payer=" + key.Address.Hex() + "&nonce=" + nonce, "?payer=" + key.Address.Hex() + "&nonce=0x" + other},
			{"?payTo=" + deal.PayTo.Hex(), "?payTo=" + another},
			{"?payTo=" + deal.PayTo.Hex() + "&limit=1&cursor=" + uuid.Nil.String(), "?payTo=" + another + "&limit=1&cursor=" + uuid.Nil.String()},
			{"?cursor=" + id, "?cursor=" + next.String()},
			{"?payTo=" + another + "&cursor=" + id, "?payTo=" + another + "&cursor=" + next.String()},
		},
	}
	doc, err := apitest.Description()
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		// Routes that take a payment are others: they must say that it is taken.
		if strings.HasPrefix(path, "/settlement") && item.Get != nil && routes[path] == nil {
			t.Errorf("GET %s is not asked", path)
		}
	}
	for route, queries := range routes {
		for _, q := range queries {
			for who, header := range map[string]string{"another client": stranger, "nobody": ""} {
				theirs, nobodys := askAs(t, s, header, route, q.theirs), askAs(t, s, header, route, q.nobodys)
				if theirs != nobodys {
					t.Errorf("%s asks for %s and is told\n%s\nand where there is none\n%s", who, q.theirs, theirs, nobodys)
				}
			}
			if own := askAs(t, s, owner, route, q.theirs); !strings.Contains(own, id) && !strings.Contains(q.theirs, "cursor="+id) {
				t.Errorf("the owner asks for %s and is told\n%s", q.theirs, own)
			}
		}
	}
}

// askAs returns all of an answer but what differs from call to call.
func askAs(t *testing.T, s *service, header, route, what string) string {
	t.Helper()
	if strings.HasPrefix(what, "?") {
		what = route + what
	}
	r, err := s.do(t.Context(), http.MethodGet, what, "", "Authorization", header)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	out.WriteString(http.StatusText(r.status) + "\n")
	r.header.Del("X-Request-Id")
	r.header.Del("Date")
	names := make([]string, 0, len(r.header))
	for name, values := range r.header {
		names = append(names, name+": "+strings.Join(values, ", "))
	}
	slices.Sort(names)
	out.WriteString(strings.Join(names, "\n") + "\n" + r.text)
	return out.String()
}
