package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"facilitator/internal/chain"
	"facilitator/internal/client"
	"facilitator/internal/config"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// clientsCommand is one of "facilitator clients".
type clientsCommand struct {
	flags func(f *flag.FlagSet)
	run   func(ctx context.Context, s *store.Store, c console) error
}

// clients changes the clients of a record. Replicas notice within seconds.
func clients(ctx context.Context, args []string, c console) error {
	commands := map[string]clientsCommand{
		"create": createClient(), "list": listClients(), "rotate": rotateClient(), "disable": disableClient(true), "enable": disableClient(false),
	}
	name := "create|list|rotate|disable|enable"
	var command clientsCommand
	known := len(args) > 0
	if known {
		command, known = commands[args[0]]
	}
	if known {
		name = args[0]
	}
	flags, file := newFlags("clients "+name, c)
	if !known {
		flags.Usage()
		return errUsage
	}
	command.flags(flags)
	if err := parse(flags, args[1:]); err != nil {
		return err
	}
	cfg, err := config.Load(*file, c.environ)
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, cfg.Database.URL.Reveal(), store.Options{MaxConnections: 2, Timeout: cfg.Database.Timeout})
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer s.Close()
	return command.run(ctx, s, c)
}

var clientName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func nameFlag(f *flag.FlagSet) *string {
	return f.String("name", "", "`NAME` of the client: letters, digits and . _ -")
}

func checkName(name string) error {
	if !clientName.MatchString(name) {
		return errors.New("-name must be 1 to 64 letters, digits and . _ -, and begin with a letter or digit")
	}
	return nil
}

// keyFlags say what a new key is: made here, or the public half of one that the
// client has.
type keyFlags struct{ public, id *string }

func newKeyFlags(f *flag.FlagSet) keyFlags {
	return keyFlags{
		public: f.String("public-key", "", "PEM `FILE` with the client's public key (P-256 or Ed25519), for one that signs tokens (JWT); default: a secret is made and shown"),
		id:     f.String("key-id", "", "`ID` of that key: the kid of the client's tokens"),
	}
}

// make returns a key of a client, and its text where it is a secret.
func (k keyFlags) make(id string) (text string, _ client.Key, _ error) {
	if *k.public == "" {
		if *k.id != "" {
			return "", client.Key{}, errors.New("-key-id is of a -public-key")
		}
		return client.NewKey(id)
	}
	if *k.id == "" || len(*k.id) > 256 {
		return "", client.Key{}, errors.New("-key-id must be the kid of the client's tokens, of at most 256 characters")
	}
	pem, err := os.ReadFile(*k.public)
	if err != nil {
		return "", client.Key{}, fmt.Errorf("-public-key: %w", err)
	}
	kind, material, err := client.ParsePublicKey(pem)
	if err != nil {
		return "", client.Key{}, fmt.Errorf("-public-key %w", err)
	}
	return "", client.Key{ID: *k.id, Client: id, Kind: kind, Material: material}, nil
}

// tell prints a key, for the only time.
func tell(w io.Writer, text string, k client.Key) {
	if text == "" {
		fmt.Fprintf(w, "key %s (%s) is registered; its tokens must be made for one of clients.token_hosts\n", k.ID, k.Kind)
		return
	}
	fmt.Fprintf(w, "key (shown once, keep it): %s\n", text)
}

