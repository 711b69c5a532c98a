package test

import (
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/jackc/pgx/v5"

	"facilitator/internal/devnet"
)

// queryRows reads one column of a database.
func queryRows[T any](t *testing.T, url, sql string, args ...any) []T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }() // all is read
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkWallets fails the test unless the wallets are in order and signed want
// transactions.
func checkWallets(t *testing.T, databaseURL string, c *devnet.Chain, want int) {
	t.Helper()
	if total := checkNonces(t, databaseURL, c); total != want {
		t.Errorf("%d transactions were signed, want %d", total, want)
	}
}

// checkBatches fails the test unless the wallets are in order and so many
// payments are each in exactly one transaction, which paid it. It returns the
// number of transactions.
func checkBatches(t *testing.T, databaseURL string, c *devnet.Chain, payments int) int {
	t.Helper()
	total := checkNonces(t, databaseURL, c)
	paid := queryRows[int64](t, databaseURL, `
SELECT count(*) FROM payments p JOIN transactions t ON t.id = p.transaction_id JOIN attempts a ON a.transaction_id = t.id AND a.hash = p.tx_hash
WHERE p.state IN ('included', 'final') AND t.succeeded AND p.tries = 1 AND p.block_hash = t.block_hash`)[0]
	all := queryRows[int64](t, databaseURL, "SELECT count(*) FROM payments")[0]
	if int(paid) != payments || int(all) != payments {
		t.Errorf("%d of %d payments were paid by the one transaction that carried them, want %d", paid, all, payments)
	}
	if idle := queryRows[int64](t, databaseURL, "SELECT id FROM transactions t WHERE NOT EXISTS (SELECT FROM payments p WHERE p.transaction_id = t.id)"); len(idle) > 0 {
		t.Errorf("transactions %v carry nothing", idle)
	}
	if total > payments {
		t.Errorf("%d payments took %d transactions", payments, total)
	}
	return total
}

// checkNonces fails the test unless the wallet nonces of every lane are
// contiguous rows from its first, all are mined, and the chain counts as many.
// It returns how many they are.
func checkNonces(t *testing.T, databaseURL string, c *devnet.Chain) int {
	t.Helper()
	total := 0
	for _, lane := range queryRows[[]byte](t, databaseURL, "SELECT address FROM lanes") {
		const mine = " FROM transactions t JOIN lanes l ON l.id = t.lane_id WHERE l.address = $1 "
		floor := queryRows[int64](t, databaseURL, "SELECT nonce_floor FROM lanes WHERE address = $1", lane)[0]
		nonces := queryRows[int64](t, databaseURL, "SELECT wallet_nonce"+mine+"ORDER BY 1", lane)
		for i, nonce := range nonces {
			if nonce != floor+int64(i) {
				t.Errorf("lane %x: wallet nonces %v from %d on are not contiguous", lane, nonces, floor)
				break
			}
		}
		open := queryRows[int64](t, databaseURL, "SELECT wallet_nonce"+mine+"AND t.state NOT IN ('included', 'final', 'replaced')", lane)
		if len(open) > 0 {
			t.Errorf("lane %x: wallet nonces %v are not mined", lane, open)
		}
		next, err := c.Client().NonceAt(t.Context(), common.BytesToAddress(lane), nil)
		if err != nil {
			t.Fatal(err)
		}
		if next != uint64(floor)+uint64(len(nonces)) {
			t.Errorf("lane %x: the chain counts %d transactions, the record %d from %d on", lane, next, len(nonces), floor)
		}
		total += len(nonces)
	}
	return total
}
