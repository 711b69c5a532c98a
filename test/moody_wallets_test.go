package test

import (
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"facilitator/internal/devnet"
)

// mood is what a MoodyWallet answers, in the contract's order.
type mood uint8

const (
	moodAccepts mood = iota
	moodRefuses
	moodReverts
	moodRevertsLong
	moodRunsInvalid
	moodLoops
	moodNothing
	moodShort
	moodEmpty
	moodWrong
	moodDirty
	moodTrue
	moodLong
	moodLongRight
	moodHuge
	moodOddBlocks
	moodSimulated
)

// moody is a sale paid by a MoodyWallet with money.
func moody(t *testing.T, c *devnet.Chain, m mood) (devnet.Sale, badBody) {
	t.Helper()
	wallet := foreignDeploy(t, c, "MoodyWallet", uint8(m))
	walletFund(t, c, wallet)
	return walletSale(t, c, 2, newKey(t, devnet.RolePayer), wallet)
}

// setMood is the call that changes a MoodyWallet.
func setMood(t *testing.T, m mood) []byte {
	t.Helper()
	data, err := foreignContract(t, "MoodyWallet").ABI.Pack("set", uint8(m))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestWalletsThatAnswerAnything: only the right word is an answer. What comes
// after it is the token's to ignore, as long as the cap of gas bears it.
func TestWalletsThatAnswerAnything(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, "")
	var rows []kindRow
	for m, sentence := range map[mood]string{
		moodRefuses: "it refuses", moodReverts: "it reverts", moodRevertsLong: "it reverts with 64 KiB",
		moodRunsInvalid: "it burns all gas at once", moodLoops: "it burns all gas step by step",
		moodNothing: "it answers nothing", moodShort: "it answers 4 bytes", moodEmpty: "it answers 32 zeros",
		moodWrong: "it answers 32 other bytes", moodDirty: "it answers more in the same word", moodTrue: "it answers true",
		moodLong: "it answers 64 KiB of zeros", moodHuge: "it answers more than gas can hold",
	} {
		rows = append(rows, kindRow{sentence, func(t *testing.T) (devnet.Sale, badBody) { t.Helper(); return moody(t, c, m) }, refused(badSign, "EIP-1271")})
	}
	for m, sentence := range map[mood]string{moodAccepts: "it accepts", moodLongRight: "it accepts in 64 KiB"} {
		rows = append(rows, kindRow{sentence, func(t *testing.T) (devnet.Sale, badBody) { t.Helper(); return moody(t, c, m) }, outcome{}})
	}
	s.judges(t, c, rows)
}

// TestWalletsThatChangeTheirMindBeforeSettle are judged anew.
func TestWalletsThatChangeTheirMindBeforeSettle(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, "")
	for _, m := range []mood{moodRefuses, moodRunsInvalid, moodLoops, moodEmpty, moodHuge} {
		t.Run(fmt.Sprintf("mood %d", m), func(t *testing.T) {
			t.Parallel()
			deal, body := moody(t, c, moodAccepts)
			want := outcome{settle: badSign, says: "EIP-1271", between: func(t *testing.T) {
				t.Helper()
				foreignSend(t, c, newKey(t, devnet.RoleLane), common.HexToAddress(body.str(badAuthorization+".from")), setMood(t, m))
			}}
			s.wantOutcome(t, c, deal, body, want)
		})
	}
}

// TestWalletsThatChangeTheirMindWithTheBlock: the wallet accepts on the state that
// is judged, and refuses in the block after it, for which this node estimates. No
// answer about the payer is right then, and nothing is signed.
func TestWalletsThatChangeTheirMindWithTheBlock(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	s := newJudge(t, c, "settle: {wait: 2s}")
	deal, body := moody(t, c, moodOddBlocks)
	if height(t, c)%2 == 0 {
		mine(t, c, 1)
	}
	if r := s.post(t, "/verify", body); !r.is("isValid") {
		t.Errorf("verify: %d %s", r.status, r.text)
	}
	r := s.post(t, "/settle", body)
	if _, judged := r.body["success"]; judged || r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
		t.Errorf("settle: %d %s, want 503", r.status, r.text)
	}
	mine(t, c, 1)
	s.wantOutcome(t, c, deal, body, refused(badSign, "EIP-1271"))
	checkWallets(t, s.databaseURL, c, 0)
}

// TestWalletsThatKnowASimulation: one that accepts only where nobody pays for gas
// is verified, costs three transactions at the cap and never earns a success (I8).
func TestWalletsThatKnowASimulation(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, "")
	deal, body := moody(t, c, moodSimulated)
	s.wantOutcome(t, c, deal, body, outcome{settle: "invalid_exact_evm_transaction_failed", tries: 3})
	checkWallets(t, s.databaseURL, c, 3)
}

