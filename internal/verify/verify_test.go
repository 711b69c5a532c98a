package verify_test

import (
	"context"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/scheme"
	"facilitator/internal/verify"
	"facilitator/internal/x402"
)

const (
	base    = x402.Network("eip155:8453")
	sepolia = x402.Network("eip155:84532")
	payer   = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8" // as a client spelled it
)

var (
	usdc    = chain.Address{19: 1}
	another = chain.Address{19: 2}
	factory = chain.Address{19: 3}
	now     = time.Unix(1_800_000_000, 0)
)

// pay is a scheme, and a payment of it, that says what it is told to say.
type pay struct {
	scheme.Scheme
	terms                  payment.Terms
	parse, check, simulate error
	asked                  []string
	promised               []payment.Promised
	meanwhile              func() // it happens while the chain is asked
	at                     time.Time
}

func (p *pay) Parse(req *x402.Request) (scheme.Payment, error) {
	if p.parse != nil {
		return nil, p.parse
	}
	p.terms.Key.Network = req.Requirements.Network
	return parsed{p}, nil
}

type parsed struct{ *pay }

func (p parsed) Terms() payment.Terms { return p.terms }
func (p parsed) Payer() string        { return payer }

func (p parsed) Contracts() []chain.Address { return []chain.Address{factory} }

func (p parsed) Check(_ context.Context, now time.Time) error {
	p.asked, p.at = append(p.asked, "check"), now
	return p.check
}

func (p parsed) Simulate(_ context.Context, promised payment.Promised) (scheme.Outlook, error) {
	p.asked = append(p.asked, "chain")
	p.promised = append(p.promised, promised)
	if p.meanwhile != nil {
		p.meanwhile()
	}
	return scheme.Outlook{AtLeast: 41, Spare: x402.NewUint256(7)}, p.simulate
}

// record is a record with at most one payment.
type record struct {
	p   *payment.Payment
	err error
	pay *pay
	// after is what it holds from the second look on, if that is not p.
	after *payment.Payment
	// promised to others, of marks that were ever promised.
	promised payment.Promised
	mark     *big.Int
	mode     payment.ExposureMode
	// crowded is how many reservations come too late.
	crowded int
	guards  []*payment.Guard
	lasts   time.Duration
}

func (r *record) Exposure(_ context.Context, _ payment.Terms, mode payment.ExposureMode) (payment.Exposure, error) {
	r.pay.asked, r.mode = append(r.pay.asked, "record"), mode
	if r.err != nil {
		return payment.Exposure{}, r.err
	}
	known := r.p
	if r.after != nil {
		r.p, r.after = r.after, nil
	}
	return payment.Exposure{Known: known, Promised: r.promised, Mark: r.mark}, nil
}

func (r *record) Reserve(_ context.Context, _ payment.Terms, g *payment.Guard, lasts time.Duration) error {
	r.pay.asked = append(r.pay.asked, "reserve")
	r.guards, r.lasts = append(r.guards, g), lasts
	if r.crowded > 0 {
		r.crowded--
		return payment.ErrCrowded
	}
	return nil
}

// gate says what it is told to say.
type gate struct {
	pass, ask, take error
	taken           bool
	refused         []payment.Terms
	contracts       []chain.Address
	pay             *pay
}

func (g *gate) Pass(_ context.Context, _ payment.Terms, contracts []chain.Address) error {
	g.pay.asked, g.contracts = append(g.pay.asked, "gate"), contracts
	return g.pass
}

func (g *gate) Ask(context.Context, payment.Terms, []chain.Address) error {
	g.pay.asked = append(g.pay.asked, "hook")
	return g.ask
}

func (g *gate) Take(payment.Terms) error {
	g.pay.asked = append(g.pay.asked, "take")
	return g.take
}

func (g *gate) Taken(payment.Terms) bool { return g.taken }
func (g *gate) Refused(t payment.Terms)  { g.refused = append(g.refused, t) }

type bench struct {
	*verify.Verifier
	pay    *pay
	record *record
	gate   *gate
	ready  error
}

func newBench(modes ...payment.ExposureMode) *bench {
	b := &bench{pay: &pay{terms: payment.Terms{Asset: usdc, Amount: x402.NewUint256(10000)}}}
	b.record, b.gate = &record{pay: b.pay}, &gate{pay: b.pay}
	ready := func() error {
		b.pay.asked = append(b.pay.asked, "ready")
		return b.ready
	}
	schemes := map[x402.SchemeName]scheme.Scheme{x402.SchemeExact: b.pay}
	b.Verifier = verify.New(map[x402.Network]verify.Network{
		base:    {Schemes: schemes, Exposure: append(modes, payment.ExposureInFlight)[0], Assets: map[chain.Address]x402.Uint256{usdc: x402.NewUint256(10000)}, Ready: ready},
		sepolia: {Schemes: schemes, AnyAsset: true, Ready: ready},
	}, b.record, b.gate, func() time.Time { return now })
	return b
}

