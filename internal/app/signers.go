package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
	"facilitator/internal/config"
	"facilitator/internal/relayer"
	"facilitator/internal/signer"
	"facilitator/internal/x402"
)

// signers of one network.
type signers struct {
	lanes    []relayer.Signer
	treasury relayer.Signer // nil without one
	// closers are those with connections.
	closers []*signer.Wallet
}

func (s *signers) close() {
	for _, c := range s.closers {
		_ = c.Close() // nothing is left to save
	}
}

// openTimeout is how long a signer may take to say whose key it has.
const openTimeout = 15 * time.Second

// wireSigners opens all of a network's; no two may be of the same wallet, which is
// known only once each has told its address.
func wireSigners(ctx context.Context, cfg *config.Chain, chainID uint64) (*signers, error) {
	all := &signers{}
	first := map[chain.Address]string{}
	open := func(name string, w config.Lane) (relayer.Signer, error) {
		s, err := openSigner(ctx, w, chainID)
		if err != nil {
			return nil, fmt.Errorf("%s.%w", name, err)
		}
		if wallet, ok := s.(*signer.Wallet); ok {
			all.closers = append(all.closers, wallet)
		}
		if other, seen := first[s.Address()]; seen {
			return nil, fmt.Errorf("%s: its wallet %s is that of %s too", name, s.Address(), other)
		}
		first[s.Address()] = name
		return s, nil
	}
	for i, lane := range cfg.Lanes {
		s, err := open(laneName(i), lane)
		if err != nil {
			return all, err
		}
		all.lanes = append(all.lanes, s)
	}
	if wallet := cfg.Treasury.Wallet(); wallet.HasKey() {
		s, err := open(treasuryName, wallet)
		if err != nil {
			return all, err
		}
		all.treasury = s
	}
	return all, nil
}

const treasuryName = "treasury"

func laneName(i int) string { return fmt.Sprintf("lanes[%d]", i) }

// openSigner opens the one place that a wallet's key is in. The error begins with
// the setting.
func openSigner(ctx context.Context, w config.Lane, chainID uint64) (relayer.Signer, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	fail := func(setting string, err error) (relayer.Signer, error) {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	switch {
	case w.Keystore.File != "":
		key, err := signer.ReadKeystore(w.Keystore.File, w.Keystore.Password.Reveal())
		if errors.Is(err, signer.ErrPassword) {
			return fail("keystore.password", err)
		}
		if err != nil {
			return fail("keystore.file", err)
		}
		return evm.SignerOf(key, chainID), nil
	case w.Remote.URL != "":
		address, err := chain.ParseAddress(w.Remote.Address)
		if err != nil {
			return fail("remote.address", err)
		}
		s, err := signer.NewRemote(signer.Remote{URL: w.Remote.URL.Reveal(), Address: address, Method: w.Remote.Method}, chainID)
		if err != nil {
			return fail("remote", err)
		}
		return s, nil
	case w.AWSKMS.KeyID != "":
		address, err := optionalAddress(w.AWSKMS.Address)
		if err != nil {
			return fail("aws_kms.address", err)
		}
		s, err := signer.NewAWS(ctx, signer.AWS{KeyID: w.AWSKMS.KeyID, Region: w.AWSKMS.Region, Endpoint: w.AWSKMS.Endpoint, Address: address}, chainID)
		if err != nil {
			return fail("aws_kms", err)
		}
		return s, nil
	case w.GCPKMS.KeyVersion != "":
		address, err := optionalAddress(w.GCPKMS.Address)
		if err != nil {
			return fail("gcp_kms.address", err)
		}
		s, err := signer.NewGCP(ctx, signer.GCP{KeyVersion: w.GCPKMS.KeyVersion, Endpoint: w.GCPKMS.Endpoint, Address: address}, chainID)
		if err != nil {
			return fail("gcp_kms", err)
		}
		return s, nil
	default:
		s, err := evm.NewKeySigner(w.PrivateKey.Reveal(), chainID)
		if err != nil {
			return fail("private_key", err)
		}
		return s, nil
	}
}

func optionalAddress(text string) (chain.Address, error) {
	if text == "" {
		return chain.Address{}, nil
	}
	return chain.ParseAddress(text)
}

func chainIDOf(network string) (uint64, error) {
	id, err := strconv.ParseUint(strings.TrimPrefix(network, "eip155:"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("chain id: %w", err)
	}
	return id, nil
}

// KeyReport is what became of one configured wallet's signer.
type KeyReport struct {
	Network x402.Network
	// Name of the setting that the wallet stands in: lanes[0].
	Name string
	// Address and Kind are zero where the signer could not be opened.
	Address chain.Address
	Kind    string
	// Took is the time of one signature.
	Took time.Duration
	Err  error
}

// Setting in full: chains.eip155:8453.lanes[0].
func (r *KeyReport) Setting() string { return "chains." + string(r.Network) + "." + r.Name }

// CheckKeys opens the signer of every configured wallet, and with sign has each
// sign what no chain can ever mine. One that fails keeps none from being looked at.
func CheckKeys(ctx context.Context, cfg *config.Config, sign bool, now func() time.Time) []KeyReport {
	var reports []KeyReport
	for _, network := range slices.Sorted(maps.Keys(cfg.Chains)) {
		c := cfg.Chains[network]
		first := map[chain.Address]string{}
		for i, lane := range c.Lanes {
			reports = append(reports, checkKey(ctx, network, laneName(i), lane, c.SignTimeout, sign, now, first))
		}
		if wallet := c.Treasury.Wallet(); wallet.HasKey() {
			reports = append(reports, checkKey(ctx, network, treasuryName, wallet, c.SignTimeout, sign, now, first))
		}
	}
	return reports
}

func checkKey(ctx context.Context, network, name string, w config.Lane, timeout time.Duration, sign bool, now func() time.Time, first map[chain.Address]string) KeyReport {
	r := KeyReport{Network: x402.Network(network), Name: name}
	chainID, err := chainIDOf(network)
	if err != nil {
		r.Err = err
		return r
	}
	s, err := openSigner(ctx, w, chainID)
	if err != nil {
		r.Err = err
		return r
	}
	if wallet, ok := s.(*signer.Wallet); ok {
		defer wallet.Close()
	}
	r.Address, r.Kind = s.Address(), s.Kind()
	if other, seen := first[r.Address]; seen {
		r.Err = fmt.Errorf("its wallet is that of %s too", other)
		return r
	}
	first[r.Address] = name
	if sign {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		began := now()
		_, r.Err = s.Sign(ctx, evm.Probe(r.Address))
		r.Took = now().Sub(began)
	}
	return r
}
