package evm

import (
	"context"
	"sync"

	"facilitator/internal/chain"
)

// Token is what a token contract says of itself. Fields the contract does not
// have are empty.
type Token struct {
	// HasCode is false where nothing is deployed at the address.
	HasCode         bool
	Name, Version   string
	DomainSeparator chain.Hash // zero where the token does not tell it
	Decimals        uint64
}

// Tokens reads token facts, and keeps those of deployed contracts: they do not
// change but by an upgrade, for which Forget is called when a simulation fails.
type Tokens struct {
	client *Client
	mu     sync.Mutex
	known  map[chain.Address]Token
}

// NewTokens reads by way of client.
func NewTokens(client *Client) *Tokens {
	return &Tokens{client: client, known: make(map[chain.Address]Token)}
}

// maxTokens bounds the cache where any asset is allowed.
const maxTokens = 4096

// Forget makes the next Facts ask the chain again.
func (t *Tokens) Forget(token chain.Address) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.known, token)
}

// Facts returns what token says of itself, from one round trip at most. The
// error is always of the third kind (I7).
func (t *Tokens) Facts(ctx context.Context, token chain.Address) (Token, error) {
	t.mu.Lock()
	facts, ok := t.known[token]
	t.mu.Unlock()
	if ok {
		return facts, nil
	}
	facts, err := t.client.TokenFacts(ctx, token)
	if err != nil || !facts.HasCode {
		return facts, err // what is missing today may be deployed tomorrow
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxTokens {
		clear(t.known)
	}
	t.known[token] = facts
	return facts, nil
}

// domainText reads a name or version. One that no domain would have is none.
func domainText(b []byte) string {
	const most = 256
	s, ok := DecodeString(b)
	if !ok || len(s) > most {
		return ""
	}
	return s
}

// TokenFacts asks a token what it is, in one round trip.
func (c *Client) TokenFacts(ctx context.Context, token chain.Address) (Token, error) {
	const gas = 200_000
	var code, name, version, separator, decimals hexBytes
	view := func(selector uint32, out *hexBytes) *query {
		return callQuery(Message{To: token, Data: pack(selector), Gas: gas}, out)
	}
	qs := []*query{
		codeQuery(token, &code), view(selName, &name), view(selVersion, &version),
		view(selDomainSeparator, &separator), view(selDecimals, &decimals),
	}
	if err := c.ask(ctx, qs...); err != nil {
		return Token{}, err
	}
	for _, q := range qs {
		if _, reverted := IsRevert(q.err); q.err != nil && !reverted {
			return Token{}, q.err
		}
	}
	if len(code) == 0 {
		return Token{}, nil
	}
	facts := Token{HasCode: true}
	facts.Name, facts.Version = domainText(name), domainText(version)
	if u, ok := DecodeUint256(separator); ok {
		facts.DomainSeparator = chain.Hash(u)
	}
	if u, ok := DecodeUint256(decimals); ok {
		facts.Decimals, _ = u.Uint64()
	}
	return facts, nil
}