func request(n x402.Network, s x402.SchemeName) *x402.Request {
	return &x402.Request{Version: x402.V2, Requirements: x402.Requirements{Network: n, Scheme: s}}
}

func wantRejection(t *testing.T, err error, want x402.Rejection) {
	t.Helper()
	r, ok := x402.AsRejection(err)
	if !ok {
		t.Fatalf("error %v, want %v", err, &want)
	}
	if diff := cmp.Diff(want, *r); diff != "" {
		t.Errorf("rejection (-want +got):\n%s", diff)
	}
}

func TestRequestsAreRoutedByConfiguredNetworkAndScheme(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1000)
	cut := `"` + strings.Repeat("x", 64) + `"`
	for _, c := range []struct {
		name    string
		network x402.Network
		scheme  x402.SchemeName
		want    x402.Rejection
	}{
		{"another network", "eip155:1", "exact", x402.Rejection{Reason: x402.ReasonInvalidNetwork, Message: `network "eip155:1" is not supported here; supported: eip155:8453, eip155:84532`}},
		{"a wildcard", "eip155:*", "exact", x402.Rejection{Reason: x402.ReasonInvalidNetwork, Message: `network "eip155:*" is not supported here; supported: eip155:8453, eip155:84532`}},
		{"a name of version 1", "v1:base", "exact", x402.Rejection{Reason: x402.ReasonInvalidNetwork, Message: `network "v1:base" is not supported here; supported: eip155:8453, eip155:84532`}},
		{"another case", "EIP155:8453", "exact", x402.Rejection{Reason: x402.ReasonInvalidNetwork, Message: `network "EIP155:8453" is not supported here; supported: eip155:8453, eip155:84532`}},
		{"a flood", x402.Network(long), "exact", x402.Rejection{Reason: x402.ReasonInvalidNetwork, Message: `network ` + cut + ` is not supported here; supported: eip155:8453, eip155:84532`}},
		{"another scheme", base, "upto", x402.Rejection{Reason: x402.ReasonUnsupportedScheme, Message: `scheme "upto" is not supported on eip155:8453; supported: exact`}},
		{"a scheme of another case", base, "Exact", x402.Rejection{Reason: x402.ReasonUnsupportedScheme, Message: `scheme "Exact" is not supported on eip155:8453; supported: exact`}},
		{"a flood for a scheme", base, x402.SchemeName(long), x402.Rejection{Reason: x402.ReasonUnsupportedScheme, Message: `scheme ` + cut + ` is not supported on eip155:8453; supported: exact`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			_, err := b.Parse(request(c.network, c.scheme))
			wantRejection(t, err, c.want)
			told, err := b.Verify(t.Context(), request(c.network, c.scheme))
			wantRejection(t, err, c.want)
			if told != "" || len(b.pay.asked) != 0 {
				t.Errorf("payer %q, asked %v", told, b.pay.asked)
			}
		})
	}
}

func TestOnlyTheAssetsOfThePolicyAreTaken(t *testing.T) {
	t.Parallel()
	b := newBench()
	b.pay.terms.Asset = another
	_, err := b.Parse(request(base, x402.SchemeExact))
	wantRejection(t, err, x402.Rejection{
		Reason:  x402.ReasonInvalidRequirements,
		Message: "paymentRequirements.asset: " + another.String() + " is not accepted on eip155:8453",
	})
	if _, err := b.Parse(request(sepolia, x402.SchemeExact)); err != nil {
		t.Errorf("where any asset is allowed: %v", err)
	}
	b.pay.terms.Asset = usdc
	if p, err := b.Parse(request(base, x402.SchemeExact)); err != nil || p.Terms().Asset != usdc {
		t.Errorf("an asset of the policy: %v", err)
	}
	b.pay.terms.Amount = x402.NewUint256(9999)
	_, err = b.Parse(request(base, x402.SchemeExact))
	wantRejection(t, err, x402.Rejection{Reason: x402.ReasonAmountTooLow, Message: "the payment is of 9999, the least of this token is 10000"})
}

