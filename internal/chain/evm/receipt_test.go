package evm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
)

// ledger is a node that has these receipts and these canonical blocks. JSON
// null, where a key is missing.
type ledger struct {
	receipts map[string]any // by hash
	blocks   map[string]any // hash by number
}

func (l ledger) answer(_ string, params []json.RawMessage) (any, *nodeError) {
	var key string
	if err := json.Unmarshal(params[0], &key); err != nil {
		return nil, &nodeError{Code: -32602, Message: err.Error()}
	}
	if len(key) == 66 {
		return l.receipts[key], nil
	}
	hash, known := l.blocks[key]
	if !known {
		return nil, nil
	}
	return map[string]any{"number": key, "hash": hash, "timestamp": "0x64", "baseFeePerGas": "0x7"}, nil
}

func word32(digits string) string { return "0x" + strings.Repeat(digits, 32) }

func rawReceipt(changes map[string]any) map[string]any {
	r := map[string]any{
		"transactionHash": word32("aa"), "blockHash": word32("b1"), "blockNumber": "0x1", "status": "0x1",
		"gasUsed": "0x14f04", "effectiveGasPrice": "0x3b9aca00",
		"logs": []any{
			map[string]any{"address": usdcText, "topics": []any{word32("01"), word32("02")}, "data": "0x0203", "removed": false},
			map[string]any{"address": usdcText, "topics": []any{word32("03")}, "data": "0x", "removed": true},
			nil,
		},
	}
	maps.Copy(r, changes)
	return r
}

