package test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

// onBoth runs a test on the local chain and on the fork.
func onBoth(t *testing.T, f func(t *testing.T, c *devnet.Chain)) {
	t.Helper()
	t.Run("local", func(t *testing.T) { t.Parallel(); f(t, world.chain) })
	t.Run("fork", func(t *testing.T) { t.Parallel(); f(t, world.fork) })
}

func TestVerifyAndSettleMoveMoneyOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, c *devnet.Chain) {
		t.Helper()
		for _, version := range []int{1, 2} {
			s := setup{chain: c}.start(t)
			deal := sale(t, payers(t, c, 1)[0])
			deal.Version = version
			body := request(t, c, deal)

			verified := s.post(t, "/verify", body)
			if verified.status != 200 || !verified.is("isValid") || verified.str("payer") != deal.Payer.Address.Hex() {
				t.Fatalf("v%d verify: %d %s", version, verified.status, verified.text)
			}
			settled := s.post(t, "/settle", body)
			if settled.status != 200 || !settled.is("success") || len(settled.str("transaction")) != 66 {
				t.Fatalf("v%d settle: %d %s", version, settled.status, settled.text)
			}
			if got := received(t, c, deal.PayTo); got != 10_000 {
				t.Fatalf("v%d: payee has %d, want 10000", version, got)
			}
			again := s.post(t, "/settle", body)
			if again.is("success") || again.str("errorReason") != "duplicate_settlement" || again.str("transaction") != settled.str("transaction") {
				t.Fatalf("v%d repeat: %d %s", version, again.status, again.text)
			}
			wantInvalid(t, s, body, "duplicate_settlement")
		}
	})
}

func TestIdempotencyKeyReplaysSuccessToTheSameCaller(t *testing.T) {
	t.Parallel()
	s := setup{chain: world.chain}.start(t)
	from := height(t, world.chain)
	deal := sale(t, payers(t, world.chain, 1)[0])
	body := request(t, world.chain, deal)
	const header, replayed = "Idempotency-Key", "Idempotent-Replayed"

	first := s.post(t, "/settle", body, header, "order-1")
	hash := wantSuccess(t, first)
	if first.header.Get(replayed) != "" {
		t.Errorf("the first success is marked as replayed: %v", first.header)
	}
	for _, step := range []struct {
		name, key string
		replayed  bool
	}{
		{"the same key gets the success again", "order-1", true},
		{"no key is another caller", "", false},
		{"the same key still gets it after a stranger asked", "order-1", true},
		{"another key is another caller", "order-2", false},
		{"a longer key is another key", "order-11", false},
		{"the same key gets it any number of times", "order-1", true},
	} {
		r := s.post(t, "/settle", body, header, step.key)
		if !step.replayed {
			wantDuplicate(t, r, hash)
			continue
		}
		if wantSuccess(t, r) != hash || r.header.Get(replayed) != "true" {
			t.Errorf("%s: %v %s", step.name, r.header, r.text)
		}
	}
	if moved := paidTo(t, world.chain, from, deal.PayTo); len(moved) != 1 {
		t.Errorf("transfers: %+v, want one", moved)
	}
}

func TestTwoAtOnceWithTheSameKeyBothSucceed(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	s := setup{chain: c}.start(t)
	from := height(t, c)
	deal := sale(t, payer)
	body := request(t, c, deal)
	first := settleLater(t, s, body, "Idempotency-Key", "order-1")
	second := settleLater(t, s, body, "Idempotency-Key", "order-1")
	eventuallyState(t, s, body, "broadcast")
	mine(t, c, 1)
	replays := 0
	var hashes []string
	for _, answer := range []<-chan settleAnswer{first, second} {
		r := wait(t, answer)
		hashes = append(hashes, wantSuccess(t, r))
		if r.header.Get("Idempotent-Replayed") == "true" {
			replays++
		}
	}
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 1 || hashes[0] != hashes[1] || replays != 1 {
		t.Errorf("transfers %+v, hashes %v, %d of two marked as replayed", moved, hashes, replays)
	}
}

