package evm

import (
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
)

// counted starts a node that counts how often it was asked, batches as one.
func counted(t *testing.T, n node) (*Client, *atomic.Int64) {
	t.Helper()
	var trips atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trips.Add(1)
		n.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return dial(t, credentialed(s.URL), patience), &trips
}

// at is the receipt of a transaction in a block.
func at(tx, number, block string) map[string]any {
	return rawReceipt(map[string]any{"transactionHash": word32(tx), "blockNumber": number, "blockHash": word32(block)})
}

// topped is a ledger whose latest block is number with this hash.
func (l ledger) topped(number, hash string) node {
	return func(method string, params []json.RawMessage) (any, *nodeError) {
		if method == "eth_getBlockByNumber" && string(params[0]) == `"latest"` {
			return map[string]any{"number": number, "hash": hash, "timestamp": "0x64", "baseFeePerGas": "0x7"}, nil
		}
		return l.answer(method, params)
	}
}

func TestALookAtTheHeadTakesOneTrip(t *testing.T) {
	t.Parallel()
	client, trips := counted(t, ledger{receipts: map[string]any{word32("aa"): at("aa", "0x5", "b5")}}.topped("0x5", word32("b5")))
	mined, unmined := hash(t, word32("aa")), hash(t, word32("cc"))
	head, got, err := client.Look(t.Context(), []chain.Hash{mined, unmined})
	if want := (chain.Head{Number: 5, Hash: hash(t, word32("b5")), Time: 100, BaseFee: 7}); err != nil || head != want {
		t.Errorf("head %+v, %v", head, err)
	}
	if got[mined].Receipt == nil || got[mined].Unknown || got[unmined] != (Lookup{}) {
		t.Errorf("%+v", got)
	}
	if n := trips.Load(); n != 1 {
		t.Errorf("%d trips", n)
	}
}

func TestALookChecksOlderBlocksInASecondTrip(t *testing.T) {
	t.Parallel()
	client, trips := counted(t, ledger{
		receipts: map[string]any{
			word32("a1"): at("a1", "0x5", "b5"), // in the head
			word32("a2"): at("a2", "0x4", "b4"), // below it, canonical
			word32("a3"): at("a3", "0x4", "d4"), // below it, replaced
			word32("a4"): at("a4", "0x6", "b6"), // above it: mined meanwhile
			word32("a5"): at("a5", "0x7", "b7"), // above all that the node has
		},
		blocks: map[string]any{"0x4": word32("b4"), "0x5": word32("b5"), "0x6": word32("b6")},
	}.topped("0x5", word32("b5")))
	var hashes []chain.Hash
	for _, tx := range []string{"a1", "a2", "a3", "a4", "a5"} {
		hashes = append(hashes, hash(t, word32(tx)))
	}
	_, got, err := client.Look(t.Context(), hashes)
	if err != nil {
		t.Fatal(err)
	}
	for i, known := range []bool{true, true, false, true, false} {
		if l := got[hashes[i]]; l.Unknown == known || (l.Receipt != nil) != known {
			t.Errorf("a%d: %+v", i+1, l)
		}
	}
	if n := trips.Load(); n != 2 {
		t.Errorf("%d trips", n)
	}
}

