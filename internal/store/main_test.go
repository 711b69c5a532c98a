package store_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/store/storetest"
	"facilitator/internal/x402"
)

// server is nil where there is no Postgres to test with.
var server *storetest.Server

func TestMain(m *testing.M) { os.Exit(storetest.Main(m, &server)) }

// databaseURL is a migrated database of the test's own.
func databaseURL(tb testing.TB) string {
	tb.Helper()
	if server == nil {
		tb.Skip("no Postgres: short run, or no tools")
	}
	return server.Database(tb)
}

const network = x402.Network("eip155:8453")

// record is a store and a way past it.
type record struct {
	*store.Store
	conn *pgx.Conn
	url  string
}

func open(tb testing.TB) record {
	tb.Helper()
	url := databaseURL(tb)
	return record{Store: openStore(tb, url), conn: connect(tb, url), url: url}
}

// openStore is one more replica on a database.
func openStore(tb testing.TB, url string) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), url, store.Options{MaxConnections: 8, Timeout: time.Minute})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

func connect(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// one reads a single value.
func one[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// column reads one column.
func column[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) []T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return list
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// sale is a payment to claim; n makes its authorization nonce.
func sale(n int) payment.Payment {
	nonce := chain.Hash{0: 0xaa}
	binary.BigEndian.PutUint64(nonce[24:], uint64(n))
	token := chain.Address{19: 0x36}
	return payment.Payment{
		Version: 2, Resource: "https://api.example.com/weather", ClaimedAtBlock: 41,
		Terms: payment.Terms{
			Key:    payment.Key{Network: network, Contract: token, Payer: chain.Address{19: 0x70}, Nonce: nonce},
			Scheme: x402.SchemeExact, Asset: token, PayTo: chain.Address{19: 0x20},
			Amount: x402.NewUint256(10000), ValidAfter: x402.NewUint256(0), ValidBefore: x402.NewUint256(2000000000),
			Call: chain.Call{To: token, Data: []byte{1, 2, 3}}, SignatureHash: chain.Hash{0: 0x51},
		},
	}
}

// claim claims sale(n) and expects to be the first.
func (r record) claim(t *testing.T, n int) payment.Payment {
	t.Helper()
	p, fresh, err := r.ClaimPayment(t.Context(), sale(n), nil)
	if err != nil || !fresh {
		t.Fatalf("claim %d: fresh %t, %v", n, fresh, err)
	}
	return p
}

// wallet records a relayer wallet, which nobody holds.
func (r record) wallet(t *testing.T, a byte, walletNonce uint64) payment.Lane {
	t.Helper()
	lane, err := r.EnsureLane(t.Context(), network, chain.Address{0: a}, payment.RoleRelayer, walletNonce)
	must(t, err)
	return lane
}

// lane is a wallet with a lease.
func (r record) lane(t *testing.T, a byte, walletNonce uint64) payment.Lane {
	t.Helper()
	return r.acquire(t, r.wallet(t, a, walletNonce))
}

// acquire leases a lane for a replica that did nothing yet.
func (r record) acquire(t *testing.T, lane payment.Lane) payment.Lane {
	t.Helper()
	held, ok, err := r.AcquireLane(t.Context(), lane, uuid.NewString(), time.Hour)
	if err != nil || !ok {
		t.Fatalf("lane %d not acquired: %v", lane.ID, err)
	}
	return held
}

// expire lets the lease of a lane run out by the database's clock.
func (r record) expire(t *testing.T, lane payment.Lane) {
	t.Helper()
	_, err := r.conn.Exec(t.Context(), "UPDATE lanes SET lease_until = now() - interval '1 second' WHERE id = $1", lane.ID)
	must(t, err)
}

// attempt is a signed transaction as far as the record looks at it.
func attempt(lane payment.Lane, walletNonce uint64) payment.Attempt {
	hash := chain.Hash{0: 0xee, 1: byte(lane.ID)}
	binary.BigEndian.PutUint64(hash[24:], walletNonce)
	return payment.Attempt{Hash: hash, Raw: []byte{2, byte(walletNonce)}, GasLimit: 120_000, Fees: chain.Fees{FeeCap: 1e9, TipCap: 1e6}}
}

// bump is the n-th replacement of such a transaction.
func bump(lane payment.Lane, walletNonce uint64, n byte) payment.Attempt {
	a := attempt(lane, walletNonce)
	a.Hash[2], a.Raw, a.Fees = n, []byte{2, byte(walletNonce), n}, chain.Fees{FeeCap: 1e9 + uint64(n), TipCap: 1e6 + uint64(n)}
	return a
}

// signing is a signer of attempts.
type signing = func(ctx context.Context, walletNonce uint64) (payment.Attempt, error)

func signer(lane payment.Lane) signing {
	return func(_ context.Context, walletNonce uint64) (payment.Attempt, error) {
		return attempt(lane, walletNonce), nil
	}
}

func bumper(lane payment.Lane, n byte) signing {
	return func(_ context.Context, walletNonce uint64) (payment.Attempt, error) {
		return bump(lane, walletNonce, n), nil
	}
}

// order asks for a transaction with these payments.
func order(lane payment.Lane, ps ...payment.Payment) payment.Order {
	return payment.Order{Payments: ps, Sign: signer(lane)}
}

const manyOpen = 1000

// preparing makes orders of payments.
type preparing = func(ctx context.Context, ps []payment.Payment) ([]payment.Order, error)

// work takes everything that is queued.
func work(maxOpen int, prepare preparing) payment.Work {
	return payment.Work{Most: manyOpen, MaxOpen: maxOpen, Timeout: time.Minute, Prepare: prepare}
}

// shared makes one order of the payments with these ids.
func shared(lane payment.Lane, ids ...payment.ID) preparing {
	return func(_ context.Context, ps []payment.Payment) ([]payment.Order, error) {
		ps = slices.DeleteFunc(ps, func(p payment.Payment) bool { return !slices.Contains(ids, p.ID) })
		if len(ps) == 0 {
			return nil, nil
		}
		return []payment.Order{order(lane, ps...)}, nil
	}
}

// alone makes an order of each payment.
func alone(lane payment.Lane) preparing {
	return func(_ context.Context, ps []payment.Payment) ([]payment.Order, error) {
		orders := make([]payment.Order, len(ps))
		for i := range ps {
			orders[i] = order(lane, ps[i])
		}
		return orders, nil
	}
}

// sign signs one transaction with these payments.
func (r record) sign(t *testing.T, lane payment.Lane, ids ...payment.ID) payment.Transaction {
	t.Helper()
	signed, err := r.Take(t.Context(), lane, work(manyOpen, shared(lane, ids...)))
	if err != nil || len(signed) != 1 || len(signed[0].Payments) != len(ids) {
		t.Fatalf("signed %d transactions: %v", len(signed), err)
	}
	return signed[0].Transaction
}

// include records one mined transaction.
func (r record) include(t *testing.T, tx payment.Transaction, rc *chain.Receipt, outcomes ...payment.Outcome) {
	t.Helper()
	open := one[int](t, r.conn, "SELECT count(*) FROM payments WHERE transaction_id = $1 AND state IN ('signed', 'broadcast')", tx.ID)
	must(t, r.RecordInclusions(t.Context(), tx.Lane, []payment.Inclusion{
		{Transaction: tx.ID, Receipt: rc, Outcomes: outcomes, Undecided: len(outcomes) < open},
	}))
}

// opened lists a lane's open transactions.
func (r record) opened(t *testing.T, lane payment.Lane) []payment.Carried {
	t.Helper()
	list, err := r.OpenTransactions(t.Context(), lane)
	must(t, err)
	return list
}

func (r record) payment(t *testing.T, id payment.ID) payment.Payment {
	t.Helper()
	p, err := r.PaymentByID(t.Context(), id)
	must(t, err)
	return p
}

func (r record) wantState(t *testing.T, id payment.ID, want payment.State) payment.Payment {
	t.Helper()
	p := r.payment(t, id)
	if p.State != want {
		t.Errorf("payment is %s, want %s", p.State, want)
	}
	return p
}

func (r record) events(t *testing.T) []string {
	t.Helper()
	return column[string](t, r.conn, "SELECT type FROM outbox ORDER BY id")
}

// dump is every row that methods of a lane write, as text.
func (r record) dump(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, table := range []string{"lanes", "payments", "transactions", "attempts", "outbox", "spending"} {
		all[table] = column[string](t, r.conn, "SELECT x::text FROM "+table+" x ORDER BY 1")
	}
	return all
}

// receipt of a transaction's newest attempt in a block.
func receipt(tx payment.Transaction, block byte, succeeded bool) *chain.Receipt {
	return &chain.Receipt{
		TxHash: tx.Attempts[len(tx.Attempts)-1].Hash, BlockHash: chain.Hash{0: 0xb0, 1: block}, BlockNumber: uint64(block),
		Succeeded: succeeded, GasUsed: 85_764, EffectiveGasPrice: 1e9,
	}
}

func newCall() string { return uuid.NewString() }
