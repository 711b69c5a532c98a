package config

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

const (
	walletText  = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
	keyVersion0 = "projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
)

// TestAWalletHasItsKeyInOnePlace: a lane and a treasury, with a key in each of the
// places, and what can be wrong with it.
func TestAWalletHasItsKeyInOnePlace(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ key, path, text string }{
		{"keystore: {file: /k, password: " + password + "}", "", ""},
		{"remote: {url: 'https://u:" + password + "@signer.example', address: '" + walletText + "'}", "", ""},
		{"remote: {url: 'http://signer.example', address: '" + walletText + "', method: account_signTransaction}", "", ""},
		{"aws_kms: {key_id: alias/lane, region: eu-central-1, endpoint: 'http://localhost:4566', address: '" + walletText + "'}", "", ""},
		{"aws_kms: {key_id: alias/lane}", "", ""},
		{"gcp_kms: {key_version: " + keyVersion0 + ", endpoint: 'https://kms.example'}", "", ""},
		{"keystore: {}, private_key: '" + keyB + "'", "", ""}, // a section that says nothing

		{"private_key: '" + keyB + "', keystore: {file: /k}", "", "has more than one key: private_key and keystore"},
		{"aws_kms: {region: x}, gcp_kms: {endpoint: x}, remote: {address: x}", "", "has more than one key: remote and aws_kms and gcp_kms"},
		{"private_key_file: /nowhere, remote: {url_file: /nowhere}", "", "has more than one key: private_key and remote"},
		{"keystore: {file: /k}", "keystore.password", "is required: set it, password_file or FACILITATOR_"},
		{"keystore: {password: " + password + "}", "keystore.file", "is required"},
		{"remote: {address: '" + walletText + "'}", "remote.url", "is required: set it, url_file or FACILITATOR_"},
		{"remote: {url: 'ftp://" + password + "', address: '" + walletText + "'}", "remote.url", "must begin with http:// or https://"},
		{"remote: {url: 'http://s'}", "remote.address", "is required"},
		{"remote: {url: 'http://s', address: '" + strings.ToUpper(walletText[2:]) + "'}", "remote.address", "must be an address: 0x and 40 hex digits"},
		{"remote: {url: 'http://s', address: '" + strings.Replace(walletText, "C51", "c51", 1) + "'}", "remote.address", "has a wrong checksum (EIP-55): look for a typing error"},
		{"remote: {url: 'http://s', address: '" + walletText + "', method: eth_sign}", "remote.method", "must be eth_signTransaction or account_signTransaction"},
		{"aws_kms: {region: x}", "aws_kms.key_id", "is required"},
		{"aws_kms: {key_id: x, endpoint: x}", "aws_kms.endpoint", "must begin with http:// or https://"},
		{"aws_kms: {key_id: x, address: x}", "aws_kms.address", "must be an address: 0x and 40 hex digits"},
		{"gcp_kms: {endpoint: 'http://h'}", "gcp_kms.key_version", "is required"},
		{"gcp_kms: {key_version: projects/p}", "gcp_kms.key_version", "must be projects/…/locations/…/keyRings/…/cryptoKeys/…/cryptoKeyVersions/…"},
		{"gcp_kms: {key_version: " + keyVersion0 + ", endpoint: 'ws://h'}", "gcp_kms.endpoint", "must begin with http:// or https://"},
		{"gcp_kms: {key_version: " + keyVersion0 + ", address: '0x0000000000000000000000000000000000000000'}", "gcp_kms.address", "must not be the zero address"},
	} {
		for at, change := range map[string]string{"lanes[0]": "lanes: [{" + row.key + "}]", "treasury": "treasury: {" + row.key + "}"} {
			t.Run(at+" "+row.key, func(t *testing.T) {
				t.Parallel()
				_, err := Load("", nil, []byte(valid), []byte("chains: {eip155:8453: {"+change+"}}"))
				path := "chains.eip155:8453." + at
				if row.path != "" {
					path += "." + row.path
				}
				problems, _ := errors.AsType[Problems](err)
				var at []Problem
				for _, p := range problems {
					if !strings.HasPrefix(p.Text, "cannot be read") {
						at = append(at, p)
					}
				}
				switch {
				case row.text == "":
					if err != nil {
						t.Error(err)
					}
				case len(at) != 1 || at[0].Path != path || !strings.HasPrefix(at[0].Text, row.text):
					t.Errorf("%v, want one problem: %s: %s", err, path, row.text)
				case strings.Contains(err.Error(), password):
					t.Errorf("the error shows a secret: %v", err)
				}
			})
		}
	}
}

func TestALaneComesFromTheEnvironment(t *testing.T) {
	t.Parallel()
	file := write(t, "password", "from a file\n")
	c := mustLoad(t, []string{
		"FACILITATOR_CHAINS_EIP155_8453_LANES_1_KEYSTORE_FILE=/keys/1", "FACILITATOR_CHAINS_EIP155_8453_LANES_1_KEYSTORE_PASSWORD_FILE=" + file,
		"FACILITATOR_CHAINS_EIP155_8453_TREASURY_AWS_KMS_KEY_ID=alias/treasury", "FACILITATOR_CHAINS_EIP155_8453_SIGN_TIMEOUT=1s",
	}, valid)
	base := c.Chains["eip155:8453"]
	if got := base.Lanes[1].Keystore; got.File != "/keys/1" || got.Password.Reveal() != "from a file" {
		t.Errorf("keystore %q", got.File)
	}
	if base.Treasury.Wallet().AWSKMS.KeyID != "alias/treasury" || base.SignTimeout != time.Second {
		t.Errorf("%+v", base.Treasury)
	}
}

func TestAKeyThatEverybodyCanReadIsRefused(t *testing.T) {
	t.Parallel()
	for mode, refused := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o440: false, 0o644: true, 0o444: true, 0o604: true} {
		file := write(t, "key", keyB)
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load("", nil, []byte(valid), []byte("chains: {eip155:8453: {lanes: [{private_key_file: '"+file+"'}]}}"))
		if !refused {
			if err != nil {
				t.Errorf("mode %o: %v", mode, err)
			}
			continue
		}
		wantProblems(t, err, "chains.eip155:8453.lanes[0].private_key: cannot be read from "+file+
			": everybody on this machine can read it, and whoever does has the wallet: chmod 600 it, or 640 (overlay 2:1)")
		// Only keys: other secrets can be changed, and some systems give no choice.
		if _, err := Load("", []string{"FACILITATOR_CHAINS_EIP155_8453_RPC_URL_FILE=" + file}, []byte(valid)); err == nil || strings.Contains(err.Error(), "everybody") {
			t.Errorf("mode %o of a URL: %v", mode, err)
		}
	}
}
