package main

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/app"
	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/config"
	"facilitator/internal/signer"
)

// keys makes keystore files and looks at the keys that are configured. Nothing of
// it ever prints a private key (I10).
func keys(ctx context.Context, args []string, c console) error {
	commands := map[string]func(context.Context, []string, console) error{
		"new": newKey, "import": importKey, "address": keyAddress, "check": checkKeys,
	}
	if len(args) > 0 {
		if command, ok := commands[args[0]]; ok {
			return command(ctx, args[1:], c)
		}
	}
	fmt.Fprint(c.err, `Usage of facilitator keys:
  new      make a key and encrypt it into a keystore file
  import   encrypt a raw private key into a keystore file
  address  print the address of a keystore file, or of every configured wallet
  check    have every configured wallet's signer sign what no chain can mine

"facilitator keys COMMAND -h" lists a command's flags.
`)
	return errUsage
}

// keystoreFlags are those of what writes a keystore file.
type keystoreFlags struct {
	out, passwordFile string
	light             bool
}

func (f *keystoreFlags) add(flags *flag.FlagSet) {
	flags.StringVar(&f.out, "out", "", "keystore `FILE` to write, which must not be there")
	flags.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the password to encrypt with")
	flags.BoolVar(&f.light, "light", false, "make it cheap to open: 4 MB and a tenth of a second, for a password of 128 random bits or more")
}

// write encrypts a key and prints whose it is.
func (f *keystoreFlags) write(c console, key *ecdsa.PrivateKey) error {
	if f.out == "" || f.passwordFile == "" {
		return errors.New("-out and -password-file are needed")
	}
	password, err := readLine(f.passwordFile)
	if err != nil {
		return fmt.Errorf("-password-file: %w", err)
	}
	strength := signer.Strong()
	if f.light {
		strength = signer.Light()
	}
	address, err := signer.WriteKeystore(f.out, key, password, strength)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.out, address)
	return err
}

func newKey(_ context.Context, args []string, c console) error {
	var f keystoreFlags
	flags := commandFlags("keys new", c)
	f.add(flags)
	if err := parse(flags, args); err != nil {
		return err
	}
	key, err := signer.NewKey()
	if err != nil {
		return err
	}
	return f.write(c, key)
}

func importKey(_ context.Context, args []string, c console) error {
	var f keystoreFlags
	flags := commandFlags("keys import", c)
	f.add(flags)
	from := flags.String("from", "-", "`FILE` with the private key, 32 bytes in hex; - is standard input")
	if err := parse(flags, args); err != nil {
		return err
	}
	read := func() (string, error) { return readLine(*from) }
	if *from == "-" {
		read = func() (string, error) { return firstLine(c.in) }
	}
	text, err := read()
	if err != nil {
		return fmt.Errorf("-from: %w", err)
	}
	key, err := evm.ParseKey(text)
	if err != nil {
		return fmt.Errorf("-from: %w", err)
	}
	return f.write(c, key)
}

func keyAddress(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("keys address", c)
	store := flags.String("keystore", "", "print that of a keystore `FILE` rather than the configured ones")
	passwordFile := flags.String("password-file", "", "`FILE` with the keystore's password; without it the address is what the file says")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *store != "" {
		address, err := addressOf(*store, *passwordFile)
		if err != nil {
			return fmt.Errorf("%s: %w", *store, err)
		}
		_, err = fmt.Fprintln(c.out, address)
		return err
	}
	return report(ctx, *file, c, false)
}

// addressOf is proven where there is a password.
func addressOf(store, passwordFile string) (chain.Address, error) {
	if passwordFile == "" {
		return signer.KeystoreAddress(store)
	}
	password, err := readLine(passwordFile)
	if err != nil {
		return chain.Address{}, fmt.Errorf("-password-file: %w", err)
	}
	key, err := signer.ReadKeystore(store, password)
	if err != nil {
		return chain.Address{}, err
	}
	return chain.Address(crypto.PubkeyToAddress(key.PublicKey)), nil
}

func checkKeys(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("keys check", c)
	if err := parse(flags, args); err != nil {
		return err
	}
	return report(ctx, *file, c, true)
}

// report prints a line for each configured wallet, and fails if one of them has.
func report(ctx context.Context, file string, c console, sign bool) error {
	cfg, err := config.Load(file, c.environ)
	if err != nil {
		return err
	}
	lines := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	failed := 0
	for _, r := range app.CheckKeys(ctx, cfg, sign, time.Now) {
		address, kind, verdict := "-", "-", "ok"
		if r.Kind != "" {
			address, kind = r.Address.String(), r.Kind
		}
		switch {
		case r.Err != nil:
			failed++
			verdict = "FAILED: " + r.Err.Error()
		case sign:
			verdict = "signs, in " + r.Took.Round(100*time.Microsecond).String()
		}
		fmt.Fprintf(lines, "%s\t%s\t%s\t%s\n", r.Setting(), address, kind, verdict)
	}
	if err := lines.Flush(); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d wallets can't sign", failed)
	}
	return nil
}

// commandFlags is a flag set of a command without a configuration.
func commandFlags(name string, c console) *flag.FlagSet {
	flags := flag.NewFlagSet("facilitator "+name, flag.ContinueOnError)
	flags.SetOutput(c.err)
	return flags
}

// readLine is what a file holds, which must be one line that is not empty.
func readLine(name string) (string, error) {
	f, err := os.Open(name) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return "", err
	}
	defer f.Close()
	return firstLine(f)
}

func firstLine(r io.Reader) (string, error) {
	const most = 4096 // far above any key or password
	text, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return "", err
	}
	line := strings.TrimRight(string(text), "\r\n")
	if line == "" || len(text) > most || strings.ContainsAny(line, "\r\n") {
		return "", errors.New("must be one line, and not empty")
	}
	return line, nil
}
