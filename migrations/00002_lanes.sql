-- +goose Up

-- A lane belongs to the replica that holds its lease. The epoch grows with every
-- change of hands; a write that names an older one is refused.
ALTER TABLE lanes
    ADD COLUMN role        text   NOT NULL DEFAULT 'relayer' CHECK (role IN ('relayer', 'treasury')),
    ADD COLUMN holder      uuid,
    ADD COLUMN epoch       bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    ADD COLUMN lease_until timestamptz,
    -- Grows when a reorganisation opens transactions of the lane again, whoever
    -- noticed it, so that the holder reads them again.
    ADD COLUMN reorgs      bigint NOT NULL DEFAULT 0 CHECK (reorgs >= 0),
    -- Why the lane takes no work, for people; NULL while it does.
    ADD COLUMN parked      text CHECK (length(parked) <= 200),
    ADD CONSTRAINT lanes_lease CHECK ((holder IS NULL) = (lease_until IS NULL));

-- replaced: the wallet nonce was consumed by a transaction that is none of ours.
ALTER TABLE transactions DROP CONSTRAINT transactions_state_check;
ALTER TABLE transactions
    ADD CONSTRAINT transactions_state_check CHECK (state IN ('signed', 'broadcast', 'included', 'final', 'replaced')),
    ADD COLUMN value numeric(78, 0) NOT NULL DEFAULT 0 CHECK (value >= 0), -- wei; only a treasury's are not 0
    ADD COLUMN cost  numeric(78, 0) CHECK (cost >= 0);                      -- wei that its gas cost, data fee included

-- What a network's gas has cost on a day (UTC), in wei.
CREATE TABLE spending (
    network text NOT NULL CHECK (length(network) BETWEEN 3 AND 64),
    day     date NOT NULL,
    wei     numeric(78, 0) NOT NULL CHECK (wei >= 0),
    PRIMARY KEY (network, day)
);

-- A payment that was included once and fails after all was reversed.
ALTER TABLE payments ADD COLUMN reorged boolean NOT NULL DEFAULT false;
ALTER TABLE outbox DROP CONSTRAINT outbox_type_check;
ALTER TABLE outbox ADD CONSTRAINT outbox_type_check CHECK (type IN
    ('payment.settled', 'payment.failed', 'payment.reorged', 'payment.reversed', 'payment.finalized'));

-- What every settlement writes is kept small: blocks and hashes of payments that
-- our own transactions made are found by way of the transaction; rows have room
-- for their next version beside them; and the events, which nothing but the
-- change they tell of writes, are not checked against it once more.
DROP INDEX payments_tx_hash, payments_watched, payments_open, outbox_payment;
CREATE INDEX payments_others ON payments (network, block_number)
    WHERE state = 'included' AND evidence->>'kind' = 'other_transaction';
CREATE INDEX payments_others_hash ON payments (tx_hash) WHERE evidence->>'kind' = 'other_transaction';
ALTER TABLE payments SET (fillfactor = 60);
ALTER TABLE attempts ALTER raw SET STORAGE EXTERNAL; -- hashes and signatures don't compress
ALTER TABLE outbox DROP CONSTRAINT outbox_payment_id_fkey;
-- A transaction that is mined, or void, while payments of it are not judged.
ALTER TABLE transactions ADD COLUMN undecided boolean NOT NULL DEFAULT false;
UPDATE transactions SET undecided = true WHERE state IN ('included', 'final') AND id IN
    (SELECT transaction_id FROM payments WHERE state IN ('signed', 'broadcast'));
CREATE INDEX transactions_undecided ON transactions (lane_id) WHERE undecided;

-- +goose Down
ALTER TABLE transactions DROP COLUMN undecided;
DROP INDEX payments_others, payments_others_hash;
ALTER TABLE payments RESET (fillfactor);
ALTER TABLE attempts ALTER raw SET STORAGE EXTENDED;
CREATE INDEX payments_open ON payments (network, transaction_id) WHERE state IN ('signed', 'broadcast');
CREATE INDEX payments_tx_hash ON payments (tx_hash) WHERE tx_hash IS NOT NULL;
CREATE INDEX payments_watched ON payments (network, block_number) WHERE state = 'included';
CREATE INDEX outbox_payment ON outbox (payment_id);
ALTER TABLE outbox ADD CONSTRAINT outbox_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES payments;
DELETE FROM outbox WHERE type = 'payment.reversed';
ALTER TABLE outbox DROP CONSTRAINT outbox_type_check;
ALTER TABLE outbox ADD CONSTRAINT outbox_type_check CHECK (type IN
    ('payment.settled', 'payment.failed', 'payment.reorged', 'payment.finalized'));
ALTER TABLE payments DROP COLUMN reorged;
DROP TABLE spending;
-- A wallet nonce that somebody else consumed has no name in version 1.
UPDATE transactions SET state = 'broadcast' WHERE state = 'replaced';
ALTER TABLE transactions DROP COLUMN value, DROP COLUMN cost, DROP CONSTRAINT transactions_state_check;
ALTER TABLE transactions
    ADD CONSTRAINT transactions_state_check CHECK (state IN ('signed', 'broadcast', 'included', 'final'));
ALTER TABLE lanes DROP CONSTRAINT lanes_lease, DROP COLUMN role, DROP COLUMN holder, DROP COLUMN epoch, DROP COLUMN lease_until, DROP COLUMN reorgs, DROP COLUMN parked;
