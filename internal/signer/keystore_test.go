package signer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
)

func TestAKeystoreFileKeepsAKey(t *testing.T) {
	t.Parallel()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "lane")
	address, err := WriteKeystore(file, key, "correct horse", Light())
	if err != nil || address != addressOf(key) {
		t.Fatalf("%s, %v", address, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(text), strings.TrimPrefix(hexutil.Encode(crypto.FromECDSA(key)), "0x")) {
		t.Errorf("the file tells the key: %v", err)
	}
	if got, err := ReadKeystore(file, "correct horse"); err != nil || !got.Equal(key) {
		t.Errorf("another key: %v", err)
	}
	if got, err := KeystoreAddress(file); err != nil || got != address {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := ReadKeystore(file, "correct hose"); !errors.Is(err, ErrPassword) || got != nil {
		t.Errorf("another password: %v", err)
	}
	if _, err := WriteKeystore(file, newKey(t), "x", Light()); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("overwritten: %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(text) {
		t.Errorf("the file was changed: %v", err)
	}
}

// vector is the file of the Web3 Secret Storage definition, as other programs
// write it.
const vector = `{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},` +
	`"ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2",` +
	`"kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256","salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},` +
	`"mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}`

func TestAnotherProgramsKeystoreFileIsRead(t *testing.T) {
	t.Parallel()
	file := write(t, vector)
	key, err := ReadKeystore(file, "testpassword")
	if err != nil || hexutil.Encode(crypto.FromECDSA(key)) != "0x7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d" {
		t.Fatalf("%v", err)
	}
	if _, err := KeystoreAddress(file); err == nil {
		t.Error("a file without an address has one")
	}
}

func TestAFileThatIsNoKeystoreIsAnError(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing": "", "a raw key": strings.Repeat("ab", 32), "an array": "[]", "empty": "{}",
		"version 1":        strings.Replace(vector, `"version":3`, `"version":1`, 1),
		"another cipher":   strings.Replace(vector, "aes-128-ctr", "aes-256-gcm", 1),
		"another KDF":      strings.Replace(vector, "pbkdf2", "argon2", 1),
		"another PRF":      strings.Replace(vector, "hmac-sha256", "hmac-md5", 1),
		"no salt":          strings.Replace(vector, `"salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"`, `"salt":7`, 1),
		"a short key":      strings.Replace(vector, `"dklen":32`, `"dklen":8`, 1),
		"years of work":    strings.Replace(vector, `"c":262144`, `"c":2000000000`, 1),
		"a short IV":       strings.Replace(vector, "6087dab2f9fdbbfaddc31a909735c1e6", "60", 1),
		"all the memory":   `{"version":3,"crypto":{"kdf":"scrypt","kdfparams":{"n":1073741824,"r":8,"p":1,"dklen":32,"salt":"ab"}}}`,
		"too long a text":  vector + strings.Repeat(" ", maxKeystoreBytes),
		"a changed cipher": strings.Replace(vector, "5318b4d5", "5318b4d6", 1),
	} {
		if key, err := ReadKeystore(write(t, text), "testpassword"); err == nil || key != nil {
			t.Errorf("%s is read", name)
		}
	}
	if _, err := ReadKeystore(filepath.Join(t.TempDir(), "none"), ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
