package test

import (
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/devnet"
)

const (
	transferMismatch = "invalid_exact_evm_transfer_event_mismatch"
	nonceUsed        = "invalid_exact_evm_nonce_already_used"
	tokenName        = "invalid_exact_evm_token_name_mismatch"
)

// tokenSale is one of a test token that a fresh account pays with.
func tokenSale(t *testing.T, c *devnet.Chain, name string) (devnet.Sale, badBody) {
	t.Helper()
	deal := sale(t, newKey(t, devnet.RolePayer))
	deal.Name, deal.Asset, deal.Version = name, foreignToken(t, c, name, deal.Payer), 2
	return deal, badCopy(t, request(t, c, deal))
}

// tokenWalletSale is one that a contract wallet pays with.
func tokenWalletSale(t *testing.T, c *devnet.Chain, name string, owner devnet.Key, wallet common.Address) (devnet.Sale, badBody) {
	t.Helper()
	deal := sale(t, owner)
	deal.From, deal.Version = wallet, 2
	deal.Name, deal.Asset = name, foreignToken(t, c, name, devnet.Key{Address: wallet})
	return deal, badCopy(t, request(t, c, deal))
}

// TestTokensByTheirOverloads: a signature of 65 bytes goes by the v,r,s overload,
// any other by the one that takes bytes. A token without it does not settle.
func TestTokensByTheirOverloads(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, badAnyAsset)
	var rows []kindRow
	for _, row := range []struct {
		token string
		long  bool // a signature of 130 bytes
		want  outcome
	}{
		{"SilentToken", false, outcome{}},
		{"SilentToken", true, outcome{}},
		{"VRSOnlyToken", false, outcome{}},
		{"VRSOnlyToken", true, refused(simFailed, "")},
		{"BytesOnlyToken", false, refused(simFailed, "")},
		{"BytesOnlyToken", true, outcome{}},
	} {
		what := ", by 65 bytes"
		if row.long {
			what = ", by 130 bytes"
		}
		rows = append(rows, kindRow{row.token + " of a wallet" + what, func(t *testing.T) (devnet.Sale, badBody) {
			t.Helper()
			n := 1
			if row.long {
				n = 2
			}
			w := newSafe(t, c, n, n)
			deal, body := tokenWalletSale(t, c, row.token, w.owners[0], w.address)
			w.sign(t, c, deal, body, w.owners...)
			return deal, body
		}, row.want})
		if !row.long {
			rows = append(rows, kindRow{row.token + " of an account", func(t *testing.T) (devnet.Sale, badBody) { t.Helper(); return tokenSale(t, c, row.token) }, row.want})
		}
	}
	s.judges(t, c, rows)
}

// liar is a payment with a token whose call comes back without having paid.
type liar struct {
	sentence string
	deal     devnet.Sale
	body     badBody
	// refused is why it is not verified, and kept what the payee gets of it where it
	// is sent all the same.
	refused, says string
	paid, spent   int64
}

func liars(t *testing.T, c *devnet.Chain) []liar {
	t.Helper()
	rows := []liar{
		{sentence: "FeeToken", refused: transferMismatch, says: "the payee 9900, of 10000", paid: 9_900, spent: 10_000},
		{sentence: "FalseToken", refused: transferMismatch, says: "the payee 0, of 10000"},
		{sentence: "FalseAfterUseToken", refused: transferMismatch, says: "the payee 0, of 10000"},
		{sentence: "SilentToken", refused: nonceUsed, says: "used or cancelled before"},
	}
	for i := range rows {
		r := &rows[i]
		r.deal, r.body = tokenSale(t, c, r.sentence)
		if r.sentence == "SilentToken" {
			foreignSend(t, c, newKey(t, devnet.RoleLane), r.deal.Asset, foreignTransfer(t, r.body))
		}
	}
	return rows
}

// TestTokensThatLieEarnNoSuccess: even of tokens that are taken to be honest, the
// transaction that succeeds is looked through for the transfer (I5).
func TestTokensThatLieEarnNoSuccess(t *testing.T) {
	t.Parallel()
	c := world.chain
	rows := liars(t, c)
	tokens := make([]common.Address, len(rows))
	for i, r := range rows {
		tokens[i] = r.deal.Asset
	}
	s := newJudge(t, c, wellBehaved(tokens...))
	for _, r := range rows { // one after the other: they were signed for now
		t.Log(r.sentence)
		s.wantOutcome(t, c, r.deal, r.body, outcome{settle: transferMismatch, says: "no transfer", tries: 1, paid: r.paid, spent: r.spent})
	}
}

// TestTokensThatLieAreNotVerified: of tokens that nothing is known of, what the
// call does is looked at before it is sent, and nothing is.
func TestTokensThatLieAreNotVerified(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, badAnyAsset)
	for _, r := range liars(t, c) {
		t.Log(r.sentence)
		s.wantOutcome(t, c, r.deal, r.body, refused(r.refused, r.says))
	}
}

