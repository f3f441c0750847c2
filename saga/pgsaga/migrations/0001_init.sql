-- PostgreSQL reads and plans the checks of a table anew for each statement, and
-- those of a domain once a session: what is said of one column is said by its domain.

CREATE DOMAIN saga_id     AS text   COLLATE "C" CHECK (octet_length(VALUE) BETWEEN 1 AND 255);
CREATE DOMAIN saga_status AS text   CHECK (VALUE IN ('RUNNING', 'COMPENSATING', 'SUSPENDED', 'COMPLETED', 'COMPENSATED', 'STUCK'));
CREATE DOMAIN saga_print  AS bytea  CHECK (octet_length(VALUE) = 32);
CREATE DOMAIN saga_number AS bigint CHECK (VALUE >= 0);

-- One row a saga. due_at is the end of the lease of a saga that has an owner, and the
-- time to wake up of one that has none; null for one that is over, or waits for
-- nothing but a signal. It stays as it is while an owner writes its checkpoints, so that
-- these change no index and stay in their page (HOT), for which half of it is left
-- free.
CREATE TABLE sagas (
    id          saga_id     PRIMARY KEY,
    token       saga_number NOT NULL, -- grows with each owner: the fence
    revision    saga_number NOT NULL, -- grows with each write
    due_at      timestamptz,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    over_at     timestamptz,          -- when it was completed or compensated: from then on it may be swept
    deadline    bigint      NOT NULL, -- microseconds after created_at; 0: none
    version     integer     NOT NULL, -- of the definition
    crashes     integer     NOT NULL,
    signalled   integer     NOT NULL DEFAULT 0, -- how many signals there are
    undoing     boolean     NOT NULL,
    status      saga_status NOT NULL,
    fingerprint saga_print  NOT NULL,
    definition  text        NOT NULL,
    business_id text        NOT NULL,
    parent      text        NOT NULL,
    owner       text,                 -- null: it is free
    plan        text        NOT NULL, -- saga.Plan as text
    progress    text        NOT NULL, -- saga.Progress as text
    failed      text        NOT NULL,
    error       text        NOT NULL,
    data        json        NOT NULL,
    signals     jsonb                 -- each name with its payload, which is JSON, as a string: byte for byte as it came
) WITH (fillfactor = 50);

CREATE INDEX sagas_due ON sagas (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX sagas_over ON sagas (over_at) WHERE over_at IS NOT NULL;
CREATE INDEX sagas_stuck ON sagas (id) WHERE status = 'STUCK';
CREATE INDEX sagas_business ON sagas (business_id, id) WHERE business_id <> '';

-- The history, for people: what was not just a step that succeeded.
CREATE TABLE saga_events (
    saga_id  saga_id     NOT NULL,
    revision saga_number NOT NULL, -- of the write that it came with
    no       integer     NOT NULL, -- within that write
    at       timestamptz NOT NULL,
    kind     text        NOT NULL,
    step     text        NOT NULL,
    attempt  integer     NOT NULL,
    actor    text        NOT NULL,
    text     text        NOT NULL,
    PRIMARY KEY (saga_id, revision, no)
);

-- What steps publish, until it is relayed. The ids of one saga grow with its steps;
-- those of all of them become visible in any order.
CREATE TABLE saga_outbox (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL,
    saga_id    saga_id     NOT NULL,
    step       text        NOT NULL,
    topic      text        NOT NULL,
    key        text        NOT NULL,
    payload    bytea       NOT NULL
);
