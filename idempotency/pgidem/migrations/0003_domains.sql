-- PostgreSQL reads and plans the checks of a table anew for each statement, and evaluates them for each row, also those of
-- columns that are not written. A domain's check is read once a session, and evaluated only where a column of it is written.
-- It refuses the same, by the same code. The table is written anew, which takes as long as that.
CREATE DOMAIN idempotency_key         AS bytea  CHECK (octet_length(VALUE) BETWEEN 9 AND 777); -- idempotency.Key.String
CREATE DOMAIN idempotency_fingerprint AS bytea  CHECK (octet_length(VALUE) = 32);              -- SHA-256 of the payload
CREATE DOMAIN idempotency_token       AS bigint CHECK (VALUE > 0);                             -- fencing number of the claim

ALTER TABLE idempotency_records
    DROP CONSTRAINT idempotency_records_key_check,
    DROP CONSTRAINT idempotency_records_fingerprint_check,
    DROP CONSTRAINT idempotency_records_token_check,
    ALTER COLUMN key         TYPE idempotency_key,
    ALTER COLUMN fingerprint TYPE idempotency_fingerprint,
    ALTER COLUMN token       TYPE idempotency_token;
