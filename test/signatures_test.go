package test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/devnet"
)

// signed makes a sale of an account of its own whose signature is changed.
func signed(c *devnet.Chain, change func([]byte) []byte) func(*testing.T) (devnet.Sale, badBody) {
	return func(t *testing.T) (devnet.Sale, badBody) {
		t.Helper()
		key := payers(t, c, 1)[0]
		deal, body := walletSale(t, c, 2, key, key.Address)
		body.resign(change)
		return deal, body
	}
}

// signedForWallet does so for a contract wallet whose owner signs.
func signedForWallet(c *devnet.Chain, change func([]byte) []byte) func(*testing.T) (devnet.Sale, badBody) {
	return func(t *testing.T) (devnet.Sale, badBody) {
		t.Helper()
		owner := newKey(t, devnet.RolePayer)
		wallet := foreignDeploy(t, c, "Wallet1271", owner.Address)
		walletFund(t, c, wallet)
		deal, body := walletSale(t, c, 2, owner, wallet)
		body.resign(change)
		return deal, body
	}
}

// v sets the last byte of a signature from 27 or 28.
func v(of func(byte) byte) func([]byte) []byte {
	return func(sig []byte) []byte { sig[64] = of(sig[64]); return sig }
}

// part sets r (at 0) or s (at 32) of a signature.
func part(at int, value []byte) func([]byte) []byte {
	return func(sig []byte) []byte { copy(sig[at:at+32], common.LeftPadBytes(value, 32)); return sig }
}

func compact(sig []byte) []byte { // EIP-2098
	sig[32] |= (sig[64] - 27) << 7
	return sig[:64]
}

// TestSignaturesOfAccounts: 65 bytes that the token takes, or v of 0 and 1 for
// them, and nothing else.
func TestSignaturesOfAccounts(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, c *devnet.Chain) {
		t.Helper()
		s := newJudge(t, c, "")
		order := crypto.S256().Params().N.Bytes()
		const not = "not signed by the payer"
		rows := []kindRow{
			{"as clients sign", signed(c, slices.Clone[[]byte]), outcome{}},
			{"v is 0 or 1", signed(c, v(func(b byte) byte { return b - 27 })), outcome{}},
			{"v is 29 or 30", signed(c, v(func(b byte) byte { return b + 2 })), refused(badSign, not)},
			{"v is 2 or 3", signed(c, v(func(b byte) byte { return b - 25 })), refused(badSign, not)},
			{"v is that of a transaction (EIP-155)", signed(c, v(func(b byte) byte { return b + 10 })), refused(badSign, not)},
			{"compact (EIP-2098)", signed(c, compact), refused(badSign, not)},
			{"s is high", signed(c, badHighS), refused(badSign, not)},
			{"r is zero", signed(c, part(0, nil)), refused(badSign, not)},
			{"s is zero", signed(c, part(32, nil)), refused(badSign, not)},
			{"r and s are zero", signed(c, func(sig []byte) []byte { return part(0, nil)(part(32, nil)(sig)) }), refused(badSign, not)},
			{"r is the order of the curve", signed(c, part(0, order)), refused(badSign, not)},
			{"s is the order of the curve", signed(c, part(32, order)), refused(badSign, not)},
			{"64 bytes", signed(c, func(sig []byte) []byte { return sig[:64] }), refused(badSign, not)},
			{"66 bytes", signed(c, func(sig []byte) []byte { return append(sig, 0) }), refused(badSign, not)},
			{"two signatures", signed(c, func(sig []byte) []byte { return append(sig, sig...) }), refused(badSign, not)},
		}
		s.judges(t, c, rows)
	})
}

// TestSignaturesOfWallets: what a wallet's code takes is its own affair, and it is
// given the bytes as they came.
func TestSignaturesOfWallets(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, "")
	const not = "EIP-1271"
	twice := func(change func([]byte) []byte) func([]byte) []byte { // a wrapper in a wrapper is the wallet's to read
		return func(sig []byte) []byte {
			return walletWrap(c.Multicall3(), []byte{1}, walletWrap(c.Multicall3(), []byte{1}, change(sig)))
		}
	}
	s.judges(t, c, []kindRow{
		{"its owner's", signedForWallet(c, slices.Clone[[]byte]), outcome{}},
		{"with a high s, which this wallet takes and the token does not look at", signedForWallet(c, badHighS), outcome{}},
		{"with v of 0 or 1, which this wallet does not take", signedForWallet(c, v(func(b byte) byte { return b - 27 })), refused(badSign, not)},
		{"compact, which this wallet does not take", signedForWallet(c, compact), refused(badSign, not)},
		{"wrapped by ERC-6492", signedForWallet(c, func(sig []byte) []byte { return walletWrap(c.Multicall3(), []byte{1}, sig) }), outcome{}},
		{"wrapped with the zero address as the factory", signedForWallet(c, func(sig []byte) []byte { return walletWrap(common.Address{}, nil, sig) }), outcome{}},
		{"wrapped twice", signedForWallet(c, twice(slices.Clone[[]byte])), refused(badSign, not)},
	})
}

