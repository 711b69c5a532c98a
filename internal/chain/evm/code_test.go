package evm

import (
	"encoding/json"
	"errors"
	"maps"
	"testing"

	"facilitator/internal/chain"
)

// coded is a node on which the accounts with an odd last digit have code, and
// that answers calls so.
func coded(call func() (any, *nodeError)) node {
	return func(method string, params []json.RawMessage) (any, *nodeError) {
		if method == "eth_call" {
			return call()
		}
		if a := string(params[0]); (a[len(a)-2]-'0')%2 == 1 {
			return "0xef0100", nil
		}
		return "0x", nil
	}
}

func TestACallTellsWhoHasCode(t *testing.T) {
	t.Parallel()
	want := map[chain.Address]bool{{19: 1}: true, {19: 2}: false, {19: 3}: true}
	accounts := []chain.Address{{19: 1}, {19: 2}, {19: 3}, {19: 1}}
	client, trips := counted(t, coded(func() (any, *nodeError) { return "0x0102", nil }))
	got, err := client.CallWithCode(t.Context(), Message{}, accounts)
	if err != nil || got.CallErr != nil || string(got.Data) != "\x01\x02" || !maps.Equal(got.HasCode, want) || trips.Load() != 1 {
		t.Errorf("%+v, %v in %d trips", got, err, trips.Load())
	}
	client, _ = counted(t, coded(func() (any, *nodeError) { return nil, &nodeError{Code: 3, Message: "execution reverted"} }))
	got, err = client.CallWithCode(t.Context(), Message{}, accounts)
	if _, judged := IsRevert(got.CallErr); err != nil || !judged || !maps.Equal(got.HasCode, want) {
		t.Errorf("a call that reverts: %+v, %v", got, err)
	}
	client, _ = counted(t, coded(func() (any, *nodeError) { return nil, &nodeError{Code: -32000, Message: "header not found"} }))
	if got, err = client.CallWithCode(t.Context(), Message{}, accounts); !errors.Is(err, chain.ErrUnavailable) || got.HasCode != nil {
		t.Errorf("a call that is not told: %+v, %v", got, err)
	}
}

// TestCodeThatIsNotToldIsNotNone is I7: no code would let a payer into a batch.
func TestCodeThatIsNotToldIsNotNone(t *testing.T) {
	t.Parallel()
	for _, message := range []string{"header not found", "execution reverted"} {
		client, _ := counted(t, func(method string, params []json.RawMessage) (any, *nodeError) {
			if method == "eth_getCode" && string(params[0]) == `"`+`0x0000000000000000000000000000000000000002"` {
				return nil, &nodeError{Code: -32000, Message: message}
			}
			return "0x", nil
		})
		if got, err := client.CallWithCode(t.Context(), Message{}, []chain.Address{{19: 1}, {19: 2}}); !errors.Is(err, chain.ErrUnavailable) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}
