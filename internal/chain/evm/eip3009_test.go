package evm

import (
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/common/math"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/signer/core/apitypes"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

func TestDomainSeparatorsOfKnownTokens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, version string
		chainID       uint64
		token, want   string
	}{
		{"USDC", "2", 84532, usdcText, "0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818"},
		{"USD Coin", "2", 8453, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "0x02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f"},
		{"USD Coin", "2", 1, "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "0x06c37168a7db5138defc7866392bb87a741f9b3d104deb5094588ce041cae335"},
		{"USD Coin", "2", 137, "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", "0xcaa2ce1a5703ccbe253a34eb3166df60a705c561b44b192061e28f2a985be2ca"},
		{"USD Coin", "2", 42161, "0xaf88d065e77c8cC2239327C5EDb3A432268e5831", "0x08d11903f8419e68b1b8721bcbe2e9fc68569122a77ef18c216f10b3b5112c78"},
		{"USD Coin", "2", 43114, "0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E", "0xbbea200329a938bc3438984a49cb0732e66d66d7bd59c127abacc1710e77f7b3"},
	} {
		if got := DomainSeparator(c.name, c.version, c.chainID, address(t, c.token)).String(); got != c.want {
			t.Errorf("%d: %s, want %s", c.chainID, got, c.want)
		}
	}
}

// TestVectorsOfAnotherImplementation were computed with viem.
func TestVectorsOfAnotherImplementation(t *testing.T) {
	t.Parallel()
	a := vector(t)
	digest := a.Digest(vectorDomain(t))
	if digest.String() != vectorDigest {
		t.Fatalf("digest %s", digest)
	}
	signature, err := ParseSignature(vectorSignature)
	if err != nil {
		t.Fatal(err)
	}
	if signer, ok := Recover(digest, signature.Inner); !ok || signer != a.From {
		t.Errorf("signed by %s, %t", signer, ok)
	}
	for _, c := range []struct {
		overload string
		data     []byte
		length   int
		keccak   string
	}{
		{"v,r,s", TransferData(a, signature.Inner, BothOverloads), 292, "0x722b1cf9c38804fc916b9dc56df73d3b8fa844453a87a58002e673677bafe132"},
		{"bytes", TransferData(a, signature.Inner, BytesOverload), 356, "0x9e00987fbdb00427581bbc846738794bfb61744a8d95e3b25e66f75a153a88bd"},
	} {
		if got := hexutil.Encode(crypto.Keccak256(c.data)); len(c.data) != c.length || got != c.keccak {
			t.Errorf("%s overload: %d bytes with hash %s", c.overload, len(c.data), got)
		}
	}
}

