package test

import (
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/devnet"
)

// metric is the sum of a metric's series, or of those with these labels' values.
func (s *service) metric(t *testing.T, name string, labels ...string) (value float64) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.metricsURL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		series, text, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok || !strings.HasPrefix(series, name+"{") {
			continue
		}
		if slices.ContainsFunc(labels, func(label string) bool {
			return !strings.Contains(strings.ToLower(series), strings.ToLower(`"`+label+`"`))
		}) {
			continue
		}
		n, ok := new(big.Float).SetString(text)
		if !ok {
			t.Fatalf("metric %s", line)
		}
		f, _ := n.Float64()
		value += f
	}
	return value
}

// attemptsOf are the hashes of every attempt, oldest first.
func attemptsOf(t *testing.T, s *service) []string {
	t.Helper()
	return queryRows[string](t, s.databaseURL, "SELECT '0x' || encode(hash, 'hex') FROM attempts ORDER BY id")
}

// signedLater settles on a held chain and waits until it is in the pool.
func signedLater(t *testing.T, s *service, c *devnet.Chain, body any) <-chan settleAnswer {
	t.Helper()
	answer := settleLater(t, s, body)
	eventually(t, "it is in the pool", func() bool { return pooled(t, c) == 1 })
	return answer
}

func TestATransactionThatIsPricedOutPaysMore(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	s := setup{chain: c, overlay: bumpingSoon}.start(t)
	deal := sale(t, payer)
	from := height(t, c)
	answer := signedLater(t, s, c, request(t, c, deal))
	before := attemptsOf(t, s)
	priceOut(t, c)
	hash := wantSuccess(t, wait(t, answer))
	attempts := attemptsOf(t, s)
	if len(before) != 1 || len(attempts) < 2 || attempts[0] != before[0] || !slices.Contains(attempts[1:], hash) {
		t.Errorf("settled by %s; attempts %v, at first %v", hash, attempts, before)
	}
	nonces := queryRows[int64](t, s.databaseURL, "SELECT DISTINCT t.wallet_nonce FROM attempts a JOIN transactions t ON t.id = a.transaction_id")
	if !slices.Equal(nonces, []int64{0}) {
		t.Errorf("wallet nonces %v", nonces)
	}
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 1 || moved[0].TxHash.Hex() != hash {
		t.Errorf("transfers: %+v, want one in %s", moved, hash)
	}
	if n := s.metric(t, "facilitator_transaction_bumps_total"); n < 1 {
		t.Errorf("%v bumps are counted", n)
	}
	checkWallets(t, s.databaseURL, c, 1)
}

// TestAnOlderAttemptThatIsMinedSettles: the node takes the first attempt only,
// and the chain becomes cheap again.
func TestAnOlderAttemptThatIsMinedSettles(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	node := newOutageNode(t, c)
	var sends atomic.Int64
	node.follow(func(body string, forward http.HandlerFunc) http.HandlerFunc {
		if strings.Contains(body, "eth_sendRawTransaction") && sends.Add(1) > 1 {
			return outageStatus(http.StatusBadGateway)(body, forward)
		}
		return forward
	})
	s := setup{chain: c, rpcURL: node.url, overlay: bumpingSoon}.start(t)
	body := request(t, c, sale(t, payer))
	answer := signedLater(t, s, c, body)
	first := attemptsOf(t, s)[0]
	priceOut(t, c)
	eventually(t, "it is signed again", func() bool { return len(attemptsOf(t, s)) > 1 })
	eventually(t, "the newest hash is shown", func() bool {
		shown, _ := recordOf(t, s, body)["transaction"].(string)
		return shown != first
	})
	held(t, c)
	if err := c.RPC().CallContext(t.Context(), nil, "anvil_setNextBlockBaseFeePerGas", hexutil.Uint64(1)); err != nil {
		t.Fatal(err)
	}
	raw := queryRows[[]byte](t, s.databaseURL, "SELECT raw FROM attempts ORDER BY id LIMIT 1")[0] // anvil drops what is priced out
	if err := c.RPC().CallContext(t.Context(), nil, "eth_sendRawTransaction", hexutil.Bytes(raw)); err != nil {
		t.Fatal(err)
	}
	mine(t, c, 1)
	if hash := wantSuccess(t, wait(t, answer)); hash != first {
		t.Errorf("settled by %s, mined was %s", hash, first)
	}
	if shown := recordOf(t, s, body)["transaction"]; shown != first {
		t.Errorf("the record says %v, mined was %s", shown, first)
	}
	checkWallets(t, s.databaseURL, c, 1)
}

