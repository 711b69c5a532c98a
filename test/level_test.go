package test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

const settlementWait = "Settlement-Wait"

// leveled starts a service whose callers do not wait for long, on a chain that
// mines when it is told to.
func leveled(t *testing.T, overlay string) (*devnet.Chain, *service, map[string]any) {
	t.Helper()
	c, payer := heldChain(t)
	s := setup{chain: c, overlay: "settle: {wait: 1s}\nchains: {'" + c.Network() + "': {" + overlay + "}}"}.start(t)
	return c, s, request(t, c, sale(t, payer))
}

// wantPending returns the hash.
func wantPending(t *testing.T, r reply) string {
	t.Helper()
	if r.status != http.StatusOK || r.is("success") || r.str("errorReason") != "settlement_pending" || len(r.str("transaction")) != 66 {
		t.Fatalf("want settlement_pending with a hash, got %d %s", r.status, r.text)
	}
	return r.str("transaction")
}

func TestSubmittedIsToldAtOnceAndNeverAsSuccess(t *testing.T) {
	t.Parallel()
	c, s, body := leveled(t, "")
	from := height(t, c)
	hash := wantPending(t, s.post(t, "/settle", body, settlementWait, "submitted"))
	eventuallyState(t, s, body, "broadcast")
	mine(t, c, 1)
	eventuallyState(t, s, body, "included")
	if again := wantPending(t, s.post(t, "/settle", body, settlementWait, "submitted")); again != hash {
		t.Errorf("first %s, then %s", hash, again)
	}
	if recordOf(t, s, body)["answeredAt"] != nil {
		t.Error("the right to tell success is taken")
	}
	if got := wantSuccess(t, s.post(t, "/settle", body)); got != hash {
		t.Errorf("submitted as %s, settled by %s", hash, got)
	}
	wantDuplicate(t, s.post(t, "/settle", body, settlementWait, "submitted"), hash)
	payee := common.HexToAddress(dig[string](t, body, "paymentRequirements", "payTo"))
	if moved := paidTo(t, c, from, payee); len(moved) != 1 || moved[0].TxHash.Hex() != hash {
		t.Errorf("transfers %+v, want one in %s", moved, hash)
	}
}

func TestSuccessWaitsForTheBlocksThatItsCallerAsks(t *testing.T) {
	t.Parallel()
	c, s, body := leveled(t, "")
	first := settleLater(t, s, body, settlementWait, "3")
	eventuallyState(t, s, body, "broadcast")
	mine(t, c, 1)
	eventuallyState(t, s, body, "included")
	hash := wantPending(t, wait(t, first))
	mine(t, c, 1)
	wantPending(t, s.post(t, "/settle", body, settlementWait, "3"))
	mine(t, c, 1)
	if got := wantSuccess(t, collect(t, s, body, settlementWait, "3")); got != hash {
		t.Errorf("pending as %s, settled by %s", hash, got)
	}
	wantDuplicate(t, s.post(t, "/settle", body, settlementWait, "10000"), hash)
}

func TestMinedIsToldThoughTheNetworkAsksForMore(t *testing.T) {
	t.Parallel()
	c, s, body := leveled(t, "confirmations: 5")
	first := settleLater(t, s, body)
	eventuallyState(t, s, body, "broadcast")
	mine(t, c, 1)
	hash := wantPending(t, wait(t, first))
	if got := wantSuccess(t, s.post(t, "/settle", body, settlementWait, "mined")); got != hash {
		t.Errorf("pending as %s, settled by %s", hash, got)
	}
}

func TestSafeAndFinalizedWaitForTheChain(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"safe", "finalized"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			c, s, body := leveled(t, "")
			first := settleLater(t, s, body, settlementWait, level)
			eventuallyState(t, s, body, "broadcast")
			mine(t, c, 1)
			eventuallyState(t, s, body, "included")
			hash := wantPending(t, wait(t, first))
			mine(t, c, 3)
			wantPending(t, s.post(t, "/settle", body, settlementWait, level))
			mine(t, c, 128) // beyond what the node calls final
			if got := wantSuccess(t, collect(t, s, body, settlementWait, level)); got != hash {
				t.Errorf("pending as %s, settled by %s", hash, got)
			}
			wantDuplicate(t, s.post(t, "/settle", body), hash)
		})
	}
}

func TestWhatADeeperLevelLeavesIsCollectedAtAnother(t *testing.T) {
	t.Parallel()
	c, s, body := leveled(t, "")
	first := settleLater(t, s, body, settlementWait, "finalized", "Idempotency-Key", "order-1")
	eventuallyState(t, s, body, "broadcast")
	mine(t, c, 1)
	hash := wantPending(t, wait(t, first))
	if got := wantSuccess(t, s.post(t, "/settle", body, settlementWait, "mined", "Idempotency-Key", "order-1")); got != hash {
		t.Errorf("pending as %s, settled by %s", hash, got)
	}
	// It was told at another level than is asked now, though to the same caller.
	wantPending(t, s.post(t, "/settle", body, settlementWait, "finalized", "Idempotency-Key", "order-1"))
	mine(t, c, 128)
	final := collect(t, s, body, settlementWait, "finalized", "Idempotency-Key", "order-1")
	if wantSuccess(t, final) != hash || final.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("%v %s", final.header, final.text)
	}
}

func TestLevelsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c}.start(t)
	body := request(t, c, sale(t, payers(t, c, 1)[0]))
	for _, level := range []string{"preconfirmed", "soon", "0", "10001"} {
		r := s.post(t, "/settle", body, settlementWait, level)
		if r.status != http.StatusBadRequest || r.is("success") || r.str("errorReason") != "invalid_payload" || r.str("error") == "" {
			t.Errorf("%s: %d %s", level, r.status, r.text)
		}
	}
	if recordOf(t, s, body) != nil {
		t.Error("something is recorded")
	}
}

func TestSupportedNamesTheConfirmationPolicy(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := setup{chain: c, overlay: "settle: {wait: 7s}\nchains: {'" + c.Network() + "': {confirmations: 2}}"}.start(t)
	kinds := dig[[]any](t, s.get(t, "/supported").body, "kinds")
	if len(kinds) != 2 {
		t.Fatalf("kinds %v", kinds)
	}
	for _, kind := range kinds {
		var levels []string
		for _, l := range dig[[]any](t, kind, "extra", "confirmation", "levels") {
			levels = append(levels, dig[string](t, l))
		}
		if dig[string](t, kind, "extra", "confirmation", "default") != "2" || dig[float64](t, kind, "extra", "confirmation", "waitSeconds") != 7 ||
			!slices.Equal(levels, []string{"submitted", "mined", "safe", "finalized", "<n blocks>"}) {
			t.Errorf("kind %v", kind)
		}
	}
}
