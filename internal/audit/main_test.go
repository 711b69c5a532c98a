package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"facilitator/internal/audit"
	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/devnet"
	"facilitator/internal/store/storetest"
	"facilitator/internal/x402"
)

// shared is nil where there is nothing to test with.
var shared struct {
	database *storetest.Server
	chain    *devnet.Chain // automine
	books    atomic.Int64
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if testing.Short() {
		return m.Run()
	}
	before := goleak.IgnoreCurrent()
	ctx := context.Background()
	var err error
	shared.database, err = storetest.Start(ctx)
	if err == nil {
		shared.chain, err = devnet.StartChain(ctx, devnet.ChainConfig{Network: devnet.Base})
	}
	if err != nil && (os.Getenv("CI") != "" || !errors.Is(err, devnet.ErrNoTools)) {
		fmt.Fprintln(os.Stderr, "test set-up:", err)
		return 1
	}
	code := m.Run()
	if shared.chain != nil {
		err = errors.Join(shared.chain.Close(), shared.database.Close(), goleak.Find(before))
	}
	if err != nil && shared.chain != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "test end:", err)
		return 1
	}
	return code
}

// books are a record and a chain that fit together, until a test cooks them.
type books struct {
	t        *testing.T
	db       *pgx.Conn
	url      string
	since    uint64
	lane     devnet.Key
	laneID   int64
	to       common.Address // what the lane's transactions call
	payments []entry
	answers  []audit.Answer
}

// entry is one payment of the books.
type entry struct {
	id   string
	key  audit.Key
	auth evm.Authorization
	call []byte
	hash common.Hash
	tx   int64
}

const amount = 10_000

// newBooks pays for three sales on the chain, records them as final and tells
// success of each.
func newBooks(t *testing.T) *books {
	t.Helper()
	if shared.chain == nil {
		t.Skip("no chain: short run, or no tools")
	}
	c := shared.chain
	set := fmt.Sprintf("books %d", shared.books.Add(1))
	b := &books{t: t, lane: devnet.Keys(devnet.RoleLane+" of "+set, 1)[0], url: shared.database.Database(t), to: c.USDC()}
	payer := devnet.Keys(devnet.RolePayer+" of "+set, 1)[0]
	b.must(c.FundETH(t.Context(), big.NewInt(1e18), b.lane.Address))
	b.must(c.FundUSDC(t.Context(), big.NewInt(1_000_000), payer.Address))
	var err error
	b.since, err = c.Client().BlockNumber(t.Context())
	b.must(err)
	b.db, err = pgx.Connect(t.Context(), b.url)
	b.must(err)
	t.Cleanup(func() { _ = b.db.Close(context.WithoutCancel(t.Context())) })
	b.must(b.db.QueryRow(t.Context(), `INSERT INTO lanes (network, address, nonce_floor) VALUES ($1, $2, 0) RETURNING id`,
		c.Network(), b.lane.Address[:]).Scan(&b.laneID))
	for i := range 3 {
		e := b.authorize(payer, byte(i+1))
		e.hash = b.send(uint64(i), e.call)
		b.record(&e, uint64(i))
		b.payments = append(b.payments, e)
		b.answers = append(b.answers, audit.Answer{Key: e.key, Success: true, Transaction: e.hash.Hex(), At: time.Now()})
	}
	return b
}

func (b *books) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// authorize signs a payment.
func (b *books) authorize(payer devnet.Key, nonce byte) entry {
	b.t.Helper()
	c := shared.chain
	e := entry{id: uuid.NewString(), auth: evm.Authorization{
		From: chain.Address(payer.Address), To: chain.Address{19: 0xaa}, Value: x402.NewUint256(amount),
		ValidBefore: x402.NewUint256(1 << 40), Nonce: chain.Hash{0: nonce, 31: 7},
	}}
	digest := e.auth.Digest(evm.DomainSeparator("USD Coin", "2", c.ChainID(), chain.Address(c.USDC())))
	signature, err := crypto.Sign(digest[:], payer.Private)
	b.must(err)
	signature[64] += 27
	e.call = evm.TransferData(e.auth, signature, evm.BothOverloads)
	e.key = audit.Key{Network: c.Network(), Contract: c.USDC(), Payer: payer.Address, Nonce: common.Hash(e.auth.Nonce)}
	return e
}

// sign makes a transaction of the lane.
func (b *books) sign(walletNonce uint64, data []byte) *types.Transaction {
	b.t.Helper()
	id := new(big.Int).SetUint64(shared.chain.ChainID())
	signed, err := types.SignNewTx(b.lane.Private, types.LatestSignerForChainID(id), &types.DynamicFeeTx{
		ChainID: id, Nonce: walletNonce, GasTipCap: big.NewInt(1e6), GasFeeCap: big.NewInt(1e10), Gas: 200_000, To: &b.to, Data: data,
	})
	b.must(err)
	return signed
}

