package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/signer"
	"facilitator/internal/x402"
)

const (
	rawKey     = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
	rawAddress = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
	otherKey   = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"
)

// command runs a command line, and fails the test if it prints a secret.
func keysCommand(t *testing.T, in string, environ []string, args ...string) (code int, out, err string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, console{environ: environ, in: strings.NewReader(in), out: &stdout, err: &stderr})
	for _, secret := range []string{rawKey, otherKey, "correct horse"} {
		if strings.Contains(stdout.String()+stderr.String(), secret) {
			t.Errorf("%v prints a secret", args)
		}
	}
	return code, stdout.String(), stderr.String()
}

func put(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestANewKeyIsMadeIntoAFile(t *testing.T) {
	t.Parallel()
	password, file := put(t, "password", "correct horse\n"), filepath.Join(t.TempDir(), "lane")
	code, out, text := keysCommand(t, "", nil, "keys", "new", "-out", file, "-password-file", password, "-light")
	key, err := signer.ReadKeystore(file, "correct horse")
	if code != 0 || err != nil {
		t.Fatalf("%d: %s, %v", code, text, err)
	}
	if want := crypto.PubkeyToAddress(key.PublicKey).Hex() + "\n"; out != want {
		t.Errorf("it says %q, the key is of %s", out, want)
	}
	if strings.Contains(out+text, hexutil.Encode(crypto.FromECDSA(key))[2:]) {
		t.Error("it prints the key")
	}
	before, _ := os.ReadFile(file)
	if code, _, text := keysCommand(t, "", nil, "keys", "new", "-out", file, "-password-file", password, "-light"); code != 1 || !strings.Contains(text, "there already") {
		t.Errorf("a second time: %d: %s", code, text)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestARawKeyIsImported(t *testing.T) {
	t.Parallel()
	password := put(t, "password", "correct horse")
	for name, row := range map[string]struct {
		in   string
		from []string
	}{
		"from standard input": {"0x" + rawKey + "\n", nil},
		"from a file":         {"", []string{"-from", put(t, "raw", rawKey)}},
	} {
		file := filepath.Join(t.TempDir(), "lane")
		code, out, text := keysCommand(t, row.in, nil, append([]string{"keys", "import", "-out", file, "-password-file", password, "-light"}, row.from...)...)
		if code != 0 || out != rawAddress+"\n" {
			t.Fatalf("%s: %d, %q: %s", name, code, out, text)
		}
		for _, more := range [][]string{nil, {"-password-file", password}} {
			code, out, text := keysCommand(t, "", nil, append([]string{"keys", "address", "-keystore", file}, more...)...)
			if code != 0 || out != rawAddress+"\n" {
				t.Errorf("%s: address: %d, %q: %s", name, code, out, text)
			}
		}
		wrong := put(t, "wrong", "another")
		if code, _, text := keysCommand(t, "", nil, "keys", "address", "-keystore", file, "-password-file", wrong); code != 1 || !strings.Contains(text, signer.ErrPassword.Error()) {
			t.Errorf("%s: another password: %d: %s", name, code, text)
		}
	}
}

func TestWhatIsNoKeyIsNotImported(t *testing.T) {
	t.Parallel()
	password, empty := put(t, "password", "correct horse"), put(t, "empty", "\n")
	file := filepath.Join(t.TempDir(), "lane")
	for name, row := range map[string]struct {
		in   string
		args []string
		code int
	}{
		"half a key":        {rawKey[:32], []string{"-out", file, "-password-file", password}, 1},
		"two keys":          {rawKey + "\n" + otherKey, []string{"-out", file, "-password-file", password}, 1},
		"nothing":           {"", []string{"-out", file, "-password-file", password}, 1},
		"no password":       {rawKey, []string{"-out", file}, 1},
		"an empty password": {rawKey, []string{"-out", file, "-password-file", empty}, 1},
		"no place":          {rawKey, []string{"-password-file", password}, 1},
		"the key as a flag": {"", []string{"-out", file, "-password-file", password, "-key", rawKey}, 2},
	} {
		code, out, _ := keysCommand(t, row.in, nil, append([]string{"keys", "import"}, row.args...)...)
		if code != row.code || out != "" {
			t.Errorf("%s: %d, %q", name, code, out)
		}
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a file was left: %v", err)
	}
	for _, args := range [][]string{{"keys"}, {"keys", "export"}} {
		if code, _, text := keysCommand(t, "", nil, args...); code != 2 || !strings.Contains(text, "import") {
			t.Errorf("%v: %d: %s", args, code, text)
		}
	}
}

// TestKeysAreChecked: a line for each wallet, whatever became of the others.
func TestKeysAreChecked(t *testing.T) {
	t.Parallel()
	local, err := evm.NewKeySigner(otherKey, 8453)
	if err != nil {
		t.Fatal(err)
	}
	var probed evm.Unsigned
	honest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Params []struct {
				To                string
				Gas, Nonce        hexutil.Uint64
				MaxFeePerGas, Tip hexutil.Uint64
				Value             hexutil.Uint64
				Data              hexutil.Bytes
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Params) != 1 {
			t.Errorf("%+v, %v", in, err)
			return
		}
		p := in.Params[0]
		to, err := chain.ParseAddress(p.To)
		if err != nil {
			t.Error(err)
		}
		probed = evm.Unsigned{
			Call: chain.Call{To: to, Data: p.Data}, Value: x402.NewUint256(uint64(p.Value)), WalletNonce: uint64(p.Nonce), GasLimit: uint64(p.Gas),
			Fees: chain.Fees{FeeCap: uint64(p.MaxFeePerGas)},
		}
		signed, err := local.Sign(r.Context(), probed)
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": 1, "result": hexutil.Encode(signed.Raw)})
	}))
	t.Cleanup(honest.Close)

	password, store := put(t, "password", "correct horse"), filepath.Join(t.TempDir(), "lane")
	if code, _, text := keysCommand(t, rawKey, nil, "keys", "import", "-out", store, "-password-file", password, "-light"); code != 0 {
		t.Fatal(text)
	}
	configured := func(lanes string) string {
		return put(t, "facilitator.yaml", `
database: {url: "postgres://h/d"}
chains:
  eip155:8453:
    rpc_url: https://rpc.example
    lanes: [`+lanes+`]
    treasury: {remote: {url: "`+honest.URL+`", address: "`+local.Address().String()+`"}}
`)
	}
	keystore := `{keystore: {file: ` + store + `, password_file: ` + password + `}}`
	file := configured(keystore)
	code, out, text := keysCommand(t, "", nil, "keys", "check", "-config", file)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 2 ||
		!strings.HasPrefix(lines[0], "chains.eip155:8453.lanes[0]  "+rawAddress+"  local   signs, in ") ||
		!strings.HasPrefix(lines[1], "chains.eip155:8453.treasury  "+local.Address().String()+"  remote  signs, in ") {
		t.Errorf("%d: %s\n%s", code, text, out)
	}
	if probed.WalletNonce+1 != 0 { // what was signed must not be worth anything
		t.Errorf("it had %+v signed", probed)
	}
	code, out, _ = keysCommand(t, "", []string{"FACILITATOR_CONFIG=" + file}, "keys", "address")
	if code != 0 || !strings.Contains(out, rawAddress) || !strings.Contains(out, local.Address().String()) {
		t.Errorf("address: %d: %s", code, out)
	}

	file = configured(keystore + `, {private_key: "` + rawKey + `"}, {keystore: {file: ` + store + `, password: "another"}},
      {remote: {url: "http://127.0.0.1:1/correct horse", address: "0x90F79bf6EB2c4f870365E785982E1f101E93b906"}}`)
	code, out, text = keysCommand(t, "", nil, "keys", "check", "-config", file)
	lines = strings.Split(strings.TrimSpace(out), "\n")
	if code != 1 || len(lines) != 5 || !strings.Contains(text, "3 wallets can't sign") {
		t.Fatalf("%d: %s\n%s", code, text, out)
	}
	for i, want := range []string{"signs", "its wallet is that of lanes[0] too", "keystore.password: the password is not", "connection refused", "signs"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d: %s", i, lines[i])
		}
	}
}
