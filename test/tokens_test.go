package test

import (
	"context"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/devnet"
	"facilitator/internal/x402"
)

// foreignContracts are the test contracts, compiled once.
var foreignContracts = sync.OnceValues(func() (map[string]devnet.Contract, error) {
	return devnet.CompileContracts(context.Background(), world.tools, "contracts")
})

func foreignContract(t *testing.T, name string) devnet.Contract {
	t.Helper()
	contracts, err := foreignContracts()
	if err != nil {
		t.Fatal(err)
	}
	contract, ok := contracts[name]
	if !ok {
		t.Fatalf("no contract %s", name)
	}
	return contract
}

func foreignDeploy(t *testing.T, c *devnet.Chain, name string, args ...any) common.Address {
	t.Helper()
	code, err := foreignContract(t, name).Creation(args...)
	if err != nil {
		t.Fatal(err)
	}
	address, err := c.Deploy(t.Context(), code)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// foreignToken deploys a test token and gives the payer 1,000 of it.
func foreignToken(t *testing.T, c *devnet.Chain, name string, payer devnet.Key) common.Address {
	t.Helper()
	token := foreignDeploy(t, c, name, name, "2")
	data, err := foreignContract(t, name).ABI.Pack("mint", payer.Address, big.NewInt(1_000_000_000))
	if err != nil {
		t.Fatal(err)
	}
	foreignSend(t, c, newKey(t, devnet.RoleLane), token, data)
	return token
}

// wellBehaved is the configuration of somebody who takes tokens for what they are
// not: what their calls do is not looked at before they are sent.
func wellBehaved(tokens ...common.Address) string {
	list := make([]string, len(tokens))
	for i, a := range tokens {
		list[i] = "{address: '" + a.Hex() + "', well_behaved: 'yes'}"
	}
	return "chains: {'eip155:8453': {assets: [" + strings.Join(list, ", ") + "]}}"
}

// foreignRaw sends a transaction of somebody who is not the service, for more
// than the service pays, and returns its hash.
func foreignRaw(t *testing.T, c *devnet.Chain, key devnet.Key, to common.Address, data []byte) common.Hash {
	t.Helper()
	if err := c.FundETH(t.Context(), new(big.Int).Exp(big.NewInt(10), big.NewInt(20), nil), key.Address); err != nil {
		t.Fatal(err)
	}
	nonce, err := c.Client().PendingNonceAt(t.Context(), key.Address)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := evm.NewKeySigner(key.Hex(), c.ChainID())
	if err != nil {
		t.Fatal(err)
	}
	const gwei = 1_000_000_000
	signed, err := signer.Sign(t.Context(), evm.Unsigned{
		Call: chain.Call{To: chain.Address(to), Data: data}, WalletNonce: nonce, GasLimit: 1_000_000,
		Fees: chain.Fees{FeeCap: 100 * gwei, TipCap: 50 * gwei},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.RPC().CallContext(t.Context(), nil, "eth_sendRawTransaction", hexutil.Bytes(signed.Raw)); err != nil {
		t.Fatal(err)
	}
	return common.Hash(signed.Hash)
}

// foreignSend is foreignRaw on a chain that mines by itself; it waits for
// success.
func foreignSend(t *testing.T, c *devnet.Chain, key devnet.Key, to common.Address, data []byte) {
	t.Helper()
	hash := foreignRaw(t, c, key, to, data)
	var receipt *types.Receipt
	eventually(t, "a receipt", func() (mined bool) {
		receipt, _ = c.Client().TransactionReceipt(t.Context(), hash)
		return receipt != nil
	})
	if receipt.Status != types.ReceiptStatusSuccessful {
		t.Fatalf("transaction %s reverted", hash)
	}
}

// foreignAuthorization reads what the payer signed.
func foreignAuthorization(t *testing.T, b badBody) evm.Authorization {
	t.Helper()
	number := func(key string) x402.Uint256 {
		u, err := x402.ParseUint256(b.str(badAuthorization + "." + key))
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	return evm.Authorization{
		From:  chain.Address(common.HexToAddress(b.str(badAuthorization + ".from"))),
		To:    chain.Address(common.HexToAddress(b.str(badAuthorization + ".to"))),
		Value: number("value"), ValidAfter: number("validAfter"), ValidBefore: number("validBefore"),
		Nonce: chain.Hash(common.HexToHash(b.str(badAuthorization + ".nonce"))),
	}
}

// foreignTransfer is the call that settles a request, as anybody may send it.
func foreignTransfer(t *testing.T, b badBody) []byte {
	t.Helper()
	return evm.TransferData(foreignAuthorization(t, b), hexutil.MustDecode(b.str(badSignature)), evm.BothOverloads)
}

// foreignCancel is the payer's call that cancels a request's authorization.
func foreignCancel(t *testing.T, c *devnet.Chain, b badBody, payer devnet.Key) []byte {
	t.Helper()
	auth := foreignAuthorization(t, b)
	domain := evm.DomainSeparator("USD Coin", "2", c.ChainID(), chain.Address(c.USDC()))
	from := common.LeftPadBytes(auth.From[:], 32)
	message := crypto.Keccak256(crypto.Keccak256([]byte("CancelAuthorization(address authorizer,bytes32 nonce)")), from, auth.Nonce[:])
	sig, err := crypto.Sign(crypto.Keccak256([]byte{0x19, 0x01}, domain[:], message), payer.Private)
	if err != nil {
		t.Fatal(err)
	}
	data := crypto.Keccak256([]byte("cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)"))[:4]
	for _, word := range [][]byte{from, auth.Nonce[:], common.LeftPadBytes([]byte{sig[64] + 27}, 32), sig[:64]} {
		data = append(data, word...)
	}
	return data
}

// foreignRecord is the one settlement that the service has of a request.
func foreignRecord(t *testing.T, s *service, b badBody) reply {
	t.Helper()
	r := s.get(t, "/settlements?payer="+b.str(badAuthorization+".from")+"&nonce="+b.str(badAuthorization+".nonce"))
	list, _ := r.body["settlements"].([]any)
	if len(list) != 1 {
		t.Fatalf("%d settlements, want one: %d %s", len(list), r.status, r.text)
	}
	r.body, _ = list[0].(map[string]any)
	return r
}

// wantEvidence fails the test unless a settlement rests on this.
func (r reply) wantEvidence(t *testing.T, outcome, kind, transaction string) {
	t.Helper()
	evidence, _ := r.body["evidence"].(map[string]any)
	if r.str("outcome") != outcome || evidence["kind"] != kind || evidence["transaction"] != transaction || evidence["blockHash"] == nil {
		t.Errorf("settlement is %s, want %s by %s in %s and a block", r.text, outcome, kind, transaction)
	}
}

func foreignBalance(t *testing.T, c *devnet.Chain, token, owner common.Address) int64 {
	t.Helper()
	balance, err := c.BalanceOf(t.Context(), token, owner)
	if err != nil {
		t.Fatal(err)
	}
	return balance.Int64()
}

func TestTokensSettle(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"SilentToken", "VRSOnlyToken"} {
		t.Run(name+" with a fresh authorization settles once", func(t *testing.T) {
			t.Parallel()
			c := world.chain
			s := setup{chain: c, overlay: badAnyAsset}.start(t)
			for _, version := range []int{x402.V1, x402.V2} {
				deal := sale(t, newKey(t, devnet.RolePayer))
				deal.Version, deal.Name, deal.Asset = version, name, foreignToken(t, c, name, deal.Payer)
				body := badCopy(t, request(t, c, deal))
				if r := s.post(t, "/verify", body); !r.is("isValid") {
					t.Errorf("v%d verify: %d %s", version, r.status, r.text)
				}
				settled := s.post(t, "/settle", body)
				if !settled.is("success") || foreignBalance(t, c, deal.Asset, deal.PayTo) != 10_000 {
					t.Errorf("v%d settle: %d %s", version, settled.status, settled.text)
				}
				foreignRecord(t, s, body).wantEvidence(t, "succeeded", "receipt", settled.str("transaction"))
			}
		})
	}
}

// TestTokensSilent settles authorizations that were used before on a token
// which says nothing about it: the transaction succeeds and pays nobody.
func TestTokensSilent(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		sibling  bool // used for another payee, else for the very same transfer
	}{
		{"the authorization was used for another payee", true},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			c := world.chain
			deal := sale(t, newKey(t, devnet.RolePayer))
			deal.Name, deal.Asset = "SilentToken", foreignToken(t, c, "SilentToken", deal.Payer)
			s := setup{chain: c, overlay: wellBehaved(deal.Asset)}.start(t)
			deal.Nonce = [32]byte{7}
			body := badCopy(t, request(t, c, deal))
			used := body
			paid := int64(10_000)
			if row.sibling {
				sibling := deal
				sibling.PayTo, paid = newKey(t, devnet.RolePayee).Address, 0
				used = badCopy(t, request(t, c, sibling))
			}
			foreignSend(t, c, newKey(t, devnet.RoleLane), deal.Asset, foreignTransfer(t, used))

			first := s.post(t, "/settle", body)
			const mismatch = "invalid_exact_evm_transfer_event_mismatch"
			if first.status != 200 || first.is("success") || first.str("errorReason") != mismatch || len(first.str("transaction")) != 66 {
				t.Fatalf("settle: %d %s, want %s with the transaction", first.status, first.text, mismatch)
			}
			receipt, err := c.Client().TransactionReceipt(t.Context(), common.HexToHash(first.str("transaction")))
			if err != nil || receipt.Status != types.ReceiptStatusSuccessful || len(receipt.Logs) != 0 {
				t.Fatalf("the transaction is %+v (%v): this token should have said nothing", receipt, err)
			}
			record := foreignRecord(t, s, body)
			record.wantEvidence(t, "failed", "reverted", first.str("transaction"))
			if record.str("reason") != mismatch {
				t.Errorf("record: %s", record.text)
			}
			again := s.post(t, "/settle", body)
			if again.is("success") || again.str("errorReason") != mismatch || again.str("transaction") != first.str("transaction") {
				t.Errorf("repeat: %d %s", again.status, again.text)
			}
			if got := foreignBalance(t, c, deal.Asset, deal.PayTo); got != paid {
				t.Errorf("the payee has %d, want %d", got, paid)
			}
		})
	}
}

