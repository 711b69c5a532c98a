package x402

import "errors"

// Reason is a machine code of "invalidReason" and "errorReason". The table is
// closed: clients and dashboards match on it, so nothing else leaves the
// service. Names follow the official SDK 2.27; the others are said to.
type Reason string

// Envelope and shared reasons.
const (
	ReasonInvalidVersion      Reason = "invalid_x402_version"         // spec v2, generic list
	ReasonInvalidPayload      Reason = "invalid_payload"              // spec v2, generic list
	ReasonInvalidRequirements Reason = "invalid_payment_requirements" // spec v2, generic list
	ReasonUnsupportedScheme   Reason = "unsupported_scheme"           // spec v2, generic list
	ReasonInvalidNetwork      Reason = "invalid_network"              // spec v2, generic list
	ReasonUnsupportedPayload  Reason = "unsupported_payload_type"     // SDK
	ReasonAssetNotDeployed    Reason = "asset_not_deployed_contract"  // SDK
	ReasonSettlementPending   Reason = "settlement_pending"           // SDK
	ReasonDuplicateSettlement Reason = "duplicate_settlement"         // SVM scheme of the spec, v1 list
	ReasonUnexpectedSettle    Reason = "unexpected_settle_error"      // v1 list
	ReasonFactoryNotAllowed   Reason = "eip6492_factory_not_allowed"  // SDK
	ReasonAmountTooLow        Reason = "amount_too_low"               // hosted CDP facilitator
	ReasonSelfSend            Reason = "self_send_not_allowed"        // hosted CDP facilitator
	ReasonKYTRisk             Reason = "kyt_risk_detected"            // hosted CDP facilitator
)

// Reasons of scheme exact with EIP-3009 (SDK 2.27, both wire versions unless
// said otherwise).
const (
	ReasonExactScheme              Reason = "invalid_exact_evm_scheme"
	ReasonExactNetworkMismatch     Reason = "invalid_exact_evm_network_mismatch"
	ReasonExactMissingDomain       Reason = "invalid_exact_evm_missing_eip712_domain"
	ReasonExactSignature           Reason = "invalid_exact_evm_signature"
	ReasonExactRecipient           Reason = "invalid_exact_evm_recipient_mismatch"
	ReasonExactValidBefore         Reason = "invalid_exact_evm_payload_authorization_valid_before"
	ReasonExactValidAfter          Reason = "invalid_exact_evm_payload_authorization_valid_after"
	ReasonExactValue               Reason = "invalid_exact_evm_payload_authorization_value_mismatch" // v2
	ReasonExactValueV1             Reason = "invalid_exact_evm_authorization_value"                  // v1
	ReasonExactNotSupported        Reason = "invalid_exact_evm_eip3009_not_supported"
	ReasonExactNonceUsed           Reason = "invalid_exact_evm_nonce_already_used"
	ReasonExactTokenName           Reason = "invalid_exact_evm_token_name_mismatch"
	ReasonExactTokenVersion        Reason = "invalid_exact_evm_token_version_mismatch"
	ReasonExactInsufficientBalance Reason = "invalid_exact_evm_insufficient_balance"
	ReasonExactSimulationFailed    Reason = "invalid_exact_evm_transaction_simulation_failed"
	ReasonExactTransactionFailed   Reason = "invalid_exact_evm_transaction_failed"
	ReasonExactTransferMismatch    Reason = "invalid_exact_evm_transfer_event_mismatch"
)

// Reasons lists the whole table.
func Reasons() []Reason {
	return []Reason{
		ReasonInvalidVersion, ReasonInvalidPayload, ReasonInvalidRequirements, ReasonUnsupportedScheme,
		ReasonInvalidNetwork, ReasonUnsupportedPayload, ReasonAssetNotDeployed, ReasonSettlementPending,
		ReasonDuplicateSettlement, ReasonUnexpectedSettle, ReasonFactoryNotAllowed, ReasonAmountTooLow, ReasonSelfSend, ReasonKYTRisk,
		ReasonExactScheme, ReasonExactNetworkMismatch, ReasonExactMissingDomain, ReasonExactSignature,
		ReasonExactRecipient, ReasonExactValidBefore, ReasonExactValidAfter, ReasonExactValue, ReasonExactValueV1,
		ReasonExactNotSupported, ReasonExactNonceUsed, ReasonExactTokenName, ReasonExactTokenVersion,
		ReasonExactInsufficientBalance, ReasonExactSimulationFailed, ReasonExactTransactionFailed,
		ReasonExactTransferMismatch,
	}
}

// Rejection is a judgement: the payment was looked at and is refused. Every
// other error means that it could not be judged. Only the HTTP edge turns
// either into a status.
type Rejection struct {
	Reason Reason
	// Message is for people and is public: resource servers pass it on.
	Message string
}

func (r *Rejection) Error() string {
	if r.Message == "" {
		return string(r.Reason)
	}
	return string(r.Reason) + ": " + r.Message
}

// Reject builds a Rejection.
func Reject(reason Reason, message string) *Rejection {
	return &Rejection{Reason: reason, Message: message}
}

// AsRejection returns the Rejection in err, if err is a judgement.
func AsRejection(err error) (*Rejection, bool) {
	r := (*Rejection)(nil)
	ok := errors.As(err, &r)
	return r, ok
}
