package config

import (
	"regexp"
	"slices"
	"strings"
)

// Wallet is the treasury's wallet; the zero Lane where there is none.
func (t Treasury) Wallet() Lane {
	return Lane{PrivateKey: t.PrivateKey, Keystore: t.Keystore, Remote: t.Remote, AWSKMS: t.AWSKMS, GCPKMS: t.GCPKMS}
}

// HasKey says whether it is said where the wallet's key is.
func (w Lane) HasKey() bool {
	return w.PrivateKey != "" || w.Keystore.File != "" || w.Remote.URL != "" || w.AWSKMS.KeyID != "" || w.GCPKMS.KeyVersion != ""
}

// keys are the places in which the wallet at path is said to have its key.
func (l *loader) keys(path string, w Lane) []string {
	file := func(key string) bool { return l.files[join(path, key)] != "" } // even one that could not be read
	var given []string
	for _, place := range []struct {
		key  string
		said bool
	}{
		{"private_key", w.PrivateKey != "" || file("private_key")},
		{"keystore", w.Keystore != Keystore{} || file("keystore.password")},
		{"remote", w.Remote.URL != "" || w.Remote.Address != "" || file("remote.url")},
		{"aws_kms", w.AWSKMS != AWSKMS{}},
		{"gcp_kms", w.GCPKMS != GCPKMS{}},
	} {
		if place.said {
			given = append(given, place.key)
		}
	}
	return given
}

func (l *loader) checkLanes(path string, lanes []Lane) {
	first := map[string]int{}
	for i, lane := range lanes {
		at := index(path, i)
		if len(l.keys(at, lane)) == 0 {
			l.wrong(at, "needs a key: private_key, private_key_file, keystore, remote, aws_kms or gcp_kms")
			continue
		}
		l.checkWallet(at, lane)
		if lane.PrivateKey == "" {
			continue
		}
		// What others have as a key is known once they have told their addresses.
		key := normalKey(lane.PrivateKey)
		if j, seen := first[key]; seen {
			l.wrong(join(at, "private_key"), "is the key of %s too", index(path, j))
		} else {
			first[key] = i
		}
	}
}

// checkWallet looks at the one place that a wallet's key is in.
func (l *loader) checkWallet(path string, w Lane) {
	given := l.keys(path, w)
	if len(given) > 1 {
		l.wrong(path, "has more than one key: %s", strings.Join(given, " and "))
		return
	}
	at := join(path, given[0])
	switch given[0] {
	case "private_key":
		l.checkKey(at, normalKey(w.PrivateKey))
	case "keystore":
		l.needs(join(at, "file"), w.Keystore.File)
		l.needsSecret(join(at, "password"), w.Keystore.Password)
	case "remote":
		l.needsSecret(join(at, "url"), w.Remote.URL)
		l.checkURL(join(at, "url"), w.Remote.URL, "http", "https")
		l.needs(join(at, "address"), w.Remote.Address)
		l.checkWalletAddress(join(at, "address"), w.Remote.Address)
		if !slices.Contains([]string{"eth_signTransaction", "account_signTransaction"}, w.Remote.Method) {
			l.wrong(join(at, "method"), "must be eth_signTransaction or account_signTransaction")
		}
	case "aws_kms":
		l.needs(join(at, "key_id"), w.AWSKMS.KeyID)
		l.checkURL(join(at, "endpoint"), Secret(w.AWSKMS.Endpoint), "http", "https")
		l.checkWalletAddress(join(at, "address"), w.AWSKMS.Address)
	case "gcp_kms":
		l.needs(join(at, "key_version"), w.GCPKMS.KeyVersion)
		if w.GCPKMS.KeyVersion != "" && !keyVersion.MatchString(w.GCPKMS.KeyVersion) {
			l.wrong(join(at, "key_version"), "must be projects/…/locations/…/keyRings/…/cryptoKeys/…/cryptoKeyVersions/…")
		}
		l.checkURL(join(at, "endpoint"), Secret(w.GCPKMS.Endpoint), "http", "https")
		l.checkWalletAddress(join(at, "address"), w.GCPKMS.Address)
	}
}

var keyVersion = regexp.MustCompile(`^projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+/cryptoKeyVersions/[0-9]+$`)

func (l *loader) needs(path, value string) {
	if value == "" {
		l.wrong(path, "is required")
	}
}

func (l *loader) needsSecret(path string, value Secret) {
	if value == "" {
		l.wrong(path, "is required: set it, %s%s or %s", path[strings.LastIndex(path, ".")+1:], fileSuffix, envName(path))
	}
}

// checkWalletAddress looks at an address that may be left out.
func (l *loader) checkWalletAddress(path, address string) {
	if address == "" {
		return
	}
	if _, problem := parseAddress(address); problem != "" {
		l.wrong(path, "%s", problem)
	}
}

// curveOrder is the order of secp256k1. Keys are below it.
const curveOrder = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"

var hexKey = regexp.MustCompile(`^[0-9a-f]{64}$`)

func normalKey(s Secret) string { return strings.TrimPrefix(strings.ToLower(s.Reveal()), "0x") }

func (l *loader) checkKey(path, key string) {
	switch {
	case !hexKey.MatchString(key):
		l.wrong(path, "must be 32 bytes in hex")
	case strings.Trim(key, "0") == "" || key >= curveOrder:
		l.wrong(path, "is outside the range of private keys")
	}
}
