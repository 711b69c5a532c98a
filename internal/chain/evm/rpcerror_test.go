package evm

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/google/go-cmp/cmp"

	"facilitator/internal/chain"
)

// errorStringData is Error(string) as a contract returns it.
func errorStringData(text string) []byte {
	b := []byte{0x08, 0xc3, 0x79, 0xa0}
	b = append(b, common.LeftPadBytes([]byte{32}, 32)...)
	return appendBytes(b, []byte(text))
}

func hexText(b []byte) string { return "0x" + hex.EncodeToString(b) }

// TestErrorsOfNodesAreJudgedOrNot is I7: an error of the call is a judgement,
// an error of the node is not, whatever code it has.
func TestErrorsOfNodesAreJudgedOrNot(t *testing.T) {
	t.Parallel()
	const used = "FiatTokenV2: authorization is used or canceled"
	data := errorStringData(used)
	for _, c := range []struct {
		name   string
		err    nodeError
		revert *RevertError // nil: could not tell
	}{
		{"geth, with data", nodeError{3, "execution reverted: " + used, hexText(data)}, &RevertError{Data: data, Message: used}},
		{"geth, without a reason", nodeError{-32000, "execution reverted", nil}, &RevertError{Message: "execution reverted"}},
		{"geth, empty data", nodeError{3, "execution reverted", "0x"}, &RevertError{Data: []byte{}, Message: "execution reverted"}},
		{"geth, a custom error", nodeError{3, "execution reverted", "0xe450d38c"}, &RevertError{Data: []byte{0xe4, 0x50, 0xd3, 0x8c}, Message: "custom error 0xe450d38c"}},
		{
			"geth, a panic",
			nodeError{3, "execution reverted: arithmetic underflow or overflow", "0x4e487b71" + strings.Repeat("0", 62) + "11"},
			&RevertError{Data: append([]byte{0x4e, 0x48, 0x7b, 0x71}, common.LeftPadBytes([]byte{0x11}, 32)...), Message: "panic 0x11"},
		},
		{"geth, out of gas", nodeError{-32000, "out of gas", nil}, &RevertError{Message: "out of gas"}},
		{"geth, estimate above the cap", nodeError{-32000, "gas required exceeds allowance (1000000)", nil}, &RevertError{Message: "gas required exceeds allowance (1000000)"}},
		{"geth, invalid opcode", nodeError{-32000, "invalid opcode: INVALID", nil}, &RevertError{Message: "invalid opcode: INVALID"}},
		{"anvil", nodeError{3, "execution reverted: " + used, hexText(data)}, &RevertError{Data: data, Message: used}},
		{"anvil, out of gas", nodeError{-32603, "EVM error OutOfGas", nil}, &RevertError{Message: "EVM error OutOfGas"}},
		{"nethermind", nodeError{-32015, "VM execution error.", "Reverted " + hexText(data)}, &RevertError{Data: data, Message: used}},
		{"nethermind, without data", nodeError{-32015, "VM execution error.", "Reverted"}, &RevertError{Message: "VM execution error."}},
		{"nethermind, newer", nodeError{3, "execution reverted", hexText(data)}, &RevertError{Data: data, Message: used}},
		{"erigon", nodeError{3, "execution reverted: " + used, hexText(data)}, &RevertError{Data: data, Message: used}},
		{"reth", nodeError{3, "execution reverted: " + used, hexText(data)}, &RevertError{Data: data, Message: used}},
		{"reth, out of gas", nodeError{-32003, "out of gas: gas required exceeds: 50000", nil}, &RevertError{Message: "out of gas: gas required exceeds: 50000"}},
		{"besu", nodeError{-32000, "Execution reverted", hexText(data)}, &RevertError{Data: data, Message: used}},
		{"data that is an object", nodeError{3, "execution reverted", map[string]any{"a": 1}}, &RevertError{Message: "execution reverted"}},
		{"data that is no hex", nodeError{3, "execution reverted", "0xzz"}, &RevertError{Message: "execution reverted"}},
		{"data cut in the middle of its text", nodeError{3, "execution reverted", hexText(data[:80])}, &RevertError{Data: data[:80], Message: "custom error 0x08c379a0"}},

		{"limit exceeded", nodeError{-32005, "limit exceeded", nil}, nil},
		{"rate limit", nodeError{429, "Your app has exceeded its compute units per second capacity", nil}, nil},
		{"rate limit with a link", nodeError{-32005, "daily request count exceeded, see https://example.com/plans?key=" + urlKey, nil}, nil},
		{"internal error", nodeError{-32603, "Internal error", nil}, nil},
		{"header not found", nodeError{-32000, "header not found", nil}, nil},
		{"missing trie node", nodeError{-32000, "missing trie node 0d0b (path ) state 0x1 is not available", nil}, nil},
		{"execution timeout", nodeError{-32000, "execution aborted (timeout = 5s)", nil}, nil},
		{"request timed out", nodeError{-32002, "request timed out", nil}, nil},
		{"method not found", nodeError{-32601, "the method eth_call does not exist/is not available", nil}, nil},
		{"method disabled", nodeError{-32601, "method handler crashed", nil}, nil},
		{"invalid params", nodeError{-32602, "invalid argument 0: json: cannot unmarshal hex string", nil}, nil},
		{"parse error", nodeError{-32700, "parse error", nil}, nil},
		{"unauthorized", nodeError{-32001, "project ID does not have access", nil}, nil},
		{"no funds of the caller", nodeError{-32000, "insufficient funds for gas * price + value: address 0x0 have 0 want 1", nil}, nil},
		{"no text", nodeError{-32000, "", nil}, nil},
		{"data without a judgement", nodeError{-32000, "upstream failed", hexText(data)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client := serve(t, node(func(string, []json.RawMessage) (any, *nodeError) { return nil, &c.err }))
			_, single := client.Call(t.Context(), Message{Data: []byte{1}})
			var first, second hexBytes
			many := []*query{callQuery(Message{}, &first), callQuery(Message{}, &second)}
			if err := client.ask(t.Context(), many...); err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{single, many[0].err, many[1].err} {
				discreet(t, err)
				revert, judged := IsRevert(err)
				if judged == errors.Is(err, chain.ErrUnavailable) {
					t.Fatalf("%v is a judgement: %t, and none: %t", err, judged, !judged)
				}
				if diff := cmp.Diff(c.revert, revert); diff != "" {
					t.Errorf("revert (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestTroubleOfTheNodeIsNoJudgement holds what is not JSON-RPC at all.
func TestTroubleOfTheNodeIsNoJudgement(t *testing.T) {
	t.Parallel()
	answer := func(status int, kind, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		})
	}
	const reverted = `{"jsonrpc":"2.0","id":1,"error":{"code":3,"message":"execution reverted"}}`
	for name, h := range map[string]http.Handler{
		"429":                     answer(429, "application/json", `{"error":"too many requests for http://example.com/v3/`+urlKey+`"}`),
		"500":                     answer(500, "text/plain", "internal server error"),
		"502 in HTML":             answer(502, "text/html", "<html><h1>502 Bad Gateway</h1> execution reverted</html>"),
		"401 that repeats a key":  answer(401, "text/plain", "invalid project id "+urlKey),
		"500 that holds a revert": answer(500, "application/json", reverted),
		"200 in HTML":             answer(200, "text/html", "<html>execution reverted</html>"),
		"nothing":                 answer(200, "application/json", ""),
		"cut JSON":                answer(200, "application/json", `{"jsonrpc":"2.0","id":1,"res`),
		"null":                    answer(200, "application/json", `null`),
		"no result":               answer(200, "application/json", `{"jsonrpc":"2.0","id":1}`),
		"a number":                answer(200, "application/json", `{"jsonrpc":"2.0","id":1,"result":7}`),
		"no hex":                  answer(200, "application/json", `{"jsonrpc":"2.0","id":1,"result":"0xzz"}`),
		"a redirect to nowhere":   http.RedirectHandler("http://127.0.0.1:1/"+urlKey, http.StatusTemporaryRedirect),
		"a hang-up": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serve(t, h)
			for _, ask := range everyQuestion(client) {
				err := ask.do(t.Context())
				discreet(t, err)
				if _, judged := IsRevert(err); judged || !errors.Is(err, chain.ErrUnavailable) {
					t.Errorf("%s: %v", ask.name, err)
				}
			}
		})
	}
}

type question struct {
	name string
	do   func(context.Context) error
}

// everyQuestion is every method of a client that asks something.
func everyQuestion(c *Client) []question {
	drop := func(_ any, err error) error { return err }
	a := chain.Address{1}
	return []question{
		{"Call", func(ctx context.Context) error { return drop(c.Call(ctx, Message{})) }},
		{"Call at a block", func(ctx context.Context) error { return drop(c.Call(ctx, Message{Block: 1})) }},
		{"Simulator", func(ctx context.Context) error {
			return drop(NewSimulator(c).Simulate(ctx, Simulation{}))
		}},
		{"Simulator, shared", func(ctx context.Context) error {
			results := NewSimulator(c).run(ctx, []Simulation{{Payer: chain.Address{1}, Sharable: true}, {Payer: chain.Address{2}, Sharable: true, BalanceOf: a}})
			return errors.Join(results[0].Err, results[1].Err)
		}},
		{"CallsAndCode", func(ctx context.Context) error {
			results, _, err := c.CallsAndCode(ctx, a, Message{}, Message{})
			for _, r := range results {
				err = errors.Join(err, r.Err)
			}
			return err
		}},
		{"Code", func(ctx context.Context) error { return drop(c.Code(ctx, a)) }},
		{"ChainID", func(ctx context.Context) error { return drop(c.ChainID(ctx)) }},
		{"EstimateGas", func(ctx context.Context) error { return drop(c.EstimateGas(ctx, Message{})) }},
		{"Account", func(ctx context.Context) error { return drop(c.Account(ctx, a)) }},
		{"Accounts", func(ctx context.Context) error { return drop(c.Accounts(ctx, []chain.Address{a, {2}})) }},
		{"Head", func(ctx context.Context) error { return drop(c.Head(ctx)) }},
		{"Finalized", func(ctx context.Context) error { return drop(c.Finalized(ctx)) }},
		{"Safe", func(ctx context.Context) error { return drop(c.Safe(ctx)) }},
		{"HeadByNumber", func(ctx context.Context) error { return drop(c.HeadByNumber(ctx, 1)) }},
		{"CanonicalHashes", func(ctx context.Context) error {
			hashes, err := c.CanonicalHashes(ctx, []uint64{1, 2})
			if err == nil && len(hashes) == 0 {
				err = chain.ErrUnavailable // left out is not told
			}
			return err
		}},
		{"SuggestTip", func(ctx context.Context) error { return drop(c.SuggestTip(ctx)) }},
		{"Receipts", func(ctx context.Context) error {
			found, err := c.Receipts(ctx, []chain.Hash{{1}, {2}})
			if err == nil && found[chain.Hash{1}].Unknown && found[chain.Hash{2}].Unknown {
				err = chain.ErrUnavailable
			}
			return err
		}},
		{"Look", func(ctx context.Context) error {
			_, _, err := c.Look(ctx, []chain.Hash{{1}, {2}})
			return err
		}},
		{"TransactionsWithLog", func(ctx context.Context) error { return drop(c.TransactionsWithLog(ctx, a, []chain.Hash{{1}}, 0, 1)) }},
		{"Facts", func(ctx context.Context) error { return drop(NewTokens(c).Facts(ctx, a)) }},
		{"Wallet", func(ctx context.Context) error {
			return drop(NewSimulator(c).Wallet(ctx, WalletQuestion{Account: a, Signature: []byte{1}}))
		}},
		{"CallWithCode", func(ctx context.Context) error {
			return drop(c.CallWithCode(ctx, Message{}, []chain.Address{a}))
		}},
		{"SendRaw", func(ctx context.Context) error {
			outcome, err := c.SendRaw(ctx, []byte{1})
			if outcome != SendUnavailable {
				return errors.New("outcome " + string(outcome))
			}
			return err
		}},
		{"SendMany", func(ctx context.Context) error {
			var err error
			for _, sent := range c.SendMany(ctx, [][]byte{{1}, {2}}) {
				if sent.Outcome != SendUnavailable || !sent.Doubtful {
					return errors.New("outcome " + string(sent.Outcome))
				}
				err = sent.Err
			}
			return err
		}},
	}
}

func TestABatchThatIsAnsweredByHalfIsNoJudgement(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"one answer of two":           `[{"jsonrpc":"2.0","id":1,"result":"0x"}]`,
		"answers to other questions":  `[{"jsonrpc":"2.0","id":98,"result":"0x"},{"jsonrpc":"2.0","id":99,"result":"0x"}]`,
		"an error instead of a batch": `{"jsonrpc":"2.0","id":null,"error":{"code":3,"message":"execution reverted"}}`,
		"no answers":                  `[]`,
		"nulls":                       `[null,null]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(body))
			}))
			results, _, err := client.CallsAndCode(t.Context(), chain.Address{1}, Message{})
			for _, r := range results {
				err = errors.Join(err, r.Err)
			}
			if _, judged := IsRevert(err); judged || !errors.Is(err, chain.ErrUnavailable) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestARefusedConnectionIsNoJudgement(t *testing.T) {
	t.Parallel()
	url := credentialed("http://127.0.0.1:1") // tcpmux: nobody has it, and nobody else gets it
	client := dial(t, url, patience)
	for _, ask := range everyQuestion(client) {
		err := ask.do(t.Context())
		discreet(t, err)
		if !errors.Is(err, chain.ErrUnavailable) {
			t.Errorf("%s: %v", ask.name, err)
		}
	}
}

// stuck is a node that never answers.
func stuck(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		_, _ = b.ReadFrom(r.Body) // the server notices a hang-up only after the body
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	return credentialed(s.URL)
}

func TestANodeThatNeverAnswersIsGivenUp(t *testing.T) {
	t.Parallel()
	client := dial(t, stuck(t), 20*time.Millisecond)
	for _, ask := range everyQuestion(client) {
		err := ask.do(t.Context())
		discreet(t, err)
		if !errors.Is(err, chain.ErrUnavailable) {
			t.Errorf("%s: %v", ask.name, err)
		}
	}
}

func TestTheCallersEndStaysVisible(t *testing.T) {
	t.Parallel()
	client := dial(t, stuck(t), patience)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := client.Head(ctx)
	if !errors.Is(err, context.Canceled) || !errors.Is(err, chain.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestDialRefusesAnUnusableURLWithoutShowingIt(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"ftp://" + urlUser + ":" + urlPassword + "@example.com/" + urlKey,
		"https://" + urlUser + ":" + urlPassword + " x@example.com/",
		"https://" + urlUser + ":" + urlPassword + "@[::1/" + urlKey,
		"https://" + urlUser + ":" + urlPassword + "@example.com:port/" + urlKey,
		"https://" + urlUser + ":" + urlPassword + "%zz@example.com/",
		"https://example.com/" + urlKey + "\x7f",
	} {
		c, err := Dial(t.Context(), url, patience)
		if err == nil {
			c.Close()
			t.Errorf("%q is dialled", url)
		}
		discreet(t, err)
	}
}

func TestMessagesThatAContractChoseAreBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"long":         {strings.Repeat("é", 500), strings.Repeat("é", 100) + "..."},
		"unprintable":  {"a\x00b\nc\u202ed", "abcd"},
		"not UTF-8":    {"a\xffb", "ab"},
		"empty":        {"", "execution reverted"},
		"with a space": {"ERC20: transfer amount exceeds balance", "ERC20: transfer amount exceeds balance"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serve(t, node(func(string, []json.RawMessage) (any, *nodeError) {
				return nil, &nodeError{3, "execution reverted", hexText(errorStringData(c.text))}
			}))
			_, err := client.Call(t.Context(), Message{})
			if revert, ok := IsRevert(err); !ok || revert.Message != c.want {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestANodeThatRepeatsOurKeyIsNotQuoted is I10: providers name the key they
// refuse.
func TestANodeThatRepeatsOurKeyIsNotQuoted(t *testing.T) {
	t.Parallel()
	for _, message := range []string{
		"project " + urlKey + " is over its limit", "see http://" + urlUser + ":" + urlPassword + "@example.com/v3/" + urlKey, "user " + urlUser + " with " + urlPassword,
	} {
		for _, code := range []int{-32005, 3} {
			client := serve(t, node(func(string, []json.RawMessage) (any, *nodeError) { return nil, &nodeError{code, message, nil} }))
			_, err := client.Call(t.Context(), Message{})
			if err == nil {
				t.Fatal("no error")
			}
			discreet(t, err)
			_, err = client.SendRaw(t.Context(), []byte{1})
			discreet(t, err)
		}
	}
}

func TestALongErrorOfANodeIsCut(t *testing.T) {
	t.Parallel()
	client := serve(t, node(func(string, []json.RawMessage) (any, *nodeError) {
		return nil, &nodeError{-32000, strings.Repeat("é", 5000), nil}
	}))
	if _, err := client.Head(t.Context()); len(err.Error()) > 400 || !strings.HasSuffix(err.Error(), "...") {
		t.Errorf("%d bytes: %.100q", len(err.Error()), err)
	}
}
