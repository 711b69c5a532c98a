package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// told makes a settler that tells one answer.
func told(a payment.Answer, err error) func(*bench) {
	return func(b *bench) {
		b.settler.settle = func(context.Context, *x402.Request, payment.Wishes) (payment.Answer, error) { return a, err }
	}
}

// judged makes a verifier that tells one judgement.
func judged(payer string, err error) func(*bench) {
	return func(b *bench) {
		b.deps.Verifier = verifier(func(context.Context, *x402.Request) (string, error) { return payer, err })
	}
}

// TestAnswersByteForByte holds what clients parse: a change here is a change of
// the protocol.
func TestAnswersByteForByte(t *testing.T) {
	t.Parallel()
	v2, v1 := fixture(t, "v2.json"), fixture(t, "v1.json")
	reject := x402.Reject
	node := fmt.Errorf("%w: dial tcp 10.0.0.7:8545: connection refused", chain.ErrUnavailable)
	db := fmt.Errorf("%w: host=10.0.0.8 user=secret", payment.ErrUnavailable)
	const (
		id     = "Settlement-Id"
		retry  = "Retry-After"
		replay = "Idempotent-Replayed"
	)
	for _, c := range []struct {
		name, path, body string
		set              func(*bench)
		status           int
		want             string
		header           map[string]string // "" is absent
	}{
		{"verify: good", "/verify", v2, nil, 200, `{"isValid":true,"payer":"` + payer + `"}`, map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", id: ""}},
		{"verify: good in version 1", "/verify", v1, nil, 200, `{"isValid":true,"payer":"` + payer + `"}`, nil},
		{
			"verify: refused", "/verify", v2, judged(payer, reject(x402.ReasonExactSignature, "not signed by the payer")), 200,
			`{"isValid":false,"invalidReason":"invalid_exact_evm_signature","invalidMessage":"not signed by the payer","payer":"` + payer + `"}`,
			map[string]string{retry: ""},
		},
		{
			"verify: refused before the payer is known", "/verify", v2, judged("", reject(x402.ReasonUnsupportedPayload, "")), 200,
			`{"isValid":false,"invalidReason":"unsupported_payload_type"}`, nil,
		},
		{
			"verify: known already", "/verify", v2, judged(payer, reject(x402.ReasonDuplicateSettlement, "this authorization is already settled or being settled")), 200,
			`{"isValid":false,"invalidReason":"duplicate_settlement","invalidMessage":"this authorization is already settled or being settled","payer":"` + payer + `"}`,
			map[string]string{"Retryable": "false"},
		},
		{
			"verify: another version", "/verify", edit(t, v2, `{"x402Version":2,"paymentPayload":{"x402Version":2,`, `{"x402Version":3,"paymentPayload":{"x402Version":3,`), nil, 200,
			`{"isValid":false,"invalidReason":"invalid_x402_version","invalidMessage":"x402Version 3 is not supported; supported: 1, 2"}`, nil,
		},
		{
			"verify: another network in version 1", "/verify", strings.ReplaceAll(v1, "base-sepolia", "polygon"), nil, 200,
			`{"isValid":false,"invalidReason":"invalid_network","invalidMessage":"network \"polygon\" is not supported here in version 1; supported: base-sepolia"}`, nil,
		},
		{
			"verify: an id for a name in version 1", "/verify", strings.ReplaceAll(v1, "base-sepolia", "eip155:84532"), nil, 200,
			`{"isValid":false,"invalidReason":"invalid_network","invalidMessage":"network \"eip155:84532\" is not supported here in version 1; supported: base-sepolia"}`, nil,
		},
		{
			"verify: another network in version 2", "/verify", v2, judged("", reject(x402.ReasonInvalidNetwork, "no such network")), 200,
			`{"isValid":false,"invalidReason":"invalid_network","invalidMessage":"no such network"}`, nil,
		},
		{
			"verify: an unusable value", "/verify", strings.ReplaceAll(v2, `"amount":"10000"`, `"amount":"0x10"`), nil, 200,
			`{"isValid":false,"invalidReason":"invalid_payment_requirements","invalidMessage":"paymentRequirements.amount: must be a decimal integer below 2^256"}`, nil,
		},
		{
			"verify: no JSON", "/verify", `payment`, nil, 400,
			`{"isValid":false,"invalidReason":"invalid_payload","invalidMessage":"not valid JSON at byte 1","error":"not valid JSON at byte 1"}`, nil,
		},
		{
			"verify: nothing", "/verify", ``, nil, 400,
			`{"isValid":false,"invalidReason":"invalid_payload","invalidMessage":"not valid JSON: it ends too early","error":"not valid JSON: it ends too early"}`, nil,
		},
		{
			"verify: no requirements", "/verify", `{"paymentPayload":{}}`, nil, 400,
			`{"isValid":false,"invalidReason":"invalid_payment_requirements","invalidMessage":"paymentRequirements: missing","error":"paymentRequirements: missing"}`, nil,
		},
		{
			"verify: no payload", "/verify", `{"paymentRequirements":{}}`, nil, 400,
			`{"isValid":false,"invalidReason":"invalid_payload","invalidMessage":"paymentPayload: missing","error":"paymentPayload: missing"}`, nil,
		},
		{
			"verify: a number for an amount", "/verify", strings.ReplaceAll(v2, `"amount":"10000"`, `"amount":10000`), nil, 400,
			`{"isValid":false,"invalidReason":"invalid_payment_requirements","invalidMessage":"paymentRequirements.amount: must be a string","error":"paymentRequirements.amount: must be a string"}`, nil,
		},
		{
			"verify: a key twice", "/verify", edit(t, v2, `"paymentRequirements":{`, `"paymentRequirements":{"amount":"1",`), nil, 400,
			`{"isValid":false,"invalidReason":"invalid_payment_requirements","invalidMessage":"paymentRequirements.amount: given twice","error":"paymentRequirements.amount: given twice"}`, nil,
		},
		{"verify: too long", "/verify", `{"a":"` + strings.Repeat("x", maxBody) + `"}`, nil, 413, `{"error":"body is larger than 4096 bytes"}`, nil},
		{"verify: the node is silent", "/verify", v2, judged(payer, node), 503, `{"error":"the chain's node can't be reached, try again","retryable":true}`, map[string]string{retry: "2"}},
		{"verify: the record is silent", "/verify", v2, judged(payer, db), 503, `{"error":"the record can't be reached, try again","retryable":true}`, map[string]string{retry: "2"}},
		{
			"verify: no lane can pay", "/verify", v2, judged(payer, fmt.Errorf("%w on eip155:84532: no relayer wallet has gas", chain.ErrNotReady)), 503,
			`{"error":"not ready to settle on eip155:84532: no relayer wallet has gas","retryable":true}`,
			map[string]string{retry: "2"},
		},
		{
			"verify: an oracle's node is silent", "/verify", v2, judged(payer, fmt.Errorf("%w: oracle: %w", payment.ErrUnscreened, node)), 503,
			`{"error":"the payment can't be screened now, try again","retryable":true}`,
			map[string]string{retry: "2"},
		},
		{
			"verify: too many of the payer", "/verify", v2, judged(payer, &payment.ThrottledError{Wait: 1500 * time.Millisecond, Message: "too many payments"}), 429,
			`{"error":"too many payments, try again later","retryable":true}`,
			map[string]string{retry: "2"},
		},
		{
			"settle: too many of the payer", "/settle", v2, told(payment.Answer{Payer: payer}, &payment.ThrottledError{Wait: time.Millisecond, Message: "too many payments"}), 429,
			`{"error":"too many payments, try again later","retryable":true}`,
			map[string]string{retry: "1"},
		},
		{"verify: a fault of ours", "/verify", v2, judged(payer, errors.New("column \"x\" does not exist")), 500, `{"error":"internal error"}`, map[string]string{retry: ""}},

		{
			"settle: success", "/settle", v2, nil, 200,
			`{"success":true,"payer":"` + payer + `","transaction":"` + txText + `","network":"eip155:84532"}`,
			map[string]string{id: "0198c0de-0000-7000-8000-0000000000aa", replay: "", "Cache-Control": "no-store", "Retryable": ""},
		},
		{
			"settle: success in version 1 echoes the name", "/settle", v1, nil, 200,
			`{"success":true,"payer":"` + payer + `","transaction":"` + txText + `","network":"base-sepolia"}`,
			map[string]string{id: "0198c0de-0000-7000-8000-0000000000aa"},
		},
		{
			"settle: success once more", "/settle", v2, told(payment.Answer{Success: true, Replayed: true, Payer: payer, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash}, nil), 200,
			`{"success":true,"payer":"` + payer + `","transaction":"` + txText + `","network":"eip155:84532"}`,
			map[string]string{id: "0198c0de-0000-7000-8000-0000000000aa", replay: "true"},
		},
		{
			"settle: pending", "/settle", v2, told(payment.Answer{Payer: payer, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash, Reason: x402.ReasonSettlementPending, Message: "ask again"}, nil), 200,
			`{"success":false,"errorReason":"settlement_pending","errorMessage":"ask again","payer":"` + payer + `","transaction":"` + txText + `","network":"eip155:84532"}`,
			map[string]string{id: "0198c0de-0000-7000-8000-0000000000aa", "Retryable": "true"},
		},
		{
			"settle: pending in version 1", "/settle", v1, told(payment.Answer{Payer: payer, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash, Reason: x402.ReasonSettlementPending, Message: "ask again"}, nil), 200,
			`{"success":false,"errorReason":"settlement_pending","errorMessage":"ask again","payer":"` + payer + `","transaction":"` + txText + `","network":"base-sepolia"}`,
			map[string]string{id: "0198c0de-0000-7000-8000-0000000000aa"},
		},
		{
			"settle: too many are queued", "/settle", v2, told(payment.Answer{Payer: payer}, fmt.Errorf("%w on eip155:84532: too many payments are queued", chain.ErrNotReady)), 503,
			`{"error":"not ready to settle on eip155:84532: too many payments are queued","retryable":true}`,
			map[string]string{retry: "2", id: ""},
		},
		{
			"settle: duplicate", "/settle", v1, told(payment.Answer{Payer: payer, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash, Reason: x402.ReasonDuplicateSettlement, Message: "told before"}, nil), 200,
			`{"success":false,"errorReason":"duplicate_settlement","errorMessage":"told before","payer":"` + payer + `","transaction":"` + txText + `","network":"base-sepolia"}`,
			map[string]string{id: "0198c0de-0000-7000-8000-0000000000aa"},
		},
		{
			"settle: failed on chain", "/settle", v2, told(payment.Answer{Payer: payer, PaymentID: "0198c0de-0000-7000-8000-0000000000aa", TxHash: txHash, Reason: x402.ReasonExactNonceUsed, Message: "used"}, nil), 200,
			`{"success":false,"errorReason":"invalid_exact_evm_nonce_already_used","errorMessage":"used","payer":"` + payer + `","transaction":"` + txText + `","network":"eip155:84532"}`, nil,
		},
		{
			"settle: refused", "/settle", v2, told(payment.Answer{Payer: payer}, reject(x402.ReasonExactInsufficientBalance, "no money")), 200,
			`{"success":false,"errorReason":"invalid_exact_evm_insufficient_balance","errorMessage":"no money","payer":"` + payer + `","transaction":"","network":"eip155:84532"}`,
			map[string]string{id: ""},
		},
		{
			"settle: another network in version 1", "/settle", strings.ReplaceAll(v1, "base-sepolia", "polygon"), nil, 200,
			`{"success":false,"errorReason":"invalid_network","errorMessage":"network \"polygon\" is not supported here in version 1; supported: base-sepolia","transaction":"","network":"polygon"}`, nil,
		},
		{
			"settle: another version", "/settle", edit(t, v2, `{"x402Version":2,"paymentPayload":{"x402Version":2,`, `{"x402Version":0,"paymentPayload":{"x402Version":0,`), nil, 200,
			`{"success":false,"errorReason":"invalid_x402_version","errorMessage":"x402Version 0 is not supported; supported: 1, 2","transaction":"","network":"eip155:84532"}`, nil,
		},
		{
			"settle: no JSON", "/settle", `payment`, nil, 400,
			`{"success":false,"errorReason":"invalid_payload","errorMessage":"not valid JSON at byte 1","transaction":"","network":"","error":"not valid JSON at byte 1"}`, nil,
		},
		{
			"settle: no payload, but a network", "/settle", `{"paymentRequirements":{"network":"eip155:84532"}}`, nil, 400,
			`{"success":false,"errorReason":"invalid_payload","errorMessage":"paymentPayload: missing","transaction":"","network":"eip155:84532","error":"paymentPayload: missing"}`, nil,
		},
		{"settle: too long", "/settle", strings.Repeat(" ", maxBody+1), nil, 413, `{"error":"body is larger than 4096 bytes"}`, nil},
		{"settle: the node is silent", "/settle", v2, told(payment.Answer{Payer: payer}, node), 503, `{"error":"the chain's node can't be reached, try again","retryable":true}`, map[string]string{retry: "2", id: ""}},
		{"settle: the record falls silent while waiting", "/settle", v2, told(payment.Answer{Payer: payer, PaymentID: "0198c0de-0000-7000-8000-0000000000aa"}, db), 503, `{"error":"the record can't be reached, try again","retryable":true}`, map[string]string{retry: "2", id: "0198c0de-0000-7000-8000-0000000000aa"}},
		{
			"settle: nothing was sent", "/settle", v2, told(payment.Answer{Payer: payer, PaymentID: "0198c0de-0000-7000-8000-0000000000aa"}, fmt.Errorf("%w: no wallet", payment.ErrNotSent)), 503,
			`{"error":"nothing was sent: no wallet","retryable":true}`,
			map[string]string{retry: "2", id: "0198c0de-0000-7000-8000-0000000000aa"},
		},
		{"settle: a fault of ours", "/settle", v2, told(payment.Answer{Payer: payer, PaymentID: "0198c0de-0000-7000-8000-0000000000aa"}, errors.New("constraint broken")), 500, `{"error":"internal error"}`, map[string]string{id: "0198c0de-0000-7000-8000-0000000000aa"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			if c.set != nil {
				c.set(b)
			}
			r := call(t, b.handler(), http.MethodPost, c.path, c.body)
			if got := r.text; r.status != c.status || got != c.want {
				t.Errorf("%d %s\nwant %d %s", r.status, got, c.status, c.want)
			}
			for key, want := range c.header {
				if got := r.header.Get(key); got != want {
					t.Errorf("%s: %q, want %q", key, got, want)
				}
			}
			if len(b.settler.undelivered) != 0 {
				t.Error("a delivered answer is reported as undelivered")
			}
		})
	}
}

func TestTheOtherRoutesAnswerByteForByte(t *testing.T) {
	t.Parallel()
	const supported = `{"kinds":[{"x402Version":2,"scheme":"exact","network":"eip155:84532","extra":{"confirmation":{"default":"mined","levels":["mined","\u003cn blocks\u003e"],"waitSeconds":20}}},{"x402Version":1,"scheme":"exact","network":"base-sepolia"}],` +
		`"extensions":[],"signers":{"eip155:*":["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"]}}`
	for _, c := range []struct {
		name, method, path string
		set                func(*bench)
		status             int
		want               string
	}{
		{"supported", http.MethodGet, "/supported", nil, 200, supported},
		{"alive", http.MethodGet, "/livez", nil, 200, `{"status":"ok"}`},
		{"ready", http.MethodGet, "/readyz", nil, 200, `{"status":"ready"}`},
		{"ready, but not all is well", http.MethodGet, "/readyz", func(b *bench) {
			b.deps.Ready = func(context.Context) (bool, []string) { return true, []string{"eip155:1: no gas"} }
		}, 200, `{"status":"ready","problems":["eip155:1: no gas"]}`},
		{"not ready", http.MethodGet, "/readyz", func(b *bench) {
			b.deps.Ready = func(context.Context) (bool, []string) { return false, []string{"record"} }
		}, 503, `{"status":"not ready","problems":["record"]}`},
		{"no such path", http.MethodGet, "/", nil, 404, `{"error":"no such path"}`},
		{"no such path for a POST", http.MethodPost, "/pay", nil, 404, `{"error":"no such path"}`},
		{"a slash too many at the end", http.MethodPost, "/verify/", nil, 404, `{"error":"no such path"}`},
		{"another case", http.MethodPost, "/Verify", nil, 404, `{"error":"no such path"}`},
		{"another method", http.MethodGet, "/verify", nil, 405, `{"error":"GET is not allowed here"}`},
		{"another method to settle", http.MethodPut, "/settle", nil, 405, `{"error":"PUT is not allowed here"}`},
		{"another method to supported", http.MethodPost, "/supported", nil, 405, `{"error":"POST is not allowed here"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			if c.set != nil {
				c.set(b)
			}
			r := call(t, b.handler(), c.method, c.path, "")
			if got := r.text; r.status != c.status || got != c.want || r.header.Get("Content-Type") != "application/json" {
				t.Errorf("%d %s\nwant %d %s", r.status, got, c.status, c.want)
			}
		})
	}
}

func TestSettlementsAnswerByteForByte(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.FixedZone("", 3600))
	p := payment.Payment{
		ID: "0198c0de-0000-7000-8000-0000000000aa", State: payment.StateIncluded, TxHash: txHash, BlockNumber: 7, BlockHash: chain.Hash{1},
		Evidence: &payment.Evidence{Kind: payment.EvidenceReceipt, TxHash: &txHash, BlockNumber: 7, BlockHash: &chain.Hash{1}},
		Terms: payment.Terms{
			Key: payment.Key{Network: "eip155:84532", Payer: chain.Address{19: 1}, Nonce: chain.Hash{2}}, Scheme: "exact",
			Asset: chain.Address{19: 3}, PayTo: chain.Address{19: 4}, Amount: x402.NewUint256(10000), ValidBefore: x402.NewUint256(2000000000),
		},
		CreatedAt: at, UpdatedAt: at.Add(time.Second), AnsweredAt: at.Add(2 * time.Second),
	}
	const terms = `"network":"eip155:84532","scheme":"exact","asset":"0x0000000000000000000000000000000000000003","payer":"0x0000000000000000000000000000000000000001",` +
		`"payTo":"0x0000000000000000000000000000000000000004","amount":"10000","nonce":"0x0200000000000000000000000000000000000000000000000000000000000000",` +
		`"validAfter":"0","validBefore":"2000000000",`
	const block = `0x0100000000000000000000000000000000000000000000000000000000000000`
	const paid = `{"id":"0198c0de-0000-7000-8000-0000000000aa","outcome":"succeeded","state":"included",` + terms + `"transaction":"` + txText + `","blockNumber":7,"blockHash":"` + block + `",` +
		`"evidence":{"kind":"receipt","transaction":"` + txText + `","blockNumber":7,"blockHash":"` + block + `"},` +
		`"createdAt":"2026-11-22T11:00:00Z","updatedAt":"2026-11-22T11:00:01Z","answeredAt":"2026-11-22T11:00:02Z"}`
	failed := p
	failed.State, failed.TxHash, failed.Reason, failed.Message, failed.AnsweredAt = payment.StateFailed, chain.Hash{}, x402.ReasonExactNonceUsed, "used", time.Time{}
	failed.Evidence, failed.BlockNumber = &payment.Evidence{Kind: payment.EvidenceUnsendable, Detail: "why"}, 0
	const unpaid = `{"id":"0198c0de-0000-7000-8000-0000000000aa","outcome":"failed","state":"failed",` + terms + `"transaction":"","reason":"invalid_exact_evm_nonce_already_used","message":"used",` +
		`"evidence":{"kind":"would_fail","detail":"why"},"createdAt":"2026-11-22T11:00:00Z","updatedAt":"2026-11-22T11:00:01Z"}`
	// Negative proof: by this final block it was unused, and its time was over.
	expired := failed
	expired.Reason, expired.Message, expired.TxHash = x402.ReasonExactValidBefore, "the authorization expired unused", txHash
	expired.Evidence = &payment.Evidence{Kind: payment.EvidenceExpired, BlockNumber: 9, BlockHash: &chain.Hash{1}, BlockTime: 2000000001}
	const unused = `{"id":"0198c0de-0000-7000-8000-0000000000aa","outcome":"failed","state":"failed",` + terms + `"transaction":"` + txText + `",` +
		`"reason":"invalid_exact_evm_payload_authorization_valid_before","message":"the authorization expired unused",` +
		`"evidence":{"kind":"expired_unused","blockNumber":9,"blockHash":"` + block + `","blockTime":2000000001},` +
		`"createdAt":"2026-11-22T11:00:00Z","updatedAt":"2026-11-22T11:00:01Z"}`
	pending := payment.Payment{ID: "0198c0de-0000-7000-8000-0000000000aa", State: payment.StateBroadcast, Terms: p.Terms, TxHash: txHash, CreatedAt: at, UpdatedAt: at}
	const open = `{"id":"0198c0de-0000-7000-8000-0000000000aa","outcome":"pending","state":"broadcast",` + terms + `"transaction":"` + txText + `","createdAt":"2026-11-22T11:00:00Z","updatedAt":"2026-11-22T11:00:00Z"}`
	const address, never = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", "0001-01-01T00:00:00Z"
	const payee = "/settlements?payTo=" + address
	const list, key = `/settlements?transaction=` + txText, `payer=0x0000000000000000000000000000000000000001&nonce=` + block
	for _, c := range []struct {
		name, path string
		list       []payment.Payment
		err        error
		status     int
		want       string
		asked      string
	}{
		{"paid", "/settlements/0198c0de-0000-7000-8000-0000000000aa", []payment.Payment{p}, nil, 200, paid, "id 0198c0de-0000-7000-8000-0000000000aa"},
		{"failed", "/settlements/0198c0de-0000-7000-8000-0000000000aa", []payment.Payment{failed}, nil, 200, unpaid, "id 0198c0de-0000-7000-8000-0000000000aa"},
		{"expired unused", "/settlements/0198c0de-0000-7000-8000-0000000000aa", []payment.Payment{expired}, nil, 200, unused, "id 0198c0de-0000-7000-8000-0000000000aa"},
		{"expired unused, by authorization", "/settlements?" + key, []payment.Payment{expired}, nil, 200, `{"settlements":[` + unused + `]}`, "nonce eip155:84532 0x0000000000000000000000000000000000000001 " + block},
		{"pending", "/settlements/0198c0de-0000-7000-8000-0000000000aa", []payment.Payment{pending}, nil, 200, open, "id 0198c0de-0000-7000-8000-0000000000aa"},
		{"no such id", "/settlements/other", nil, nil, 404, `{"error":"no such settlement"}`, "id other"},
		{"the record is silent", "/settlements/0198c0de-0000-7000-8000-0000000000aa", nil, payment.ErrUnavailable, 503, `{"error":"the record can't be reached, try again","retryable":true}`, "id 0198c0de-0000-7000-8000-0000000000aa"},
		{"by transaction", list, []payment.Payment{p, failed}, nil, 200, `{"settlements":[` + paid + `,` + unpaid + `]}`, "transaction eip155:84532 " + txText},
		{"by transaction on a network", list + "&network=eip155:84532", []payment.Payment{p}, nil, 200, `{"settlements":[` + paid + `]}`, "transaction eip155:84532 " + txText},
		{"by authorization, none", "/settlements?network=base-sepolia&" + key, nil, nil, 200, `{"settlements":[]}`, "nonce eip155:84532 0x0000000000000000000000000000000000000001 " + block},
		{"the record is silent for a list", list, nil, payment.ErrUnavailable, 503, `{"error":"the record can't be reached, try again","retryable":true}`, "transaction eip155:84532 " + txText},
		{"another network", list + "&network=eip155:1", nil, nil, 400, `{"error":"network: must be one of eip155:84532"}`, ""},
		{"no hash", "/settlements?transaction=0x12", nil, nil, 400, `{"error":"transaction: must be 0x and 64 hexadecimal digits"}`, ""},
		{"no address", "/settlements?payer=0x12&nonce=" + block, nil, nil, 400, `{"error":"payer: must be 0x and 40 hexadecimal digits"}`, ""},
		{"no nonce", "/settlements?payer=0x0000000000000000000000000000000000000001&nonce=1", nil, nil, 400, `{"error":"nonce: must be 0x and 64 hexadecimal digits"}`, ""},
		{"no question", "/settlements", nil, nil, 400, `{"error":"give ?transaction=, or ?payer= and ?nonce= (with ?network= where several are served), or ?payTo="}`, ""},
		{"a payee's", payee, []payment.Payment{p, failed}, nil, 200, `{"settlements":[` + paid + `,` + unpaid + `]}`, "list  " + address + " since " + never + " until " + never + " after  limit 101"},
		{
			"a payee's, a page", payee + "&limit=1&network=base-sepolia&cursor=0198c0de-0000-7000-8000-000000000000&since=2026-11-01T00:00:00Z&until=2026-12-01T01:00:00%2B01:00",
			[]payment.Payment{p, failed},
			nil, 200, `{"settlements":[` + paid + `],"next":"0198c0de-0000-7000-8000-0000000000aa"}`,
			"list eip155:84532 " + address + " since 2026-11-01T00:00:00Z until 2026-12-01T01:00:00+01:00 after 0198c0de-0000-7000-8000-000000000000 limit 2",
		},
		{"a payee's, none", payee, nil, nil, 200, `{"settlements":[]}`, "list  " + address + " since " + never + " until " + never + " after  limit 101"},
		{"the record is silent for a page", payee, nil, payment.ErrUnavailable, 503, `{"error":"the record can't be reached, try again","retryable":true}`, "list  " + address + " since " + never + " until " + never + " after  limit 101"},
		{"no payee", "/settlements?payTo=me", nil, nil, 400, `{"error":"payTo: must be 0x and 40 hexadecimal digits"}`, ""},
		{"a payee's on another network", payee + "&network=eip155:1", nil, nil, 400, `{"error":"network: must be one of eip155:84532"}`, ""},
		{"no time", payee + "&since=yesterday", nil, nil, 400, `{"error":"since: must be a time such as 2026-11-28T00:00:00Z"}`, ""},
		{"no limit", payee + "&limit=0", nil, nil, 400, `{"error":"limit: must be between 1 and 100"}`, ""},
		{"too high a limit", payee + "&limit=101", nil, nil, 400, `{"error":"limit: must be between 1 and 100"}`, ""},
		{"no cursor", payee + "&cursor=x", nil, nil, 400, `{"error":"cursor: must be the next of an answer"}`, ""},
		{"payer and payee", payee + "&payer=" + address, nil, nil, 400, `{"error":"give ?transaction=, or ?payer= and ?nonce= (with ?network= where several are served), or ?payTo="}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench()
			b.payments.list, b.payments.err = c.list, c.err
			r := call(t, b.handler(), http.MethodGet, c.path, "")
			if diff := cmp.Diff(c.want, r.text); r.status != c.status || diff != "" {
				t.Errorf("%d, want %d (-want +got):\n%s", r.status, c.status, diff)
			}
			if b.payments.asked != c.asked {
				t.Errorf("asked %q, want %q", b.payments.asked, c.asked)
			}
		})
	}
}
