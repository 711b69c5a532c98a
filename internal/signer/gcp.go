package signer

import (
	"context"
	"encoding/pem"
	"fmt"
	"strings"

	gcpkms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/option"

	"facilitator/internal/chain"
)

// GCP names a key version of Google Cloud KMS, of algorithm EC_SIGN_SECP256K1_SHA256.
type GCP struct {
	// KeyVersion is its resource name, from projects/ to cryptoKeyVersions/.
	KeyVersion string
	// Endpoint instead of Google's own. One of http:// is spoken to without
	// credentials, which must not be sent in the clear.
	Endpoint string
	// Address that the key must have; zero for any.
	Address chain.Address
}

// NewGCP signs with a key of Google Cloud KMS. Credentials are the application
// default ones.
func NewGCP(ctx context.Context, g GCP, chainID uint64) (*Wallet, error) {
	var options []option.ClientOption
	if g.Endpoint != "" {
		options = append(options, option.WithEndpoint(strings.TrimSuffix(g.Endpoint, "/")))
	}
	if strings.HasPrefix(g.Endpoint, "http://") {
		options = append(options, option.WithoutAuthentication())
	}
	// Credentials are renewed for as long as the client lives.
	client, err := gcpkms.NewKeyManagementRESTClient(context.WithoutCancel(ctx), options...)
	if err != nil {
		return nil, err
	}
	w, err := newKMS(ctx, "gcp_kms", &gcpService{client, g.KeyVersion}, chainID, g.Address)
	if err != nil {
		_ = client.Close() // there is an error to tell already
		return nil, err
	}
	return w, nil
}

type gcpService struct {
	client *gcpkms.KeyManagementClient
	name   string
}

func (s *gcpService) publicKey(ctx context.Context) ([]byte, error) {
	answer, err := s.client.GetPublicKey(ctx, &kmspb.GetPublicKeyRequest{Name: s.name})
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(answer.GetPem()))
	if block == nil {
		return nil, errNotSecp256k1
	}
	return block.Bytes, nil
}

// signDigest signs Keccak-256 digests under an algorithm named after SHA-256: to
// the service a digest is 32 bytes. Its checksums are not asked for: a signature
// that recovers to the wallet says more.
func (s *gcpService) signDigest(ctx context.Context, digest chain.Hash) ([]byte, error) {
	answer, err := s.client.AsymmetricSign(ctx, &kmspb.AsymmetricSignRequest{
		Name: s.name, Digest: &kmspb.Digest{Digest: &kmspb.Digest_Sha256{Sha256: digest[:]}},
	})
	if err != nil {
		return nil, fmt.Errorf("gcp kms: %w", err)
	}
	return answer.GetSignature(), nil
}

func (s *gcpService) Close() error { return s.client.Close() }