// TestAWalletNonceThatSomebodyElseTakesCostsNoPayment: somebody has the lane's
// key and is faster with its next wallet nonce.
func TestAWalletNonceThatSomebodyElseTakesCostsNoPayment(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	s := setup{chain: c}.start(t)
	deal := sale(t, payer)
	from := height(t, c)
	answer := signedLater(t, s, c, request(t, c, deal))
	void := attemptsOf(t, s)[0]
	theirs := sendAsLane(t, s, c, 0)
	if err := c.SetIntervalMining(t.Context(), 250*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	hash := wantSuccess(t, wait(t, answer))
	if hash == void || hash == theirs.Hex() {
		t.Errorf("settled by %s", hash)
	}
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 1 || moved[0].TxHash.Hex() != hash {
		t.Errorf("transfers: %+v, want one in %s", moved, hash)
	}
	states := queryRows[string](t, s.databaseURL, "SELECT wallet_nonce || ' ' || state FROM transactions ORDER BY wallet_nonce")
	if !slices.Equal(states, []string{"0 replaced", "1 included"}) {
		t.Errorf("transactions: %v", states)
	}
	if n := s.metric(t, "facilitator_lane_foreign_transactions_total"); n != 1 {
		t.Errorf("%v wallet nonces of somebody else are counted", n)
	}
	if !strings.Contains(s.log.String(), "wallet was used by somebody else") {
		t.Error("the log does not tell")
	}
	wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer)))) // the lane goes on
	checkWallets(t, s.databaseURL, c, 3)
}

// sendAsLane uses a lane's key behind the service's back.
func sendAsLane(t *testing.T, s *service, c *devnet.Chain, walletNonce uint64) common.Hash {
	t.Helper()
	signer, err := evm.NewKeySigner(s.lanes[0].Hex(), c.ChainID())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := signer.Sign(t.Context(), evm.Unsigned{
		Call: chain.Call{To: signer.Address()}, WalletNonce: walletNonce, GasLimit: 21_000,
		Fees: chain.Fees{FeeCap: 100_000_000_000, TipCap: 50_000_000_000},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.RPC().CallContext(t.Context(), nil, "eth_sendRawTransaction", hexutil.Bytes(theirs.Raw)); err != nil {
		t.Fatal(err)
	}
	return common.Hash(theirs.Hash)
}

// TestAWalletNonceThatAReorganisationFreesIsFilled: somebody else used it, the
// lane went on above it, and then the chain forgets both.
func TestAWalletNonceThatAReorganisationFreesIsFilled(t *testing.T) {
	t.Parallel()
	c := startChain(t, devnet.ChainConfig{})
	s := setup{chain: c}.start(t)
	payer := payers(t, c, 1)[0]
	wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer))))
	mine(t, c, 8) // the set-up is buried
	from := height(t, c)
	sendAsLane(t, s, c, 1)
	eventually(t, "the lane is to go on above it", func() bool {
		return queryRows[int64](t, s.databaseURL, "SELECT nonce_floor FROM lanes")[0] == 2
	})
	deal := sale(t, payer)
	body := request(t, c, deal)
	hash := wantSuccess(t, s.post(t, "/settle", body))
	held(t, c)
	if err := c.RPC().CallContext(t.Context(), nil, "anvil_reorg", 2, []any{}); err != nil {
		t.Fatal(err)
	}
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 0 {
		t.Fatalf("the reorganisation kept %+v", moved)
	}
	eventuallyState(t, s, body, "broadcast")
	if err := c.SetIntervalMining(t.Context(), 250*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	eventuallyState(t, s, body, "included")
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 1 || moved[0].TxHash.Hex() != hash {
		t.Errorf("transfers: %+v, want one in %s", moved, hash)
	}
	states := queryRows[string](t, s.databaseURL, "SELECT wallet_nonce || ' ' || state FROM transactions ORDER BY wallet_nonce")
	if !slices.Equal(states, []string{"0 included", "1 included", "2 included"}) {
		t.Errorf("transactions: %v", states)
	}
	filler := queryRows[string](t, s.databaseURL, "SELECT '0x' || encode(a.hash, 'hex') FROM attempts a JOIN transactions t ON t.id = a.transaction_id WHERE wallet_nonce = 1")
	if _, tx := minedOne(t, c, filler); tx == nil || tx.Nonce() != 1 || *tx.To() != s.lanes[0].Address || tx.Value().Sign() != 0 || len(tx.Data()) != 0 {
		t.Errorf("filled by %+v", tx)
	}
	if n := s.metric(t, "facilitator_lane_filled_nonces_total"); n != 1 {
		t.Errorf("%v filled wallet nonces are counted", n)
	}
	wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer)))) // the lane goes on
}

