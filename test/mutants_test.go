package test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"facilitator/internal/devnet"
	"facilitator/internal/x402"
)

const (
	// mutantWorkers post at the same time, so that simulations share calls.
	mutantWorkers = 6
	// mutantsShort are verified by each of them where nobody asks for more.
	mutantsShort = 250
)

// TestVerifyOfMutants posts requests to /verify that were good ones until a few of
// their parts were changed, before they were signed or after, or in their text.
// None is answered with 5xx. What is called valid would be paid: the test makes the
// call itself, from what the request says, and looks at who has what then.
//
// FUZZTIME=1h makes it go on that long, TEST_SEED repeats a run.
func TestVerifyOfMutants(t *testing.T) { //nolint:tparallel // what follows the workers waits for them
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{BlockTime: time.Second})
	factory := foreignDeploy(t, c, "SmartWalletFactory")
	s := newJudge(t, c, "chains: {'eip155:8453': {allow_any_asset: true, eip6492_factories: ['"+factory.Hex()+"']}}\nlog: {level: error}")
	seed := rand.Uint64() >> 16
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	var until time.Time
	if text := os.Getenv("FUZZTIME"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		until = time.Now().Add(d)
	}
	lab := &mutantLab{chain: c, service: s, kinds: mutantKinds(t, c, s, factory), verdicts: make(map[string]int)}
	t.Run("workers", func(t *testing.T) {
		for n := range mutantWorkers {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				t.Parallel()
				w := &mutant{mutantLab: lab, rng: rand.New(rand.NewPCG(seed, uint64(n)))}
				for i := 0; (i < mutantsShort || time.Now().Before(until)) && !t.Failed(); i++ {
					w.verify(t)
				}
			})
		}
	})
	total, valid := 0, lab.verdicts["valid"]
	for _, n := range lab.verdicts {
		total += n
	}
	t.Logf("TEST_SEED=%d: %d verified, %d of them valid and paid on chain", seed, total, valid)
	for _, verdict := range slices.SortedFunc(maps.Keys(lab.verdicts), func(a, b string) int { return lab.verdicts[b] - lab.verdicts[a] }) {
		t.Logf("%9d %s", lab.verdicts[verdict], verdict)
	}
	if valid < total/50 || len(lab.verdicts) < 15 {
		t.Errorf("%d kinds of verdicts: it looks into too little", len(lab.verdicts))
	}
}

// mutantLab is what all workers share.
type mutantLab struct {
	chain   *devnet.Chain
	service *service
	kinds   []mutantKind

	mu       sync.Mutex
	verdicts map[string]int
}

// mutantKind is one kind of payment that is good as it is.
type mutantKind struct {
	name string
	deal devnet.Sale
	// sign puts another signature in the place of the payer's own; nil where that
	// is what the payer's code or token asks for.
	sign func(t *testing.T, deal devnet.Sale, b badBody)
}

// mutantKinds are accounts, wallets and tokens, with money.
func mutantKinds(t *testing.T, c *devnet.Chain, s *service, factory common.Address) []mutantKind {
	t.Helper()
	kinds := []mutantKind{}
	add := func(name string, deal devnet.Sale, sign func(*testing.T, devnet.Sale, badBody)) {
		deal.ValidBefore = uint64(time.Now().Add(24 * time.Hour).Unix())
		kinds = append(kinds, mutantKind{name, deal, sign})
	}
	for i, key := range payers(t, c, 4) {
		add("account "+strconv.Itoa(i), sale(t, key), nil)
	}
	key := newKey(t, devnet.RolePayer)
	if err := c.FundToken(t.Context(), c.EURC(), big.NewInt(1_000_000), key.Address); err != nil {
		t.Fatal(err)
	}
	deal := sale(t, key)
	deal.Asset, deal.Name = c.EURC(), "EURC"
	add("EURC", deal, nil)

	owner := newKey(t, devnet.RolePayer)
	wallet := foreignDeploy(t, c, "Wallet1271", owner.Address)
	walletFund(t, c, wallet)
	deal = sale(t, owner)
	deal.From = wallet
	add("wallet", deal, nil)
	two := newSafe(t, c, 3, 2)
	deal = sale(t, two.owners[0])
	deal.From = two.address
	add("wallet of two owners", deal, func(t *testing.T, deal devnet.Sale, b badBody) {
		t.Helper()
		two.sign(t, c, deal, b, two.owners[:2]...)
	})
	for name, bare := range map[string]bool{"wallet that is not deployed": false, "wallet that is deployed": true} {
		w := newSmartWallet(t, c, factory, owner)
		if bare {
			foreignSend(t, c, newKey(t, devnet.RoleLane), factory, w.data)
		}
		deal = sale(t, owner)
		deal.From = w.wallet
		add(name, deal, func(t *testing.T, deal devnet.Sale, b badBody) {
			t.Helper()
			w.sign(t, c, deal, b, owner, 0, bare)
		})
	}
	for _, contract := range []string{"Delegate7702Accepts", "Delegate7702Rejects", "GasBurnerWallet"} {
		key := payers(t, c, 1)[0]
		delegate(t, c, key, foreignDeploy(t, c, contract))
		add(contract, sale(t, key), nil)
	}
	for _, token := range []string{"SilentToken", "FeeToken", "FalseToken", "FalseAfterUseToken", "VRSOnlyToken", "BytesOnlyToken", "MisnamedToken", "HungryToken", "PlainToken"} {
		key := newKey(t, devnet.RolePayer)
		deal := sale(t, key)
		deal.Name, deal.Asset = token, foreignToken(t, c, token, key)
		add(token, deal, nil)
	}
	// One that is settled: its authorization is in the record, and used.
	settled := kinds[0].deal
	settled.Nonce = [32]byte{1}
	if r := s.post(t, "/settle", badCopy(t, request(t, c, settled))); !r.is("success") {
		t.Fatalf("settle: %s", r.text)
	}
	add("settled", settled, nil)
	return kinds
}