// TestWalletsThatChangeTheirMindHurtNobody: a wallet that waits in the queue with
// others, or is in the pool beside them, turns against us. The others are paid.
func TestWalletsThatChangeTheirMindHurtNobody(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		to       mood
		signed   bool // before it changes its mind
		reason   string
	}{
		{"it refuses while it is queued", moodRefuses, false, simFailed},
		{"it burns gas while it is queued", moodLoops, false, simFailed},
		{"it refuses in the pool", moodRefuses, true, simFailed},
		{"it burns gas in the pool", moodLoops, true, simFailed},
		{"it answers too much in the pool", moodHuge, true, simFailed},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			c := startChain(t, devnet.ChainConfig{})
			wallet := foreignDeploy(t, c, "MoodyWallet", uint8(moodAccepts))
			walletFund(t, c, wallet)
			keys := payers(t, c, 3)
			b := newBacklog(t, c, "chains: {'"+c.Network()+"': {max_in_flight: 2}}")
			from := height(t, c)
			hostile := sale(t, newKey(t, devnet.RolePayer))
			hostile.From = wallet
			deals := []devnet.Sale{sale(t, keys[0]), hostile, sale(t, keys[1])}
			bodies := make([]map[string]any, len(deals))
			for i, deal := range deals {
				bodies[i] = request(t, c, deal)
			}
			flip := func() {
				key := newKey(t, devnet.RoleLane)
				foreignRaw(t, c, key, wallet, setMood(t, row.to))
			}
			// The second of the lane's two places.
			second := settleLater(t, b.service, request(t, c, sale(t, keys[2])))
			eventually(t, "both places are taken", func() bool { return pooled(t, c) == 2 })
			answers := b.claim(t, bodies...)
			if !row.signed {
				flip()
			}
			b.release(t)
			wantSuccess(t, wait(t, second))
			plain := 1
			if row.signed {
				plain = 2
			}
			eventually(t, "what is left is in the pool", func() bool { return pooled(t, c) == uint64(plain) })
			if row.signed {
				flip()
			}
			mine(t, c, 1)
			if err := c.SetIntervalMining(t.Context(), 200*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			hashes := map[string]bool{}
			for i, answer := range answers {
				r := wait(t, answer)
				if i == 1 {
					if r.status != 200 || r.is("success") || r.str("errorReason") != row.reason {
						t.Errorf("the hostile one: %d %s, want %s", r.status, r.text, row.reason)
					}
					continue
				}
				hashes[wantSuccess(t, r)] = true
			}
			if len(hashes) != 1 {
				t.Errorf("the others were settled by %v, want one transaction", hashes)
			}
			for i, want := range []int{1, 0, 1} {
				if moved := paidTo(t, c, from, deals[i].PayTo); len(moved) != want {
					t.Errorf("payment %d: transfers %+v", i, moved)
				}
			}
			carried := []int64{1, 1, 2}
			if row.signed {
				carried = []int64{1, 1, 2, 1}
			}
			if got := carriers(t, b.service); !slices.Equal(got, carried) {
				t.Errorf("transactions carry %v, want %v", got, carried)
			}
			b.wantWithinCap(t, c)
		})
	}
}

// TestAPayerWhoDelegatesInThePoolHurtsNobody: the batch was signed while its payers
// had no code. One delegates to code that burns all gas before it is mined: all
// of it may fail, and the others go again.
func TestAPayerWhoDelegatesInThePoolHurtsNobody(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	burner := foreignDeploy(t, c, "GasBurnerWallet")
	keys := payers(t, c, 3)
	b := newBacklog(t, c, "")
	from := height(t, c)
	var deals []devnet.Sale
	var bodies []map[string]any
	for _, key := range keys {
		deals = append(deals, sale(t, key))
		bodies = append(bodies, request(t, c, deals[len(deals)-1]))
	}
	answers := b.claim(t, bodies...)
	b.release(t)
	eventually(t, "the batch is in the pool", func() bool { return pooled(t, c) == 1 })
	if err := c.SetCode(t.Context(), keys[0].Address, types.AddressToDelegation(burner)); err != nil {
		t.Fatal(err)
	}
	mine(t, c, 1)
	if err := c.SetIntervalMining(t.Context(), 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for i, answer := range answers {
		r := wait(t, answer)
		if i == 0 {
			if r.status != 200 || r.is("success") || r.str("errorReason") != simFailed {
				t.Errorf("the hostile one: %d %s", r.status, r.text)
			}
			continue
		}
		wantSuccess(t, r)
	}
	for i, want := range []int{0, 1, 1} {
		if moved := paidTo(t, c, from, deals[i].PayTo); len(moved) != want {
			t.Errorf("payment %d: transfers %+v", i, moved)
		}
	}
	most := big.NewInt(3*100_000 + 60_000)
	for _, hash := range queryRows[[]byte](t, b.databaseURL, "SELECT hash FROM attempts") {
		receipt, err := c.Client().TransactionReceipt(t.Context(), common.BytesToHash(hash))
		if err != nil || new(big.Int).SetUint64(receipt.GasUsed).Cmp(most) > 0 {
			t.Errorf("receipt %+v (%v) is over the gas of a batch of three", receipt, err)
		}
	}
}
