-- +goose Up

-- One relayer wallet on one chain. Its row is locked while a wallet nonce is
-- allocated, so that nonces come from rows alone and are contiguous whatever
-- number of replicas signs (I4).
CREATE TABLE lanes (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    network     text   NOT NULL CHECK (length(network) BETWEEN 3 AND 64),
    address     bytea  NOT NULL CHECK (octet_length(address) = 20),
    -- The lowest wallet nonce this lane may still use: the wallet's transaction
    -- count when the lane was first seen, raised if somebody else used the wallet.
    nonce_floor bigint NOT NULL CHECK (nonce_floor >= 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (network, address)
);

-- One wallet nonce of a lane.
CREATE TABLE transactions (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane_id      bigint NOT NULL REFERENCES lanes,
    wallet_nonce bigint NOT NULL CHECK (wallet_nonce >= 0),
    state        text   NOT NULL CHECK (state IN ('signed', 'broadcast', 'included', 'final')),
    block_number bigint CHECK (block_number >= 0),
    block_hash   bytea  CHECK (octet_length(block_hash) = 32),
    gas_used     bigint CHECK (gas_used >= 0),
    gas_price    numeric(78, 0) CHECK (gas_price >= 0),
    succeeded    boolean,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (lane_id, wallet_nonce),
    CONSTRAINT transactions_state_machine CHECK (
        (state IN ('included', 'final')) =
        (block_number IS NOT NULL AND block_hash IS NOT NULL AND succeeded IS NOT NULL)
    )
);
CREATE INDEX transactions_open ON transactions (lane_id, wallet_nonce) WHERE state IN ('signed', 'broadcast');
CREATE INDEX transactions_watched ON transactions (lane_id, block_number) WHERE state = 'included';

-- One signed version of a transaction. Kept for good: any of them may be mined.
CREATE TABLE attempts (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint NOT NULL REFERENCES transactions,
    hash           bytea  NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    raw            bytea  NOT NULL CHECK (octet_length(raw) > 0),
    gas_limit      bigint NOT NULL CHECK (gas_limit > 0),
    fee_cap        numeric(78, 0) NOT NULL CHECK (fee_cap >= 0), -- wei per gas
    tip_cap        numeric(78, 0) NOT NULL CHECK (tip_cap >= 0), -- wei per gas
    signed_at      timestamptz NOT NULL DEFAULT now(),
    last_send_at   timestamptz
);
CREATE INDEX attempts_transaction ON attempts (transaction_id);

-- One authorization and its fate.
CREATE TABLE payments (
    id                  uuid   PRIMARY KEY,
    network             text   NOT NULL CHECK (length(network) BETWEEN 3 AND 64),
    contract            bytea  NOT NULL CHECK (octet_length(contract) = 20),
    payer               bytea  NOT NULL CHECK (octet_length(payer) = 20),
    authorization_nonce bytea  NOT NULL CHECK (octet_length(authorization_nonce) = 32),
    fingerprint         bytea  NOT NULL CHECK (octet_length(fingerprint) = 32),
    scheme              text   NOT NULL CHECK (length(scheme) BETWEEN 1 AND 64),
    asset               bytea  NOT NULL CHECK (octet_length(asset) = 20),
    pay_to              bytea  NOT NULL CHECK (octet_length(pay_to) = 20),
    amount              numeric(78, 0) NOT NULL CHECK (amount >= 0),       -- atomic units
    valid_after         numeric(78, 0) NOT NULL CHECK (valid_after >= 0),  -- Unix seconds
    valid_before        numeric(78, 0) NOT NULL CHECK (valid_before >= 0), -- Unix seconds
    call_to             bytea  NOT NULL CHECK (octet_length(call_to) = 20),
    call_data           bytea  NOT NULL,
    signature_hash      bytea  NOT NULL CHECK (octet_length(signature_hash) = 32),
    x402_version        smallint NOT NULL CHECK (x402_version IN (1, 2)),
    resource            text   NOT NULL CHECK (length(resource) <= 2048),
    claimed_at_block    bigint NOT NULL CHECK (claimed_at_block >= 0),
    state               text   NOT NULL CHECK (state IN ('queued', 'signed', 'broadcast', 'included', 'final', 'failed')),
    tries               integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    transaction_id      bigint REFERENCES transactions,
    tx_hash             bytea  CHECK (octet_length(tx_hash) = 32),
    block_number        bigint CHECK (block_number >= 0),
    block_hash          bytea  CHECK (octet_length(block_hash) = 32),
    reason              text,
    message             text,
    evidence            jsonb,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    -- I2: when success was told, to which call, and the SHA-256 of the
    -- Idempotency-Key it came with.
    answered_at         timestamptz,
    answered_by         uuid,
    answered_key        bytea  CHECK (octet_length(answered_key) = 32),
    CONSTRAINT payments_answered CHECK ((answered_at IS NULL) = (answered_by IS NULL) AND (answered_key IS NULL OR answered_by IS NOT NULL)),

    -- I1: this constraint decides every race for an authorization. In this order
    -- its index also finds a payer's nonce whatever the contract.
    CONSTRAINT payments_authorization UNIQUE (payer, authorization_nonce, network, contract),

    -- The state machine, as in internal/payment/state.go; a test compares them.
    CONSTRAINT payments_state_machine CHECK (CASE state
        WHEN 'queued' THEN
            transaction_id IS NULL AND block_number IS NULL AND block_hash IS NULL AND reason IS NULL AND evidence IS NULL
        WHEN 'signed' THEN
            transaction_id IS NOT NULL AND tx_hash IS NOT NULL
            AND block_number IS NULL AND block_hash IS NULL AND reason IS NULL AND evidence IS NULL
        WHEN 'broadcast' THEN
            transaction_id IS NOT NULL AND tx_hash IS NOT NULL
            AND block_number IS NULL AND block_hash IS NULL AND reason IS NULL AND evidence IS NULL
        WHEN 'included' THEN
            tx_hash IS NOT NULL AND block_number IS NOT NULL AND block_hash IS NOT NULL
            AND reason IS NULL AND evidence IS NOT NULL
        WHEN 'final' THEN
            tx_hash IS NOT NULL AND block_number IS NOT NULL AND block_hash IS NOT NULL
            AND reason IS NULL AND evidence IS NOT NULL
        WHEN 'failed' THEN
            block_number IS NULL AND block_hash IS NULL AND reason IS NOT NULL AND evidence IS NOT NULL
        ELSE false
    END)
);
CREATE INDEX payments_queued ON payments (network, created_at) WHERE state = 'queued';
CREATE INDEX payments_open ON payments (network, transaction_id) WHERE state IN ('signed', 'broadcast');
CREATE INDEX payments_transaction ON payments (transaction_id) WHERE transaction_id IS NOT NULL;
CREATE INDEX payments_tx_hash ON payments (tx_hash) WHERE tx_hash IS NOT NULL;
CREATE INDEX payments_watched ON payments (network, block_number) WHERE state = 'included';

-- Events for whoever must be told, written with the change they tell of.
CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payment_id uuid   NOT NULL REFERENCES payments,
    type       text   NOT NULL CHECK (type IN ('payment.settled', 'payment.failed', 'payment.reorged', 'payment.finalized')),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX outbox_payment ON outbox (payment_id);

-- +goose Down
DROP TABLE outbox;
DROP TABLE payments;
DROP TABLE attempts;
DROP TABLE transactions;
DROP TABLE lanes;
