-- +goose NO TRANSACTION

-- +goose Up

-- A payee's payments in the order of their ids, which is that of claims. No
-- column of it ever changes, so what settles a payment does not touch it. It is
-- built beside running replicas; what an interrupted try left is dropped first.
DROP INDEX CONCURRENTLY IF EXISTS payments_pay_to;
CREATE INDEX CONCURRENTLY payments_pay_to ON payments (pay_to, id);

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS payments_pay_to;
