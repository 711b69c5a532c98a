package evm

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"facilitator/internal/chain"
)

func TestASanctionsOracleIsAskedInOneTrip(t *testing.T) {
	t.Parallel()
	oracle := chain.Address{19: 0xee}
	client, trips := counted(t, func(method string, params []json.RawMessage) (any, *nodeError) {
		call := string(params[0])
		if method != "eth_call" || !strings.Contains(call, `"to":"0x00000000000000000000000000000000000000ee"`) || !strings.Contains(call, `"0xdf592f7d`) {
			t.Errorf("asked %s %s", method, call)
		}
		if strings.Contains(call, `02"`) {
			return hexUint256(1), nil
		}
		return hexUint256(0), nil
	})
	got, err := NewSanctions(client, oracle).Sanctioned(t.Context(), []chain.Address{{19: 1}, {19: 2}, {19: 3}})
	if err != nil || !slices.Equal(got, []bool{false, true, false}) || trips.Load() != 1 {
		t.Errorf("%v, %v in %d trips", got, err, trips.Load())
	}
}

// TestAHitIsToldWhateverBecameOfItsNeighbours: that one answer failed says nothing
// against another that did not.
func TestAHitIsToldWhateverBecameOfItsNeighbours(t *testing.T) {
	t.Parallel()
	client, _ := counted(t, func(_ string, params []json.RawMessage) (any, *nodeError) {
		if strings.Contains(string(params[0]), `02"`) {
			return hexUint256(1), nil
		}
		return nil, &nodeError{Code: -32000, Message: "header not found"}
	})
	for _, addresses := range [][]chain.Address{{{19: 1}, {19: 2}}, {{19: 2}, {19: 1}}} {
		got, err := NewSanctions(client, chain.Address{19: 0xee}).Sanctioned(t.Context(), addresses)
		hit := slices.Index(addresses, chain.Address{19: 2})
		if len(got) != 2 || !got[hit] || got[1-hit] || !errors.Is(err, chain.ErrUnavailable) {
			t.Errorf("of %v: %v, %v", addresses, got, err)
		}
	}
}

// TestAnOracleThatDoesNotTellClearsNobody is I7.
func TestAnOracleThatDoesNotTellClearsNobody(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() (any, *nodeError){
		"it is not there":       func() (any, *nodeError) { return "0x", nil },
		"it reverts":            func() (any, *nodeError) { return nil, &nodeError{Code: 3, Message: "execution reverted"} },
		"neither yes nor no":    func() (any, *nodeError) { return hexUint256(2), nil },
		"it says too much":      func() (any, *nodeError) { return hexUint256(0) + strings.Repeat("00", 32), nil },
		"the node does not say": func() (any, *nodeError) { return nil, &nodeError{Code: -32000, Message: "header not found"} },
	} {
		for _, addresses := range [][]chain.Address{{{19: 1}}, {{19: 2}, {19: 1}}} {
			client, _ := counted(t, func(_ string, params []json.RawMessage) (any, *nodeError) {
				if strings.Contains(string(params[0]), `02"`) {
					return hexUint256(0), nil // of the others it tells
				}
				return answer()
			})
			if got, err := NewSanctions(client, chain.Address{19: 0xee}).Sanctioned(t.Context(), addresses); !errors.Is(err, chain.ErrUnavailable) {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		}
	}
}