// send has a transaction of the lane mined.
func (b *books) send(walletNonce uint64, data []byte) common.Hash {
	b.t.Helper()
	signed := b.sign(walletNonce, data)
	b.must(shared.chain.Client().SendTransaction(b.t.Context(), signed))
	for {
		r, err := shared.chain.Client().TransactionReceipt(b.t.Context(), signed.Hash())
		if err == nil && r.Status == types.ReceiptStatusSuccessful {
			return signed.Hash()
		}
		if err == nil {
			b.t.Fatalf("%v reverted", signed.Hash())
		}
	}
}

// payAgain adds a payment in a token that lets one authorization pay twice.
func (b *books) payAgain() {
	b.t.Helper()
	token := crypto.CreateAddress(b.lane.Address, 0) // nothing is there
	// For each 128 bytes of the call, two in all: LOG3 with three topics and a word.
	b.must(shared.chain.SetCode(b.t.Context(), token, common.FromHex("0x"+
		"606035600052604035602035600035602060"+"00a3"+"60e03560005260c03560a035608035602060"+"00a300")))
	e := b.authorize(devnet.Keys("twice", 1)[0], 9)
	e.key.Contract, b.to = token, token
	topic := func(a chain.Address) []byte { return common.LeftPadBytes(a[:], 32) }
	used, moved := evm.EventAuthorizationUsed(), evm.EventTransfer()
	e.call = bytes.Join([][]byte{
		used[:], topic(e.auth.From), e.auth.Nonce[:], make([]byte, 32), moved[:], topic(e.auth.From), topic(e.auth.To), e.auth.Value[:],
	}, nil)
	e.hash = b.send(3, e.call)
	b.record(&e, 3)
	e.hash = b.send(4, e.call)
	b.recordTransaction(&e, 4)
}

// record writes a payment that the chain has as final.
func (b *books) record(e *entry, walletNonce uint64) {
	b.t.Helper()
	r := b.recordTransaction(e, walletNonce)
	b.insertPayment(e.id, e)
	b.exec(`UPDATE payments SET state = 'final', transaction_id = $2, tx_hash = $3, block_number = $4, block_hash = $5, evidence = '{"kind": "receipt"}'
WHERE id = $1`, e.id, e.tx, e.hash[:], r.BlockNumber.Int64(), r.BlockHash[:])
}

// recordTransaction writes the mined transaction of a payment.
func (b *books) recordTransaction(e *entry, walletNonce uint64) *types.Receipt {
	b.t.Helper()
	r, err := shared.chain.Client().TransactionReceipt(b.t.Context(), e.hash)
	b.must(err)
	signed := b.sign(walletNonce, e.call)
	raw, err := signed.MarshalBinary()
	b.must(err)
	b.must(b.db.QueryRow(b.t.Context(), `
INSERT INTO transactions (lane_id, wallet_nonce, state, block_number, block_hash, succeeded) VALUES ($1, $2, 'final', $3, $4, true)
RETURNING id`, b.laneID, walletNonce, r.BlockNumber.Int64(), r.BlockHash[:]).Scan(&e.tx))
	hash := signed.Hash()
	b.exec(`INSERT INTO attempts (transaction_id, hash, raw, gas_limit, fee_cap, tip_cap) VALUES ($1, $2, $3, 1, 1, 1)`, e.tx, hash[:], raw)
	return r
}

func (b *books) insertPayment(id string, e *entry) {
	b.t.Helper()
	b.exec(`
INSERT INTO payments (id, network, contract, payer, authorization_nonce, fingerprint, scheme, asset, pay_to, amount, valid_after, valid_before,
	call_to, call_data, signature_hash, x402_version, resource, claimed_at_block, state)
VALUES ($1, $2, $3, $4, $5, $5, 'exact', $3, $6, $7, 0, 1, $3, $8, $5, 2, '', $9, 'queued')`,
		id, e.key.Network, e.key.Contract[:], e.key.Payer[:], e.key.Nonce[:], e.auth.To[:], amount, e.call, b.since)
}

func (b *books) exec(sql string, args ...any) {
	b.t.Helper()
	_, err := b.db.Exec(b.t.Context(), sql, args...)
	b.must(err)
}

// audit runs the comparison.
func (b *books) audit(settled bool) *audit.Report {
	b.t.Helper()
	var told bytes.Buffer
	for _, a := range b.answers {
		b.must(json.NewEncoder(&told).Encode(a))
	}
	r, err := audit.Run(b.t.Context(), audit.Options{
		DatabaseURL: b.url, Nodes: map[string]string{shared.chain.Network(): shared.chain.URL()}, SinceBlock: b.since,
		Settled: settled, Answers: &told,
	})
	b.must(err)
	return r
}