func TestCallerWhoseTimeIsUpCollectsTheSuccessOnce(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	s := setup{chain: c, overlay: "settle: {wait: 1s}"}.start(t)
	from := height(t, c)
	deal := sale(t, payer)
	body := request(t, c, deal)

	const key = "Idempotency-Key"
	pending := s.post(t, "/settle", body, key, "order-1")
	hash := pending.str("transaction")
	if pending.status != 200 || pending.is("success") || pending.str("errorReason") != "settlement_pending" || len(hash) != 66 {
		t.Fatalf("nothing is mined: %d %s", pending.status, pending.text)
	}
	wantInvalid(t, s, body, "duplicate_settlement")
	if shown := recordOf(t, s, body); shown["outcome"] != "pending" || shown["transaction"] != hash || shown["id"] != pending.header.Get("Settlement-Id") {
		t.Errorf("the record of a pending payment: %v", shown)
	}
	mine(t, c, 1)
	if got := wantSuccess(t, collect(t, s, body, key, "order-2")); got != hash {
		t.Errorf("collected %s, announced was %s", got, hash)
	}
	wantDuplicate(t, s.post(t, "/settle", body), hash)
	// The key of the call that was told counts, not that of the first.
	wantDuplicate(t, s.post(t, "/settle", body, key, "order-1"), hash)
	if got := wantSuccess(t, s.post(t, "/settle", body, key, "order-2")); got != hash {
		t.Errorf("replayed %s, announced was %s", got, hash)
	}
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 1 || moved[0].TxHash.Hex() != hash {
		t.Errorf("transfers: %+v, want one in %s", moved, hash)
	}
}

func TestPaymentSettlesThoughItsCallerHangsUp(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	s := setup{chain: c}.start(t)
	from := height(t, c)
	deal := sale(t, payer)
	body := request(t, c, deal)

	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := s.tryPost(ctx, "/settle", body)
		gone <- err
	}()
	eventuallyState(t, s, body, "broadcast")
	hangUp()
	if err := <-gone; err == nil {
		t.Fatal("the call was answered before anything was mined")
	}
	eventually(t, "the service noticed", func() bool { return strings.Contains(s.log.String(), `"status":499`) })
	mine(t, c, 1)
	eventuallyState(t, s, body, "included")
	hash := wantSuccess(t, s.post(t, "/settle", body))
	wantDuplicate(t, s.post(t, "/settle", body), hash)
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 1 || moved[0].TxHash.Hex() != hash {
		t.Errorf("transfers: %+v, want one in %s", moved, hash)
	}
}

func TestSuccessWaitsForTheAskedConfirmations(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	chain := "chains: {'" + c.Network() + "': {confirmations: 3}}"
	s := setup{chain: c, overlay: "settle: {wait: 1s}\n" + chain}.start(t)
	deal := sale(t, payers(t, c, 1)[0])
	body := request(t, c, deal)
	for blocks := 1; blocks <= 2; blocks++ { // the first is the one that includes it
		r := s.post(t, "/settle", body)
		if shown := recordOf(t, s, body); r.is("success") || r.str("errorReason") != "settlement_pending" || shown["state"] != "included" {
			t.Fatalf("at depth %d: %s, record %v", blocks, r.text, shown)
		}
		mine(t, c, 1)
	}
	hash := wantSuccess(t, collect(t, s, body))
	wantDuplicate(t, s.post(t, "/settle", body), hash)
}

