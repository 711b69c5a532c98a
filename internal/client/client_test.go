package client_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"facilitator/internal/chain"
	"facilitator/internal/client"
	"facilitator/internal/x402"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// book is the record of clients.
type book struct {
	clients []client.Client
	keys    []client.Key
	stamp   string
	err     error
	reads   int
}

func (b *book) Clients(_ context.Context, stamp string) ([]client.Client, []client.Key, string, bool, error) {
	if b.err != nil || stamp == b.stamp {
		return nil, nil, b.stamp, false, b.err
	}
	b.reads++
	return b.clients, b.keys, b.stamp, true, nil
}

var now = time.Unix(1_800_000_000, 0)

func directory(t *testing.T, b *book, hosts ...string) *client.Directory {
	t.Helper()
	b.stamp += "x"
	d, err := client.NewDirectory(t.Context(), b, hosts, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantDenial(t *testing.T, err error, want client.Check) client.Denial {
	t.Helper()
	d := (*client.Denial)(nil)
	if !errors.As(err, &d) || d.Check != want {
		t.Errorf("%v, want a denial by %s", err, want)
		return client.Denial{}
	}
	return *d
}

func TestKeysAreKnownByTheirSecret(t *testing.T) {
	t.Parallel()
	text, key, err := client.NewKey("a")
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := client.NewKey("a")
	if err != nil {
		t.Fatal(err)
	}
	old, expired, err := client.NewKey("a")
	if err != nil {
		t.Fatal(err)
	}
	expired.ExpiresAt = now.Add(-time.Second)
	shut, closed, err := client.NewKey("b")
	if err != nil {
		t.Fatal(err)
	}
	b := &book{clients: []client.Client{{ID: "a"}, {ID: "b", DisabledAt: now}}, keys: []client.Key{key, expired, closed, {ID: "lost", Client: "z"}}}
	d := directory(t, b)
	identify := func(header string) (*client.Client, error) { return d.Identify(client.Call{Authorization: header}) }
	for _, good := range []string{"Bearer " + text, "bearer " + text, "Bearer  " + text + " "} {
		if c, err := identify(good); err != nil || c.ID != "a" {
			t.Errorf("%q: %v, %v", good, c, err)
		}
	}
	if c, err := identify(""); c != nil || err != nil {
		t.Errorf("without a key: %v, %v", c, err)
	}
	mixed := text[:len("x402f_")+16] + other[len("x402f_")+16:] // one key's id, another's secret
	unknown := wantDenial(t, second(identify("Bearer "+other)), client.CheckKey)
	for _, bad := range []string{mixed, text[:len(text)-1], text + "A", strings.ToUpper(text), "x402f_", "x402f__", "x", text[6:]} {
		if d := wantDenial(t, second(identify("Bearer "+bad)), client.CheckKey); d.Text != unknown.Text {
			t.Errorf("%q is told %q: a guesser learns from it", bad, d.Text)
		}
	}
	for _, bad := range []string{"Basic " + text, text, "Bearer", "Bearer "} {
		wantDenial(t, second(identify(bad)), client.CheckKey)
	}
	wantDenial(t, second(identify("Bearer "+old)), client.CheckExpired)
	wantDenial(t, second(identify("Bearer "+shut)), client.CheckDisabled)
}

func second[T any](_ T, err error) error { return err }

func TestTheDirectoryIsReadAgainWhereItChanged(t *testing.T) {
	t.Parallel()
	text, key, err := client.NewKey("a")
	if err != nil {
		t.Fatal(err)
	}
	b := &book{clients: []client.Client{{ID: "a"}}}
	d := directory(t, b)
	call := client.Call{Authorization: "Bearer " + text}
	wantDenial(t, second(d.Identify(call)), client.CheckKey)
	b.keys = []client.Key{key}
	if err := d.Refresh(t.Context()); err != nil || b.reads != 1 {
		t.Errorf("read %d times, %v: nothing had changed", b.reads, err)
	}
	b.stamp = "new"
	if err := d.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.err = errors.New("gone")
	if err := d.Refresh(t.Context()); err == nil {
		t.Error("no error")
	}
	if c, err := d.Identify(call); err != nil || c.ID != "a" {
		t.Errorf("while the record is gone: %v, %v", c, err)
	}
}

// TestTokensThatNoHostIsNamedForAreWarnedOf: each would be refused, and only callers
// would see it.
func TestTokensThatNoHostIsNamedForAreWarnedOf(t *testing.T) {
	t.Parallel()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signs := newSigning(t, "0d2f", nil, public, jwt.SigningMethodEdDSA).key
	_, secret, err := client.NewKey("a")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key   client.Key
		hosts []string
		warns bool
	}{
		"a key that signs, and no host":  {signs, nil, true},
		"a key that signs, and its host": {signs, []string{"pay.example"}, false},
		"a secret, and no host":          {secret, nil, false},
	} {
		var out bytes.Buffer
		b := &book{clients: []client.Client{{ID: "a"}}, keys: []client.Key{c.key}, stamp: "x"}
		_, err := client.NewDirectory(t.Context(), b, c.hosts, func() time.Time { return now }, slog.New(slog.NewTextHandler(&out, nil)))
		if err != nil || strings.Contains(out.String(), "clients.token_hosts") != c.warns {
			t.Errorf("%s: %v\n%s", name, err, &out)
		}
	}
}

// signing is a key pair of a client.
type signing struct {
	private any
	method  jwt.SigningMethod
	key     client.Key
}

func newSigning(t *testing.T, id string, private any, public any, method jwt.SigningMethod) signing {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	kind, material, err := client.ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return signing{private, method, client.Key{ID: id, Client: "a", Kind: kind, Material: material}}
}

func TestTokensAreMadeForOneCall(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := []signing{
		newSigning(t, "organizations/o/apiKeys/1", ec, &ec.PublicKey, jwt.SigningMethodES256),
		newSigning(t, "0d2f", ed, edPublic, jwt.SigningMethodEdDSA),
	}
	d := directory(t, &book{clients: []client.Client{{ID: "a"}}, keys: []client.Key{keys[0].key, keys[1].key}}, "Pay.example", "api.hosted.example", "ported.example:8443")
	call := client.Call{Method: "POST", Path: "/platform/v2/x402/verify"}
	const uri = "POST pay.example/platform/v2/x402/verify"
	type edit func(c jwt.MapClaims, header map[string]any)
	token := func(s signing, method jwt.SigningMethod, private any, edits ...edit) string {
		c := jwt.MapClaims{"sub": s.key.ID, "iss": "cdp", "uris": []string{uri}, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(2 * time.Minute).Unix()}
		tok := jwt.NewWithClaims(method, c)
		tok.Header["kid"] = s.key.ID
		for _, e := range edits {
			e(c, tok.Header)
		}
		text, err := tok.SignedString(private)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	identify := func(text string) (*client.Client, error) {
		asked := call
		asked.Authorization = "Bearer " + text
		return d.Identify(asked)
	}
	set := func(claim string, value any) edit {
		return func(c jwt.MapClaims, _ map[string]any) {
			if c[claim] = value; value == nil {
				delete(c, claim)
			}
		}
	}
	for i, s := range keys {
		for name, edits := range map[string][]edit{
			"as the clients make it":              nil,
			"for the host that clients insist on": {set("uris", []string{"GET x/y", "POST api.hosted.example/platform/v2/x402/verify"})},
			"with a port":                         {set("uris", []string{"POST pay.example:8080/platform/v2/x402/verify"})},
			"with the one port that is good":      {set("uris", []string{"POST ported.example:8443/platform/v2/x402/verify"})},
			"our clock is a little late":          {set("nbf", now.Add(20*time.Second).Unix())},
		} {
			if c, err := identify(token(s, s.method, s.private, edits...)); err != nil || c.ID != "a" {
				t.Errorf("%s: %v, %v", name, c, err)
			}
		}
		other := keys[1-i]
		for name, row := range map[string]struct {
			text string
			want client.Check
		}{
			"another host":               {token(s, s.method, s.private, set("uris", []string{"POST other.example/platform/v2/x402/verify"})), client.CheckKey},
			"another port":               {token(s, s.method, s.private, set("uris", []string{"POST ported.example:443/platform/v2/x402/verify"})), client.CheckKey},
			"a host that only begins so": {token(s, s.method, s.private, set("uris", []string{"POST pay.example.evil/platform/v2/x402/verify"})), client.CheckKey},
			"another path":               {token(s, s.method, s.private, set("uris", []string{"POST pay.example/platform/v2/x402/settle"})), client.CheckKey},
			"another method":             {token(s, s.method, s.private, set("uris", []string{"GET pay.example/platform/v2/x402/verify"})), client.CheckKey},
			"for no call":                {token(s, s.method, s.private, set("uris", nil)), client.CheckKey},
			"of another issuer":          {token(s, s.method, s.private, set("iss", "x")), client.CheckKey},
			"of another subject":         {token(s, s.method, s.private, set("sub", other.key.ID)), client.CheckKey},
			"expired":                    {token(s, s.method, s.private, set("exp", now.Add(-time.Minute).Unix()), set("nbf", now.Add(-3*time.Minute).Unix())), client.CheckExpired},
			"of tomorrow":                {token(s, s.method, s.private, set("nbf", now.Add(time.Hour).Unix()), set("exp", now.Add(time.Hour+time.Minute).Unix())), client.CheckExpired},
			"without an end":             {token(s, s.method, s.private, set("exp", nil)), client.CheckKey},
			"without a beginning":        {token(s, s.method, s.private, set("nbf", nil)), client.CheckExpired},
			"valid for a day":            {token(s, s.method, s.private, set("exp", now.Add(24*time.Hour).Unix())), client.CheckExpired},
			"of an unknown key":          {token(s, s.method, s.private, func(_ jwt.MapClaims, h map[string]any) { h["kid"] = "other" }), client.CheckKey},
			"of another's key":           {token(other, s.method, s.private), client.CheckKey},
			"signed by a shared secret":  {token(s, jwt.SigningMethodHS256, s.key.Material), client.CheckKey},
			"not signed":                 {token(s, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType), client.CheckKey},
			"with another signature":     {token(s, s.method, s.private) + "A", client.CheckKey},
			"absurdly long":              {token(s, s.method, s.private, set("x", strings.Repeat("x", 5000))), client.CheckKey},
			"no token":                   {"a.b.c", client.CheckKey},
		} {
			if err := second(identify(row.text)); err == nil {
				t.Errorf("%s is let through", name)
			} else {
				wantDenial(t, err, row.want)
			}
		}
	}
}

func TestPublicKeysOfOtherKindsAreRefused(t *testing.T) {
	t.Parallel()
	wide, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, public := range []any{&wide.PublicKey, &old.PublicKey} {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := client.ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err == nil {
			t.Errorf("%T is taken", public)
		}
	}
	for _, text := range []string{"", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, _, err := client.ParsePublicKey([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestClientsMayWhatTheirListsSay(t *testing.T) {
	t.Parallel()
	usdc, payee, other := chain.Address{1}, chain.Address{2}, chain.Address{3}
	free := client.Client{Scopes: []client.Scope{client.ScopeVerify}}
	bound := client.Client{Networks: []x402.Network{"eip155:1"}, Assets: []chain.Address{usdc}, PayTo: []chain.Address{payee}}
	for _, err := range []error{
		free.May(client.ScopeVerify), free.MayPay("eip155:2", other.String(), other.String()),
		bound.MayPay("eip155:1", usdc.String(), strings.ToLower(payee.String())),
		bound.MayPay("eip155:1", "no address", payee.String()), // for the scheme to refuse
	} {
		if err != nil {
			t.Error(err)
		}
	}
	wantDenial(t, free.May(client.ScopeSettle), client.CheckScope)
	wantDenial(t, bound.MayPay("eip155:2", usdc.String(), payee.String()), client.CheckNetwork)
	wantDenial(t, bound.MayPay("eip155:1", other.String(), payee.String()), client.CheckAsset)
	wantDenial(t, bound.MayPay("eip155:1", usdc.String(), other.String()), client.CheckPayee)
}

// ledger is the record of usage, of two replicas in one process.
type ledger struct {
	used     map[string]map[string]uint64
	spending map[string]client.Spending
	outage   error
}

func (l *ledger) ShareUsage(_ context.Context, replica string, used map[string]uint64) (map[string]uint64, error) {
	if l.outage != nil {
		return nil, l.outage
	}
	l.used[replica] = used
	others := make(map[string]uint64)
	for r, counts := range l.used {
		for id := range used {
			if n, ok := counts[id]; ok && r != replica {
				others[id] += n
			}
		}
	}
	return others, nil
}

func (l *ledger) ClientSpending(context.Context, []string) (map[string]client.Spending, error) {
	return l.spending, nil
}

func TestARateIsSharedByReplicas(t *testing.T) {
	t.Parallel()
	at := now
	clock := func() time.Time { return at }
	record := &ledger{used: make(map[string]map[string]uint64)}
	one, two := client.NewLimits(record, "1", clock, slog.New(slog.DiscardHandler)), client.NewLimits(record, "2", clock, slog.New(slog.DiscardHandler))
	c := &client.Client{ID: "a", Rate: 10, Burst: 20}
	take := func(l *client.Limits) (n int) {
		for l.Take(c) == nil {
			n++
		}
		return n
	}
	if n := take(one); n != 20 {
		t.Errorf("%d at once, want the burst", n)
	}
	if d := wantDenial(t, one.Take(c), client.CheckRate); d.After != 100*time.Millisecond {
		t.Errorf("come again after %s", d.After)
	}
	at = at.Add(time.Second)
	if n := take(one); n != 10 {
		t.Errorf("%d in the next second, want 10", n)
	}
	if err := two.Take(c); err != nil { // the first call of the client there
		t.Error(err)
	}
	// From now on each learns what the other does.
	total := 0
	for range 60 {
		for _, l := range []*client.Limits{one, two} {
			if err := l.Share(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		total += take(one) + take(two)
		at = at.Add(time.Second)
	}
	if total < 500 || total > 700 {
		t.Errorf("%d in a minute by two replicas, want about 600", total)
	}
	unlimited := &client.Client{ID: "b"}
	for range 1000 {
		if err := one.Take(unlimited); err != nil {
			t.Fatal(err)
		}
	}
}

// gasLimits of a client that may spend 100 wei a day.
func gasLimits(clock func() time.Time) (*client.Limits, *ledger, *client.Client) {
	record := &ledger{used: make(map[string]map[string]uint64), spending: map[string]client.Spending{}}
	return client.NewLimits(record, "1", clock, slog.New(slog.DiscardHandler)), record, &client.Client{ID: "a", Rate: 1000, GasPerDay: big.NewInt(100)}
}

func TestGasIsBoundByTheDay(t *testing.T) {
	t.Parallel()
	at := now.UTC()
	midnight := at.Truncate(24 * time.Hour)
	l, record, c := gasLimits(func() time.Time { return at })
	share := func(s client.Spending) {
		t.Helper()
		s.Day = midnight
		record.spending["a"] = s
		if err := l.Share(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Afford(c); err != nil {
		t.Error(err)
	}
	share(client.Spending{Today: big.NewInt(99)})
	if err := l.Afford(c); err != nil {
		t.Error(err)
	}
	share(client.Spending{Today: big.NewInt(100)})
	d := wantDenial(t, l.Afford(c), client.CheckGas)
	if next := midnight.Add(24 * time.Hour); !at.Add(d.After).Equal(next) {
		t.Errorf("come again at %s", at.Add(d.After))
	}
	if err := l.Afford(&client.Client{ID: "b"}); err != nil {
		t.Error(err)
	}
	at = midnight.Add(24 * time.Hour) // what is known is of yesterday
	if err := l.Afford(c); err != nil {
		t.Error(err)
	}
}

// TestGasThatIsUnderWayCounts with what a payment costs as a rule: those of the
// record, and those that were let through and may not be there yet.
func TestGasThatIsUnderWayCounts(t *testing.T) {
	t.Parallel()
	l, record, c := gasLimits(func() time.Time { return now })
	let := func(want int) {
		t.Helper()
		n := 0
		for l.Afford(c) == nil {
			n++
		}
		if d := wantDenial(t, l.Afford(c), client.CheckGas); n != want || d.After != time.Second {
			t.Errorf("%d were let through, want %d; come again after %s", n, want, d.After)
		}
	}
	share := func(s client.Spending) {
		t.Helper()
		s.Day = now.UTC().Truncate(24 * time.Hour)
		record.spending["a"] = s
		if err := l.Share(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	let(64) // nobody knows what one costs
	each := big.NewInt(10)
	share(client.Spending{Today: big.NewInt(0), Open: 3, Each: each})
	let(0) // the 64 may not be claimed yet
	share(client.Spending{Today: big.NewInt(0), Open: 3, Each: each})
	let(7)
	share(client.Spending{Today: big.NewInt(0), Open: 3, Each: each}) // the 7 are not in the record yet
	let(0)
	share(client.Spending{Today: big.NewInt(30), Open: 0, Each: each}) // and were refused
	let(7)
	share(client.Spending{Today: big.NewInt(91), Each: each})
	share(client.Spending{Today: big.NewInt(91), Each: each})
	if d := wantDenial(t, l.Afford(c), client.CheckGas); d.After <= time.Second {
		t.Errorf("the rest pays for none, and none is under way: come again after %s", d.After)
	}
}

// TestGasIsReadWhateverBecomesOfRates of the same round.
func TestGasIsReadWhateverBecomesOfRates(t *testing.T) {
	t.Parallel()
	l, record, c := gasLimits(func() time.Time { return now })
	if err := errors.Join(l.Take(c), l.Afford(c)); err != nil {
		t.Fatal(err)
	}
	record.outage = errors.New("no usage")
	record.spending["a"] = client.Spending{Day: now.UTC().Truncate(24 * time.Hour), Today: big.NewInt(100)}
	if err := l.Share(t.Context()); !errors.Is(err, record.outage) {
		t.Errorf("error %v", err)
	}
	wantDenial(t, l.Afford(c), client.CheckGas)
}
