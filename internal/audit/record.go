package audit

import (
	"context"
	"math/big"
	"slices"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/jackc/pgx/v5"
)

// Key names an authorization (I1).
type Key struct {
	Network  string         `json:"network"`
	Contract common.Address `json:"contract"`
	Payer    common.Address `json:"payer"`
	Nonce    common.Hash    `json:"nonce"`
}

func (k Key) String() string {
	return k.Contract.Hex() + "/" + k.Payer.Hex() + "/" + k.Nonce.Hex()
}

// paymentRow is a row of payments.
type paymentRow struct {
	id          string
	key         Key
	asset       common.Address
	payTo       common.Address
	amount      *big.Int
	state       string
	claimedAt   uint64
	transaction int64 // 0: none
	txHash      common.Hash
	block       uint64
	blockHash   common.Hash
	evidence    string
	// evidenceTx is the transaction that the evidence names, if any.
	evidenceTx common.Hash
	// reversed says that the record told of a success that was taken back.
	reversed bool
}

func (p *paymentRow) settled() bool { return p.state == "included" || p.state == "final" }
func (p *paymentRow) open() bool    { return !p.settled() && p.state != "failed" }

// transactionRow is a row of transactions.
type transactionRow struct {
	id        int64
	lane      int64
	nonce     uint64
	state     string
	block     uint64
	blockHash common.Hash
}

func (t *transactionRow) mined() bool { return t.state == "included" || t.state == "final" }

// consumed says whether the record holds the wallet nonce for used up, by us or
// (replaced) by somebody else.
func (t *transactionRow) consumed() bool { return t.mined() || t.state == "replaced" }

type laneRow struct {
	id      int64
	network string
	address common.Address
	floor   uint64
}

// attemptRow is a row of attempts, with what its raw bytes say of it.
type attemptRow struct {
	transaction int64
	broken      string // what is wrong with the raw bytes
	nonce       uint64
}

type record struct {
	payments     []*paymentRow
	byKey        map[Key]*paymentRow
	transactions map[int64]*transactionRow
	lanes        []laneRow
	attempts     map[common.Hash]attemptRow
}

const (
	// A record from before there was payment.reversed (and the column reorged)
	// tells of a reversal by a reorganisation and a failure.
	sqlPayments = `
SELECT p.id::text, p.network, p.contract, p.payer, p.authorization_nonce, p.asset, p.pay_to, p.amount::text, p.state, p.claimed_at_block,
	coalesce(p.transaction_id, 0), p.tx_hash, coalesce(p.block_number, 0), p.block_hash,
	coalesce(p.evidence->>'kind', ''), coalesce(p.evidence->>'transaction', ''),
	coalesce(p.id IN (SELECT payment_id FROM outbox WHERE type = 'payment.reversed')
		OR p.state = 'failed' AND NOT to_jsonb(p) ? 'reorged' AND p.id IN (SELECT payment_id FROM outbox WHERE type = 'payment.reorged'), false)
FROM payments p ORDER BY p.created_at, p.id`
	sqlTransactions = `
SELECT id, lane_id, wallet_nonce, state, coalesce(block_number, 0), block_hash FROM transactions ORDER BY lane_id, wallet_nonce, id`
	sqlLanes    = `SELECT id, network, address, nonce_floor FROM lanes ORDER BY id`
	sqlAttempts = `SELECT transaction_id, hash, raw FROM attempts ORDER BY id`
	sqlRaw      = `SELECT raw FROM attempts WHERE hash = $1`
)