func TestWhatASchemeCannotReadIsToldAsItIs(t *testing.T) {
	t.Parallel()
	b := newBench()
	b.pay.parse = &x402.FieldError{Path: "paymentPayload.payload.signature", Problem: "missing", Syntax: true}
	_, err := b.Verify(t.Context(), request(base, x402.SchemeExact))
	if !errors.Is(err, b.pay.parse) {
		t.Errorf("%v", err)
	}
}

func TestVerifyAsksInTheOrderOfCost(t *testing.T) {
	t.Parallel()
	refused, silent := x402.Reject(x402.ReasonExactSignature, "not signed by the payer"), errors.New("no answer")
	known := func(s payment.State, tries int) *payment.Payment {
		return &payment.Payment{State: s, Tries: tries, Reason: x402.ReasonExactNonceUsed, Message: "used by somebody else"}
	}
	taken := x402.Rejection{Reason: x402.ReasonDuplicateSettlement, Message: "this authorization is already settled or being settled"}
	for _, c := range []struct {
		name   string
		set    func(b *bench)
		asked  []string
		reject *x402.Rejection
		err    error
	}{
		{"a good payment", func(*bench) {}, []string{"check", "record", "ready", "gate", "chain", "hook", "take"}, nil, nil},
		{"a bad one", func(b *bench) { b.pay.check = refused }, []string{"check"}, refused, nil},
		{"one that can't be checked", func(b *bench) { b.pay.check = silent }, []string{"check"}, nil, silent},
		{"the record is silent", func(b *bench) { b.record.err = payment.ErrUnavailable }, []string{"check", "record"}, nil, payment.ErrUnavailable},
		{"a queued one", func(b *bench) { b.record.p = known(payment.StateQueued, 0) }, []string{"check", "record"}, &taken, nil},
		{"a signed one", func(b *bench) { b.record.p = known(payment.StateSigned, 1) }, []string{"check", "record"}, &taken, nil},
		{"one under way", func(b *bench) { b.record.p = known(payment.StateBroadcast, 1) }, []string{"check", "record"}, &taken, nil},
		{"a settled one", func(b *bench) { b.record.p = known(payment.StateIncluded, 1) }, []string{"check", "record"}, &taken, nil},
		{"a final one", func(b *bench) { b.record.p = known(payment.StateFinal, 1) }, []string{"check", "record"}, &taken, nil},
		{
			"one that was sent and failed", func(b *bench) { b.record.p = known(payment.StateFailed, 1) },
			[]string{"check", "record"},
			x402.Reject(x402.ReasonExactNonceUsed, "used by somebody else"), nil,
		},
		{"one that failed unsent may be tried again", func(b *bench) { b.record.p = known(payment.StateFailed, 0) }, []string{"check", "record", "ready", "gate", "chain", "hook", "take"}, nil, nil},
		{"nobody could settle it", func(b *bench) { b.ready = silent }, []string{"check", "record", "ready"}, nil, silent},
		{"the gate refuses it", func(b *bench) { b.gate.pass = refused }, []string{"check", "record", "ready", "gate", "record"}, refused, nil},
		{
			"the gate refuses what was settled meanwhile", func(b *bench) {
				b.gate.pass = refused
				b.record.after = known(payment.StateIncluded, 1)
			},
			[]string{"check", "record", "ready", "gate", "record"},
			&taken, nil,
		},
		{"the gate can't tell", func(b *bench) { b.gate.pass = payment.ErrUnscreened }, []string{"check", "record", "ready", "gate"}, nil, payment.ErrUnscreened},
		{"the hook refuses it", func(b *bench) { b.gate.ask = refused }, []string{"check", "record", "ready", "gate", "chain", "hook", "record"}, refused, nil},
		{"the hook can't tell", func(b *bench) { b.gate.ask = payment.ErrUnscreened }, []string{"check", "record", "ready", "gate", "chain", "hook"}, nil, payment.ErrUnscreened},
		{"it is one too many", func(b *bench) { b.gate.take = silent }, []string{"check", "record", "ready", "gate", "chain", "hook", "take"}, nil, silent},
		{"the chain refuses it", func(b *bench) { b.pay.simulate = refused }, []string{"check", "record", "ready", "gate", "chain", "record"}, refused, nil},
		{
			"the chain refuses what was settled meanwhile", func(b *bench) {
				b.pay.simulate, b.pay.meanwhile = refused, func() { b.record.p = known(payment.StateIncluded, 1) }
			},
			[]string{"check", "record", "ready", "gate", "chain", "record"},
			&taken, nil,
		},
		{
			"the chain refuses it and the record falls silent", func(b *bench) {
				b.pay.simulate, b.pay.meanwhile = refused, func() { b.record.err = payment.ErrUnavailable }
			},
			[]string{"check", "record", "ready", "gate", "chain", "record"},
			refused, nil,
		},
		{"the chain is silent", func(b *bench) { b.pay.simulate = chain.ErrUnavailable }, []string{"check", "record", "ready", "gate", "chain"}, nil, chain.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			c.set(b)
			told, err := b.Verify(t.Context(), request(base, x402.SchemeExact))
			if diff := cmp.Diff(c.asked, b.pay.asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			if told != payer || b.pay.at != now {
				t.Errorf("payer %q, checked at %v", told, b.pay.at)
			}
			if c.reject != nil {
				wantRejection(t, err, *c.reject)
				return
			}
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if _, judged := x402.AsRejection(err); judged {
				t.Errorf("silence is taken for a judgement (I7): %v", err)
			}
		})
	}
}

