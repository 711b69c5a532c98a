package test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/signer/core/apitypes"

	"facilitator/internal/devnet"
)

// remoteSigner serves eth_signTransaction with a key, until it is told to behave
// otherwise.
type remoteSigner struct {
	*httptest.Server
	key devnet.Key
	// mood is "" (honest), "steals" or "hangs".
	mood   atomic.Value
	signed atomic.Int32
}

func startRemoteSigner(t *testing.T, key devnet.Key) *remoteSigner {
	t.Helper()
	s := &remoteSigner{key: key}
	s.mood.Store("")
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.sign(w, r); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *remoteSigner) sign(w http.ResponseWriter, r *http.Request) error {
	var in struct{ Params []apitypes.SendTxArgs }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Params) != 1 {
		return fmt.Errorf("asked for %+v: %w", in, err)
	}
	if s.mood.Load() == "hangs" {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the client goes
		<-r.Context().Done()
		return nil
	}
	asked, err := in.Params[0].ToTransaction()
	if err != nil {
		return err
	}
	to, value := asked.To(), asked.Value()
	if s.mood.Load() == "steals" {
		value = new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil)
	}
	tx, err := types.SignNewTx(s.key.Private, types.LatestSignerForChainID(asked.ChainId()), &types.DynamicFeeTx{
		ChainID: asked.ChainId(), Nonce: asked.Nonce(), To: to, Value: value, Data: asked.Data(), Gas: asked.Gas(),
		GasFeeCap: asked.GasFeeCap(), GasTipCap: asked.GasTipCap(),
	})
	if err != nil {
		return err
	}
	raw, err := tx.MarshalBinary()
	if err != nil {
		return err
	}
	s.signed.Add(1)
	return json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": 1, "result": hexutil.Encode(raw)})
}

func (s *remoteSigner) lane() string {
	return "{remote: {url: '" + s.URL + "', address: '" + s.key.Address.Hex() + "'}}"
}

// TestASignerThatHangsLosesNoPayment: its only lane is parked with the payment
// queued, and settles it when the signer is well again.
func TestASignerThatHangsLosesNoPayment(t *testing.T) {
	t.Parallel()
	c := world.chain
	lane := newKey(t, devnet.RoleLane)
	signer := startRemoteSigner(t, lane)
	s := setup{
		chain: c, lanes: []devnet.Key{lane}, overlay: unhurried(c),
		more: "chains: {'" + c.Network() + "': {sign_timeout: 200ms, lanes: [" + signer.lane() + "]}}",
	}.start(t)
	parked := func() float64 { return s.metric(t, "facilitator_lane_parked", c.Network()) }
	deals := manySales(t, c, 2)
	wantSuccess(t, s.post(t, "/settle", deals.bodies[0]))
	if got := s.metric(t, "facilitator_sign_seconds_count", c.Network(), "remote"); got != 1 {
		t.Errorf("%v signatures", got)
	}

	signer.mood.Store("hangs")
	answer := make(chan reply, 1)
	go func() {
		r, err := s.tryPost(t.Context(), "/settle", deals.bodies[1])
		if err != nil {
			t.Error(err)
		}
		answer <- r
	}()
	eventually(t, "the lane is parked", func() bool { return parked() == 1 })
	eventually(t, "the record says why", func() bool {
		return strings.Join(queryRows[string](t, s.databaseURL, "SELECT coalesce(parked, '') FROM lanes"), "") == "its signer does not answer in time"
	})
	if states := queryRows[string](t, s.databaseURL, "SELECT state FROM payments ORDER BY created_at"); len(states) != 2 || states[1] != "queued" {
		t.Errorf("payments are %v", states)
	}
	if r := s.get(t, "/readyz"); r.status != http.StatusServiceUnavailable {
		t.Errorf("ready with no signer: %d %s", r.status, r.text)
	}
	signer.mood.Store("")
	wantSuccess(t, <-answer)
	eventually(t, "the lane is not parked", func() bool { return parked() == 0 })
	if r := s.get(t, "/readyz"); r.status != http.StatusOK {
		t.Errorf("not ready: %d %s", r.status, r.text)
	}
}

// TestASignerThatStealsIsParkedAndTheOthersGoOn: nothing that it signed is sent.
func TestASignerThatStealsIsParkedAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	const count = 20
	c := world.chain
	lanes := newKeys(t, devnet.RoleLane, 2)
	signer := startRemoteSigner(t, lanes[0])
	signer.mood.Store("steals")
	s := setup{
		chain: c, lanes: lanes, overlay: unhurried(c),
		more: "chains: {'" + c.Network() + "': {lanes: [" + signer.lane() + ", {private_key: '" + lanes[1].Hex() + "'}]}}",
	}.start(t)
	unstick(t, c, lanes)
	deals := manySales(t, c, count)
	from := height(t, c)
	answers := settleAll(t, deals.bodies, 8, s)
	deals.check(t, c, from, answers)
	if signer.signed.Load() == 0 {
		t.Error("it was never asked")
	}
	if got := s.metric(t, "facilitator_sign_failures_total", c.Network(), "remote", "wrong"); got == 0 {
		t.Error("nobody noticed")
	}
	if n := queryRows[int](t, s.databaseURL, "SELECT count(DISTINCT lane_id)::int FROM transactions"); n[0] != 1 {
		t.Errorf("%d lanes have signed", n[0])
	}
	if !strings.Contains(s.log.String(), "lane is parked: look at its signer") {
		t.Error("the log does not say so")
	}
}
