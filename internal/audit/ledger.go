package audit

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"facilitator/internal/chain/evm"
	"facilitator/internal/redact"
)

const (
	// callTimeout of one round trip.
	callTimeout = time.Minute
	// blockBatch is how many blocks, with all their transactions, one round trip
	// asks for; receiptBatch how many receipts.
	blockBatch, receiptBatch = 25, 100
	// logWindow is how many blocks one eth_getLogs asks for at first; less where
	// the node refuses.
	logWindow = 1000
	// payersPerFilter is how many payers one eth_getLogs names.
	payersPerFilter = 500
)

// errMoved says that the chain was reorganised while it was read.
var errMoved = errors.New("the chain was reorganised while it was read")

// ledger is what the canonical chain holds from a block up to a head.
type ledger struct {
	since, head uint64
	hashes      []common.Hash // of the blocks, from since on
	// sent is what each lane sent, by wallet nonce.
	sent map[common.Address]map[uint64]sending
	// counts are the lanes' transaction counts at head.
	counts    map[common.Address]uint64
	movements []*movement
}

type sending struct {
	hash  common.Hash
	block uint64
}

// movement is one AuthorizationUsed with the transfer that belongs to it.
type movement struct {
	contract, payer common.Address
	nonce           common.Hash
	// from, to and value of the transfer; value is nil where there is none.
	from, to  common.Address
	value     *big.Int
	tx        common.Hash
	sender    common.Address
	block     uint64
	blockHash common.Hash
}

// fits says whether a movement is what a payment was asked to be.
func (m *movement) fits(p *paymentRow) bool {
	return m.value != nil && m.contract == p.asset && m.from == p.key.Payer && m.to == p.payTo && m.value.Cmp(p.amount) == 0
}

// hash is the canonical block hash at a height; zero outside of what was read.
func (l *ledger) hash(n uint64) common.Hash {
	if n < l.since || n > l.head {
		return common.Hash{}
	}
	return l.hashes[n-l.since]
}

type node struct {
	rpc  *rpc.Client
	http *http.Client
	// secrets of its URL, which it may repeat.
	secrets redact.Secrets
}

func dial(ctx context.Context, url string) (*node, error) {
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}}
	c, err := rpc.DialOptions(ctx, url, rpc.WithHTTPClient(client))
	if err != nil {
		return nil, errors.New("rpc url is not usable") // err may hold pieces of it (I10)
	}
	return &node{rpc: c, http: client, secrets: redact.Of(url)}, nil
}

func (n *node) close() {
	n.rpc.Close()
	n.http.CloseIdleConnections()
}

// scrub keeps the node's URL and its secrets out of an error (I10).
func (n *node) scrub(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	if h := (rpc.HTTPError{}); errors.As(err, &h) {
		return errors.New(h.Status)
	}
	return errors.New(n.secrets.Text(err.Error()))
}

func (n *node) call(ctx context.Context, result any, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := n.rpc.CallContext(ctx, result, method, args...); err != nil {
		return fmt.Errorf("%s: %w", method, n.scrub(err))
	}
	return nil
}

func (n *node) batch(ctx context.Context, calls []rpc.BatchElem) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if len(calls) == 0 {
		return nil
	}
	if err := n.rpc.BatchCallContext(ctx, calls); err != nil {
		return fmt.Errorf("%s: %w", calls[0].Method, n.scrub(err))
	}
	for _, c := range calls {
		if c.Error != nil {
			return fmt.Errorf("%s: %w", c.Method, n.scrub(c.Error))
		}
	}
	return nil
}

type blockBody struct {
	Hash         common.Hash `json:"hash"`
	Parent       common.Hash `json:"parentHash"`
	Transactions []struct {
		Hash  common.Hash    `json:"hash"`
		From  common.Address `json:"from"`
		Nonce hexutil.Uint64 `json:"nonce"`
	} `json:"transactions"`
}

