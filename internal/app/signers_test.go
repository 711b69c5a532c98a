package app

import (
	"path/filepath"
	"strings"
	"testing"

	"facilitator/internal/chain/evm"
	"facilitator/internal/config"
	"facilitator/internal/signer"
)

const laneKey = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"

// TestSignersThatCantBeOpenedNameTheirSetting: also two of one wallet, in places
// of different kinds, of which the configuration alone can't know.
func TestSignersThatCantBeOpenedNameTheirSetting(t *testing.T) {
	t.Parallel()
	key, err := evm.ParseKey(laneKey)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "lane")
	address, err := signer.WriteKeystore(file, key, "password", signer.Light())
	if err != nil {
		t.Fatal(err)
	}
	raw := config.Lane{PrivateKey: laneKey}
	keystore := config.Lane{Keystore: config.Keystore{File: file, Password: "password"}}
	remote := config.Lane{Remote: config.RemoteSigner{URL: "http://127.0.0.1:1", Address: address.String(), Method: "eth_signTransaction"}}
	for name, row := range map[string]struct {
		cfg  config.Chain
		want string
	}{
		"two lanes": {config.Chain{Lanes: []config.Lane{keystore, raw}}, "lanes[1]: its wallet " + address.String() + " is that of lanes[0] too"},
		"lane and treasury": {
			config.Chain{Lanes: []config.Lane{raw}, Treasury: config.Treasury{Remote: remote.Remote}},
			"treasury: its wallet " + address.String() + " is that of lanes[0] too",
		},
		"another password": {
			config.Chain{Lanes: []config.Lane{{Keystore: config.Keystore{File: file, Password: "passwort"}}}},
			"lanes[0].keystore.password: " + signer.ErrPassword.Error(),
		},
		"no file": {
			config.Chain{Lanes: []config.Lane{{Keystore: config.Keystore{File: filepath.Join(t.TempDir(), "none")}}}},
			"lanes[0].keystore.file: ",
		},
		"a KMS that is away": {
			config.Chain{Lanes: []config.Lane{{GCPKMS: config.GCPKMS{KeyVersion: "projects/p", Endpoint: "http://127.0.0.1:1"}}}},
			"lanes[0].gcp_kms: read the public key: ",
		},
		"a good one": {config.Chain{Lanes: []config.Lane{keystore}}, ""},
	} {
		all, err := wireSigners(t.Context(), &row.cfg, 8453)
		all.close()
		switch {
		case row.want == "" && (err != nil || len(all.lanes) != 1 || all.lanes[0].Address() != address || all.treasury != nil):
			t.Errorf("%s: %v", name, err)
		case row.want != "" && (err == nil || !strings.HasPrefix(err.Error(), row.want)):
			t.Errorf("%s: %v, want %s", name, err, row.want)
		case err != nil && (strings.Contains(err.Error(), laneKey) || strings.Contains(err.Error(), "passwort")):
			t.Errorf("%s: a secret: %v", name, err)
		}
	}
}