func TestSettlementsTellOutcomeAndProof(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t)
	deal := sale(t, payers(t, c, 1)[0])
	body := request(t, c, deal)
	settled := s.post(t, "/settle", body)
	hash := wantSuccess(t, settled)
	id := settled.header.Get("Settlement-Id")
	receipt, err := c.Client().TransactionReceipt(t.Context(), common.HexToHash(hash))
	if err != nil {
		t.Fatal(err)
	}
	nonce := dig[string](t, body, "paymentPayload", "payload", "authorization", "nonce")
	key := "payer=" + deal.Payer.Address.Hex() + "&nonce=" + nonce
	for _, path := range []string{
		"/settlements/" + id,
		"/settlements?transaction=" + hash,
		"/settlements?network=" + c.Network() + "&transaction=" + hash,
		"/settlements?" + key,
		"/settlements?network=" + c.Network() + "&" + key,
		"/settlements?network=base&" + key,
	} {
		r := s.get(t, path)
		shown := r.body
		if strings.Contains(path, "?") {
			if shown = onlySettlement(t, r); shown == nil {
				t.Fatalf("%s: %d %s", path, r.status, r.text)
			}
		}
		for field, want := range map[string]any{
			"id": id, "outcome": "succeeded", "state": "included", "network": c.Network(), "scheme": "exact", "amount": "10000",
			"transaction": hash, "nonce": nonce, "blockNumber": float64(receipt.BlockNumber.Uint64()), "blockHash": receipt.BlockHash.Hex(),
		} {
			if shown[field] != want {
				t.Errorf("%s: %s is %v, want %v", path, field, shown[field], want)
			}
		}
		for field, want := range map[string]common.Address{"payer": deal.Payer.Address, "payTo": deal.PayTo, "asset": c.USDC()} {
			if common.HexToAddress(dig[string](t, shown, field)) != want {
				t.Errorf("%s: %s is %v, want %v", path, field, shown[field], want)
			}
		}
		if dig[string](t, shown, "evidence", "kind") != "receipt" || dig[string](t, shown, "evidence", "transaction") != hash ||
			dig[string](t, shown, "evidence", "blockHash") != receipt.BlockHash.Hex() {
			t.Errorf("%s: evidence %v", path, shown["evidence"])
		}
		var times []time.Time
		for _, field := range []string{"createdAt", "updatedAt", "answeredAt"} {
			at, err := time.Parse(time.RFC3339Nano, dig[string](t, shown, field))
			if err != nil {
				t.Errorf("%s: %s: %v", path, field, err)
			}
			times = append(times, at)
		}
		if !slices.IsSortedFunc(times, time.Time.Compare) {
			t.Errorf("%s: created, included, answered: %v", path, times)
		}
	}
}

func TestSettlementsRefuseWhatTheyCannotLookUp(t *testing.T) {
	t.Parallel()
	s := setup{chain: world.chain}.start(t)
	hash, address := "0x"+strings.Repeat("ab", 32), "0x"+strings.Repeat("12", 20)
	for _, row := range []struct {
		name, path string
		status     int
	}{
		{"an unknown id is not found", "/settlements/0198c0de-0000-7000-8000-000000000000", http.StatusNotFound},
		{"what is no id is not found", "/settlements/42", http.StatusNotFound},
		{"an unknown transaction has no settlements", "/settlements?transaction=" + hash, http.StatusOK},
		{"an unknown authorization has no settlements", "/settlements?payer=" + address + "&nonce=" + hash, http.StatusOK},
		{"nothing is asked", "/settlements", http.StatusBadRequest},
		{"a payer alone is not enough", "/settlements?payer=" + address, http.StatusBadRequest},
		{"a nonce alone is not enough", "/settlements?nonce=" + hash, http.StatusBadRequest},
		{"the transaction is no hash", "/settlements?transaction=0x12", http.StatusBadRequest},
		{"the payer is no address", "/settlements?payer=me&nonce=" + hash, http.StatusBadRequest},
		{"the nonce is no hash", "/settlements?payer=" + address + "&nonce=7", http.StatusBadRequest},
		{"the network is not served", "/settlements?network=eip155:1&transaction=" + hash, http.StatusBadRequest},
		{"the network's v1 name is not served", "/settlements?network=base-sepolia&transaction=" + hash, http.StatusBadRequest},
	} {
		r := s.get(t, row.path)
		list, _ := r.body["settlements"].([]any)
		if r.status != row.status || (row.status == http.StatusOK) != (r.body["settlements"] != nil) || len(list) != 0 ||
			(row.status != http.StatusOK) != (r.str("error") != "") {
			t.Errorf("%s: %s: %d %s, want status %d", row.name, row.path, r.status, r.text, row.status)
		}
	}
}

