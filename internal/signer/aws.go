package signer

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	awskms "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"facilitator/internal/chain"
)

// AWS names a key of AWS KMS, of spec ECC_SECG_P256K1.
type AWS struct {
	// KeyID is its id, ARN or alias.
	KeyID string
	// Region, where neither an ARN nor the environment tells it.
	Region string
	// Endpoint instead of the region's own.
	Endpoint string
	// Address that the key must have; zero for any.
	Address chain.Address
}

// NewAWS signs with a key of AWS KMS. Credentials come from where the AWS SDK looks
// for them: environment, shared files, the identity of a pod or machine.
func NewAWS(ctx context.Context, a AWS, chainID uint64) (*Wallet, error) {
	if name, err := arn.Parse(a.KeyID); err == nil && a.Region == "" {
		a.Region = name.Region
	}
	var options []func(*awsconfig.LoadOptions) error
	if a.Region != "" {
		options = append(options, awsconfig.WithRegion(a.Region))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" {
		return nil, errors.New("no region is known: set it, AWS_REGION, or give the key's ARN")
	}
	client := awskms.NewFromConfig(cfg, func(o *awskms.Options) {
		if a.Endpoint != "" {
			o.BaseEndpoint = aws.String(a.Endpoint)
		}
	})
	return newKMS(ctx, "aws_kms", &awsService{client, a.KeyID}, chainID, a.Address)
}

type awsService struct {
	client *awskms.Client
	keyID  string
}

func (s *awsService) publicKey(ctx context.Context) ([]byte, error) {
	answer, err := s.client.GetPublicKey(ctx, &awskms.GetPublicKeyInput{KeyId: aws.String(s.keyID)})
	if err != nil {
		return nil, err
	}
	return answer.PublicKey, nil
}

func (s *awsService) signDigest(ctx context.Context, digest chain.Hash) ([]byte, error) {
	answer, err := s.client.Sign(ctx, &awskms.SignInput{
		KeyId: aws.String(s.keyID), Message: digest[:], MessageType: types.MessageTypeDigest, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256,
	})
	if err != nil {
		return nil, fmt.Errorf("aws kms: %w", err)
	}
	return answer.Signature, nil
}

func (*awsService) Close() error { return nil } // its connections are the SDK's
