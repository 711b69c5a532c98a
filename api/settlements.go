package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

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

func (s *server) settlement(_ http.ResponseWriter, r *http.Request, who *client.Client) answer {
	p, err := s.Payments.PaymentByID(r.Context(), payment.ID(chi.URLParam(r, "id")))
	if errors.Is(err, payment.ErrNotFound) || err == nil && p.Client != who.ID { // another's is none
		return answer{status: http.StatusNotFound, body: errorBody{Error: "no such settlement"}}
	}
	if err != nil {
		return fault(r, err)
	}
	return answer{status: http.StatusOK, body: settlementOf(&p)}
}

func (s *server) findSettlements(_ http.ResponseWriter, r *http.Request, who *client.Client) answer {
	q := r.URL.Query()
	network, problem := s.networkOf(q)
	if problem != nil {
		return *problem
	}
	var payments []payment.Payment
	var err error
	switch {
	case q.Has("transaction"):
		hash, bad := chain.ParseHash(q.Get("transaction"))
		if bad != nil {
			return badQuery("transaction: " + bad.Error())
		}
		payments, err = s.Payments.PaymentsByTransaction(r.Context(), network, hash)
	case q.Has("payer") && q.Has("nonce"):
		payer, bad := chain.ParseAddress(q.Get("payer"))
		if bad != nil {
			return badQuery("payer: " + bad.Error())
		}
		nonce, bad := chain.ParseHash(q.Get("nonce"))
		if bad != nil {
			return badQuery("nonce: " + bad.Error())
		}
		payments, err = s.Payments.PaymentsByNonce(r.Context(), network, payer, nonce)
	default:
		return badQuery("give ?transaction=, or ?payer= and ?nonce= (with ?network= where several are served)")
	}
	if err != nil {
		return fault(r, err)
	}
	payments = slices.DeleteFunc(payments, func(p payment.Payment) bool { return p.Client != who.ID })
	list := make([]settlementBody, len(payments))
	for i := range payments {
		list[i] = settlementOf(&payments[i])
	}
	return answer{status: http.StatusOK, body: map[string]any{"settlements": list}}
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