// TestTokensRace has somebody act between our claim and our transaction: ours
// waits in the pool, theirs pays more and is mined before it.
func TestTokensRace(t *testing.T) {
	t.Parallel()
	const silent = "SilentToken"
	type race struct {
		c    *devnet.Chain
		deal devnet.Sale
		body badBody
	}
	same := func(t *testing.T, r race) []byte { t.Helper(); return foreignTransfer(t, r.body) }
	sibling := func(t *testing.T, r race) []byte {
		t.Helper()
		other := r.deal
		other.PayTo = newKey(t, devnet.RolePayee).Address
		return foreignTransfer(t, badCopy(t, request(t, r.c, other)))
	}
	for _, row := range []struct {
		sentence, token string
		data            func(*testing.T, race) []byte
		byPayer         bool
		reason          string // empty: success with their transaction
		evidence        string
		theirs          bool // the evidence is their transaction, else ours
	}{
		{"somebody submits the very same transfer", "", same, false, "", "other_transaction", true},
		{"somebody submits the very same transfer of a token that says nothing to ours", silent, same, false, "", "other_transaction", true},
		{
			"somebody submits a transfer of the same authorization nonce to another payee", "", sibling, false,
			"invalid_exact_evm_nonce_already_used", "authorization_consumed", true,
		},
		{
			"somebody submits such a transfer of a token that says nothing to ours", silent, sibling, false,
			"invalid_exact_evm_transfer_event_mismatch", "reverted", false,
		},
		{
			"the payer cancels the authorization", "",
			func(t *testing.T, r race) []byte { t.Helper(); return foreignCancel(t, r.c, r.body, r.deal.Payer) },
			true, "invalid_exact_evm_nonce_already_used", "authorization_consumed", true,
		},
		{
			"the payer empties the account", "",
			func(t *testing.T, _ race) []byte {
				t.Helper()
				data, err := foreignContract(t, silent).ABI.Pack("transfer", newKey(t, devnet.RolePayee).Address, big.NewInt(1_000_000_000))
				if err != nil {
					t.Fatal(err)
				}
				return data
			},
			true, "invalid_exact_evm_insufficient_balance", "reverted", false,
		},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			c := startChain(t, devnet.ChainConfig{})
			s := setup{chain: c, overlay: badAnyAsset}.start(t)
			deal := sale(t, payers(t, c, 1)[0])
			deal.Nonce = [32]byte{7}
			token := c.USDC()
			if row.token != "" {
				token = foreignToken(t, c, row.token, deal.Payer)
				deal.Name, deal.Asset = row.token, token
			}
			body := badCopy(t, request(t, c, deal))
			if r := s.post(t, "/verify", body); !r.is("isValid") {
				t.Fatalf("verify: %d %s", r.status, r.text)
			}
			if err := c.SetAutomine(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			answer := make(chan reply, 1)
			go func() {
				r, err := s.tryPost(t.Context(), "/settle", body)
				if err != nil {
					t.Error(err)
				}
				answer <- r
			}()
			eventually(t, "our transaction is in the pool", func() bool {
				n, err := c.Client().PendingNonceAt(t.Context(), s.lanes[0].Address)
				return err == nil && n == 1
			})
			key := newKey(t, devnet.RoleLane)
			if row.byPayer {
				key = deal.Payer
			}
			theirs := foreignRaw(t, c, key, token, row.data(t, race{c, deal, body}))
			if err := c.Mine(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			first := <-answer
			receipt, err := c.Client().TransactionReceipt(t.Context(), theirs)
			if err != nil || receipt.Status != types.ReceiptStatusSuccessful || receipt.TransactionIndex != 0 {
				t.Fatalf("their transaction did not come first: %+v (%v)", receipt, err)
			}

			record := foreignRecord(t, s, body)
			if row.reason == "" {
				if !first.is("success") || first.str("transaction") != theirs.Hex() || first.str("errorReason") != "" {
					t.Fatalf("settle: %d %s, want success by %s", first.status, first.text, theirs)
				}
				record.wantEvidence(t, "succeeded", row.evidence, theirs.Hex())
				if got := foreignBalance(t, c, token, deal.PayTo); got != 10_000 {
					t.Errorf("the payee has %d, want 10000", got)
				}
				again := s.post(t, "/settle", body)
				if again.is("success") || again.str("errorReason") != "duplicate_settlement" || again.str("transaction") != theirs.Hex() {
					t.Errorf("repeat: %d %s", again.status, again.text)
				}
				return
			}
			ours := first.str("transaction")
			if first.status != 200 || first.is("success") || first.str("errorReason") != row.reason || len(ours) != 66 || ours == theirs.Hex() {
				t.Fatalf("settle: %d %s, want %s with our transaction", first.status, first.text, row.reason)
			}
			if row.theirs {
				record.wantEvidence(t, "failed", row.evidence, theirs.Hex())
			} else {
				record.wantEvidence(t, "failed", row.evidence, ours)
			}
			if got := foreignBalance(t, c, token, deal.PayTo); got != 0 {
				t.Errorf("the payee has %d, want nothing", got)
			}
			if again := s.post(t, "/settle", body); again.is("success") || again.str("errorReason") != row.reason {
				t.Errorf("repeat: %d %s", again.status, again.text)
			}
		})
	}
}

// The very transfer was made before our claim, and the token lets it pass again:
// our transaction pays nobody, and theirs was somebody else's sale (I6).
func TestTokensUseBeforeOurClaimIsNotOurSuccess(t *testing.T) {
	t.Parallel()
	c := world.chain
	deal := sale(t, newKey(t, devnet.RolePayer))
	deal.Name, deal.Asset = "SilentToken", foreignToken(t, c, "SilentToken", deal.Payer)
	s := setup{chain: c, overlay: wellBehaved(deal.Asset)}.start(t)
	body := badCopy(t, request(t, c, deal))
	foreignSend(t, c, newKey(t, devnet.RoleLane), deal.Asset, foreignTransfer(t, body))
	r := s.post(t, "/settle", body)
	if r.is("success") || r.str("errorReason") != "invalid_exact_evm_transfer_event_mismatch" {
		t.Fatalf("settle: %d %s", r.status, r.text)
	}
}