// mutant makes requests of one worker.
type mutant struct {
	*mutantLab
	rng *rand.Rand
}

func (m *mutant) one(of int) bool { return m.rng.IntN(of) == 0 }

func pick[T any](m *mutant, from ...T) T { return from[m.rng.IntN(len(from))] }

// verify posts one and judges the answer.
func (m *mutant) verify(t *testing.T) {
	t.Helper()
	kind := m.kinds[m.rng.IntN(len(m.kinds))]
	text := m.text(t, kind)
	r, err := m.service.do(t.Context(), http.MethodPost, "/verify", text)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	verdict := ""
	switch {
	case r.status >= 500 || r.status < 200:
		t.Errorf("%d %s\nof %s", r.status, r.text, text)
	case r.status == http.StatusOK && r.is("isValid"):
		verdict = "valid"
		if err := m.pays(t, text); err != nil {
			t.Errorf("it is called valid, and %v\nof %s\nas %s", err, kind.name, text)
		}
	case r.status == http.StatusOK && r.str("invalidReason") != "":
		verdict = r.str("invalidReason")
	case r.status >= 400:
		verdict = "status " + strconv.Itoa(r.status)
	default:
		t.Errorf("%d %s\nof %s", r.status, r.text, text)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.verdicts[verdict]++
}

// text is a request of a kind with a few changes.
func (m *mutant) text(t *testing.T, kind mutantKind) string {
	t.Helper()
	deal := kind.deal
	deal.Version = pick(m, x402.V1, x402.V2)
	if m.one(2) {
		m.changeSale(&deal)
	}
	b := badCopy(t, request(t, m.chain, deal))
	if kind.sign != nil {
		kind.sign(t, deal, b)
	}
	for m.one(2) {
		m.changeMember(b)
	}
	if m.one(4) {
		m.changeSignature(b)
	}
	encoded, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	if m.one(10) {
		encoded = m.changeText(encoded)
	}
	return string(encoded)
}

// changeSale changes what is signed.
func (m *mutant) changeSale(s *devnet.Sale) {
	now := uint64(time.Now().Unix())
	for _, change := range []func(){
		func() { s.Amount = pick[uint64](m, 0, 1, 9_999, 999_999_999, 1_000_000_000, 1_000_000_001, 1<<63) },
		func() { s.ValidAfter = pick(m, 0, 1, now-3600, now-2, now, now+1, now+30, 1<<63) },
		func() { s.ValidBefore = pick(m, 0, now-1, now, now+5, now+6, now+8, now+3600, 1<<40, 1<<63) },
		func() {
			s.PayTo = pick(m, common.Address{}, s.From, s.Payer.Address, m.chain.USDC(), m.chain.Multicall3(), m.kinds[m.rng.IntN(len(m.kinds))].deal.Payer.Address)
		},
		func() { s.Nonce = [32]byte{byte(m.rng.IntN(3))} },
		func() { s.Payer = m.kinds[m.rng.IntN(len(m.kinds))].deal.Payer },
		func() { s.From = m.kinds[m.rng.IntN(len(m.kinds))].deal.From },
		func() {
			other := m.kinds[m.rng.IntN(len(m.kinds))].deal
			s.Asset, s.Name = other.Asset, cmp.Or(pick(m, other.Name, s.Name), "USD Coin")
		},
	} {
		if m.one(8) {
			change()
		}
	}
}

// changeMember changes a member of the request, wherever it is, or adds one.
func (m *mutant) changeMember(b badBody) {
	at := map[string]any(b)
	for {
		keys := slices.Sorted(maps.Keys(at))
		if len(keys) == 0 {
			return
		}
		key := keys[m.rng.IntN(len(keys))]
		if sub, ok := at[key].(map[string]any); ok && !m.one(12) {
			at = sub
			continue
		}
		switch m.rng.IntN(8) {
		case 0:
			delete(at, key)
		case 1:
			at[pick(m, key+"s", strings.ToUpper(key), "extra", "authorization", "")] = at[key]
		case 2, 3, 4:
			at[key] = m.other(at[key])
		default:
			at[key] = m.near(at[key])
		}
		return
	}
}

// other is any value.
func (m *mutant) other(was any) any {
	deal := m.kinds[m.rng.IntN(len(m.kinds))].deal
	return pick[any](m, nil, true, "", "0", "1", "10000", "0x", "0x00", json.Number("1"), json.Number("-1"), json.Number("1e400"), []any{was},
		map[string]any{}, map[string]any{"name": was}, strings.Repeat("9", 78), strings.Repeat("9", 79), "exact", "upto", "base", "eip155:8453",
		"eip155:84532", deal.PayTo.Hex(), deal.Payer.Address.Hex(), strings.ToLower(deal.Payer.Address.Hex()), m.chain.USDC().Hex(),
		m.chain.EURC().Hex(), "USDC", "USD Coin", "EURC", "2", json.Number("2"), strings.Repeat("x", 5000), "\x00", "é\u202e")
}

// near is the value with a slight change.
func (m *mutant) near(was any) any {
	text, ok := was.(string)
	if !ok || text == "" {
		return m.other(was)
	}
	i := m.rng.IntN(len(text))
	switch m.rng.IntN(7) {
	case 0:
		return text[:i]
	case 1:
		return text + text[i:]
	case 2:
		return strings.ToUpper(text)
	case 3:
		return strings.ToLower(text)
	case 4:
		return pick(m, " ", "0", "0x", "+", "-") + text
	case 5:
		return text + pick(m, " ", "0", ".0", "e0", "\n")
	default:
		return text[:i] + pick(m, "0", "1", "9", "a", "F", "g", "é", " ") + text[i+1:]
	}
}

// changeSignature changes a signature in the ways in which they are made.
func (m *mutant) changeSignature(b badBody) {
	sig, err := hexutil.Decode(b.str(badSignature))
	if err != nil || len(sig) == 0 {
		return
	}
	if len(sig) == 65 {
		sig = pick(m, badHighS, compact, v(func(b byte) byte { return b - 27 }), v(func(b byte) byte { return b ^ 7 }), slices.Clone[[]byte])(sig)
	}
	switch m.rng.IntN(5) {
	case 0:
		sig[m.rng.IntN(len(sig))] ^= 1 << m.rng.IntN(8)
	case 1:
		sig = walletWrap(pick(m, common.Address{}, m.chain.Multicall3(), m.chain.USDC()), sig[:m.rng.IntN(len(sig))], sig)
	case 2:
		sig = sig[:m.rng.IntN(len(sig))]
	case 3:
		sig = append(sig, sig[m.rng.IntN(len(sig)):]...)
	}
	b.set(badSignature, hexutil.Encode(sig))
}

// changeText changes bytes of the text.
func (m *mutant) changeText(text []byte) []byte {
	for range 1 + m.rng.IntN(3) {
		if len(text) == 0 {
			return text
		}
		i, j := m.rng.IntN(len(text)), m.rng.IntN(len(text))
		switch m.rng.IntN(6) {
		case 0:
			text = text[:i]
		case 1:
			text = slices.Delete(text, min(i, j), min(max(i, j), min(i, j)+8))
		case 2:
			text = slices.Insert(text, i, text[j:min(len(text), j+1+m.rng.IntN(40))]...)
		case 3:
			text[i] = byte(m.rng.IntN(256))
		case 4:
			text[i] = text[j]
		default:
			text = slices.Insert(text, i, []byte(pick(m, `{`, `}`, `"`, `,`, `[`, `\u0000`, `null`, `1e9`, strings.Repeat(`[`, 40)))...)
		}
	}
	return text
}

// pays says why the transfer that a request asks for would not be made now; nil
// where it would. It reads the request by itself.
func (m *mutant) pays(t *testing.T, text string) error {
	t.Helper()
	p, err := readMutant(text)
	if err != nil {
		return err
	}
	switch now := big.NewInt(time.Now().Unix()); {
	case p.scheme != "exact":
		return fmt.Errorf("its scheme is %q", p.scheme)
	case p.to != p.payTo:
		return fmt.Errorf("it pays %s, not %s", p.to, p.payTo)
	case p.value.Cmp(p.amount) != 0:
		return fmt.Errorf("it pays %s, not %s", p.value, p.amount)
	case p.validBefore.Cmp(now) <= 0 || p.validAfter.Cmp(now) > 0:
		return fmt.Errorf("it is valid from %s to %s, it is %s", p.validAfter, p.validBefore, now)
	}
	return p.paid(t, m.chain, m.service.lanes[0].Address)
}
