-- +goose Up

-- What each payer has promised and not paid yet, without a look at its history.
CREATE INDEX payments_promised ON payments (payer, asset, network) WHERE state IN ('queued', 'signed', 'broadcast');

-- All that was ever promised of a payer's balance of a token, whatever became of
-- it, in atomic units. Who promises more locks the row, so that what it goes by
-- does not change before it is committed.
CREATE TABLE payers (
    network  text    NOT NULL CHECK (length(network) BETWEEN 3 AND 64),
    asset    bytea   NOT NULL CHECK (octet_length(asset) = 20),
    payer    bytea   NOT NULL CHECK (octet_length(payer) = 20),
    promised numeric NOT NULL CHECK (promised >= 0),
    PRIMARY KEY (payer, asset, network)
) WITH (fillfactor = 60);

-- Payments that were verified and not settled. One that is past its time counts
-- for nothing and is removed when others come.
CREATE TABLE reservations (
    network             text   NOT NULL CHECK (length(network) BETWEEN 3 AND 64),
    contract            bytea  NOT NULL CHECK (octet_length(contract) = 20),
    payer               bytea  NOT NULL CHECK (octet_length(payer) = 20),
    authorization_nonce bytea  NOT NULL CHECK (octet_length(authorization_nonce) = 32),
    asset               bytea  NOT NULL CHECK (octet_length(asset) = 20),
    amount              numeric(78, 0) NOT NULL CHECK (amount >= 0),
    until               timestamptz NOT NULL,
    -- As I1, in the order that also finds all of a payer.
    PRIMARY KEY (payer, network, contract, authorization_nonce)
);
CREATE INDEX reservations_until ON reservations (until);

-- +goose Down
DROP TABLE reservations;
DROP TABLE payers;
DROP INDEX payments_promised;