// TestTokensByTheirProfile: what the configuration says of a token is kept to.
func TestTokensByTheirProfile(t *testing.T) {
	t.Parallel()
	c := world.chain
	w := newSafe(t, c, 2, 2)
	long := func(name string) (devnet.Sale, badBody) {
		deal, body := tokenWalletSale(t, c, name, w.owners[0], w.address)
		w.sign(t, c, deal, body, w.owners...)
		return deal, body
	}
	rows := []struct {
		sentence, profile string
		sale              func() (devnet.Sale, badBody)
		want              outcome
	}{
		{"a token with the bytes overload only", "overloads: bytes", func() (devnet.Sale, badBody) { return tokenSale(t, c, "BytesOnlyToken") }, outcome{}},
		{"a token with the v,r,s overload only", "overloads: vrs", func() (devnet.Sale, badBody) { return tokenSale(t, c, "VRSOnlyToken") }, outcome{}},
		{"a token with the v,r,s overload only, and a longer signature", "overloads: vrs", func() (devnet.Sale, badBody) { return long("VRSOnlyToken") }, refused(simFailed, "65 bytes only, this one has 130")},
		{"the least amount", "min_amount: 10_000", func() (devnet.Sale, badBody) { return tokenSale(t, c, "SilentToken") }, outcome{}},
		{"less than that", "min_amount: 10_001", func() (devnet.Sale, badBody) { return tokenSale(t, c, "SilentToken") }, refused("amount_too_low", "the least of this token is 10001")},
	}
	list := make([]string, len(rows))
	sales := make([]devnet.Sale, len(rows))
	bodies := make([]badBody, len(rows))
	for i, row := range rows {
		sales[i], bodies[i] = row.sale()
		list[i] = "{address: '" + sales[i].Asset.Hex() + "', " + row.profile + "}"
	}
	s := newJudge(t, c, "chains: {'eip155:8453': {assets: ["+strings.Join(list, ", ")+"]}}")
	for i, row := range rows {
		t.Log(row.sentence)
		s.wantOutcome(t, c, sales[i], bodies[i], row.want)
	}
}

// TestTokensByDefault: USDC and EURC are accepted where nothing is configured, and
// share a transaction.
func TestTokensByDefault(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, "")
	payer := newKey(t, devnet.RolePayer)
	if err := c.FundToken(t.Context(), c.EURC(), big.NewInt(1_000_000), payer.Address); err != nil {
		t.Fatal(err)
	}
	deal := sale(t, payer)
	deal.Name, deal.Asset = "EURC", c.EURC()
	s.wantOutcome(t, c, deal, badCopy(t, request(t, c, deal)), outcome{})
	deal = sale(t, payers(t, c, 1)[0])
	s.wantOutcome(t, c, deal, badCopy(t, request(t, c, deal)), outcome{})
}

// TestTokensOfAnotherName: the domain decides, whoever says what its name is.
func TestTokensOfAnotherName(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, badAnyAsset)
	const extra = "paymentRequirements.extra"
	misnamed := func(signed string, edit func(badBody)) func(*testing.T) (devnet.Sale, badBody) {
		return func(t *testing.T) (devnet.Sale, badBody) {
			t.Helper()
			deal := sale(t, newKey(t, devnet.RolePayer))
			deal.Asset, deal.Name = foreignToken(t, c, "MisnamedToken", deal.Payer), signed
			body := badCopy(t, request(t, c, deal))
			edit(body)
			return deal, body
		}
	}
	usdc := func(signed string, edit func(badBody)) func(*testing.T) (devnet.Sale, badBody) {
		return func(t *testing.T) (devnet.Sale, badBody) {
			t.Helper()
			deal := sale(t, payers(t, c, 1)[0])
			deal.Asset, deal.Name = c.USDC(), signed
			body := badCopy(t, request(t, c, deal))
			edit(body)
			return deal, body
		}
	}
	as := func(path string, value any) func(badBody) { return func(b badBody) { b.set(path, value) } }
	s.judges(t, c, []kindRow{
		{"USDC, signed and advertised by another name", usdc("USDC", as("x402Version", 2)), refused(tokenName, `expected "USD Coin"`)},
		{"USDC, advertised by another name than was signed", usdc("USD Coin", as(extra+".name", "USDC")), refused(badSign, `expected "USD Coin"`)},
		{"USDC, signed by another name than is advertised", usdc("USDC", as(extra+".name", "USD Coin")), refused(badSign, "not signed by the payer")},
		{"USDC, of another version", usdc("USD Coin", as(extra+".version", "1")), refused(badSign, `expected "2"`)},
		{"a token that renamed itself, by its domain's name", misnamed("MisnamedToken", as(extra+".name", "MisnamedToken")), outcome{}},
		{"a token that renamed itself, and nothing is advertised", misnamed("MisnamedToken", as(extra, badAbsent{})), outcome{}},
		{"a token that renamed itself, by its new name", misnamed("Renamed", as(extra+".name", "Renamed")), refused(simFailed, "invalid signature")},
		{"a token that renamed itself, and only a version is advertised", misnamed("MisnamedToken", as(extra+".name", badAbsent{})), refused(badSign, "not signed by the payer")},
	})
}

