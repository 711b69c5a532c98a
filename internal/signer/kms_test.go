package signer

import (
	"context"
	"errors"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
)

// opened is a service with a wallet on an hsm.
type opened struct {
	kind string
	open func(t *testing.T, h *hsm, known chain.Address) (*Wallet, error)
	// throttled and refused are the service's own ways to say so.
	throttled, refused func(w http.ResponseWriter)
}

func services() []opened {
	return []opened{
		{
			kind: "aws_kms",
			open: func(t *testing.T, h *hsm, known chain.Address) (*Wallet, error) {
				t.Helper()
				return NewAWS(t.Context(), AWS{KeyID: awsKey, Endpoint: h.aws(t).URL, Address: known}, chainID)
			},
			throttled: failure(400, `{"__type":"ThrottlingException","message":"You have exceeded the rate at which you may call KMS."}`),
			refused:   failure(400, `{"__type":"AccessDeniedException","Message":"User is not authorized to perform: kms:Sign"}`),
		},
		{
			kind: "gcp_kms",
			open: func(t *testing.T, h *hsm, known chain.Address) (*Wallet, error) {
				t.Helper()
				return NewGCP(t.Context(), GCP{KeyVersion: gcpKey, Endpoint: h.gcp(t).URL, Address: known}, chainID)
			},
			throttled: failure(503, `{"error":{"code":503,"message":"The service is currently unavailable.","status":"UNAVAILABLE"}}`),
			refused:   failure(403, `{"error":{"code":403,"message":"Permission denied on resource.","status":"PERMISSION_DENIED"}}`),
		},
	}
}

func failure(status int, text string) func(w http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text) // a client that is gone does not mind
	}
}

// each runs a test on every service.
func each(t *testing.T, test func(t *testing.T, o opened)) {
	t.Helper()
	for _, o := range services() {
		t.Run(o.kind, func(t *testing.T) {
			t.Parallel()
			test(t, o)
		})
	}
}

func mustOpen(t *testing.T, o opened, h *hsm) *Wallet {
	t.Helper()
	w, err := o.open(t, h, chain.Address{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestAKeyManagementServiceSigns(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, o opened) {
		t.Helper()
		key := newKey(t)
		w := mustOpen(t, o, &hsm{key: key, published: key})
		if w.Address() != addressOf(key) || w.Kind() != o.kind {
			t.Fatalf("%s, %s", w.Kind(), w.Address())
		}
		signed, err := w.Sign(t.Context(), ask())
		if err != nil {
			t.Fatal(err)
		}
		isSigned(t, signed, key)
	})
}

func TestAnUpperSIsLowered(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, o opened) {
		t.Helper()
		key := newKey(t)
		w := mustOpen(t, o, &hsm{key: key, published: key, der: func(r, s *big.Int) []byte {
			return marshal(t, struct{ R, S *big.Int }{r, new(big.Int).Sub(crypto.S256().Params().N, s)})
		}})
		signed, err := w.Sign(t.Context(), ask())
		if err != nil {
			t.Fatal(err)
		}
		isSigned(t, signed, key)
	})
}

func TestAnAnswerThatIsNoSignatureOfTheWalletIsRefused(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, o opened) {
		t.Helper()
		key := newKey(t)
		for name, h := range map[string]*hsm{
			"another key":    {key: newKey(t), published: key},
			"no DER":         {key: key, published: key, der: func(_, _ *big.Int) []byte { return []byte("not DER") }},
			"nothing":        {key: key, published: key, der: func(_, _ *big.Int) []byte { return nil }},
			"cut off":        {key: key, published: key, der: func(r, s *big.Int) []byte { return marshal(t, struct{ R, S *big.Int }{r, s})[:40] }},
			"with a rest":    {key: key, published: key, der: func(r, s *big.Int) []byte { return append(marshal(t, struct{ R, S *big.Int }{r, s}), 0) }},
			"one number":     {key: key, published: key, der: func(r, _ *big.Int) []byte { return marshal(t, struct{ R *big.Int }{r}) }},
			"a negative one": {key: key, published: key, der: func(r, s *big.Int) []byte { return marshal(t, struct{ R, S *big.Int }{new(big.Int).Neg(r), s}) }},
			"zeros":          {key: key, published: key, der: func(_, _ *big.Int) []byte { return marshal(t, struct{ R, S *big.Int }{new(big.Int), new(big.Int)}) }},
		} {
			signed, err := mustOpen(t, o, h).Sign(t.Context(), ask())
			if !errors.Is(err, evm.ErrSignature) || signed.Raw != nil {
				t.Errorf("%s: %x, %v", name, signed.Raw, err)
			}
		}
	})
}

