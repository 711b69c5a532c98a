package evm

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
)

// contract answers eth_getCode and the views of a token by their selectors.
type contract struct {
	mu    sync.Mutex
	code  string
	views map[string]any // hex data, or a *nodeError
	asked int
}

func (c *contract) answer(method string, params []json.RawMessage) (any, *nodeError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if method == "eth_getCode" {
		return c.code, nil
	}
	var m struct{ Input string }
	if err := json.Unmarshal(params[0], &m); err != nil {
		return nil, &nodeError{Code: -32602, Message: err.Error()}
	}
	v := c.views[m.Input[:10]]
	if failed, is := v.(*nodeError); is {
		return nil, failed
	}
	return v, nil
}

const (
	viewName, viewVersion, viewSeparator, viewDecimals = "0x06fdde03", "0x54fd4d50", "0x3644e515", "0x313ce567"
)

func usdcViews(t *testing.T) map[string]any {
	t.Helper()
	return map[string]any{
		viewName: hexText(reference(t, 0, "texts", "USDC")[4:]), viewVersion: hexText(reference(t, 0, "texts", "2")[4:]),
		viewSeparator: vectorDomain(t).String(), viewDecimals: "0x" + strings.Repeat("0", 63) + "6",
	}
}

func TestTokenFactsAreReadOnceUntilTheyAreForgotten(t *testing.T) {
	t.Parallel()
	c := &contract{code: "0x60", views: usdcViews(t)}
	tokens := NewTokens(serve(t, node(c.answer)))
	token := address(t, usdcText)
	want := Token{HasCode: true, Name: "USDC", Version: "2", DomainSeparator: vectorDomain(t), Decimals: 6}
	facts := func(asked int) {
		t.Helper()
		got, err := tokens.Facts(t.Context(), token)
		if diff := cmp.Diff(want, got); err != nil || diff != "" || c.asked != asked {
			t.Errorf("asked %d questions, want %d: %v (-want +got):\n%s", c.asked, asked, err, diff)
		}
	}
	facts(5)
	facts(5)
	tokens.Forget(token)
	facts(10)
}

func TestATokenThatTellsLessIsStillAToken(t *testing.T) {
	t.Parallel()
	reverted := &nodeError{Code: 3, Message: "execution reverted"}
	c := &contract{code: "0x60", views: map[string]any{
		viewName: reverted, viewVersion: hexText(reference(t, 0, "texts", strings.Repeat("x", 300))[4:]), viewSeparator: "0x", viewDecimals: reverted,
	}}
	got, err := NewTokens(serve(t, node(c.answer))).Facts(t.Context(), chain.Address{1})
	if diff := cmp.Diff(Token{HasCode: true}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestWhatIsNotDeployedYetIsAskedAgain(t *testing.T) {
	t.Parallel()
	c := &contract{code: "0x", views: map[string]any{viewName: "0x", viewVersion: "0x", viewSeparator: "0x", viewDecimals: "0x"}}
	tokens := NewTokens(serve(t, node(c.answer)))
	if got, err := tokens.Facts(t.Context(), chain.Address{1}); err != nil || got.HasCode {
		t.Errorf("%+v, %v", got, err)
	}
	c.mu.Lock()
	c.code, c.views = "0x60", usdcViews(t)
	c.mu.Unlock()
	if got, err := tokens.Facts(t.Context(), chain.Address{1}); err != nil || !got.HasCode {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestOneViewTheNodeCannotTellSpoilsTheFacts(t *testing.T) {
	t.Parallel()
	views := usdcViews(t)
	views[viewVersion] = &nodeError{Code: -32005, Message: "limit exceeded"}
	c := &contract{code: "0x60", views: views}
	tokens := NewTokens(serve(t, node(c.answer)))
	if got, err := tokens.Facts(t.Context(), chain.Address{1}); !errors.Is(err, chain.ErrUnavailable) {
		t.Errorf("%+v, %v", got, err)
	}
	c.mu.Lock()
	c.views = usdcViews(t)
	c.mu.Unlock()
	if got, err := tokens.Facts(t.Context(), chain.Address{1}); err != nil || got.Version != "2" {
		t.Errorf("the node can tell again: %+v, %v", got, err)
	}
}

func TestAWalletIsAskedByItsOwnCode(t *testing.T) {
	t.Parallel()
	magic := "0x1626ba7e" + strings.Repeat("0", 56)
	for _, c := range []struct {
		name, code string
		answer     any
		valid      bool
	}{
		{"it accepts", "0x60", magic, true},
		{"it refuses", "0x60", "0xffffffff" + strings.Repeat("0", 56), false},
		{"it reverts", "0x60", &nodeError{Code: 3, Message: "execution reverted"}, false},
		{"it burns all gas", "0x60", &nodeError{Code: -32000, Message: "out of gas"}, false},
		{"it answers nothing", "0x60", "0x", false},
		{"nobody is there", "0x", "0x", false},
		{"no code, yet an answer", "0x", magic, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wallet := &contract{code: c.code, views: map[string]any{"0x1626ba7e": c.answer}}
			s := NewSimulator(serve(t, node(wallet.answer)))
			got, err := s.Wallet(t.Context(), WalletQuestion{Account: chain.Address{1}, Digest: chain.Hash{2}, Signature: []byte{3}, MaxGas: 100})
			if err != nil || got.Valid != c.valid || got.HasCode != (c.code != "0x") {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