// TestATransactionThatCanDoNothingAnyMoreMakesRoom: its payment expired, so an
// empty one takes its wallet nonce.
func TestATransactionThatCanDoNothingAnyMoreMakesRoom(t *testing.T) {
	t.Parallel()
	c, payer := heldChain(t)
	s := setup{chain: c, overlay: bumpingSoon, more: "settle: {wait: 1s}\nchains: {'" + c.Network() + "': {finality_depth: 1, resend_interval: 10m, max_in_flight: 1}}"}.start(t)
	from := height(t, c)
	deal := sale(t, payer).ForNow(time.Now(), time.Minute)
	body := request(t, c, deal)
	pending := s.post(t, "/settle", body)
	if pending.str("errorReason") != "settlement_pending" {
		t.Fatal(pending.text)
	}
	drop(t, c, pending.str("transaction"))
	if err := c.IncreaseTime(t.Context(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	mine(t, c, 1)
	eventuallyState(t, s, body, "failed")
	if kind := dig[string](t, recordOf(t, s, body), "evidence", "kind"); kind != "expired_unused" {
		t.Errorf("evidence %s", kind)
	}
	priceOut(t, c)
	eventually(t, "its wallet nonce is used", func() bool {
		return slices.Equal(queryRows[string](t, s.databaseURL, "SELECT state FROM transactions"), []string{"included"})
	})
	attempts := attemptsOf(t, s)
	receipt, tx := minedOne(t, c, attempts)
	if lane := s.lanes[0].Address; tx == nil || tx.Nonce() != 0 || *tx.To() != lane || tx.Value().Sign() != 0 || len(tx.Data()) != 0 || receipt.GasUsed != 21_000 {
		t.Errorf("mined: %+v, receipt %+v", tx, receipt)
	}
	if n := s.metric(t, "facilitator_transaction_cancels_total"); n != 1 {
		t.Errorf("%v cancels are counted", n)
	}
	r := s.post(t, "/settle", body)
	if r.is("success") || r.str("errorReason") != "invalid_exact_evm_payload_authorization_valid_before" {
		t.Errorf("the expired payment is answered %s", r.text)
	}
	// The lane has its one place again.
	next := sale(t, payer)
	next.ValidBefore += 600
	wantSuccess(t, collect(t, s, request(t, c, next)))
	if moved := paidTo(t, c, from, deal.PayTo); len(moved) != 0 {
		t.Errorf("transfers of the expired payment: %+v", moved)
	}
	checkWallets(t, s.databaseURL, c, 2)
}

// minedOne is the one of these transactions that the chain has.
func minedOne(t *testing.T, c *devnet.Chain, hashes []string) (*types.Receipt, *types.Transaction) {
	t.Helper()
	for _, hash := range hashes {
		receipt, err := c.Client().TransactionReceipt(t.Context(), common.HexToHash(hash))
		if err != nil {
			continue
		}
		tx, _, err := c.Client().TransactionByHash(t.Context(), receipt.TxHash)
		if err != nil {
			t.Fatal(err)
		}
		return receipt, tx
	}
	return nil, nil
}

// TestAPaymentThatAReorganisationMakesImpossibleIsReversed: in the new fork the
// payer cancelled the authorization.
func TestAPaymentThatAReorganisationMakesImpossibleIsReversed(t *testing.T) {
	t.Parallel()
	reversedBy(t, 2) // in the block that held the payment
}

// reversedBy has the payer cancel in one of three blocks that are replaced, of
// which the last one held the payment and the one before was the head when it
// was claimed.
func reversedBy(t *testing.T, block int) {
	t.Helper()
	c := startChain(t, devnet.ChainConfig{})
	s := setup{chain: c}.start(t)
	payer := payers(t, c, 1)[0]
	if err := c.FundETH(t.Context(), big.NewInt(1e18), payer.Address); err != nil {
		t.Fatal(err)
	}
	deal := sale(t, payer)
	body := request(t, c, deal)
	signer, err := evm.NewKeySigner(payer.Hex(), c.ChainID())
	if err != nil {
		t.Fatal(err)
	}
	cancel, err := signer.Sign(t.Context(), evm.Unsigned{
		Call:     chain.Call{To: chain.Address(c.USDC()), Data: foreignCancel(t, c, badCopy(t, body), payer)},
		GasLimit: 200_000, Fees: chain.Fees{FeeCap: 100_000_000_000, TipCap: 1_000_000_000},
	})
	if err != nil {
		t.Fatal(err)
	}
	mine(t, c, 8)
	from := height(t, c)
	hash := wantSuccess(t, s.post(t, "/settle", body))
	held(t, c)
	if err := c.RPC().CallContext(t.Context(), nil, "anvil_reorg", 3, []any{[]any{hexutil.Encode(cancel.Raw), block}}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetIntervalMining(t.Context(), 250*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	eventuallyState(t, s, body, "failed")
	if events := outboxOf(t, s); !slices.Equal(events, []string{"payment.settled", "payment.reorged", "payment.reversed"}) {
		t.Errorf("events: %v", events)
	}
	shown := recordOf(t, s, body)
	if dig[string](t, shown, "evidence", "kind") != "authorization_consumed" || dig[string](t, shown, "evidence", "transaction") != common.Hash(cancel.Hash).Hex() {
		t.Errorf("the record: %v", shown)
	}
	if moved := paidTo(t, c, from-3, deal.PayTo); len(moved) != 0 {
		t.Errorf("transfers: %+v", moved)
	}
	if r := s.post(t, "/settle", body); r.is("success") || r.str("errorReason") != "invalid_exact_evm_nonce_already_used" {
		t.Errorf("after it was reversed: %s, settled by %s at first", r.text, hash)
	}
	wantSuccess(t, s.post(t, "/settle", request(t, c, sale(t, payer))))
	checkWallets(t, s.databaseURL, c, 2)
}