// read reads the chain from a block to its head. errMoved if it changed
// meanwhile.
func (n *node) read(ctx context.Context, since uint64, lanes []laneRow, contracts, payers []common.Address) (*ledger, error) {
	var head hexutil.Uint64
	if err := n.call(ctx, &head, "eth_blockNumber"); err != nil {
		return nil, err
	}
	l := &ledger{since: since, head: uint64(head), sent: map[common.Address]map[uint64]sending{}, counts: map[common.Address]uint64{}}
	if since == 0 { // nothing was ever claimed
		l.since = l.head
	}
	if l.head < l.since {
		return nil, fmt.Errorf("the node's head is %d, before block %d", l.head, l.since)
	}
	for _, lane := range lanes {
		var count hexutil.Uint64
		if err := n.call(ctx, &count, "eth_getTransactionCount", lane.address, head); err != nil {
			return nil, err
		}
		l.counts[lane.address], l.sent[lane.address] = uint64(count), map[uint64]sending{}
	}
	if err := n.walk(ctx, l); err != nil {
		return nil, err
	}
	hashes, err := n.candidates(ctx, l, contracts, payers)
	if err != nil {
		return nil, err
	}
	if err := n.readMovements(ctx, l, hashes); err != nil {
		return nil, err
	}
	// Everything above was read of one chain if its head is still part of it.
	var last *struct {
		Hash common.Hash `json:"hash"`
	}
	if err := n.call(ctx, &last, "eth_getBlockByNumber", head, false); err != nil {
		return nil, err
	}
	if last == nil || last.Hash != l.hash(l.head) {
		return nil, errMoved
	}
	return l, nil
}

// walk reads every block, checks that each follows the one before, and notes
// what the lanes sent.
func (n *node) walk(ctx context.Context, l *ledger) error {
	for at := l.since; at <= l.head; at += blockBatch {
		blocks := make([]*blockBody, min(blockBatch, l.head-at+1))
		calls := make([]rpc.BatchElem, len(blocks))
		for i := range blocks {
			number := hexutil.Uint64(at + uint64(i))
			calls[i] = rpc.BatchElem{Method: "eth_getBlockByNumber", Args: []any{number, true}, Result: &blocks[i]}
		}
		if err := n.batch(ctx, calls); err != nil {
			return err
		}
		for i, b := range blocks {
			if b == nil || len(l.hashes) > 0 && b.Parent != l.hashes[len(l.hashes)-1] {
				return fmt.Errorf("%w: block %d does not follow the one before", errMoved, at+uint64(i))
			}
			l.hashes = append(l.hashes, b.Hash)
			for _, t := range b.Transactions {
				if sent := l.sent[t.From]; sent != nil {
					sent[uint64(t.Nonce)] = sending{hash: t.Hash, block: at + uint64(i)}
				}
			}
		}
	}
	return nil
}

type logBody struct {
	Address   common.Address `json:"address"`
	Topics    []common.Hash  `json:"topics"`
	Data      hexutil.Bytes  `json:"data"`
	TxHash    common.Hash    `json:"transactionHash"`
	Block     hexutil.Uint64 `json:"blockNumber"`
	BlockHash common.Hash    `json:"blockHash"`
	Removed   bool           `json:"removed"`
}