// TestModesDecideWhatIsAskedAndWritten: one look at the record and one at the
// chain in every mode, and a write in reserve alone.
func TestModesDecideWhatIsAskedAndWritten(t *testing.T) {
	t.Parallel()
	some := payment.Promised{Amount: x402.NewUint256(3000), Payments: 2}
	for mode, asked := range map[payment.ExposureMode][]string{
		payment.ExposureOff:      {"check", "record", "ready", "gate", "chain", "hook", "take"},
		payment.ExposureInFlight: {"check", "record", "ready", "gate", "chain", "hook", "take"},
		payment.ExposureReserve:  {"check", "record", "ready", "gate", "chain", "hook", "take", "reserve"},
	} {
		b := newBench(mode)
		b.record.promised, b.record.mark = some, big.NewInt(9000)
		if _, err := b.Verify(t.Context(), request(base, x402.SchemeExact)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(asked, b.pay.asked); diff != "" {
			t.Errorf("%s (-want +got):\n%s", mode, diff)
		}
		if b.record.mode != mode || !cmp.Equal(b.pay.promised, []payment.Promised{some}) {
			t.Errorf("the record was asked for mode %s, the chain about %+v", b.record.mode, b.pay.promised)
		}
		// Spare is 7.
		if g := b.record.guards; mode == payment.ExposureReserve && (len(g) != 1 || g[0].Most.Int64() != 9007) {
			t.Errorf("guards %+v", g)
		}
	}
}

func TestNothingIsReservedThatIsNotGood(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(b *bench){
		"refused by the chain": func(b *bench) { b.pay.simulate = x402.Reject(x402.ReasonExactInsufficientBalance, "") },
		"not judged":           func(b *bench) { b.pay.simulate = chain.ErrUnavailable },
		"known":                func(b *bench) { b.record.p = &payment.Payment{State: payment.StateQueued} },
		"for nothing":          func(b *bench) { b.pay.terms.Amount = x402.Uint256{} },
	} {
		b := newBench(payment.ExposureReserve)
		set(b)
		_, _ = b.Verify(t.Context(), request(base, x402.SchemeExact))
		if len(b.record.guards) != 0 {
			t.Errorf("%s: reserved", name)
		}
	}
}

// TestAReservationThatComesTooLateIsJudgedAgain, but not for ever.
func TestAReservationThatComesTooLateIsJudgedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(payment.ExposureReserve)
	b.record.crowded = 2
	if _, err := b.Verify(t.Context(), request(base, x402.SchemeExact)); err != nil || len(b.record.guards) != 3 || len(b.pay.promised) != 3 {
		t.Errorf("%v after %d reservations and %d looks at the chain", err, len(b.record.guards), len(b.pay.promised))
	}
	b.record.crowded = math.MaxInt
	if _, err := b.Verify(t.Context(), request(base, x402.SchemeExact)); !errors.Is(err, payment.ErrNotSent) {
		t.Errorf("in a crowd that does not end: %v", err)
	}
}

