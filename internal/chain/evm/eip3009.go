package evm

import (
	"bytes"
	"slices"

	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/x402"
)

// Authorization is an EIP-3009 TransferWithAuthorization. Value in atomic
// units, times in Unix seconds.
type Authorization struct {
	From, To                       chain.Address
	Value, ValidAfter, ValidBefore x402.Uint256
	Nonce                          chain.Hash // the authorization nonce
}

// EIP-712 type hashes; the tests recompute each from its type string.
func typeHashTransfer() chain.Hash { // TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)
	return mustHash("0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267")
}

func typeHashDomain() chain.Hash { // EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)
	return mustHash("0x8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f")
}

// DomainSeparator is the EIP-712 domain hash of a token.
func DomainSeparator(name, version string, chainID uint64, token chain.Address) chain.Hash {
	domain, contract, id := typeHashDomain(), addressWord(token), x402.NewUint256(chainID)
	return chain.Hash(crypto.Keccak256(
		domain[:], crypto.Keccak256([]byte(name)), crypto.Keccak256([]byte(version)), id[:], contract[:],
	))
}

// Digest is what the payer signs (EIP-712) under a token's domain.
func (a Authorization) Digest(domainSeparator chain.Hash) chain.Hash {
	var msg [7 * 32]byte
	typeHash := typeHashTransfer()
	from, to := addressWord(a.From), addressWord(a.To)
	for i, w := range [][]byte{typeHash[:], from[:], to[:], a.Value[:], a.ValidAfter[:], a.ValidBefore[:], a.Nonce[:]} {
		copy(msg[32*i:], w)
	}
	structHash := crypto.Keccak256(msg[:])
	return chain.Hash(crypto.Keccak256([]byte{0x19, 0x01}, domainSeparator[:], structHash))
}

// EventAuthorizationUsed is topic 0 of AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce).
func EventAuthorizationUsed() chain.Hash {
	return mustHash("0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5")
}

// EventAuthorizationCanceled is topic 0 of AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce).
func EventAuthorizationCanceled() chain.Hash {
	return mustHash("0x1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81")
}

// EventTransfer is topic 0 of Transfer(address indexed from, address indexed to, uint256 value).
func EventTransfer() chain.Hash {
	return mustHash("0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef")
}

// AuthorizationTopics are the topics of an AuthorizationUsed or
// AuthorizationCanceled log of this payer and nonce.
func AuthorizationTopics(event chain.Hash, payer chain.Address, nonce chain.Hash) []chain.Hash {
	return []chain.Hash{event, chain.Hash(addressWord(payer)), nonce}
}

// Proves says whether logs, all of one successful transaction, hold
// AuthorizationUsed(from, nonce) by token and the Transfer(from, to, value)
// that belongs to it (I5). It belongs to it if it is the token's next Transfer,
// as EIP-3009 has it; or, for tokens that emit the two the other way round, if
// the transaction has only one of each. So in a batch the transfer of one
// payment never vouches for another of the same payer, payee and amount.
func Proves(logs []chain.Log, token chain.Address, a Authorization) bool {
	used := AuthorizationTopics(EventAuthorizationUsed(), a.From, a.Nonce)
	transfer := []chain.Hash{EventTransfer(), chain.Hash(addressWord(a.From)), chain.Hash(addressWord(a.To))}
	var consumed, fits bool // by the token's latest AuthorizationUsed and Transfer
	var uses, transfers int
	for _, l := range logs {
		if l.Address != token || len(l.Topics) == 0 {
			continue
		}
		switch l.Topics[0] {
		case EventAuthorizationUsed():
			uses++
			consumed = slices.Equal(l.Topics, used)
		case EventTransfer():
			transfers++
			fits = slices.Equal(l.Topics, transfer) && bytes.Equal(l.Data, a.Value[:])
			if consumed {
				return fits
			}
		}
	}
	return consumed && fits && uses == 1 && transfers == 1
}