// candidates returns the canonical transactions in which one of the contracts
// consumed an authorization of one of the payers.
func (n *node) candidates(ctx context.Context, l *ledger, contracts, payers []common.Address) ([]common.Hash, error) {
	if len(payers) == 0 {
		return nil, nil
	}
	var hashes []common.Hash
	for group := range slices.Chunk(payers, payersPerFilter) {
		topics := make([]common.Hash, len(group))
		for i, payer := range group {
			topics[i] = common.BytesToHash(payer[:])
		}
		window := uint64(logWindow)
		for from := l.since; from <= l.head; {
			until := min(l.head, from+window-1)
			var logs []logBody
			err := n.call(ctx, &logs, "eth_getLogs", map[string]any{
				"fromBlock": hexutil.Uint64(from), "toBlock": hexutil.Uint64(until), "address": contracts,
				"topics": []any{common.Hash(evm.EventAuthorizationUsed()), topics},
			})
			if err != nil && window > 1 && ctx.Err() == nil {
				window /= 2 // too many blocks or too many logs
				continue
			}
			if err != nil {
				return nil, err
			}
			for _, e := range logs {
				// Nodes go on serving logs of blocks that are not canonical any more.
				if !e.Removed && e.BlockHash == l.hash(uint64(e.Block)) {
					hashes = append(hashes, e.TxHash)
				}
			}
			from = until + 1
		}
	}
	slices.SortFunc(hashes, common.Hash.Cmp)
	return slices.Compact(hashes), nil
}

type receiptBody struct {
	Hash      common.Hash    `json:"transactionHash"`
	From      common.Address `json:"from"`
	Status    hexutil.Uint64 `json:"status"`
	Block     hexutil.Uint64 `json:"blockNumber"`
	BlockHash common.Hash    `json:"blockHash"`
	Logs      []logBody      `json:"logs"`
}

// readMovements reads the receipts of transactions and what they moved.
func (n *node) readMovements(ctx context.Context, l *ledger, hashes []common.Hash) error {
	for part := range slices.Chunk(hashes, receiptBatch) {
		receipts := make([]*receiptBody, len(part))
		calls := make([]rpc.BatchElem, len(part))
		for i, hash := range part {
			calls[i] = rpc.BatchElem{Method: "eth_getTransactionReceipt", Args: []any{hash}, Result: &receipts[i]}
		}
		if err := n.batch(ctx, calls); err != nil {
			return err
		}
		for i, r := range receipts {
			if r == nil || r.Hash != part[i] || r.BlockHash != l.hash(uint64(r.Block)) {
				return fmt.Errorf("%w: the receipt of %s is not the log's", errMoved, part[i])
			}
			l.movements = append(l.movements, r.movements()...)
		}
	}
	return nil
}

// movements attributes transfers to authorizations as I5 has it: to an
// AuthorizationUsed belongs the contract's next Transfer; or, for tokens that
// emit the two the other way round, the only one if there is one of each.
func (r *receiptBody) movements() []*movement {
	var list []*movement
	for i, e := range r.Logs {
		if len(e.Topics) != 3 || e.Topics[0] != common.Hash(evm.EventAuthorizationUsed()) {
			continue
		}
		m := &movement{
			contract: e.Address, payer: common.BytesToAddress(e.Topics[1][:]), nonce: e.Topics[2],
			tx: r.Hash, sender: r.From, block: uint64(r.Block), blockHash: r.BlockHash,
		}
		if t := r.transferOf(i); t != nil {
			m.from, m.to = common.BytesToAddress(t.Topics[1][:]), common.BytesToAddress(t.Topics[2][:])
			m.value = new(big.Int).SetBytes(t.Data)
		}
		list = append(list, m)
	}
	return list
}

// transferOf returns the Transfer that belongs to the AuthorizationUsed at i.
func (r *receiptBody) transferOf(i int) *logBody {
	used, moved := common.Hash(evm.EventAuthorizationUsed()), common.Hash(evm.EventTransfer())
	var before *logBody
	uses, transfers, next := 0, 0, (*logBody)(nil)
	taken := false
	for j := range r.Logs {
		e := &r.Logs[j]
		if e.Address != r.Logs[i].Address || len(e.Topics) != 3 {
			continue
		}
		switch e.Topics[0] {
		case used:
			uses++
			taken = taken || j > i
		case moved:
			transfers++
			before = e
			if j > i && !taken && next == nil {
				next = e
			}
		}
	}
	switch {
	case next != nil:
		return next
	case uses == 1 && transfers == 1:
		return before
	}
	return nil
}
