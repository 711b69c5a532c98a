package signer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
)

const chainID = 84532

// ask is a transaction to be signed.
func ask() evm.Unsigned {
	return evm.Unsigned{
		Call: chain.Call{To: chain.Address{19: 7}, Data: []byte{1, 2, 3}}, WalletNonce: 7, GasLimit: 120_000,
		Fees: chain.Fees{FeeCap: 2e9, TipCap: 1e6},
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func addressOf(key *ecdsa.PrivateKey) chain.Address {
	return chain.Address(crypto.PubkeyToAddress(key.PublicKey))
}

// isSigned fails unless a transaction is the one asked for, signed by a key.
func isSigned(t *testing.T, signed evm.Signed, key *ecdsa.PrivateKey) {
	t.Helper()
	var tx types.Transaction
	if err := tx.UnmarshalBinary(signed.Raw); err != nil {
		t.Fatal(err)
	}
	_, _, s := tx.RawSignatureValues()
	sender, err := types.Sender(types.LatestSignerForChainID(big.NewInt(chainID)), &tx)
	if err != nil || chain.Address(sender) != addressOf(key) || chain.Hash(tx.Hash()) != signed.Hash || s.Cmp(new(big.Int).Rsh(crypto.S256().Params().N, 1)) > 0 {
		t.Errorf("signed by %s with s %d: %v", sender, s, err)
	}
	got, err := evm.Rebuild(signed.Raw)
	if err != nil || got.WalletNonce != 7 || string(got.Call.Data) != "\x01\x02\x03" || got.Fees != ask().Fees || got.GasLimit != 120_000 {
		t.Errorf("%+v, %v", got, err)
	}
}

// hsm is a key management service's inside: a key, and what goes wrong.
type hsm struct {
	key, published *ecdsa.PrivateKey
	// spki replaces the published key, der each signature.
	spki []byte
	der  func(r, s *big.Int) []byte
	// fault answers instead, given how many requests came before, where it says so.
	fault func(w http.ResponseWriter, r *http.Request, before int32) bool
	calls atomic.Int32
}

func (h *hsm) publicKey(t *testing.T) []byte {
	t.Helper()
	if h.spki != nil {
		return h.spki
	}
	return spkiOf(t, crypto.FromECDSAPub(&h.published.PublicKey), asn1.ObjectIdentifier{1, 3, 132, 0, 10})
}

func spkiOf(t *testing.T, point []byte, curve asn1.ObjectIdentifier) []byte {
	t.Helper()
	type algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
	return marshal(t, struct {
		Algorithm algorithm
		Key       asn1.BitString
	}{algorithm{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, curve}, asn1.BitString{Bytes: point, BitLength: 8 * len(point)}})
}

func (h *hsm) sign(t *testing.T, digest []byte) []byte {
	t.Helper()
	if len(digest) != 32 {
		t.Errorf("a digest of %d bytes", len(digest))
		return nil
	}
	signature, err := crypto.Sign(digest, h.key)
	if err != nil {
		t.Error(err)
		return nil
	}
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:64])
	if h.der != nil {
		return h.der(r, s)
	}
	return marshal(t, struct{ R, S *big.Int }{r, s})
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	return der
}

// p256 is a public key of another curve.
func p256(t *testing.T) []byte {
	t.Helper()
	curve := elliptic.P256().Params()
	point := append([]byte{4}, append(curve.Gx.FillBytes(make([]byte, 32)), curve.Gy.FillBytes(make([]byte, 32))...)...)
	return spkiOf(t, point, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
}

const (
	awsKey = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	gcpKey = "projects/p/locations/europe-west3/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
)

// aws serves an hsm as AWS KMS does: JSON 1.1, the operation in a header.
func (h *hsm) aws(t *testing.T) *httptest.Server {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if h.fault != nil && h.fault(w, r, h.calls.Add(1)-1) {
			return
		}
		var in struct {
			KeyID            string `json:"KeyId"`
			Message          []byte
			MessageType      string
			SigningAlgorithm string
		}
		decode(t, r.Body, &in)
		if in.KeyID != awsKey || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" ||
			!strings.Contains(r.Header.Get("Authorization"), "/eu-central-1/kms/aws4_request") {
			t.Errorf("asked about %q with %v", in.KeyID, r.Header)
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		switch target := r.Header.Get("X-Amz-Target"); target {
		case "TrentService.GetPublicKey":
			answer(t, w, map[string]any{"KeyId": awsKey, "KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY", "PublicKey": h.publicKey(t), "SigningAlgorithms": []string{"ECDSA_SHA_256"}})
		case "TrentService.Sign":
			if in.MessageType != "DIGEST" || in.SigningAlgorithm != "ECDSA_SHA_256" {
				t.Errorf("asked for %+v", in)
			}
			answer(t, w, map[string]any{"KeyId": awsKey, "Signature": h.sign(t, in.Message), "SigningAlgorithm": "ECDSA_SHA_256"})
		default:
			t.Errorf("asked for %q", target)
		}
	})
}

// gcp serves an hsm as Cloud KMS does over REST.
func (h *hsm) gcp(t *testing.T) *httptest.Server {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if h.fault != nil && h.fault(w, r, h.calls.Add(1)-1) {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if got := r.Header.Get("Authorization"); got != "" {
			t.Errorf("credentials in the clear: %q", got)
		}
		switch r.Method + " " + r.URL.Path {
		case "GET /v1/" + gcpKey + "/publicKey":
			text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: h.publicKey(t)})
			answer(t, w, map[string]any{"pem": string(text), "algorithm": "EC_SIGN_SECP256K1_SHA256", "name": gcpKey, "protectionLevel": "HSM"})
		case "POST /v1/" + gcpKey + ":asymmetricSign":
			var in struct {
				Digest struct{ SHA256 []byte }
			}
			decode(t, r.Body, &in)
			answer(t, w, map[string]any{"name": gcpKey, "signature": h.sign(t, in.Digest.SHA256), "protectionLevel": "HSM"})
		default:
			t.Errorf("asked for %s %s", r.Method, r.URL)
		}
	})
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func decode(t *testing.T, r io.Reader, v any) {
	t.Helper()
	if err := json.NewDecoder(r).Decode(v); err != nil {
		t.Error(err)
	}
}

func answer(t *testing.T, w io.Writer, v any) {
	t.Helper()
	if err := json.NewEncoder(w).Encode(v); err != nil {
		t.Error(err)
	}
}

// signs is a remote signer's key for a wallet, and the one it signs with.
type signs struct{ key, with *ecdsa.PrivateKey }