// settleAnswer is what became of a call that ran beside the test.
type settleAnswer struct {
	reply
	err error
}

// settleLater calls /settle beside the test.
func settleLater(t *testing.T, s *service, body any, header ...string) <-chan settleAnswer {
	t.Helper()
	answer := make(chan settleAnswer, 1)
	ctx := t.Context()
	go func() {
		r, err := s.tryPost(ctx, "/settle", body, header...)
		answer <- settleAnswer{r, err}
	}()
	return answer
}

func wait(t *testing.T, answer <-chan settleAnswer) reply {
	t.Helper()
	a := <-answer
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.reply
}

// collect repeats a call until it is told more than settlement_pending.
func collect(t *testing.T, s *service, body any, header ...string) reply {
	t.Helper()
	var r reply
	eventually(t, "the payment's end is told", func() bool {
		r = s.post(t, "/settle", body, header...)
		return r.str("errorReason") != "settlement_pending"
	})
	return r
}

// wantSuccess returns the hash.
func wantSuccess(t *testing.T, r reply) string {
	t.Helper()
	if r.status != http.StatusOK || !r.is("success") || len(r.str("transaction")) != 66 {
		t.Fatalf("want a success, got %d %s", r.status, r.text)
	}
	return r.str("transaction")
}

func wantDuplicate(t *testing.T, r reply, hash string) {
	t.Helper()
	if r.status != http.StatusOK || r.is("success") || r.str("errorReason") != "duplicate_settlement" || r.str("transaction") != hash {
		t.Fatalf("want duplicate_settlement with %s, got %d %s", hash, r.status, r.text)
	}
}

func wantInvalid(t *testing.T, s *service, body any, reason string) {
	t.Helper()
	if r := s.post(t, "/verify", body); r.status != http.StatusOK || r.is("isValid") || r.str("invalidReason") != reason {
		t.Fatalf("verify: want %s, got %d %s", reason, r.status, r.text)
	}
}

// dig reads a value inside decoded JSON.
func dig[T any](t *testing.T, in any, path ...string) T {
	t.Helper()
	for i, key := range path {
		m, ok := in.(map[string]any)
		if !ok {
			t.Fatalf("no object at %s", strings.Join(path[:i], "."))
		}
		in = m[key]
	}
	out, ok := in.(T)
	if !ok {
		t.Fatalf("%s is %v", strings.Join(path, "."), in)
	}
	return out
}

// onlySettlement is the one entry of an answer to GET /settlements, nil if
// there is none.
func onlySettlement(t *testing.T, r reply) map[string]any {
	t.Helper()
	list, _ := r.body["settlements"].([]any)
	if len(list) != 1 {
		return nil
	}
	return dig[map[string]any](t, list[0])
}

// recordOf is the settlement of a request's authorization, nil before there is one.
func recordOf(t *testing.T, s *service, body map[string]any) map[string]any {
	t.Helper()
	from := dig[string](t, body, "paymentPayload", "payload", "authorization", "from")
	nonce := dig[string](t, body, "paymentPayload", "payload", "authorization", "nonce")
	return onlySettlement(t, s.get(t, "/settlements?payer="+from+"&nonce="+nonce))
}

func eventuallyState(t *testing.T, s *service, body map[string]any, state string) {
	t.Helper()
	eventually(t, "the payment is "+state, func() bool { return recordOf(t, s, body)["state"] == state })
}

// outboxOf lists the types of all events in their order.
func outboxOf(t *testing.T, s *service) []string {
	t.Helper()
	return queryRows[string](t, s.databaseURL, "SELECT type FROM outbox ORDER BY id")
}