// TestAReceiptBesideTheHeadIsDoubtful: the head's height alone proves nothing (I5).
func TestAReceiptBesideTheHeadIsDoubtful(t *testing.T) {
	t.Parallel()
	client, _ := counted(t, ledger{
		receipts: map[string]any{word32("aa"): at("aa", "0x5", "d5")}, blocks: map[string]any{"0x5": word32("b5")},
	}.topped("0x5", word32("b5")))
	if _, got, err := client.Look(t.Context(), []chain.Hash{hash(t, word32("aa"))}); err != nil || !got[hash(t, word32("aa"))].Unknown {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAHeadWithoutHashVouchesForNothing(t *testing.T) {
	t.Parallel()
	r := at("aa", "0x9", "b5")
	delete(r, "blockHash")
	client, _ := counted(t, ledger{receipts: map[string]any{word32("aa"): r}}.topped("0x9", word32("00")))
	if _, got, err := client.Look(t.Context(), []chain.Hash{hash(t, word32("aa"))}); err == nil && !got[hash(t, word32("aa"))].Unknown {
		t.Errorf("%+v", got)
	}
}

// TestALookKeepsWhatItSawWhenTheSecondQuestionFails is I7: unknown, not unmined.
func TestALookKeepsWhatItSawWhenTheSecondQuestionFails(t *testing.T) {
	t.Parallel()
	book := ledger{receipts: map[string]any{word32("a1"): at("a1", "0x5", "b5"), word32("a2"): at("a2", "0x4", "b4")}}.topped("0x5", word32("b5"))
	client, _ := counted(t, func(method string, params []json.RawMessage) (any, *nodeError) {
		if string(params[0]) == `"0x4"` {
			return nil, &nodeError{Code: -32005, Message: "limit exceeded"}
		}
		return book(method, params)
	})
	_, got, err := client.Look(t.Context(), []chain.Hash{hash(t, word32("a1")), hash(t, word32("a2"))})
	if err != nil || got[hash(t, word32("a1"))].Receipt == nil || !got[hash(t, word32("a2"))].Unknown {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestALookWithoutHeadTellsNothing(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() (any, *nodeError){
		"none":     func() (any, *nodeError) { return nil, nil },
		"an error": func() (any, *nodeError) { return nil, &nodeError{Code: -32005, Message: "limit exceeded"} },
	} {
		client, _ := counted(t, func(method string, _ []json.RawMessage) (any, *nodeError) {
			if method == "eth_getBlockByNumber" {
				return answer()
			}
			return at("aa", "0x5", "b5"), nil
		})
		if _, got, err := client.Look(t.Context(), []chain.Hash{hash(t, word32("aa"))}); !errors.Is(err, chain.ErrUnavailable) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestALookAtMoreThanABatchHolds(t *testing.T) {
	t.Parallel()
	const n = 6*maxBatch + 3
	receipts := make(map[string]any, n)
	hashes := make([]chain.Hash, n)
	for i := range hashes {
		hashes[i] = chain.Hash{0: byte(i), 1: byte(i >> 8), 31: 1}
		receipts[hashes[i].String()] = rawReceipt(map[string]any{
			"transactionHash": hashes[i].String(), "blockNumber": "0x5", "blockHash": word32("b5"),
		})
	}
	client, trips := counted(t, ledger{receipts: receipts}.topped("0x5", word32("b5")))
	_, got, err := client.Look(t.Context(), hashes)
	if err != nil || len(got) != n {
		t.Fatalf("%d answers, %v", len(got), err)
	}
	for h, l := range got {
		if l.Unknown || l.Receipt == nil {
			t.Errorf("%s: %+v", h, l)
		}
	}
	if got := trips.Load(); got != 7 {
		t.Errorf("%d trips", got)
	}
}

func TestTheL1FeeIsReadWhereItIsOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fee  any
		want uint64
	}{
		{nil, 0},
		{"0x0", 0},
		{"0x3b9aca00", 1e9},
		{"0x" + strings.Repeat("f", 16), 1<<64 - 1},
		{"0x1" + strings.Repeat("0", 16), 0},
		{"no number", 0},
		{map[string]any{}, 0},
		{7, 0},
	} {
		client, _ := counted(t, ledger{
			receipts: map[string]any{word32("aa"): rawReceipt(map[string]any{"l1Fee": c.fee})}, blocks: map[string]any{"0x1": word32("b1")},
		}.answer)
		got, err := client.Receipts(t.Context(), []chain.Hash{hash(t, word32("aa"))})
		if r := got[hash(t, word32("aa"))].Receipt; err != nil || r == nil || r.L1Fee != c.want {
			t.Errorf("%v: %+v, %v", c.fee, r, err)
		}
	}
}

func TestManyWalletsAreReadInOneTrip(t *testing.T) {
	t.Parallel()
	client, trips := counted(t, func(method string, params []json.RawMessage) (any, *nodeError) {
		if method == "eth_blockNumber" {
			return "0x2a", nil
		}
		of, block := string(params[0]), string(params[1])
		behind := strings.Contains(of, "02")
		switch {
		case method == "eth_getBalance" && behind:
			return "0x0", nil
		case method == "eth_getBalance":
			return "0x" + strings.Repeat("f", 30), nil
		case block == `"pending"` && behind:
			return "0x3", nil // of a node that lags behind itself
		case block == `"pending"`:
			return "0x9", nil
		}
		return "0x7", nil
	})
	got, err := client.Accounts(t.Context(), []chain.Address{{19: 1}, {19: 2}})
	rich, _ := new(big.Int).SetString(strings.Repeat("f", 30), 16)
	want := []Account{{Balance: rich, Nonce: 7, Pending: 9, Height: 42}, {Balance: new(big.Int), Nonce: 7, Pending: 7, Height: 42}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b *big.Int) bool { return a.Cmp(b) == 0 })); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if n := trips.Load(); n != 1 {
		t.Errorf("%d trips", n)
	}
	if got, err := client.Accounts(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("no wallets: %v, %v", got, err)
	}
}

func TestOneWalletThatIsNotToldFailsAll(t *testing.T) {
	t.Parallel()
	client, _ := counted(t, func(method string, params []json.RawMessage) (any, *nodeError) {
		if method != "eth_blockNumber" && strings.Contains(string(params[0]), "02") {
			return nil, &nodeError{Code: -32000, Message: "header not found"}
		}
		return "0x7", nil
	})
	if got, err := client.Accounts(t.Context(), []chain.Address{{19: 1}, {19: 2}}); !errors.Is(err, chain.ErrUnavailable) {
		t.Errorf("%+v, %v", got, err)
	}
}