func createClient() clientsCommand {
	var name, scopes, networks, assets, payTo, gas *string
	var rate, burst *int
	var key keyFlags
	return clientsCommand{
		flags: func(f *flag.FlagSet) {
			name, key = nameFlag(f), newKeyFlags(f)
			scopes = f.String("scopes", "verify,settle,read", "what it may do, with commas between: verify, settle, read")
			networks = f.String("networks", "", "networks it may use, with commas between (default: all)")
			assets = f.String("assets", "", "token contracts it may use, with commas between (default: all that are accepted)")
			payTo = f.String("pay-to", "", "payees it may have paid, with commas between (default: all)")
			rate = f.Int("rate", 0, "requests a second, by all replicas (default: any number)")
			burst = f.Int("burst", 0, "how many of these may come at once (default: as many as in a second)")
			gas = f.String("gas-per-day", "0", "what its payments' gas may cost on a day (UTC), in `WEI` (0: no limit)")
		},
		run: func(ctx context.Context, s *store.Store, c console) error {
			made := client.Client{ID: uuid.NewString(), Name: *name, Rate: *rate, Burst: *burst}
			if err := checkName(*name); err != nil {
				return err
			}
			for _, text := range list(*scopes) {
				if !slices.Contains(client.Scopes(), client.Scope(text)) {
					return fmt.Errorf("-scopes: %q is none of verify, settle, read", text)
				}
				made.Scopes = append(made.Scopes, client.Scope(text))
			}
			if len(made.Scopes) == 0 {
				return errors.New("-scopes must name one at least")
			}
			for _, text := range list(*networks) {
				made.Networks = append(made.Networks, x402.Network(text))
			}
			var err error
			if made.Assets, err = addressList("-assets", *assets); err != nil {
				return err
			}
			if made.PayTo, err = addressList("-pay-to", *payTo); err != nil {
				return err
			}
			var ok bool
			if made.GasPerDay, ok = new(big.Int).SetString(*gas, 10); !ok || made.GasPerDay.Sign() < 0 || made.GasPerDay.BitLen() > 128 {
				return errors.New("-gas-per-day must be a number of wei")
			}
			if *rate < 0 || *burst < 0 {
				return errors.New("-rate and -burst must not be negative")
			}
			text, k, err := key.make(made.ID)
			if err != nil {
				return err
			}
			if err := s.AddClient(ctx, &made, &k); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "client %s (%s)\n", made.Name, made.ID)
			tell(c.out, text, k)
			return nil
		},
	}
}

func rotateClient() clientsCommand {
	var name *string
	var key keyFlags
	var overlap *time.Duration
	return clientsCommand{
		flags: func(f *flag.FlagSet) {
			name, key = nameFlag(f), newKeyFlags(f)
			overlap = f.Duration("overlap", 24*time.Hour, "how long the keys it has still work")
		},
		run: func(ctx context.Context, s *store.Store, c console) error {
			if err := checkName(*name); err != nil {
				return err
			}
			if *overlap < 0 {
				return errors.New("-overlap must not be negative")
			}
			text, k, err := key.make("")
			if err != nil {
				return err
			}
			if err := s.RotateKey(ctx, *name, &k, *overlap); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "client %s: its other keys end in %s\n", *name, *overlap)
			tell(c.out, text, k)
			return nil
		},
	}
}

func disableClient(disable bool) clientsCommand {
	var name *string
	return clientsCommand{
		flags: func(f *flag.FlagSet) { name = nameFlag(f) },
		run: func(ctx context.Context, s *store.Store, c console) error {
			if err := s.DisableClient(ctx, *name, disable); err != nil {
				return err
			}
			state := "enabled"
			if disable {
				state = "disabled"
			}
			fmt.Fprintf(c.out, "client %s is %s\n", *name, state)
			return nil
		},
	}
}

// clientLine is a client as "clients list -json" shows it.
type clientLine struct {
	ID          string          `json:"id"`
	Name        string          `json:"name"`
	Scopes      []client.Scope  `json:"scopes"`
	Networks    []x402.Network  `json:"networks,omitempty"`
	Assets      []chain.Address `json:"assets,omitempty"`
	PayTo       []chain.Address `json:"payTo,omitempty"`
	Rate        int             `json:"rate"`
	Burst       int             `json:"burst"`
	GasPerDay   string          `json:"gasPerDayWei"`
	CreatedAt   time.Time       `json:"createdAt"`
	DisabledAt  *time.Time      `json:"disabledAt,omitempty"`
	SpentToday  string          `json:"gasSpentTodayWei"`
	Keys        []keyLine       `json:"keys"`
	description string
}

