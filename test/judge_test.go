package test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"facilitator/internal/devnet"
)

// TestAPaymentIsJudgedWhenTheNodeAnswersAgain: the node can't tell who used an
// authorization when its transaction reverts, and nothing else happens after it.
func TestAPaymentIsJudgedWhenTheNodeAnswersAgain(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	node := newOutageNode(t, c)
	var asked atomic.Int64
	node.follow(func(body string, forward http.HandlerFunc) http.HandlerFunc {
		if strings.Contains(body, `"eth_getLogs"`) && asked.Add(1) == 1 {
			return outageStatus(http.StatusBadGateway)(body, forward)
		}
		return forward
	})
	s := setup{chain: c, rpcURL: node.url}.start(t)
	body := request(t, c, sale(t, payer))
	answer := signedLater(t, s, c, body)
	cancelled(t, c, payer, body)
	mine(t, c, 1)
	eventuallyState(t, s, body, "failed")
	if r := wait(t, answer); r.str("errorReason") != "invalid_exact_evm_nonce_already_used" {
		t.Errorf("answered %d %s", r.status, r.text)
	}
	if asked.Load() < 2 {
		t.Errorf("the node was asked %d times", asked.Load())
	}
}

// TestAPaymentCancelledBelowItsClaimInANewForkIsReversed: the reorganisation
// went deeper than the block at which the payment was claimed.
func TestAPaymentCancelledBelowItsClaimInANewForkIsReversed(t *testing.T) {
	t.Parallel()
	reversedBy(t, 1)
}

// TestALaneThatIsPoorFromTheStartIsParkedInTheRecord, for other replicas and
// people to see.
func TestALaneThatIsPoorFromTheStartIsParkedInTheRecord(t *testing.T) {
	t.Parallel()
	s := setup{chain: world.chain, lanes: newKeys(t, devnet.RoleLane, 1), unfunded: true}.start(t)
	eventually(t, "the record says why the lane is parked", func() bool {
		return strings.Contains(parkedFor(t, s, s.lanes[0]), "too little gas money")
	})
}