// TestSignaturesWrapped are ERC-6492 wrappers around an account's signature, and
// what is none.
func TestSignaturesWrapped(t *testing.T) {
	t.Parallel()
	c := world.chain
	factory := foreignDeploy(t, c, "WalletFactory")
	s := newJudge(t, c, walletAllow(factory))
	stranger := newKey(t, devnet.RolePayee).Address
	deploy, err := foreignContract(t, "WalletFactory").ABI.Pack("deploy", stranger, [32]byte{9})
	if err != nil {
		t.Fatal(err)
	}
	wrapped := func(edit func([]byte) []byte) func(*testing.T) (devnet.Sale, badBody) {
		return signed(c, func(sig []byte) []byte { return edit(walletWrap(factory, deploy, sig)) })
	}
	// set changes the word at a position of the wrapper.
	set := func(at int, word []byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:at+32], common.LeftPadBytes(word, 32)); return b }
	}
	const magic = 32
	rows := []kindRow{
		{"no factory", signed(c, func(sig []byte) []byte { return walletWrap(common.Address{}, nil, sig) }), outcome{}},
		{"a factory that is allowed", wrapped(slices.Clone[[]byte]), outcome{}},
		{"a factory that is not", signed(c, func(sig []byte) []byte { return walletWrap(stranger, deploy, sig) }), refused(factoryRefused, stranger.Hex())},
		{"a factory that is not, and a signature with a high s", signed(c, func(sig []byte) []byte { return walletWrap(stranger, deploy, badHighS(sig)) }), refused(factoryRefused, stranger.Hex())},
		{"a factory that is allowed, and its call reverts", signed(c, func(sig []byte) []byte { return walletWrap(factory, []byte{1, 2, 3, 4}, sig) }), outcome{}},
		{"a factory that is allowed, and a signature with a high s", signed(c, func(sig []byte) []byte { return walletWrap(factory, deploy, badHighS(sig)) }), refused(simFailed, "")},
		{"a factory that is allowed, and a signature of 64 bytes", signed(c, func(sig []byte) []byte { return walletWrap(factory, deploy, compact(sig)) }), refused(simFailed, "")},
		{"the magic is cut", wrapped(func(b []byte) []byte { return b[:len(b)-1] }), refused(badSign, "not signed by the payer")},
		{"a byte after the magic", wrapped(func(b []byte) []byte { return append(b, 0) }), refused(badSign, "not signed by the payer")},
	}
	for sentence, edit := range map[string]func([]byte) []byte{
		"nothing but the magic":                 func(b []byte) []byte { return b[len(b)-magic:] },
		"cut before the magic":                  func(b []byte) []byte { return append(b[:len(b)-magic-100], b[len(b)-magic:]...) },
		"the factory is no address":             set(0, bytes.Repeat([]byte{1}, 32)),
		"the call stands far outside":           set(32, bytes.Repeat([]byte{0xff}, 32)),
		"the call stands just outside":          set(32, walletWord(1<<20)),
		"the signature stands far outside":      set(64, bytes.Repeat([]byte{0xff}, 32)),
		"the call is longer than there is":      set(96, walletWord(1<<20)),
		"the call's length is absurd":           set(96, bytes.Repeat([]byte{0xff}, 32)),
		"the signature is empty":                func([]byte) []byte { return walletWrap(factory, deploy, nil) },
		"the signature is longer than there is": func(b []byte) []byte { return set(96+32+(len(deploy)+31)/32*32, walletWord(1<<20))(b) },
	} {
		rows = append(rows, kindRow{sentence, wrapped(edit), refused("invalid_payload", "ERC-6492")})
	}
	s.judges(t, c, rows)
}

// TestSignaturesAsSpelled: the text is hexadecimal in any letter case.
func TestSignaturesAsSpelled(t *testing.T) {
	t.Parallel()
	c := world.chain
	s := newJudge(t, c, "")
	spelled := func(change func(string) string) func(*testing.T) (devnet.Sale, badBody) {
		return func(t *testing.T) (devnet.Sale, badBody) {
			t.Helper()
			deal, body := signed(c, slices.Clone[[]byte])(t)
			body.set(badSignature, change(body.str(badSignature)))
			return deal, body
		}
	}
	s.judges(t, c, []kindRow{
		{"in capitals", spelled(func(text string) string { return "0x" + string(bytes.ToUpper([]byte(text[2:]))) }), outcome{}},
		{"with capital X", spelled(func(text string) string { return "0X" + text[2:] }), outcome{}},
		{"without 0x", spelled(func(text string) string { return text[2:] }), refused("invalid_payload", "0x")},
		{"an odd digit more", spelled(func(text string) string { return text + "0" }), refused("invalid_payload", "hexadecimal")},
		{"a digit that is none", spelled(func(text string) string { return text[:10] + "g" + text[11:] }), refused("invalid_payload", "hexadecimal")},
		{"empty", spelled(func(string) string { return "0x" }), refused("invalid_payload", "bytes")},
		{"too long", spelled(func(string) string { return hexutil.Encode(make([]byte, 8193)) }), refused("invalid_payload", "8192")},
	})
}
