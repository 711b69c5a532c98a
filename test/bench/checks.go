package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
	"facilitator/internal/x402"
)

// check is a payment to verify, and the verdict that it should get.
type check struct {
	request []byte // the whole HTTP request
	payer   common.Address
	reason  x402.Reason // to be refused for; empty: it is valid
}

// flaw is what is wrong with payments that are to be refused.
type flaw struct {
	name   string
	reason x402.Reason
	// before it is signed, and after.
	terms   func(s *site, i int, terms *devnet.Sale)
	request func(request map[string]any)
}

// flawless payments are valid.
func flawless() flaw { return flaw{name: "valid"} }

// flaws are those that can be seen without a look at the chain, as far as the
// payer has no code; the last takes recovering a signer.
func flaws() []flaw {
	// Requirements stand in the payload too, as the client has accepted them.
	asked := func(key string, value func(old string) string) func(map[string]any) {
		return func(request map[string]any) {
			payload, _ := request["paymentPayload"].(map[string]any)
			for _, holder := range []any{request["paymentRequirements"], payload["accepted"]} {
				if terms, ok := holder.(map[string]any); ok {
					old, _ := terms[key].(string)
					terms[key] = value(old)
				}
			}
		}
	}
	return []flaw{
		{name: "expired", reason: x402.ReasonExactValidBefore, terms: func(_ *site, _ int, terms *devnet.Sale) {
			*terms = terms.ForNow(time.Now(), -time.Minute)
		}},
		{name: "another payee", reason: x402.ReasonExactRecipient, request: asked("payTo", func(string) string {
			return devnet.Keys("another payee", 1)[0].Address.Hex()
		})},
		{name: "another amount", reason: x402.ReasonExactValue, request: asked("amount", func(old string) string { return old + "0" })},
		{name: "signed by somebody else", reason: x402.ReasonExactSignature, terms: func(s *site, i int, terms *devnet.Sale) {
			terms.From, terms.Payer = terms.Payer.Address, s.payees[i%len(s.payees)]
		}},
	}
}

// signChecks signs n payments with a flaw to be verified, of the site's payers to
// its payees in turn. No two of a site are the same.
func (s *site) signChecks(n int, of flaw) ([]check, error) {
	return signAll(s, n, func(i int) (check, error) {
		terms, err := s.terms(i)
		if err != nil {
			return check{}, err
		}
		payer := terms.Payer.Address
		if of.terms != nil {
			of.terms(s, i, &terms)
		}
		request, err := s.chain.Request(terms)
		if err != nil {
			return check{}, err
		}
		if of.request != nil {
			of.request(request)
		}
		text, err := postOf("/verify", request)
		return check{request: text, payer: payer, reason: of.reason}, err
	})
}

// authorized are the calls with the callers' key, if they have one.
func (d *deployment) authorized(checks []check) []check {
	if d.key == "" {
		return checks
	}
	header := []byte("\r\nAuthorization: Bearer " + d.key)
	shown := slices.Clone(checks)
	for i := range shown {
		at := bytes.Index(shown[i].request, []byte("\r\n"))
		shown[i].request = slices.Insert(slices.Clone(shown[i].request), at, header...)
	}
	return shown
}

// verify has the callers verify all payments, each the next one when it has an
// answer, until ctx ends. Success is the verdict that was expected.
func (f *fleet) verify(ctx context.Context, checks []check) []answer {
	answers := make([]answer, len(checks))
	start := time.Now()
	f.each(ctx, len(checks), func(c *caller, i int) { answers[i] = c.verify(ctx, checks[i], start) })
	return answers
}

func (c *caller) verify(ctx context.Context, k check, start time.Time) (a answer) {
	began := time.Now()
	status, body, err := c.send(ctx, k.request)
	a.called, a.status, a.err = true, status, err
	a.latency, a.at = time.Since(began), time.Since(start)
	if err != nil {
		c.hangUp()
		return a
	}
	a.judge(k, body)
	return a
}

// judge says whether the verdict is the payment's.
func (a *answer) judge(k check, body []byte) {
	var verdict struct {
		IsValid        *bool
		InvalidReason  x402.Reason
		InvalidMessage string
		Payer          string
	}
	if err := json.Unmarshal(body, &verdict); err != nil {
		a.err = fmt.Errorf("status %d, not a JSON object: %q", a.status, body)
		return
	}
	valid := verdict.IsValid != nil && *verdict.IsValid
	switch {
	case verdict.IsValid == nil || a.status != 200:
		a.Error = string(body)
	case valid != (k.reason == "") || verdict.InvalidReason != k.reason:
		a.ErrorReason, a.Error = string(verdict.InvalidReason), verdict.InvalidMessage
		if valid {
			a.ErrorReason = "valid"
		}
	case !strings.EqualFold(verdict.Payer, k.payer.Hex()):
		a.ErrorReason = "another payer"
	default:
		a.Success = true
	}
}

// misjudged lists the verdicts that are not the payments'.
func misjudged(checks []check, answers []answer) (findings []string) {
	for i := range answers {
		if a := &answers[i]; a.called && !a.Success {
			text := a.Error
			if a.err != nil {
				text = a.err.Error()
			}
			wanted := string(checks[i].reason)
			if wanted == "" {
				wanted = "valid"
			}
			findings = append(findings, fmt.Sprintf("verification %d: told %s (%s), should be %s", i, a.kind(), text, wanted))
		}
	}
	return findings
}

// send sends a request and reads its answer, whose body is good until the next
// one. It costs little: it reads no more of a head than the status and the length.
func (c *caller) send(ctx context.Context, request []byte) (status int, body []byte, _ error) {
	if err := c.dial(ctx); err != nil {
		return 0, nil, err
	}
	conn := c.conn
	_ = conn.SetDeadline(time.Now().Add(callTimeout)) // fails only if it is closed, which the write tells
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(request); err != nil {
		return 0, nil, err
	}
	status, length, err := c.head()
	if err != nil {
		return 0, nil, err
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	body = c.body[:length]
	_, err = io.ReadFull(c.replies, body)
	return status, body, err
}

// head reads an answer up to its body.
func (c *caller) head() (status, length int, _ error) {
	length = -1
	for {
		line, err := c.replies.ReadSlice('\n')
		if err != nil {
			return 0, 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if status == 0 {
			_, rest, _ := bytes.Cut(line, []byte(" "))
			code, _, _ := bytes.Cut(rest, []byte(" "))
			if status, err = strconv.Atoi(string(code)); err != nil {
				return 0, 0, fmt.Errorf("not an HTTP answer: %q", line)
			}
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, 0, fmt.Errorf("length of an answer: %w", err)
			}
		}
	}
	if length < 0 || length > answerLimit {
		return 0, 0, errors.New("an answer without a length, or a long one")
	}
	return status, length, nil
}
