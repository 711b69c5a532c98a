package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/client"
	"facilitator/internal/payment"
	"facilitator/internal/x402"
)

// settlementBody is one payment as GET /settlements shows it.
type settlementBody struct {
	ID      payment.ID    `json:"id"`
	Outcome string        `json:"outcome"` // succeeded, failed or pending
	State   payment.State `json:"state"`
	Network string        `json:"network"`
	Scheme  string        `json:"scheme"`
	Asset   chain.Address `json:"asset"`
	Payer   chain.Address `json:"payer"`
	PayTo   chain.Address `json:"payTo"`
	Amount  string        `json:"amount"` // atomic units
	Nonce   chain.Hash    `json:"nonce"`  // the authorization nonce
	// Unix seconds.
	ValidAfter  string            `json:"validAfter"`
	ValidBefore string            `json:"validBefore"`
	Transaction string            `json:"transaction"`
	BlockNumber uint64            `json:"blockNumber,omitempty"`
	BlockHash   string            `json:"blockHash,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	Message     string            `json:"message,omitempty"`
	Evidence    *payment.Evidence `json:"evidence,omitempty"`
	CreatedAt   time.Time         `json:"createdAt"`
	UpdatedAt   time.Time         `json:"updatedAt"`
	AnsweredAt  *time.Time        `json:"answeredAt,omitempty"`
}

func settlementOf(p *payment.Payment) settlementBody {
	b := settlementBody{
		ID: p.ID, Outcome: "pending", State: p.State, Network: string(p.Terms.Key.Network), Scheme: string(p.Terms.Scheme),
		Asset: p.Terms.Asset, Payer: p.Terms.Key.Payer, PayTo: p.Terms.PayTo, Amount: p.Terms.Amount.String(), Nonce: p.Terms.Key.Nonce,
		ValidAfter: p.Terms.ValidAfter.String(), ValidBefore: p.Terms.ValidBefore.String(),
		Reason: string(p.Reason), Message: p.Message, Evidence: p.Evidence, CreatedAt: p.CreatedAt.UTC(), UpdatedAt: p.UpdatedAt.UTC(),
	}
	switch {
	case p.Settled():
		b.Outcome, b.BlockNumber, b.BlockHash = "succeeded", p.BlockNumber, p.BlockHash.String()
	case p.State == payment.StateFailed:
		b.Outcome = "failed"
	}
	if !p.TxHash.IsZero() {
		b.Transaction = p.TxHash.String()
	}
	if !p.AnsweredAt.IsZero() {
		at := p.AnsweredAt.UTC()
		b.AnsweredAt = &at
	}
	return b
}

// whose is the filter of all that a client may be shown, whatever it asks for: its
// own.
func whose(who *client.Client) payment.Filter { return payment.Filter{Client: &who.ID} }

func (s *server) settlement(_ http.ResponseWriter, r *http.Request, who *client.Client) answer {
	p, err := s.Payments.PaymentByID(r.Context(), payment.ID(chi.URLParam(r, "id")))
	if errors.Is(err, payment.ErrNotFound) || err == nil && !whose(who).Holds(&p) {
		return answer{status: http.StatusNotFound, body: errorBody{Error: "no such settlement"}}
	}
	if err != nil {
		return fault(r, err)
	}
	return answer{status: http.StatusOK, body: settlementOf(&p)}
}

// settlementsBody answers GET /settlements.
type settlementsBody struct {
	Settlements []settlementBody `json:"settlements"`
	// Next is the cursor of the page after this one; empty after the last.
	Next payment.ID `json:"next,omitempty"`
}

func (s *server) findSettlements(_ http.ResponseWriter, r *http.Request, who *client.Client) answer {
	q := r.URL.Query()
	var payments []payment.Payment
	var next payment.ID
	var err error
	var problem *answer
	switch {
	case q.Has("transaction"), q.Has("payer") && q.Has("nonce"):
		payments, problem, err = s.lookUp(r, q)
	case (q.Has("payTo") || !who.Anonymous()) && !q.Has("payer") && !q.Has("nonce"):
		payments, next, problem, err = s.page(r, q, who)
	default:
		return badQuery("give ?transaction=, or ?payer= and ?nonce= (with ?network= where several are served), or ?payTo=")
	}
	switch {
	case problem != nil:
		return *problem
	case err != nil:
		return fault(r, err)
	}
	body := settlementsBody{Settlements: make([]settlementBody, 0, len(payments)), Next: next}
	for i := range payments {
		if whose(who).Holds(&payments[i]) {
			body.Settlements = append(body.Settlements, settlementOf(&payments[i]))
		}
	}
	return answer{status: http.StatusOK, body: body}
}

// lookUp finds payments by transaction, or by payer and nonce.
func (s *server) lookUp(r *http.Request, q url.Values) ([]payment.Payment, *answer, error) {
	network, problem := s.networkOf(q)
	if problem != nil {
		return nil, problem, nil
	}
	if q.Has("transaction") {
		hash, err := chain.ParseHash(q.Get("transaction"))
		if err != nil {
			return nil, badParameter("transaction", err), nil
		}
		payments, err := s.Payments.PaymentsByTransaction(r.Context(), network, hash)
		return payments, nil, err
	}
	payer, err := chain.ParseAddress(q.Get("payer"))
	if err != nil {
		return nil, badParameter("payer", err), nil
	}
	nonce, err := chain.ParseHash(q.Get("nonce"))
	if err != nil {
		return nil, badParameter("nonce", err), nil
	}
	payments, err := s.Payments.PaymentsByNonce(r.Context(), network, payer, nonce)
	return payments, nil, err
}

// maxPage is how many payments a page may have.
const maxPage = 100

// page lists payments, oldest first: a payee's, or with a key all of the client's.
func (s *server) page(r *http.Request, q url.Values, who *client.Client) (_ []payment.Payment, next payment.ID, _ *answer, _ error) {
	f := whose(who)
	if q.Has("network") {
		network, problem := s.networkOf(q)
		if problem != nil {
			return nil, "", problem, nil
		}
		f.Network = network
	}
	var err error
	if q.Has("payTo") {
		payTo, err := chain.ParseAddress(q.Get("payTo"))
		if err != nil {
			return nil, "", badParameter("payTo", err), nil
		}
		f.PayTo = &payTo
	}
	for name, to := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		if !q.Has(name) {
			continue
		}
		if *to, err = time.Parse(time.RFC3339, q.Get(name)); err != nil {
			return nil, "", badParameter(name, errors.New("must be a time such as 2026-11-28T00:00:00Z")), nil
		}
	}
	limit := maxPage
	if q.Has("limit") {
		if limit, err = strconv.Atoi(q.Get("limit")); err != nil || limit < 1 || limit > maxPage {
			return nil, "", badParameter("limit", fmt.Errorf("must be between 1 and %d", maxPage)), nil
		}
	}
	if q.Has("cursor") {
		id, err := uuid.Parse(q.Get("cursor"))
		if err != nil {
			return nil, "", badParameter("cursor", errors.New("must be the next of an answer")), nil
		}
		f.After = payment.ID(id.String())
	}
	f.Limit = limit + 1 // one more tells whether there are more
	if !s.listing.enter() {
		busy := crowded("lists")
		return nil, "", &busy, nil
	}
	defer s.listing.leave()
	payments, err := s.Payments.ListPayments(r.Context(), f)
	if len(payments) > limit {
		payments, next = payments[:limit], payments[limit-1].ID
	}
	return payments, next, nil, err
}

func badParameter(name string, err error) *answer {
	a := badQuery(name + ": " + err.Error())
	return &a
}

// networkOf reads ?network=, in either version's spelling. It may be left out
// where only one network is served.
func (s *server) networkOf(q url.Values) (x402.Network, *answer) {
	served := make([]string, len(s.Networks))
	for i, n := range s.Networks {
		served[i] = string(n)
	}
	name := q.Get("network")
	if id, ok := s.Names[name]; ok {
		return id, nil
	}
	switch {
	case name == "" && len(served) == 1:
		return x402.Network(served[0]), nil
	case slices.Contains(served, name):
		return x402.Network(name), nil
	}
	bad := badQuery("network: must be one of " + strings.Join(served, ", "))
	return "", &bad
}

func badQuery(text string) answer {
	return answer{status: http.StatusBadRequest, body: errorBody{Error: text}}
}

// supported may be kept for half a minute, and asked for anew with the tag of what
// is known.
func (s *server) supported(_ http.ResponseWriter, r *http.Request) answer {
	body, err := json.Marshal(s.Supported())
	if err != nil {
		return fault(r, err)
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	header := map[string]string{"ETag": tag, "Cache-Control": "public, max-age=30"}
	for known := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if known = strings.TrimPrefix(strings.TrimSpace(known), "W/"); known == tag || known == "*" {
			return answer{status: http.StatusNotModified, header: header}
		}
	}
	return answer{status: http.StatusOK, body: json.RawMessage(body), header: header}
}

func (s *server) livez(http.ResponseWriter, *http.Request) answer {
	return answer{status: http.StatusOK, body: map[string]string{"status": "ok"}}
}

type readyBody struct {
	Status   string   `json:"status"`
	Problems []string `json:"problems,omitempty"`
}

func (s *server) readyz(_ http.ResponseWriter, r *http.Request) answer {
	ready, problems := s.Ready(r.Context())
	body := readyBody{Status: "ready", Problems: problems}
	if !ready {
		body.Status = "not ready"
		return answer{status: http.StatusServiceUnavailable, body: body}
	}
	return answer{status: http.StatusOK, body: body}
}

func (s *server) notFound(http.ResponseWriter, *http.Request) answer {
	return answer{status: http.StatusNotFound, body: errorBody{Error: "no such path"}}
}

func (s *server) methodNotAllowed(_ http.ResponseWriter, r *http.Request) answer {
	allowed := http.MethodGet
	if strings.HasSuffix(r.URL.Path, "/verify") || strings.HasSuffix(r.URL.Path, "/settle") {
		allowed = http.MethodPost
	}
	return answer{
		status: http.StatusMethodNotAllowed, header: map[string]string{"Allow": allowed},
		body: errorBody{Error: r.Method + " is not allowed here"},
	}
}