func TestAKeyThatIsNotTheConfiguredOneStopsTheStart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, o opened) {
		t.Helper()
		key := newKey(t)
		_, err := o.open(t, &hsm{key: key, published: key}, chain.Address{1})
		if err == nil || !strings.Contains(err.Error(), addressOf(key).String()) {
			t.Errorf("another address: %v", err)
		}
		for name, spki := range map[string][]byte{
			"another curve": p256(t), "no key": []byte("key"),
			"no point of the curve": spkiOf(t, append([]byte{4}, make([]byte, 64)...), []int{1, 3, 132, 0, 10}),
		} {
			if _, err := o.open(t, &hsm{key: key, published: key, spki: spki}, addressOf(key)); !errors.Is(err, errNotSecp256k1) {
				t.Errorf("%s: %v", name, err)
			}
		}
		refuse := func(w http.ResponseWriter, _ *http.Request, _ int32) bool {
			o.refused(w)
			return true
		}
		if _, err := o.open(t, &hsm{fault: refuse}, chain.Address{}); err == nil || !strings.Contains(err.Error(), "ermission") && !strings.Contains(err.Error(), "AccessDenied") {
			t.Errorf("refused: %v", err)
		}
		// Where the address is known the start does not hang on the service.
		w, err := o.open(t, &hsm{fault: refuse}, addressOf(key))
		if err != nil || w.Address() != addressOf(key) {
			t.Fatalf("refused, but the address is known: %v", err)
		}
		if _, err := w.Sign(t.Context(), ask()); err == nil {
			t.Error("a refused signature is one")
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAThrottledServiceIsAskedAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, o opened) {
		t.Helper()
		key := newKey(t)
		h := &hsm{key: key, published: key, fault: func(w http.ResponseWriter, _ *http.Request, before int32) bool {
			if before == 1 { // the first one is about the public key
				o.throttled(w)
			}
			return before == 1
		}}
		signed, err := mustOpen(t, o, h).Sign(t.Context(), ask())
		if err != nil {
			t.Fatal(err)
		}
		isSigned(t, signed, key)
		if got := h.calls.Load(); got != 3 {
			t.Errorf("%d requests", got)
		}
	})
}

func TestAServiceThatHangsIsLeft(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, o opened) {
		t.Helper()
		key := newKey(t)
		ctx, leave := context.WithCancel(t.Context())
		w := mustOpen(t, o, &hsm{key: key, published: key, fault: func(_ http.ResponseWriter, r *http.Request, before int32) bool {
			if before == 0 {
				return false
			}
			hang(r, leave)
			return true
		}})
		if _, err := w.Sign(ctx, ask()); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

// hang has the client leave, and answers nothing until it has.
func hang(r *http.Request, leave func()) {
	_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the client goes
	leave()
	<-r.Context().Done()
}

func TestAWSNeedsARegion(t *testing.T) {
	t.Parallel()
	_, err := NewAWS(t.Context(), AWS{KeyID: "alias/lane-0"}, chainID)
	if err == nil || !strings.Contains(err.Error(), "region") {
		t.Errorf("%v", err)
	}
}
