package evm

import (
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	gethnode "github.com/ethereum/go-ethereum/node"

	"facilitator/internal/chain"
)

// pool is geth's own transaction pool, on a chain that mines when told to.
type pool struct {
	backend *simulated.Backend
	signer  *KeySigner
}

func newPool(t *testing.T) pool {
	t.Helper()
	const id = 1337 // the backend's only one
	s, err := NewKeySigner(payerKey, id)
	if err != nil {
		t.Fatal(err)
	}
	b := simulated.NewBackend(types.GenesisAlloc{common.Address(s.Address()): {Balance: big.NewInt(1e17)}}, func(_ *gethnode.Config, c *ethconfig.Config) {
		c.TxPool.GlobalSlots, c.TxPool.GlobalQueue, c.TxPool.AccountSlots = 8, 2, 100
	})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return pool{b, s}
}

// send signs a plain transfer and returns what the pool says.
func (p pool) send(t *testing.T, u Unsigned) SendOutcome {
	t.Helper()
	signed, err := p.signer.Sign(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	var tx types.Transaction
	if err := tx.UnmarshalBinary(signed.Raw); err != nil {
		t.Fatal(err)
	}
	err = p.backend.Client().SendTransaction(t.Context(), &tx)
	if err == nil {
		return SendAccepted
	}
	t.Logf("geth says %q", err)
	return sendOutcome(err)
}

func transfer(nonce, feeCap, tipCap uint64) Unsigned {
	return Unsigned{Call: chain.Call{To: chain.Address{19: 9}}, WalletNonce: nonce, GasLimit: 21000, Fees: chain.Fees{FeeCap: feeCap, TipCap: tipCap}}
}

// TestWhatGethsPoolSays has the rules of the table's first column from geth
// itself.
func TestWhatGethsPoolSays(t *testing.T) {
	t.Parallel()
	const gwei = 1e9
	p := newPool(t)
	first := transfer(0, 100*gwei, 10*gwei)
	intrinsic, huge := transfer(1, 100*gwei, 10*gwei), transfer(1, 2, 2)
	intrinsic.GasLimit, huge.GasLimit = 20_999, 1<<27
	inverted := transfer(1, gwei, 2*gwei)
	for _, c := range []struct {
		name string
		tx   Unsigned
		want SendOutcome
	}{
		{"a new one", first, SendAccepted},
		{"the same bytes", first, SendAlreadyKnown},
		{"9 % more", transfer(0, 109*gwei, 10.9*gwei), SendUnderpriced},
		{"more by the tip alone", transfer(0, 100*gwei, 20*gwei), SendUnderpriced},
		{"more by the cap alone", transfer(0, 200*gwei, 10*gwei), SendUnderpriced},
		{"10 % more of both", transfer(0, 110*gwei, 11*gwei), SendAccepted},
		{"what was replaced", first, SendUnderpriced},
		{"no tip", transfer(1, 100*gwei, 0), SendFeeTooLow},
		{"more than the wallet has", transfer(1, 10_000*gwei, 10*gwei), SendNoFunds},
		{"too little gas for any", intrinsic, SendInvalid},
		{"more gas than a block", huge, SendInvalid},
		{"a tip above the cap", inverted, SendInvalid},
	} {
		if got := p.send(t, c.tx); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	p.backend.Commit()
	p.backend.Commit() // before which the pool has caught up with the first
	if got := p.send(t, transfer(0, 300*gwei, 30*gwei)); got != SendNonceTooLow {
		t.Errorf("a mined nonce: %s", got)
	}
}

func TestWhatGethsPoolSaysWhenItIsFull(t *testing.T) {
	t.Parallel()
	const gwei = 1e9
	p := newPool(t)
	for nonce := range uint64(10) {
		if got := p.send(t, transfer(nonce, 100*gwei, 10*gwei)); got != SendAccepted {
			t.Fatalf("transaction %d: %s", nonce, got)
		}
	}
	if got := p.send(t, transfer(10, 50*gwei, 5*gwei)); got != SendFeeTooLow {
		t.Errorf("a cheaper one: %s", got)
	}
	if got := p.send(t, transfer(50, 200*gwei, 20*gwei)); got != SendUnavailable {
		t.Errorf("a dearer one that has to wait for others: %s", got)
	}
}