func readRecord(ctx context.Context, tx pgx.Tx) (*record, error) {
	r := &record{byKey: map[Key]*paymentRow{}, transactions: map[int64]*transactionRow{}, attempts: map[common.Hash]attemptRow{}}
	for _, read := range []func(context.Context, pgx.Tx) error{r.readPayments, r.readTransactions, r.readLanes, r.readAttempts} {
		if err := read(ctx, tx); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *record) readPayments(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, sqlPayments)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		p := new(paymentRow)
		var contract, payer, nonce, asset, payTo, txHash, blockHash []byte
		var amount, evidenceTx string
		if err := rows.Scan(&p.id, &p.key.Network, &contract, &payer, &nonce, &asset, &payTo, &amount, &p.state, &p.claimedAt,
			&p.transaction, &txHash, &p.block, &blockHash, &p.evidence, &evidenceTx, &p.reversed); err != nil {
			return err
		}
		p.key.Contract, p.key.Payer, p.key.Nonce = common.BytesToAddress(contract), common.BytesToAddress(payer), common.BytesToHash(nonce)
		p.asset, p.payTo = common.BytesToAddress(asset), common.BytesToAddress(payTo)
		p.amount, _ = new(big.Int).SetString(amount, 10) // numeric(78, 0)
		p.txHash, p.blockHash, p.evidenceTx = common.BytesToHash(txHash), common.BytesToHash(blockHash), common.HexToHash(evidenceTx)
		r.payments = append(r.payments, p)
		r.byKey[p.key] = p
	}
	return rows.Err()
}

func (r *record) readTransactions(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, sqlTransactions)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		t := new(transactionRow)
		var blockHash []byte
		if err := rows.Scan(&t.id, &t.lane, &t.nonce, &t.state, &t.block, &blockHash); err != nil {
			return err
		}
		t.blockHash = common.BytesToHash(blockHash)
		r.transactions[t.id] = t
	}
	return rows.Err()
}

func (r *record) readLanes(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, sqlLanes)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var l laneRow
		var address []byte
		if err := rows.Scan(&l.id, &l.network, &address, &l.floor); err != nil {
			return err
		}
		l.address = common.BytesToAddress(address)
		r.lanes = append(r.lanes, l)
	}
	return rows.Err()
}

// readAttempts keeps of the signed bytes only what they say.
func (r *record) readAttempts(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, sqlAttempts)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var a attemptRow
		var hash, raw []byte
		if err := rows.Scan(&a.transaction, &hash, &raw); err != nil {
			return err
		}
		var signed types.Transaction
		switch err := signed.UnmarshalBinary(raw); {
		case err != nil:
			a.broken = "its bytes are no transaction"
		case signed.Hash() != common.BytesToHash(hash):
			a.broken = "its bytes have the hash " + signed.Hash().Hex()
		default:
			a.nonce = signed.Nonce()
		}
		r.attempts[common.BytesToHash(hash)] = a
	}
	return rows.Err()
}

func (r *record) networks() []string {
	var list []string
	for _, l := range r.lanes {
		list = append(list, l.network)
	}
	for _, p := range r.payments {
		list = append(list, p.key.Network)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (r *record) paymentsOf(network string) []*paymentRow {
	return slices.DeleteFunc(slices.Clone(r.payments), func(p *paymentRow) bool { return p.key.Network != network })
}

func (r *record) lanesOf(network string) []laneRow {
	return slices.DeleteFunc(slices.Clone(r.lanes), func(l laneRow) bool { return l.network != network })
}

// firstBlock is the lowest block at which a payment was claimed.
func (r *record) firstBlock(network string) uint64 {
	list := r.paymentsOf(network)
	if len(list) == 0 {
		return 0
	}
	first := list[0].claimedAt
	for _, p := range list {
		first = min(first, p.claimedAt)
	}
	return first
}

func (r *record) contracts(network string) []common.Address {
	return distinct(r.paymentsOf(network), func(p *paymentRow) common.Address { return p.key.Contract })
}

func (r *record) payers(network string) []common.Address {
	return distinct(r.paymentsOf(network), func(p *paymentRow) common.Address { return p.key.Payer })
}

func distinct(payments []*paymentRow, of func(*paymentRow) common.Address) []common.Address {
	list := make([]common.Address, 0, len(payments))
	for _, p := range payments {
		list = append(list, of(p))
	}
	slices.SortFunc(list, common.Address.Cmp)
	return slices.Compact(list)
}