func TestReceiptsAreReadWithTheirLogs(t *testing.T) {
	t.Parallel()
	mined, failed, unmined := hash(t, word32("aa")), hash(t, word32("bb")), hash(t, word32("cc"))
	client := serve(t, node(ledger{
		receipts: map[string]any{
			word32("aa"): rawReceipt(nil),
			word32("bb"): rawReceipt(map[string]any{"transactionHash": word32("bb"), "status": "0x0", "logs": []any{}, "blockNumber": "0x2", "blockHash": word32("b2")}),
		},
		blocks: map[string]any{"0x1": word32("b1"), "0x2": word32("b2")},
	}.answer))
	got, err := client.Receipts(t.Context(), []chain.Hash{mined, unmined, failed})
	if err != nil {
		t.Fatal(err)
	}
	want := map[chain.Hash]Lookup{
		mined: {Receipt: &chain.Receipt{
			TxHash: mined, BlockHash: hash(t, word32("b1")), BlockNumber: 1, Succeeded: true, GasUsed: 85764, EffectiveGasPrice: 1e9,
			Logs: []chain.Log{{Address: address(t, usdcText), Topics: []chain.Hash{hash(t, word32("01")), hash(t, word32("02"))}, Data: []byte{2, 3}}},
		}},
		failed: {Receipt: &chain.Receipt{
			TxHash: failed, BlockHash: hash(t, word32("b2")), BlockNumber: 2, GasUsed: 85764, EffectiveGasPrice: 1e9, Logs: []chain.Log{},
		}},
		unmined: {},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
}

func TestNoHashesAskNothing(t *testing.T) {
	t.Parallel()
	client := serve(t, node(func(method string, _ []json.RawMessage) (any, *nodeError) {
		t.Errorf("asked %s", method)
		return nil, nil
	}))
	if got, err := client.Receipts(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := client.CanonicalHashes(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestADoubtfulReceiptIsUnknownRatherThanUnmined is I5 and I7: what proves
// nothing is no answer, and it spoils no other one.
func TestADoubtfulReceiptIsUnknownRatherThanUnmined(t *testing.T) {
	t.Parallel()
	canonical := map[string]any{"0x1": word32("b1")}
	without := func(key string) map[string]any {
		r := rawReceipt(nil)
		delete(r, key)
		return r
	}
	for _, c := range []struct {
		name    string
		receipt any
		blocks  map[string]any
	}{
		{"it is another transaction's", rawReceipt(map[string]any{"transactionHash": word32("dd")}), canonical},
		{"its block was replaced", rawReceipt(map[string]any{"blockHash": word32("b9")}), canonical},
		{"its height is another one", rawReceipt(map[string]any{"blockNumber": "0x3"}), map[string]any{"0x1": word32("b1"), "0x3": word32("b3")}},
		{"the node does not have its block", rawReceipt(nil), nil},
		{"the node's block has no hash", rawReceipt(nil), map[string]any{"0x1": nil}},
		{"it has no block", rawReceipt(map[string]any{"blockHash": nil, "blockNumber": nil}), canonical},
		{"its height is no number", rawReceipt(map[string]any{"blockNumber": "1"}), canonical},
		{"it has no height", without("blockNumber"), canonical},
		{"it has no status", without("status"), canonical},
		{"it has no block hash", without("blockHash"), canonical},
		{"it is no object", "0x1", canonical},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			blocks := map[string]any{"0x2": word32("b2")}
			maps.Copy(blocks, c.blocks)
			good := rawReceipt(map[string]any{"transactionHash": word32("bb"), "blockNumber": "0x2", "blockHash": word32("b2")})
			client := serve(t, node(ledger{receipts: map[string]any{word32("aa"): c.receipt, word32("bb"): good}, blocks: blocks}.answer))
			doubtful, mined := hash(t, word32("aa")), hash(t, word32("bb"))
			got, err := client.Receipts(t.Context(), []chain.Hash{doubtful, mined})
			if err != nil {
				t.Fatal(err)
			}
			if l := got[doubtful]; !l.Unknown || l.Receipt != nil {
				t.Errorf("it is %+v", l)
			}
			if l := got[mined]; l.Unknown || l.Receipt == nil || l.Receipt.TxHash != mined {
				t.Errorf("the one beside it is %+v", l)
			}
		})
	}
}

func TestALookUpThatFailsIsUnknown(t *testing.T) {
	t.Parallel()
	mined, failing := hash(t, word32("aa")), hash(t, word32("bb"))
	book := ledger{receipts: map[string]any{word32("aa"): rawReceipt(nil)}, blocks: map[string]any{"0x1": word32("b1")}}
	client := serve(t, node(func(method string, params []json.RawMessage) (any, *nodeError) {
		if string(params[0]) == `"`+failing.String()+`"` {
			return nil, &nodeError{Code: -32005, Message: "limit exceeded"}
		}
		return book.answer(method, params)
	}))
	got, err := client.Receipts(t.Context(), []chain.Hash{failing, mined})
	if err != nil || !got[failing].Unknown || got[mined].Receipt == nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestManyHashesAreAskedInBatchesThatNodesTake(t *testing.T) {
	t.Parallel()
	const n = 2*maxBatch + 1
	hashes := make([]chain.Hash, n)
	for i := range hashes {
		hashes[i] = chain.Hash{0: byte(i), 1: byte(i >> 8), 31: 1}
	}
	nothing := node(func(string, []json.RawMessage) (any, *nodeError) { return nil, nil })
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if asked := strings.Count(string(body), "eth_getTransactionReceipt"); asked > maxBatch {
			t.Errorf("%d questions at once", asked)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		nothing.ServeHTTP(w, r)
	}))
	got, err := client.Receipts(t.Context(), hashes)
	if err != nil || len(got) != n {
		t.Fatalf("%d answers, %v", len(got), err)
	}
	for h, l := range got {
		if l.Unknown || l.Receipt != nil {
			t.Errorf("%s: %+v", h, l)
		}
	}
}

func TestHeadsAreRead(t *testing.T) {
	t.Parallel()
	client := serve(t, node(func(_ string, params []json.RawMessage) (any, *nodeError) {
		if string(params[0]) == `"0x8"` {
			return nil, nil
		}
		return map[string]any{
			"number": "0x2a", "hash": word32("b1"), "timestamp": "0x64", "baseFeePerGas": "0x7", "gasUsed": "0x5208", "gasLimit": "0x1c9c380",
		}, nil
	}))
	want := chain.Head{Number: 42, Hash: hash(t, word32("b1")), Time: 100, BaseFee: 7, GasUsed: 21000, GasLimit: 30_000_000}
	if got, err := client.Head(t.Context()); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := client.HeadByNumber(t.Context(), 8); !errors.Is(err, chain.ErrUnavailable) {
		t.Errorf("a block the node does not have: %+v, %v", got, err)
	}
}

func TestHeightsTheNodeDoesNotHaveAreLeftOut(t *testing.T) {
	t.Parallel()
	client := serve(t, node(ledger{blocks: map[string]any{"0x7": word32("b7"), "0x9": word32("b9")}}.answer))
	got, err := client.CanonicalHashes(t.Context(), []uint64{7, 8, 9})
	want := map[uint64]chain.Hash{7: hash(t, word32("b7")), 9: hash(t, word32("b9"))}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestLogsThatAReorganisationRemovedAreLeftOut(t *testing.T) {
	t.Parallel()
	client := serve(t, node(func(_ string, params []json.RawMessage) (any, *nodeError) {
		want := `{"address":"` + strings.ToLower(usdcText) + `","fromBlock":"0x10","toBlock":"0x20","topics":["` + word32("01") + `"]}`
		if string(params[0]) != want {
			t.Errorf("asked %s, want %s", params[0], want)
		}
		return []any{
			map[string]any{"transactionHash": word32("aa"), "removed": false},
			map[string]any{"transactionHash": word32("bb"), "removed": true},
			nil,
			map[string]any{"transactionHash": word32("cc")},
		}, nil
	}))
	got, err := client.TransactionsWithLog(t.Context(), address(t, usdcText), []chain.Hash{hash(t, word32("01"))}, 16, 32)
	if diff := cmp.Diff([]chain.Hash{hash(t, word32("aa")), hash(t, word32("cc"))}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestALongRangeOfLogsIsReadInPieces checks that the pieces meet without a gap
// and that the search is bounded (I8).
func TestALongRangeOfLogsIsReadInPieces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                     string
		from, until, first, last uint64
	}{
		{"one block", 7, 7, 7, 7},
		{"just one piece", 1, logWindow, 1, logWindow},
		{"a block more", 1, logWindow + 1, 1, logWindow + 1},
		{"from the beginning", 0, 3*logWindow + 5, 0, 3*logWindow + 5},
		{"as long as is read", 1, logWindow * maxLogWindows, 1, logWindow * maxLogWindows},
		{"too long: the newest", 1, 10 * logWindow * maxLogWindows, 9*logWindow*maxLogWindows + 1, 10 * logWindow * maxLogWindows},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			next := c.first
			client := serve(t, node(func(_ string, params []json.RawMessage) (any, *nodeError) {
				var f struct {
					FromBlock, ToBlock hexutil.Uint64
				}
				if err := json.Unmarshal(params[0], &f); err != nil {
					t.Error(err)
				}
				if from, to := uint64(f.FromBlock), uint64(f.ToBlock); from != next || to < from || to-from >= logWindow {
					t.Errorf("asked from %d to %d, want from %d", from, to, next)
				}
				next = uint64(f.ToBlock) + 1
				return []any{}, nil
			}))
			if _, err := client.TransactionsWithLog(t.Context(), chain.Address{}, nil, c.from, c.until); err != nil {
				t.Fatal(err)
			}
			if next != c.last+1 {
				t.Errorf("read up to %d, want %d", next-1, c.last)
			}
		})
	}
}

func TestNoBlocksAreNotSearched(t *testing.T) {
	t.Parallel()
	client := serve(t, node(func(method string, _ []json.RawMessage) (any, *nodeError) {
		t.Errorf("asked %s", method)
		return nil, nil
	}))
	if got, err := client.TransactionsWithLog(t.Context(), chain.Address{}, nil, 8, 7); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestACallNamesItsBlock(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	client := serve(t, node(func(_ string, params []json.RawMessage) (any, *nodeError) {
		asked <- string(params[1])
		return "0x", nil
	}))
	for block, want := range map[uint64]string{0: `"latest"`, 42: `"0x2a"`} {
		if _, err := client.Call(t.Context(), Message{Block: block}); err != nil {
			t.Fatal(err)
		}
		if got := <-asked; got != want {
			t.Errorf("block %d is asked as %s", block, got)
		}
	}
}
