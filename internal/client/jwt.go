package client

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxTokenLife bounds how long a token may be valid: the official clients make
	// one for each call, for two minutes.
	maxTokenLife = 10 * time.Minute
	// clockLeeway is how far a caller's clock may be off.
	clockLeeway = 30 * time.Second
	// maxToken bounds what is parsed.
	maxToken = 4096
	// issuer of the hosted facilitator's clients.
	issuer = "cdp"
)

// claims of the hosted facilitator's tokens.
type claims struct {
	jwt.RegisteredClaims
	URIs []string `json:"uris"`
}

// signer finds the key that signed a token for this call.
func (s *snapshot) signer(token string, c Call, hosts []string, now time.Time) (*holder, error) {
	unknown := &Denial{Check: CheckKey, Text: "unknown key"}
	if len(token) > maxToken {
		return nil, unknown
	}
	var h *holder
	var got claims
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(issuer), jwt.WithExpirationRequired(), jwt.WithLeeway(clockLeeway),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	_, err := parser.ParseWithClaims(token, &got, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		h = s.keys[id]
		if h == nil || string(h.Kind) != strings.ToLower(t.Method.Alg()) {
			return nil, errNotAKey
		}
		return h.public, nil
	})
	switch {
	case errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, jwt.ErrTokenNotValidYet):
		// Only a token that is signed right gets here.
		return nil, &Denial{Check: CheckExpired, Text: "the token is not valid now: look at the clock"}
	case err != nil || got.Subject != h.ID:
		return nil, unknown
	case got.NotBefore == nil || got.ExpiresAt.Sub(got.NotBefore.Time) > maxTokenLife:
		return nil, &Denial{Check: CheckExpired, Text: fmt.Sprintf("the token must say nbf, and be valid for %s at most", maxTokenLife)}
	case !madeFor(got.URIs, c, hosts):
		return nil, &Denial{Check: CheckKey, Text: "the token is made for another call: its uris must hold the method, a host of this service and the path"}
	}
	return h, nil
}

// madeFor says whether one of "METHOD host/path" is the call at one of the hosts. The
// host that the caller names says nothing: whoever got a token for another place
// would name that.
func madeFor(uris []string, c Call, hosts []string) bool {
	return slices.ContainsFunc(uris, func(uri string) bool {
		method, rest, _ := strings.Cut(uri, " ")
		host, path, _ := strings.Cut(rest, "/")
		return method == c.Method && "/"+path == c.Path && slices.ContainsFunc(hosts, func(h string) bool {
			name, _, err := net.SplitHostPort(host)
			return strings.EqualFold(h, host) || err == nil && strings.EqualFold(h, name)
		})
	})
}

// ParsePublicKey reads a public key from PEM (SPKI).
func ParsePublicKey(text []byte) (KeyKind, []byte, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return "", nil, errors.New("is not PEM")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", nil, errors.New("is no public key (SPKI)")
	}
	switch key := parsed.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return "", nil, errors.New("must be on curve P-256 for ES256")
		}
		return KindES256, block.Bytes, nil
	case ed25519.PublicKey:
		return KindEdDSA, block.Bytes, nil
	default:
		return "", nil, errors.New("must be of ES256 (P-256) or EdDSA (Ed25519)")
	}
}

func publicKey(kind KeyKind, der []byte) (any, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	switch parsed.(type) {
	case *ecdsa.PublicKey:
		if kind == KindES256 {
			return parsed, nil
		}
	case ed25519.PublicKey:
		if kind == KindEdDSA {
			return parsed, nil
		}
	}
	return nil, fmt.Errorf("public key: it is not of kind %s", kind)
}
