package client

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
)

// refreshEvery is how long a key that was made or disabled may go unnoticed.
const refreshEvery = 2 * time.Second

// Source is the record of clients.
type Source interface {
	// Clients and all their keys. With the same stamp as before nothing has changed,
	// and nothing is returned.
	Clients(ctx context.Context, stamp string) (clients []Client, keys []Key, now string, changed bool, _ error)
}

// Directory knows every client and key in memory, so that a guess costs no look
// at the record, and callers are known while the record can't be reached.
type Directory struct {
	source Source
	now    func() time.Time
	log    *slog.Logger
	hosts  []string
	known  atomic.Pointer[snapshot]
}

type snapshot struct {
	stamp   string
	clients map[string]*Client
	keys    map[string]*holder
}

// holder is a key with its client.
type holder struct {
	Key
	client *Client
	public any // an *ecdsa.PublicKey or ed25519.PublicKey, of a key that signs
}

// NewDirectory reads the record once. Tokens must be made for one of the hosts, with
// or without a port.
func NewDirectory(ctx context.Context, source Source, hosts []string, now func() time.Time, log *slog.Logger) (*Directory, error) {
	d := &Directory{source: source, hosts: hosts, now: now, log: log}
	d.known.Store(&snapshot{})
	return d, d.Refresh(ctx)
}

// Refresh reads the record again if it has changed.
func (d *Directory) Refresh(ctx context.Context) error {
	clients, keys, stamp, changed, err := d.source.Clients(ctx, d.known.Load().stamp)
	if err != nil || !changed {
		return err
	}
	s := &snapshot{stamp: stamp, clients: make(map[string]*Client, len(clients)), keys: make(map[string]*holder, len(keys))}
	for i := range clients {
		s.clients[clients[i].ID] = &clients[i]
	}
	signing := false
	for _, k := range keys {
		h := &holder{Key: k, client: s.clients[k.Client]}
		if h.client == nil {
			continue
		}
		if k.Kind != KindSecret {
			if h.public, err = publicKey(k.Kind, k.Material); err != nil {
				d.log.WarnContext(ctx, "a client's public key is not usable", slog.String("key_id", k.ID), slog.Any("error", err))
				continue
			}
			signing = true
		}
		s.keys[k.ID] = h
	}
	if signing && len(d.hosts) == 0 {
		d.log.WarnContext(ctx, "no client's token is accepted: clients.token_hosts names no host")
	}
	d.known.Store(s)
	return nil
}

// Run refreshes until ctx ends.
func (d *Directory) Run(ctx context.Context) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := d.Refresh(ctx)
		if failed := err != nil && ctx.Err() == nil; failed != failing {
			failing = failed
			if failed {
				d.log.WarnContext(ctx, "clients can't be read, those known before are still known", slog.Any("error", err))
			}
		}
	}
}

// Call is what a caller is known by.
type Call struct {
	// Authorization is the header of that name.
	Authorization string
	// Method and Path of the request, which a JWT is made for.
	Method, Path string
}

// Identify returns the client that a call comes from; nil without a key. The
// error is a *Denial. Whether a key does not exist or is wrong is not told.
func (d *Directory) Identify(c Call) (*Client, error) {
	scheme, token, _ := strings.Cut(c.Authorization, " ")
	token = strings.TrimSpace(token)
	switch {
	case c.Authorization == "":
		return nil, nil //nolint:nilnil // nobody said who they are
	case !strings.EqualFold(scheme, "Bearer") || token == "":
		return nil, &Denial{Check: CheckKey, Text: "the Authorization header must be: Bearer and a key"}
	}
	known := d.known.Load()
	var h *holder
	if strings.Count(token, ".") == 2 {
		var err error
		if h, err = known.signer(token, c, d.hosts, d.now()); err != nil {
			return nil, err
		}
	} else if h = known.secret(token); h == nil {
		return nil, &Denial{Check: CheckKey, Text: "unknown key"}
	}
	switch {
	case !h.ExpiresAt.IsZero() && d.now().After(h.ExpiresAt):
		return nil, &Denial{Check: CheckExpired, Text: "this key has expired"}
	case !h.client.DisabledAt.IsZero():
		return nil, &Denial{Check: CheckDisabled, Text: "this client is disabled"}
	}
	return h.client, nil
}

// secret finds the key with that text. Comparing takes the same time however
// much of it is right.
func (s *snapshot) secret(text string) *holder {
	id, hash, err := parseKey(text)
	if err != nil {
		return nil
	}
	none := [sha256.Size]byte{}
	h, material := s.keys[id], none[:]
	if h != nil && h.Kind == KindSecret {
		material = h.Material
	}
	if subtle.ConstantTimeCompare(material, hash[:]) != 1 {
		return nil
	}
	return h
}
