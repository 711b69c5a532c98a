package signer

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ethereum/go-ethereum/accounts/keystore"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/uuid"

	"facilitator/internal/chain"
)

// ErrPassword says that a keystore file was not made with this password.
var ErrPassword = errors.New("the password is not the one that the file was encrypted with")

// maxKeystoreBytes is far above any keystore file.
const maxKeystoreBytes = 64 << 10

// Strength is what it costs to try one password of a keystore file.
type Strength struct{ n, p int }

// Strong takes about a second and 256 MB to open.
func Strong() Strength { return Strength{keystore.StandardScryptN, keystore.StandardScryptP} }

// Light takes a tenth of a second and 4 MB, for passwords that nobody can guess.
func Light() Strength { return Strength{keystore.LightScryptN, keystore.LightScryptP} }

// ReadKeystore decrypts a keystore file (Web3 Secret Storage, version 3).
func ReadKeystore(name, password string) (*ecdsa.PrivateKey, error) {
	text, err := readBounded(name)
	if err != nil {
		return nil, err
	}
	// The library trusts what the file says of itself, and panics on some of it.
	if err := checkForm(text); err != nil {
		return nil, err
	}
	key, err := keystore.DecryptKey(text, password)
	switch {
	case errors.Is(err, keystore.ErrDecrypt):
		return nil, ErrPassword
	case err != nil:
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	// Nor does it ask whether the number is a key.
	checked, err := crypto.ToECDSA(crypto.FromECDSA(key.PrivateKey))
	if err != nil {
		return nil, errNoKeystore
	}
	return checked, nil
}

// KeystoreAddress is whose key a file says that it holds: nothing proves it but
// the password.
func KeystoreAddress(name string) (chain.Address, error) {
	text, err := readBounded(name)
	if err != nil {
		return chain.Address{}, err
	}
	var file struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return chain.Address{}, errNoKeystore
	}
	if len(file.Address) == 40 {
		file.Address = "0x" + file.Address
	}
	address, err := chain.ParseAddress(file.Address)
	if err != nil {
		return chain.Address{}, errors.New("it does not say whose key it holds: give its password")
	}
	return address, nil
}

var errNoKeystore = errors.New("it is no keystore file of version 3")

// checkForm refuses what is no keystore file, and one that would take a machine's
// memory to open.
func checkForm(text []byte) error {
	var file struct {
		Version int `json:"version"`
		Crypto  struct {
			Cipher struct {
				IV string `json:"iv"`
			} `json:"cipherparams"`
			KDF    string `json:"kdf"`
			Params struct {
				N     int    `json:"n"`
				R     int    `json:"r"`
				P     int    `json:"p"`
				C     int    `json:"c"`
				DKLen int    `json:"dklen"`
				Salt  string `json:"salt"`
				PRF   string `json:"prf"`
			} `json:"kdfparams"`
		} `json:"crypto"`
	}
	if err := json.Unmarshal(text, &file); err != nil || file.Version != 3 || len(file.Crypto.Cipher.IV) != 32 ||
		file.Crypto.Params.Salt == "" || file.Crypto.Params.DKLen != 32 {
		return errNoKeystore
	}
	const most = 1 << 20 // times 128 r bytes: 1 GB
	switch k := file.Crypto.Params; file.Crypto.KDF {
	case "scrypt":
		if k.N < 2 || k.R < 1 || k.P < 1 || k.N > most || k.R > 8 || k.P > 16 {
			return errors.New("its scrypt parameters are out of bounds")
		}
	case "pbkdf2":
		if k.PRF != "hmac-sha256" || k.C < 1 || k.C > 10*most {
			return errors.New("its pbkdf2 parameters are out of bounds")
		}
	default:
		return errNoKeystore
	}
	return nil
}

// NewKey makes a private key.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := crypto.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

// WriteKeystore encrypts a key into a new file that only its owner can read, and
// reads it back before it says so. A file that is there is never touched.
func WriteKeystore(name string, key *ecdsa.PrivateKey, password string, s Strength) (chain.Address, error) {
	address := crypto.PubkeyToAddress(key.PublicKey)
	text, err := keystore.EncryptKey(&keystore.Key{Id: uuid.New(), Address: address, PrivateKey: key}, password, s.n, s.p)
	if err != nil {
		return chain.Address{}, fmt.Errorf("encrypt: %w", err)
	}
	if err := writeNew(name, append(text, '\n')); err != nil {
		return chain.Address{}, err
	}
	again, err := ReadKeystore(name, password)
	if err != nil || !again.Equal(key) {
		return chain.Address{}, fmt.Errorf("read %s back: it is not what was written: %w", name, err)
	}
	return chain.Address(address), nil
}

// writeNew writes a file and its place in its directory to the disk.
func writeNew(name string, text []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: the operator names the file
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already and is left as it is", name)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name)) // nothing that could be taken for a key
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeystoreBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeystoreBytes {
		return nil, errNoKeystore
	}
	return text, nil
}