// TestTokensThatRefuse: real USDC, paused and with blacklisted accounts, before
// and after it is verified. Once it no longer refuses, the same payment settles.
func TestTokensThatRefuse(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	s := newJudge(t, c, "")
	for _, row := range []struct {
		sentence, says string
		do, undo       func(deal devnet.Sale) error
	}{
		{
			"the token is paused", "the token is paused",
			func(devnet.Sale) error { return c.Pause(t.Context()) }, func(devnet.Sale) error { return c.Unpause(t.Context()) },
		},
		{
			"the payer is blacklisted", "the token refuses the payer",
			func(d devnet.Sale) error { return c.Blacklist(t.Context(), d.Payer.Address) },
			func(d devnet.Sale) error { return c.Unblacklist(t.Context(), d.Payer.Address) },
		},
		{
			"the payee is blacklisted", "the token refuses the payee",
			func(d devnet.Sale) error { return c.Blacklist(t.Context(), d.PayTo) },
			func(d devnet.Sale) error { return c.Unblacklist(t.Context(), d.PayTo) },
		},
	} {
		deal := sale(t, payers(t, c, 1)[0])
		body := badCopy(t, request(t, c, deal))
		must := func(f func(devnet.Sale) error) {
			if err := f(deal); err != nil {
				t.Fatal(err)
			}
		}
		t.Log(row.sentence)
		s.wantOutcome(t, c, deal, body, outcome{settle: simFailed, says: row.says, between: func(*testing.T) { must(row.do) }})
		s.wantOutcome(t, c, deal, body, refused(simFailed, row.says))
		must(row.undo)
		s.wantOutcome(t, c, deal, body, outcome{})
	}
	checkWallets(t, s.databaseURL, c, 3)
}

// TestTokensThatRefuseInThePool: the transaction is sent when the token begins to
// refuse. It fails, and says why.
func TestTokensThatRefuseInThePool(t *testing.T) {
	t.Parallel()
	for sentence, refuse := range map[string]func(devnet.Sale) []byte{
		"the payee is blacklisted": func(deal devnet.Sale) []byte {
			return tokenCall("blacklist(address)", common.LeftPadBytes(deal.PayTo[:], 32))
		},
		"the payer is blacklisted": func(deal devnet.Sale) []byte {
			return tokenCall("blacklist(address)", common.LeftPadBytes(deal.Payer.Address[:], 32))
		},
		"the token is paused": func(devnet.Sale) []byte { return tokenCall("pause()", nil) },
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			c, payer := heldChain(t)
			s := newJudge(t, c, "")
			deal := sale(t, payer)
			body := request(t, c, deal)
			answer := settleLater(t, s, body)
			eventually(t, "our transaction is in the pool", func() bool { return pooled(t, c) == 1 })
			role := "pauser()"
			if sentence != "the token is paused" {
				role = "blacklister()"
			}
			asOwner(t, c, walletAsk(t, c, c.USDC(), tokenCall(role, nil)), refuse(deal))
			mine(t, c, 1)
			r := wait(t, answer)
			if r.status != 200 || r.is("success") || r.str("errorReason") != simFailed || len(r.str("transaction")) != 66 {
				t.Fatalf("settle: %d %s, want %s with the transaction", r.status, r.text, simFailed)
			}
			receipt, err := c.Client().TransactionReceipt(t.Context(), common.HexToHash(r.str("transaction")))
			if err != nil || receipt.Status != types.ReceiptStatusFailed {
				t.Errorf("receipt: %+v (%v), want one that failed", receipt, err)
			}
			foreignRecord(t, s, badCopy(t, body)).wantEvidence(t, "failed", "reverted", r.str("transaction"))
			if got := received(t, c, deal.PayTo); got != 0 {
				t.Errorf("the payee has %d", got)
			}
		})
	}
}

// asOwner puts a transaction of an address whose key nobody has into the pool,
// before those that pay less.
func asOwner(t *testing.T, c *devnet.Chain, from common.Address, data []byte) {
	t.Helper()
	if err := c.FundETH(t.Context(), new(big.Int).Exp(big.NewInt(10), big.NewInt(20), nil), from); err != nil {
		t.Fatal(err)
	}
	for _, call := range []struct {
		method string
		arg    any
	}{
		{"anvil_impersonateAccount", from},
		{"eth_sendTransaction", map[string]any{
			"from": from, "to": c.USDC(), "data": hexutil.Bytes(data), "gas": hexutil.Uint64(200_000),
			"maxFeePerGas": hexutil.Uint64(100_000_000_000), "maxPriorityFeePerGas": hexutil.Uint64(50_000_000_000),
		}},
		{"anvil_stopImpersonatingAccount", from},
	} {
		if err := c.RPC().CallContext(t.Context(), new(any), call.method, call.arg); err != nil {
			t.Fatalf("%s: %v", call.method, err)
		}
	}
}

// tokenCall is a call of a function by its signature.
func tokenCall(function string, words []byte) []byte {
	return slices.Concat(crypto.Keccak256([]byte(function))[:4], words)
}