func TestDigestCoversEachFieldAsGoEthereumHasIt(t *testing.T) {
	t.Parallel()
	base := vector(t)
	all := x402.Uint256{}
	for i := range all {
		all[i] = 0xff
	}
	seen := map[chain.Hash]string{}
	for name, change := range map[string]func(*Authorization){
		"nothing":     func(*Authorization) {},
		"from":        func(a *Authorization) { a.From[0] ^= 1 },
		"to":          func(a *Authorization) { a.To[19] ^= 1 },
		"value":       func(a *Authorization) { a.Value = all },
		"validAfter":  func(a *Authorization) { a.ValidAfter = x402.NewUint256(1) },
		"validBefore": func(a *Authorization) { a.ValidBefore = all },
		"nonce":       func(a *Authorization) { a.Nonce[31] ^= 1 },
	} {
		a := base
		change(&a)
		got := a.Digest(vectorDomain(t))
		if other, twice := seen[got]; twice {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[got] = name
		if want := typedDataDigest(t, a); got != want {
			t.Errorf("%s: %s, go-ethereum has %s", name, got, want)
		}
	}
}

func typedDataDigest(t *testing.T, a Authorization) chain.Hash {
	t.Helper()
	decimal := func(u x402.Uint256) *math.HexOrDecimal256 { return (*math.HexOrDecimal256)(u.Big()) }
	field := func(name, kind string) apitypes.Type { return apitypes.Type{Name: name, Type: kind} }
	digest, _, err := apitypes.TypedDataAndHash(apitypes.TypedData{
		Types: apitypes.Types{
			"EIP712Domain": {field("name", "string"), field("version", "string"), field("chainId", "uint256"), field("verifyingContract", "address")},
			"TransferWithAuthorization": {
				field("from", "address"), field("to", "address"), field("value", "uint256"),
				field("validAfter", "uint256"), field("validBefore", "uint256"), field("nonce", "bytes32"),
			},
		},
		PrimaryType: "TransferWithAuthorization",
		Domain:      apitypes.TypedDataDomain{Name: "USDC", Version: "2", ChainId: (*math.HexOrDecimal256)(big.NewInt(84532)), VerifyingContract: usdcText},
		Message: apitypes.TypedDataMessage{
			"from": a.From.String(), "to": a.To.String(), "value": decimal(a.Value),
			"validAfter": decimal(a.ValidAfter), "validBefore": decimal(a.ValidBefore), "nonce": a.Nonce.String(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return chain.Hash(digest)
}

// TestAPaymentIsProvenByItsOwnEventsOnly is I5: the transfer of one payment
// never vouches for another.
func TestAPaymentIsProvenByItsOwnEventsOnly(t *testing.T) {
	t.Parallel()
	mine := vector(t)
	other := mine // the same payer, payee and amount, by another authorization
	other.Nonce[0] ^= 1
	token, stranger := address(t, usdcText), address(t, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913")
	at := func(token chain.Address, l chain.Log) chain.Log { l.Address = token; return l }
	used := func(a Authorization) chain.Log {
		return chain.Log{Address: token, Topics: AuthorizationTopics(EventAuthorizationUsed(), a.From, a.Nonce)}
	}
	canceled := func(a Authorization) chain.Log {
		return chain.Log{Address: token, Topics: AuthorizationTopics(EventAuthorizationCanceled(), a.From, a.Nonce)}
	}
	moved := func(a Authorization) chain.Log {
		return chain.Log{
			Address: token, Data: a.Value[:],
			Topics: []chain.Hash{EventTransfer(), chain.Hash(addressWord(a.From)), chain.Hash(addressWord(a.To))},
		}
	}
	changed := func(change func(*Authorization)) Authorization {
		a := mine
		change(&a)
		return a
	}
	otherPayer := changed(func(a *Authorization) { a.From = stranger })
	otherPayee := changed(func(a *Authorization) { a.To = stranger })
	more := changed(func(a *Authorization) { a.Value = x402.NewUint256(10001) })
	less := changed(func(a *Authorization) { a.Value = x402.NewUint256(9999) })
	noise := chain.Log{Address: token}
	for _, c := range []struct {
		name string
		logs []chain.Log
		want bool
	}{
		{"its own pair", []chain.Log{used(mine), moved(mine)}, true},
		{"its own pair, the other way round", []chain.Log{moved(mine), used(mine)}, true},
		{"other contracts log in between", []chain.Log{used(mine), at(stranger, moved(otherPayee)), at(stranger, used(other)), moved(mine)}, true},
		{"logs without topics in between", []chain.Log{noise, used(mine), noise, moved(mine), noise}, true},
		{"first of a batch", []chain.Log{used(mine), moved(mine), used(other), moved(other)}, true},
		{"last of a batch", []chain.Log{used(other), moved(other), used(mine), moved(mine)}, true},
		{"a batch of other payers", []chain.Log{used(otherPayer), moved(otherPayer), used(mine), moved(mine)}, true},
		{"an approval follows", []chain.Log{used(mine), moved(mine), {Address: token, Topics: []chain.Hash{{1}}}}, true},

		{"nothing", nil, false},
		{"used without a transfer", []chain.Log{used(mine)}, false},
		{"a transfer without use", []chain.Log{moved(mine)}, false},
		{"another payer's transfer", []chain.Log{used(mine), moved(otherPayer)}, false},
		{"to another payee", []chain.Log{used(mine), moved(otherPayee)}, false},
		{"of more", []chain.Log{used(mine), moved(more)}, false},
		{"of less", []chain.Log{used(mine), moved(less)}, false},
		{"another payer's authorization", []chain.Log{used(otherPayer), moved(mine)}, false},
		{"another authorization of the payer", []chain.Log{used(other), moved(mine)}, false},
		{"the authorization was cancelled", []chain.Log{canceled(mine), moved(mine)}, false},
		{"another token's pair", []chain.Log{at(stranger, used(mine)), at(stranger, moved(mine))}, false},
		{"another token's use", []chain.Log{at(stranger, used(mine)), moved(mine)}, false},
		{"another token's transfer", []chain.Log{used(mine), at(stranger, moved(mine))}, false},
		{"the transfer of another authorization before it", []chain.Log{used(other), moved(other), used(mine)}, false},
		{"the transfer of another authorization after it", []chain.Log{used(mine), used(other), moved(other)}, false},
		{"its transfer fell short in a batch with its twin", []chain.Log{used(mine), moved(less), used(other), moved(other)}, false},
		{"another transfer comes between", []chain.Log{used(mine), moved(less), moved(mine)}, false},
		{"the other way round in a batch", []chain.Log{moved(other), used(other), moved(mine), used(mine)}, false},
		{"a plain transfer and two uses", []chain.Log{moved(mine), used(other), used(mine)}, false},
		{"two plain transfers before it", []chain.Log{moved(mine), moved(mine), used(mine)}, false},
		{"a use with a topic too many", []chain.Log{{Address: token, Topics: append(used(mine).Topics, chain.Hash{})}, moved(mine)}, false},
		{"a use with a topic too few", []chain.Log{{Address: token, Topics: used(mine).Topics[:2]}, moved(mine)}, false},
		{"a transfer with its amount as a topic", []chain.Log{used(mine), {Address: token, Topics: append(moved(mine).Topics, chain.Hash(mine.Value))}}, false},
		{"a transfer with more data", []chain.Log{used(mine), {Address: token, Topics: moved(mine).Topics, Data: append(mine.Value[:], 0)}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := Proves(c.logs, token, mine); got != c.want {
				t.Errorf("Proves = %t", got)
			}
		})
	}
}
