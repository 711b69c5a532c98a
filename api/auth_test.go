package api_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"facilitator/internal/client"
	"facilitator/internal/x402"
)

// TestVerificationsBeyondTheMostAreShed: at once, without a look at them, while
// those before them go on.
func TestVerificationsBeyondTheMostAreShed(t *testing.T) {
	t.Parallel()
	b := newBench()
	entered, proceed := make(chan struct{}), make(chan struct{})
	b.deps.MaxVerifying = 1
	b.deps.Verifier = verifier(func(context.Context, *x402.Request) (string, error) {
		entered <- struct{}{}
		<-proceed
		return payer, nil
	})
	h := b.handler()
	first := make(chan reply)
	go func() { first <- call(t, h, http.MethodPost, "/verify", fixture(t, "v2.json")) }()
	<-entered
	r := call(t, h, http.MethodPost, "/verify", fixture(t, "v2.json"))
	if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
		t.Errorf("a second one: %d %s", r.status, r.text)
	}
	if r := call(t, h, http.MethodPost, "/settle", fixture(t, "v2.json")); r.status != http.StatusOK {
		t.Errorf("settle: %d %s", r.status, r.text)
	}
	close(proceed)
	if r := <-first; r.status != http.StatusOK {
		t.Errorf("the first one: %d %s", r.status, r.text)
	}
	go func() { <-entered }()
	if r := call(t, h, http.MethodPost, "/verify", fixture(t, "v2.json")); r.status != http.StatusOK {
		t.Errorf("one after them: %d %s", r.status, r.text)
	}
}

// TestABodyThatIsSlowToComeHoldsNobodyUp: it is no verification yet.
func TestABodyThatIsSlowToComeHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	b := newBench()
	b.deps.MaxVerifying = 1
	h := b.handler()
	body, slow := io.Pipe()
	first := make(chan int)
	go func() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/verify", body))
		first <- w.Code
	}()
	text := fixture(t, "v2.json")
	if _, err := slow.Write([]byte(text[:10])); err != nil { // it is being read
		t.Fatal(err)
	}
	if r := call(t, h, http.MethodPost, "/verify", text); r.status != http.StatusOK {
		t.Errorf("another one meanwhile: %d %s", r.status, r.text)
	}
	if _, err := slow.Write([]byte(text[10:])); err != nil || slow.Close() != nil {
		t.Fatal(err)
	}
	if status := <-first; status != http.StatusOK {
		t.Errorf("the slow one: %d", status)
	}
}

// TestListsBeyondTheMostAreShed, and looks at one payment are not.
func TestListsBeyondTheMostAreShed(t *testing.T) {
	t.Parallel()
	const most = 8
	b := newBench()
	entered, proceed := make(chan struct{}), make(chan struct{})
	b.payments.listing = func() {
		entered <- struct{}{}
		<-proceed
	}
	h := b.handler()
	list, statuses := "/settlements?payTo="+payer, make(chan int, most)
	for range most {
		go func() { statuses <- call(t, h, http.MethodGet, list, "").status }()
		<-entered
	}
	if r := call(t, h, http.MethodGet, list, ""); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
		t.Errorf("one more: %d %s", r.status, r.text)
	}
	if r := call(t, h, http.MethodGet, "/settlements?transaction="+txText, ""); r.status != http.StatusOK {
		t.Errorf("a look: %d %s", r.status, r.text)
	}
	close(proceed)
	for range most {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("one of those before: %d", status)
		}
	}
}

// TestAddressesAreThoseThatTrustedProxiesName: whoever is not trusted can name any.
func TestAddressesAreThoseThatTrustedProxiesName(t *testing.T) {
	t.Parallel()
	// httptest's requests come from 192.0.2.1.
	for name, row := range map[string]struct {
		trusted       string
		first, second []string // X-Forwarded-For of two calls
		same          bool
	}{
		"nobody is trusted":                     {"10.0.0.0/8", []string{"198.51.100.1"}, []string{"198.51.100.2"}, true},
		"the peer is trusted":                   {"192.0.2.0/24", []string{"198.51.100.1"}, []string{"198.51.100.2"}, false},
		"what the caller wrote before it":       {"192.0.2.0/24", []string{"1.1.1.1, 198.51.100.1"}, []string{"2.2.2.2, 198.51.100.1"}, true},
		"two trusted proxies":                   {"192.0.2.0/24", []string{"198.51.100.1, 192.0.2.7"}, []string{"198.51.100.2, 192.0.2.7"}, false},
		"nonsense":                              {"192.0.2.0/24", []string{"x"}, []string{"y"}, true},
		"one network of IPv6":                   {"192.0.2.0/24", []string{"2001:db8:1:2::1"}, []string{"2001:db8:1:2:ffff::2"}, true},
		"two networks of IPv6":                  {"192.0.2.0/24", []string{"2001:db8:1:2::1"}, []string{"2001:db8:1:3::1"}, false},
		"an IPv4 address in IPv6":               {"192.0.2.0/24", []string{"::ffff:198.51.100.1"}, []string{"198.51.100.1"}, true},
		"no header where the peer is a proxy":   {"192.0.2.0/24", nil, nil, true},
		"a proxy's own address and none beyond": {"192.0.2.0/24", []string{"192.0.2.9"}, []string{"192.0.2.9"}, true},
	} {
		b := newBench()
		now := time.Unix(1_800_000_000, 0)
		b.deps.Now = func() time.Time { return now }
		b.deps.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(row.trusted)}
		b.deps.MaxGuesses = 1
		b.deps.Anonymous = &client.Client{Name: "anonymous"}
		h := b.handler()
		ask := func(forwarded []string) int {
			var header []string
			for _, f := range forwarded {
				header = append(header, "X-Forwarded-For", f)
			}
			return call(t, h, http.MethodGet, "/whoami", "", header...).status
		}
		for range 10 {
			if status := ask(row.first); status != http.StatusUnauthorized {
				t.Errorf("%s: %d, want 401", name, status)
			}
		}
		if status := ask(row.first); status != http.StatusTooManyRequests {
			t.Errorf("%s: %d, want 429", name, status)
		}
		want := http.StatusUnauthorized
		if row.same {
			want = http.StatusTooManyRequests
		}
		if status := ask(row.second); status != want {
			t.Errorf("%s: the second address gets %d, want %d", name, status, want)
		}
	}
}

func TestOneAddressMakesSoManyCalls(t *testing.T) {
	t.Parallel()
	b := newBench()
	now := time.Unix(1_800_000_000, 0)
	b.deps.Now, b.deps.MaxCalls = func() time.Time { return now }, 2
	h := b.handler()
	passed := 0
	for range 30 {
		if call(t, h, http.MethodPost, "/verify", fixture(t, "v2.json")).status == http.StatusOK {
			passed++
		}
	}
	if passed != 20 {
		t.Errorf("%d of 30 at once passed, want ten seconds' worth of 2", passed)
	}
}
