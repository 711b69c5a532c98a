-- +goose Up

-- Who may call, what, and how much of it.
CREATE TABLE clients (
    id          uuid   PRIMARY KEY,
    name        text   NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
    scopes      text[] NOT NULL CHECK (scopes <@ ARRAY['verify', 'settle', 'read'] AND cardinality(scopes) > 0),
    -- Empty lists allow everything that is configured.
    networks    text[]  NOT NULL DEFAULT '{}',
    assets      bytea[] NOT NULL DEFAULT '{}',
    pay_to      bytea[] NOT NULL DEFAULT '{}',
    -- Requests a second and how many at once; 0: no limit.
    rate        integer NOT NULL DEFAULT 0 CHECK (rate >= 0),
    burst       integer NOT NULL DEFAULT 0 CHECK (burst >= 0),
    -- What its payments' gas may cost on a day (UTC), in wei; 0: no limit.
    gas_per_day numeric(78, 0) NOT NULL DEFAULT 0 CHECK (gas_per_day >= 0),
    disabled_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- What a client shows. Of a secret only the hash is kept.
CREATE TABLE client_keys (
    id         text   PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 256),
    client     uuid   NOT NULL REFERENCES clients,
    kind       text   NOT NULL CHECK (kind IN ('secret', 'es256', 'eddsa')),
    -- SHA-256 of the secret, or the public key (DER, SPKI).
    material   bytea  NOT NULL CHECK (octet_length(material) BETWEEN 32 AND 256),
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX client_keys_client ON client_keys (client);

-- Grows with every change of the two above, so that replicas need not read them to
-- know that nothing has changed.
CREATE TABLE clients_version (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    n   bigint  NOT NULL
);
INSERT INTO clients_version (n) VALUES (1);

-- What each replica has let through since it started, which the others subtract
-- from what they may. Worth nothing after a crash of the database.
CREATE UNLOGGED TABLE client_usage (
    replica uuid   NOT NULL,
    client  uuid   NOT NULL,
    used    bigint NOT NULL CHECK (used >= 0),
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (replica, client)
);

-- What the gas of a client's payments has cost on a day (UTC), in wei: of a batch
-- each payment's equal part.
CREATE TABLE client_spending (
    client uuid NOT NULL,
    day    date NOT NULL,
    wei    numeric(78, 0) NOT NULL CHECK (wei >= 0),
    PRIMARY KEY (client, day)
);

-- Who settled it; NULL for a caller without a key. Not a foreign key: each claim
-- would lock its client's row, which all claims of that client share.
-- Adding it takes ACCESS EXCLUSIVE for a moment, and whoever comes after waits for
-- what it waits for: so not for long.
SET LOCAL lock_timeout = '2s';
ALTER TABLE payments ADD COLUMN client uuid;

-- +goose Down
ALTER TABLE payments DROP COLUMN client;
DROP TABLE client_spending;
DROP TABLE client_usage;
DROP TABLE clients_version;
DROP TABLE client_keys;
DROP TABLE clients;
