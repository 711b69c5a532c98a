package evm

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"facilitator/internal/chain"
)

func TestHaltsOfTheEVMAreJudgements(t *testing.T) {
	t.Parallel()
	for _, e := range []nodeError{
		{-32603, "EVM error InvalidFEOpcode", nil},  // anvil 1.7.1, observed
		{-32603, "EVM error StackUnderflow", nil},   // anvil 1.7.1, observed
		{-32603, "EVM error OpcodeNotFound", nil},   // anvil 1.7.1, observed
		{-32000, "EVM error: InvalidFEOpcode", nil}, // reth, op-reth
		{-32000, "gas uint64 overflow", nil},        // geth
		{-32000, "return data out of bounds", nil},  // geth
		{-32000, "max call depth exceeded", nil},    // geth
	} {
		t.Run(e.Message, func(t *testing.T) {
			t.Parallel()
			client := serve(t, node(func(string, []json.RawMessage) (any, *nodeError) { return nil, &e }))
			if _, err := client.Call(t.Context(), Message{}); errors.Is(err, chain.ErrUnavailable) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestCloseDropsIdleConnections(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 8)
	s := httptest.NewUnstartedServer(node(func(string, []json.RawMessage) (any, *nodeError) { return "0x1", nil }))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	c, err := Dial(t.Context(), s.URL, patience)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ChainID(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-closed
}

func TestDialShowsNoPieceOfAMistypedURL(t *testing.T) {
	t.Parallel()
	_, err := Dial(t.Context(), "https://"+urlUser+":"+urlPassword+"/x@example.com/", patience)
	discreet(t, err)
}

func TestAReceiptWithoutBlockHashAtAnUnknownHeightIsDoubtful(t *testing.T) {
	t.Parallel()
	r := rawReceipt(nil)
	delete(r, "blockHash")
	client := serve(t, node(ledger{receipts: map[string]any{word32("aa"): r}}.answer))
	got, err := client.Receipts(t.Context(), []chain.Hash{hash(t, word32("aa"))})
	if l := got[hash(t, word32("aa"))]; err == nil && !l.Unknown {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestAnUnknownTransactionTypeIsNotAlreadyKnown(t *testing.T) {
	t.Parallel()
	client := serve(t, node(func(string, []json.RawMessage) (any, *nodeError) {
		return nil, &nodeError{-32602, "unknown transaction type: 2", nil}
	}))
	if outcome, err := client.SendRaw(t.Context(), []byte{2}); outcome == SendAlreadyKnown || err == nil {
		t.Errorf("%s, %v", outcome, err)
	}
}
