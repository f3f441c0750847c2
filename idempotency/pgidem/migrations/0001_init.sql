-- One row a key. A row is free to be claimed when held_until has passed: the lease of an abandoned claim, the TTL of a
-- completed one, or the moment of a release. Rows stay for an hour longer, so that the tokens of a key grow.
CREATE TABLE idempotency_records (
    key         bytea       PRIMARY KEY CHECK (octet_length(key) BETWEEN 9 AND 777), -- idempotency.Key.String
    fingerprint bytea       NOT NULL CHECK (octet_length(fingerprint) = 32),         -- SHA-256 of the payload
    token       bigint      NOT NULL CHECK (token > 0),                              -- fencing number of the claim
    completed   boolean     NOT NULL DEFAULT false,
    status      integer     NOT NULL DEFAULT 0,
    claimed_at  timestamptz NOT NULL,
    held_until  timestamptz NOT NULL,
    response    bytea
);

CREATE INDEX idempotency_records_held_until ON idempotency_records (held_until);
