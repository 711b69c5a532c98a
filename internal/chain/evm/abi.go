package evm

import (
	"bytes"
	"encoding/binary"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// Multicall3 is the canonical aggregator, at the same address on every chain.
func Multicall3() chain.Address {
	return mustAddress("0xcA11bde05977b3631167028862bE2a173976CA11")
}

// mustAddress and mustHash are for the constants of this package, which its
// tests parse; a typing error gives the zero value and fails them.
func mustAddress(s string) chain.Address {
	a, _ := chain.ParseAddress(s)
	return a
}

func mustHash(s string) chain.Hash {
	h, _ := chain.ParseHash(s)
	return h
}

// Function selectors. Source: EIP-20, EIP-712, EIP-1271, EIP-3009 and the
// FiatToken, Multicall3 and sanctions-oracle contracts; the tests recompute each.
const (
	selTransferVRS        = 0xe3ee160e // transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)
	selTransferBytes      = 0xcf092995 // transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)
	selAuthorizationState = 0xe94a0102 // authorizationState(address,bytes32)
	selBalanceOf          = 0x70a08231 // balanceOf(address)
	selName               = 0x06fdde03 // name()
	selVersion            = 0x54fd4d50 // version()
	selDecimals           = 0x313ce567 // decimals()
	selDomainSeparator    = 0x3644e515 // DOMAIN_SEPARATOR()
	selPaused             = 0x5c975abb // paused()
	selIsBlacklisted      = 0xfe575a87 // isBlacklisted(address)
	selIsSanctioned       = 0xdf592f7d // isSanctioned(address)
	selIsValidSignature   = 0x1626ba7e // isValidSignature(bytes32,bytes)
	selAggregate3         = 0x82ad56cb // aggregate3((address,bool,bytes)[])
	selGetBlockNumber     = 0x42cbb15c // getBlockNumber()
)

type word = [32]byte

func addressWord(a chain.Address) (w word) {
	copy(w[12:], a[:])
	return w
}

func intWord(n int) word { return word(x402.NewUint256(uint64(n))) } //nolint:gosec // lengths and offsets, never negative

// pack writes a selector and static words.
func pack(selector uint32, words ...word) []byte {
	b := make([]byte, 4, 4+32*len(words)+96)
	binary.BigEndian.PutUint32(b, selector)
	for i := range words {
		b = append(b, words[i][:]...)
	}
	return b
}

// appendBytes writes a dynamic bytes value: length, content, padding.
func appendBytes(b, v []byte) []byte {
	n := intWord(len(v))
	b = append(b, n[:]...)
	b = append(b, v...)
	if pad := len(v) % 32; pad != 0 {
		b = append(b, make([]byte, 32-pad)...)
	}
	return b
}

// Overloads of transferWithAuthorization that a token has.
type Overloads int

// The zero value stands for both.
const (
	BothOverloads Overloads = iota
	VRSOverload
	BytesOverload
)

// Takes says whether a signature of that many bytes can be put into a call.
func (o Overloads) Takes(length int) bool { return length == 65 || o != VRSOverload }

// TransferData is the calldata of transferWithAuthorization. A 65-byte
// signature takes the v,r,s overload, any other the bytes overload (FiatToken
// v2.2, which asks the payer's code: EIP-1271), as does every one where the token
// has no other.
func TransferData(a Authorization, signature []byte, o Overloads) []byte {
	if len(signature) != 65 || o == BytesOverload {
		words := a.words()
		words = append(words, intWord(32*(len(words)+1)))
		return appendBytes(pack(selTransferBytes, words...), signature)
	}
	v, r, s := intWord(int(signature[64])), word(signature[:32]), word(signature[32:64])
	return pack(selTransferVRS, append(a.words(), v, r, s)...)
}

func (a Authorization) words() []word {
	return []word{
		addressWord(a.From), addressWord(a.To), word(a.Value),
		word(a.ValidAfter), word(a.ValidBefore), word(a.Nonce),
	}
}

// Call3 is one call of Multicall3's aggregate3.
type Call3 struct {
	Target       chain.Address
	AllowFailure bool
	Data         []byte
}

// Aggregate3Data is the calldata of aggregate3.
func Aggregate3Data(calls []Call3) []byte {
	b := pack(selAggregate3, intWord(32), intWord(len(calls)))
	offset := 32 * len(calls)
	for _, c := range calls {
		w := intWord(offset)
		b = append(b, w[:]...)
		offset += 4*32 + (len(c.Data)+31)/32*32
	}
	for _, c := range calls {
		target, allow, at := addressWord(c.Target), word{}, intWord(96)
		if c.AllowFailure {
			allow[31] = 1
		}
		b = append(b, target[:]...)
		b = append(b, allow[:]...)
		b = append(b, at[:]...)
		b = appendBytes(b, c.Data)
	}
	return b
}

// Forgiving is the calldata of an aggregate3 with every failure allowed, so that
// the result tells which part failed and why; false where data is no such call as
// Aggregate3Data writes.
func Forgiving(data []byte) ([]byte, bool) {
	const head = 4 + 64 // selector, the array's offset and length
	if len(data) < head || binary.BigEndian.Uint32(data) != selAggregate3 || !wordIs(data, 4, 32) {
		return nil, false
	}
	n, ok := smallWord(data[36:head])
	if !ok || n > (len(data)-head)/32 {
		return nil, false
	}
	forgiving := bytes.Clone(data)
	for i := range n {
		at, ok := smallWord(data[head+32*i : head+32*i+32])
		if !ok || at > len(data)-head-64 {
			return nil, false
		}
		allow := intWord(1)
		copy(forgiving[head+at+32:], allow[:])
	}
	return forgiving, true
}

// Call3Result is what came of one call of aggregate3.
type Call3Result struct {
	Success bool
	Data    []byte
}

// DecodeAggregate3 reads what aggregate3 returned, as its compiler writes it
// and in no other way: an array of (bool, bytes) with every element right
// behind the one before, and nothing after. Data are parts of b.
func DecodeAggregate3(b []byte) ([]Call3Result, bool) {
	// The array's offset, its length, then an offset for each element.
	if len(b) < 64 || !wordIs(b, 0, 32) {
		return nil, false
	}
	n, ok := smallWord(b[32:64])
	b = b[64:]
	if !ok || n > len(b)/32 {
		return nil, false
	}
	results := make([]Call3Result, n)
	at := 32 * n
	for i := range results {
		if !wordIs(b, 32*i, at) || len(b)-at < 96 || !wordIs(b, at+32, 64) {
			return nil, false
		}
		success, okBool := DecodeBool(b[at:])
		size, okSize := smallWord(b[at+64 : at+96])
		at += 96
		padded := (size + 31) / 32 * 32
		if !okBool || !okSize || padded > len(b)-at {
			return nil, false
		}
		results[i] = Call3Result{Success: success, Data: b[at : at+size : at+size]}
		at += padded
	}
	return results, at == len(b)
}

// wordIs says whether the word at at, which is there, is n.
func wordIs(b []byte, at, n int) bool {
	got, ok := smallWord(b[at : at+32])
	return ok && got == n
}

// AuthorizationStateData asks whether an EIP-3009 authorization is spent.
func AuthorizationStateData(payer chain.Address, nonce chain.Hash) []byte {
	return pack(selAuthorizationState, addressWord(payer), word(nonce))
}

// BalanceOfData asks for a token balance.
func BalanceOfData(owner chain.Address) []byte { return pack(selBalanceOf, addressWord(owner)) }

// IsValidSignatureData asks a wallet about a signature (EIP-1271).
func IsValidSignatureData(digest chain.Hash, signature []byte) []byte {
	return appendBytes(pack(selIsValidSignature, word(digest), intWord(64)), signature)
}

// IsValidSignatureResult says whether a wallet answered with the EIP-1271
// magic value: a whole word, as tokens ask for, whatever comes after it.
func IsValidSignatureResult(b []byte) bool {
	const rest = 28
	return len(b) >= 32 && binary.BigEndian.Uint32(b) == selIsValidSignature && bytes.Equal(b[4:32], make([]byte, rest))
}

// BlockNumberData asks Multicall3 for the number of the block, as code sees it.
func BlockNumberData() []byte { return pack(selGetBlockNumber) }

// NameData asks for a token's name.
func NameData() []byte { return pack(selName) }

// PausedData asks a token like USDC whether it moves at all.
func PausedData() []byte { return pack(selPaused) }

// IsBlacklistedData asks a token like USDC whether it refuses an account.
func IsBlacklistedData(a chain.Address) []byte { return pack(selIsBlacklisted, addressWord(a)) }

// VersionData asks for a token's EIP-712 version.
func VersionData() []byte { return pack(selVersion) }

// DecodeString reads one string return value.
func DecodeString(b []byte) (string, bool) { return abiString(b) }

// DecodeUint256 reads one word return value.
func DecodeUint256(b []byte) (x402.Uint256, bool) {
	if len(b) < 32 {
		return x402.Uint256{}, false
	}
	return x402.Uint256(b[:32]), true
}

// DecodeBool reads one bool return value.
func DecodeBool(b []byte) (value, ok bool) {
	u, ok := DecodeUint256(b)
	n, small := u.Uint64()
	return n == 1, ok && small && n < 2
}
