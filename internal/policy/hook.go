package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/redact"
	"facilitator/internal/x402"
)

// HookConfig is an HTTP service of the operator's that is asked about payments.
type HookConfig struct {
	// URL is asked and no other: no redirect is followed and no proxy used. Empty
	// for none.
	URL string
	// Secret is sent as a bearer token, if it is not empty.
	Secret string
	// Timeout of one question.
	Timeout time.Duration
	// TTL is how long an answer is kept.
	TTL time.Duration
}

const (
	// maxHookAnswer is far above an answer with its reason.
	maxHookAnswer = 16 << 10
	// maxHookCalls are under way at a time; others wait within their timeout.
	maxHookCalls = 64
	// maxDetail of a hook's reason is kept.
	maxDetail = 256
)

// hook keeps what the service says of payer, payee and contracts.
type hook struct {
	*source
	HookConfig
	client *http.Client
	kept   *cache[hookKey, hookAnswer]
}

// hookQuestion is the body of a question.
type hookQuestion struct {
	Network   x402.Network    `json:"network"`
	Payer     chain.Address   `json:"payer"`
	PayTo     chain.Address   `json:"payTo"`
	Asset     chain.Address   `json:"asset"`
	Contracts []chain.Address `json:"contracts"`
}

// hookAnswer is the body of an answer.
type hookAnswer struct {
	Decision string `json:"decision"`
	Reason   string `json:"reason"`
}

// hookKey is a question as far as answers differ by it.
type hookKey struct {
	network             x402.Network
	payer, payee, asset chain.Address
	contracts           string
}

func newHook(cfg HookConfig, now func() time.Time, s *source) *hook {
	return &hook{
		source: s, HookConfig: cfg, kept: newCache[hookKey, hookAnswer](cfg.TTL, now),
		client: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext:            (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
				TLSHandshakeTimeout:    cfg.Timeout,
				MaxConnsPerHost:        maxHookCalls,
				MaxIdleConnsPerHost:    maxHookCalls,
				IdleConnTimeout:        90 * time.Second,
				MaxResponseHeaderBytes: maxHookAnswer,
			},
		},
	}
}

func (h *hook) ask(ctx context.Context, t payment.Terms, contracts []chain.Address) verdict {
	key := hookKey{network: t.Key.Network, payer: t.Key.Payer, payee: t.PayTo, asset: t.Asset}
	for _, c := range contracts {
		key.contracts += string(c[:])
	}
	answer, known := h.kept.get(key)
	if !known {
		var err error
		answer, err = h.call(ctx, hookQuestion{
			Network: t.Key.Network, Payer: t.Key.Payer, PayTo: t.PayTo, Asset: t.Asset, Contracts: append([]chain.Address{}, contracts...),
		})
		if err != nil {
			if ctx.Err() == nil {
				h.failed(ctx, err)
			}
			return verdict{err: err}
		}
		h.told(ctx, h.kept.now())
		h.kept.put(key, answer)
	}
	if answer.Decision == "allow" {
		return verdict{}
	}
	return verdict{hit: &party{"payment", t.Key.Payer}, detail: answer.Reason}
}

// call asks once. Errors hold no more of the URL than its host, and no secret (I10).
func (h *hook) call(ctx context.Context, q hookQuestion) (hookAnswer, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return hookAnswer{}, fmt.Errorf("encode question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return hookAnswer{}, errors.New("the url is not usable")
	}
	req.Header.Set("Content-Type", "application/json")
	if h.Secret != "" {
		req.Header.Set("Authorization", "Bearer "+h.Secret)
	}
	response, err := h.client.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return hookAnswer{}, fmt.Errorf("not answered: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxHookAnswer+1))
	switch {
	case err != nil:
		return hookAnswer{}, fmt.Errorf("answer not read: %w", err)
	case response.StatusCode != http.StatusOK:
		return hookAnswer{}, fmt.Errorf("answered with status %d", response.StatusCode)
	case len(text) > maxHookAnswer:
		return hookAnswer{}, errors.New("the answer is too large")
	}
	var answer hookAnswer
	if err := json.Unmarshal(text, &answer); err != nil {
		return hookAnswer{}, errors.New("the answer is not of its form")
	}
	if answer.Decision != "allow" && answer.Decision != "deny" {
		return hookAnswer{}, errors.New("the answer neither allows nor denies")
	}
	answer.Reason = clean(redact.Of(h.URL, h.Secret).Text(answer.Reason)) // before it is cut: half a secret is one
	return answer, nil
}

// clean is a reason as logs and the record take it: not cut within a character,
// and without what a database refuses in a text.
func clean(reason string) string {
	reason = strings.ReplaceAll(reason, "\x00", "")
	return strings.ToValidUTF8(reason[:min(len(reason), maxDetail)], "")
}
