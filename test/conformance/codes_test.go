package conformance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sharedCodes and exactCodes are the reasons of the official SDK 2.27 for scheme
// exact by EIP-3009, with the calls that its sources give them by. /settle gives
// every reason of /verify too, since it judges again.
var (
	sharedCodes = map[string][]string{
		"settlement_pending":             {callSettle},
		"invalid_transaction_state":      {callSettle},
		"asset_not_deployed_contract":    {callVerify, callSettle},
		"unsupported_payload_type":       {callVerify, callSettle},
		"invalid_scheme":                 {callSettle},
		"eip6492_factory_not_allowed":    {callVerify, callSettle},
		"smart_wallet_deployment_failed": {callSettle},
	}
	exactCodes = map[string][]string{
		"invalid_exact_evm_scheme":                               {callVerify, callSettle},
		"invalid_exact_evm_network_mismatch":                     {callVerify, callSettle},
		"invalid_exact_evm_missing_eip712_domain":                {callVerify, callSettle},
		"invalid_exact_evm_signature":                            {callVerify, callSettle},
		"invalid_exact_evm_recipient_mismatch":                   {callVerify, callSettle},
		"invalid_exact_evm_payload_authorization_valid_before":   {callVerify, callSettle},
		"invalid_exact_evm_payload_authorization_valid_after":    {callVerify, callSettle},
		"invalid_exact_evm_payload_authorization_value_mismatch": {callVerify, callSettle},
		"invalid_exact_evm_authorization_value":                  {callVerify, callSettle},
		"invalid_exact_evm_eip3009_not_supported":                {callVerify, callSettle},
		"invalid_exact_evm_nonce_already_used":                   {callVerify, callSettle},
		"invalid_exact_evm_token_name_mismatch":                  {callVerify, callSettle},
		"invalid_exact_evm_token_version_mismatch":               {callVerify, callSettle},
		"invalid_exact_evm_insufficient_balance":                 {callVerify, callSettle},
		"invalid_exact_evm_transaction_simulation_failed":        {callVerify, callSettle},
		"invalid_exact_evm_transaction_failed":                   {callSettle},
		"invalid_exact_evm_transfer_event_mismatch":              {callSettle},
		"invalid_exact_evm_failed_to_parse_signature":            {callSettle},
		"invalid_exact_evm_payload_undeployed_smart_wallet":      {callVerify, callSettle},
	}
)

// ourCodes reads our closed table of reasons.
func ourCodes(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../internal/x402/reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Reason" {
			return true
		}
		for _, value := range spec.Values {
			if text, ok := value.(*ast.BasicLit); ok {
				code, err := strconv.Unquote(text.Value)
				if err != nil {
					t.Fatal(err)
				}
				codes = append(codes, code)
			}
		}
		return true
	})
	if len(codes) < 20 {
		t.Fatalf("our table of reasons has %d", len(codes))
	}
	return codes
}

// complete fails the test where a reason was never given, unless it is listed as
// such, and where one that is listed was given after all.
func complete(t *testing.T, seen map[question]answers, listed *listed) {
	t.Helper()
	given := map[silence]bool{}
	for q, a := range seen {
		call := callVerify
		if q.call != callVerify {
			call = callSettle
		}
		given[silence{lastWord(a.ours), call, us}] = true
		for _, word := range []string{a.ours, a.official} {
			given[silence{lastWord(word), call, anybody}] = true
		}
	}
	expected := map[silence]bool{}
	expect := func(s silence) {
		expected[s] = true
		if _, never := listed.silences[s]; !never && !given[s] {
			t.Errorf("no row has %s answer %s by %s, and docs/divergences.md does not say why", s.who, s.reason, s.call)
		}
	}
	for _, table := range []map[string][]string{sharedCodes, exactCodes} {
		for code, calls := range table {
			for _, call := range calls {
				expect(silence{code, call, anybody})
			}
		}
	}
	for _, code := range ourCodes(t) {
		calls := slices.Concat(sharedCodes[code], exactCodes[code])
		if calls == nil {
			calls = []string{callVerify, callSettle} // the SDK has no such reason
		}
		for _, call := range calls {
			expect(silence{code, call, us})
		}
	}
	for s, line := range listed.silences {
		switch {
		case given[s]:
			t.Errorf("docs/divergences.md line %d: %s is given by %s after all, by %s", line, s.reason, s.call, s.who)
		case !expected[s]:
			t.Errorf("docs/divergences.md line %d: nobody expects %s by %s of %s", line, s.reason, s.call, s.who)
		}
	}
}

// lastWord is the reason behind a status.
func lastWord(word string) string {
	return word[strings.LastIndexByte(word, ' ')+1:]
}
