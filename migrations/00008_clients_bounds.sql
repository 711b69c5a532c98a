-- +goose NO TRANSACTION

-- +goose Up

-- A client's payments, and those of each of its payees, in the order of their ids;
-- and those of callers without a key. No column of them ever changes. They are
-- built beside running replicas; what an interrupted try left is dropped first.
DROP INDEX CONCURRENTLY IF EXISTS payments_client;
CREATE INDEX CONCURRENTLY payments_client ON payments (client, id) WHERE client IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS payments_client_pay_to;
CREATE INDEX CONCURRENTLY payments_client_pay_to ON payments (client, pay_to, id) WHERE client IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS payments_no_ones_pay_to;
CREATE INDEX CONCURRENTLY payments_no_ones_pay_to ON payments (pay_to, id) WHERE client IS NULL;

-- How many payments cost that much: so what one costs is known.
ALTER TABLE client_spending ADD COLUMN IF NOT EXISTS payments bigint NOT NULL DEFAULT 0 CHECK (payments >= 0);
CREATE INDEX IF NOT EXISTS client_spending_day ON client_spending (day);

-- +goose Down
DROP INDEX IF EXISTS client_spending_day;
ALTER TABLE client_spending DROP COLUMN IF EXISTS payments;
DROP INDEX CONCURRENTLY IF EXISTS payments_client;
DROP INDEX CONCURRENTLY IF EXISTS payments_client_pay_to;
DROP INDEX CONCURRENTLY IF EXISTS payments_no_ones_pay_to;
