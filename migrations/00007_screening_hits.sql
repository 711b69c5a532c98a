-- +goose Up

-- Whom screening refused: one row for everybody and day, however often somebody
-- asks. What is known of a payment is of the latest one.
CREATE TABLE screening_hits (
    -- UTC, by the clock of the replica that refused.
    day      date  NOT NULL,
    network  text  NOT NULL,
    source   text  NOT NULL,
    role     text  NOT NULL,
    -- Empty for all those beyond what a replica tells apart on a day.
    address  bytea NOT NULL CHECK (octet_length(address) IN (0, 20)),
    kind     text  NOT NULL,
    hits     bigint NOT NULL CHECK (hits > 0),
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL CHECK (last_at >= first_at),
    payer    bytea NOT NULL CHECK (octet_length(payer) = 20),
    pay_to   bytea NOT NULL CHECK (octet_length(pay_to) = 20),
    asset    bytea NOT NULL CHECK (octet_length(asset) = 20),
    authorization_nonce bytea NOT NULL CHECK (octet_length(authorization_nonce) = 32),
    amount   numeric(78, 0) NOT NULL CHECK (amount >= 0),
    -- Who asked; NULL for a caller without a key.
    client   uuid,
    reason   text  NOT NULL,
    PRIMARY KEY (day, network, source, role, address)
);

-- +goose Down
DROP TABLE screening_hits;