type keyLine struct {
	ID        string         `json:"id"`
	Kind      client.KeyKind `json:"kind"`
	CreatedAt time.Time      `json:"createdAt"`
	ExpiresAt *time.Time     `json:"expiresAt,omitempty"`
}

func listClients() clientsCommand {
	var asJSON *bool
	return clientsCommand{
		flags: func(f *flag.FlagSet) { asJSON = f.Bool("json", false, "print JSON") },
		run: func(ctx context.Context, s *store.Store, c console) error {
			lines, err := clientLines(ctx, s)
			if err != nil {
				return err
			}
			if *asJSON {
				encoder := json.NewEncoder(c.out)
				encoder.SetIndent("", "  ")
				return encoder.Encode(lines)
			}
			w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tSCOPES\tLIMITS\tGAS TODAY (WEI)\tKEYS")
			for _, l := range lines {
				state := "enabled"
				if l.DisabledAt != nil {
					state = "disabled"
				}
				keys := make([]string, len(l.Keys))
				for i, k := range l.Keys {
					keys[i] = k.ID
					if k.ExpiresAt != nil {
						keys[i] += " until " + k.ExpiresAt.Format(time.RFC3339)
					}
				}
				scopes := make([]string, len(l.Scopes))
				for i, scope := range l.Scopes {
					scopes[i] = string(scope)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, state, strings.Join(scopes, ","), l.description, l.SpentToday, strings.Join(keys, "; "))
			}
			return w.Flush()
		},
	}
}

func clientLines(ctx context.Context, s *store.Store) ([]clientLine, error) {
	all, keys, _, _, err := s.Clients(ctx, "")
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(all))
	for i := range all {
		ids[i] = all[i].ID
	}
	spent, err := s.ClientSpending(ctx, ids)
	if err != nil {
		return nil, err
	}
	lines := make([]clientLine, len(all))
	for i := range all {
		cl := &all[i]
		l := clientLine{
			ID: cl.ID, Name: cl.Name, Scopes: cl.Scopes, Networks: cl.Networks, Assets: cl.Assets, PayTo: cl.PayTo,
			Rate: cl.Rate, Burst: cl.Burst, GasPerDay: cl.GasPerDay.String(), CreatedAt: cl.CreatedAt.UTC(), SpentToday: "0", Keys: []keyLine{},
			description: limitsOf(cl),
		}
		if wei := spent[cl.ID].Today; wei != nil {
			l.SpentToday = wei.String()
		}
		if !cl.DisabledAt.IsZero() {
			at := cl.DisabledAt.UTC()
			l.DisabledAt = &at
		}
		for _, k := range keys {
			if k.Client != cl.ID {
				continue
			}
			line := keyLine{ID: k.ID, Kind: k.Kind, CreatedAt: k.CreatedAt.UTC()}
			if !k.ExpiresAt.IsZero() {
				at := k.ExpiresAt.UTC()
				line.ExpiresAt = &at
			}
			l.Keys = append(l.Keys, line)
		}
		lines[i] = l
	}
	return lines, nil
}

// limitsOf says what a client is bound to, in a few words.
func limitsOf(c *client.Client) string {
	var parts []string
	for _, list := range []struct {
		n    int
		what string
	}{{len(c.Networks), "networks"}, {len(c.Assets), "assets"}, {len(c.PayTo), "payees"}} {
		if list.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", list.n, list.what))
		}
	}
	if c.Rate > 0 {
		parts = append(parts, fmt.Sprintf("%d/s", c.Rate))
	}
	if c.GasPerDay.Sign() > 0 {
		parts = append(parts, c.GasPerDay.String()+" wei/day")
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func list(text string) (items []string) {
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func addressList(what, text string) ([]chain.Address, error) {
	var addresses []chain.Address
	for _, item := range list(text) {
		a, err := chain.ParseAddress(item)
		if err != nil {
			return nil, fmt.Errorf("%s: %s %w", what, item, err)
		}
		addresses = append(addresses, a)
	}
	return addresses, nil
}