func TestAReservationLastsAsLongAsThePaymentMayBeSettled(t *testing.T) {
	t.Parallel()
	unix := uint64(now.Unix())
	const years = 10 * 365 * 24 * time.Hour
	for name, c := range map[string]struct {
		timeout     int64
		validBefore x402.Uint256
		want        time.Duration
	}{
		"the timeout ends first":         {60, x402.NewUint256(unix + 300), time.Minute},
		"the authorization ends first":   {600, x402.NewUint256(unix + 300), 5 * time.Minute},
		"no timeout":                     {0, x402.NewUint256(unix + 300), 5 * time.Minute},
		"no end":                         {60, x402.Uint256{0: 1}, time.Minute},
		"neither":                        {0, x402.Uint256{0: 1}, years},
		"an end that no clock can tell":  {0, x402.NewUint256(math.MaxUint64), years},
		"it ended between two checks":    {60, x402.NewUint256(unix - 1), 0},
		"as much as requirements can do": {10 * 365 * 24 * 3600, x402.Uint256{0: 1}, years},
	} {
		b := newBench(payment.ExposureReserve)
		b.pay.terms.ValidBefore = c.validBefore
		req := request(base, x402.SchemeExact)
		req.Requirements.MaxTimeoutSeconds = c.timeout
		if _, err := b.Verify(t.Context(), req); err != nil || b.record.lasts != c.want {
			t.Errorf("%s: reserved for %v, want %v; %v", name, b.record.lasts, c.want, err)
		}
	}
}

func TestJudgeLooksAtTheChainAndNotAtTheRecord(t *testing.T) {
	t.Parallel()
	b := newBench()
	p, err := b.Parse(request(base, x402.SchemeExact))
	if err != nil {
		t.Fatal(err)
	}
	if atLeast, guard, err := b.Judge(t.Context(), p, new(payment.Exposure)); err != nil || atLeast != 41 || guard != nil || !cmp.Equal(b.pay.asked, []string{"check", "ready", "gate", "chain", "hook", "take"}) {
		t.Errorf("%v, asked %v", err, b.pay.asked)
	}
	b.pay.asked = nil
	if err := b.CheckOnly(t.Context(), p); err != nil || !cmp.Equal(b.pay.asked, []string{"check"}) {
		t.Errorf("%v, asked %v", err, b.pay.asked)
	}
	b.pay.asked, b.pay.check = nil, x402.Reject(x402.ReasonExactSignature, "")
	if _, _, err := b.Judge(t.Context(), p, new(payment.Exposure)); !errors.Is(err, b.pay.check) || len(b.pay.asked) != 1 {
		t.Errorf("%v, asked %v", err, b.pay.asked)
	}
}

// TestWhatTheChainTakesBackIsToldToTheGate, but for what was claimed meanwhile:
// then the chain refuses it because it is settled.
func TestWhatTheChainTakesBackIsToldToTheGate(t *testing.T) {
	t.Parallel()
	gone := x402.Reject(x402.ReasonExactInsufficientBalance, "")
	for name, c := range map[string]struct {
		set  func(b *bench)
		told int
	}{
		"found good before":       {func(b *bench) { b.gate.taken, b.pay.simulate = true, gone }, 1},
		"never found good":        {func(b *bench) { b.pay.simulate = gone }, 0},
		"the chain is silent":     {func(b *bench) { b.gate.taken, b.pay.simulate = true, chain.ErrUnavailable }, 0},
		"the gate itself refuses": {func(b *bench) { b.gate.taken, b.gate.pass = true, gone }, 0},
		"a check refuses":         {func(b *bench) { b.gate.taken, b.pay.check = true, gone }, 0},
		"claimed meanwhile": {func(b *bench) {
			b.gate.taken, b.pay.simulate = true, gone
			b.pay.meanwhile = func() { b.record.p = &payment.Payment{State: payment.StateQueued} }
		}, 0},
		"the record falls silent": {func(b *bench) {
			b.gate.taken, b.pay.simulate = true, gone
			b.pay.meanwhile = func() { b.record.err = payment.ErrUnavailable }
		}, 0},
	} {
		for call, do := range map[string]func(b *bench){
			"verify": func(b *bench) { _, _ = b.Verify(t.Context(), request(base, x402.SchemeExact)) },
			"judge": func(b *bench) {
				p, err := b.Parse(request(base, x402.SchemeExact))
				if err != nil {
					t.Fatal(err)
				}
				_, _, _ = b.Judge(t.Context(), p, new(payment.Exposure))
			},
		} {
			b := newBench()
			c.set(b)
			do(b)
			if len(b.gate.refused) != c.told {
				t.Errorf("%s, by %s: told %d times, want %d", name, call, len(b.gate.refused), c.told)
			}
		}
	}
}

func TestTheGateIsToldOfEveryContract(t *testing.T) {
	t.Parallel()
	b := newBench()
	if _, err := b.Verify(t.Context(), request(base, x402.SchemeExact)); err != nil || !cmp.Equal(b.gate.contracts, []chain.Address{factory}) {
		t.Errorf("%v, %v", b.gate.contracts, err)
	}
}
