-- Amounts are whole minor units. NUMERIC(38,0) refuses infinity but takes NaN,
-- which it sorts above every number: each check has an upper bound for that.

CREATE TABLE ledger_accounts (
    no       bigint   GENERATED ALWAYS AS IDENTITY UNIQUE,
    id       text     COLLATE "C" PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 128),
    currency text     NOT NULL CHECK (currency ~ '^[A-Z0-9]{1,12}$'),
    scale    smallint NOT NULL CHECK (scale BETWEEN 0 AND 30),
    normal   smallint NOT NULL CHECK (normal IN (1, 2)), -- 1 debit, 2 credit
    floor    numeric(38,0) CHECK (floor <= 0),
    debits   numeric(38,0) NOT NULL DEFAULT 0 CHECK (debits >= 0 AND debits < 1e38),
    credits  numeric(38,0) NOT NULL DEFAULT 0 CHECK (credits >= 0 AND credits < 1e38),
    held_debits  numeric(38,0) NOT NULL DEFAULT 0 CHECK (held_debits >= 0 AND held_debits < 1e38),
    held_credits numeric(38,0) NOT NULL DEFAULT 0 CHECK (held_credits >= 0 AND held_credits < 1e38),
    version  bigint   NOT NULL DEFAULT 0 CHECK (version >= 0),
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ledger_accounts_above_floor
        CHECK (floor IS NULL OR CASE normal WHEN 1 THEN debits - credits - held_credits ELSE credits - debits - held_debits END >= floor)
) WITH (fillfactor = 50); -- room for the next version on the same page: balances change in place

-- One number for each batch: the batch's first transaction gets it, the others
-- what follows. It is drawn while the accounts are locked, so along an account's
-- versions it only grows. The increment is ledger.MaxBatch.
CREATE SEQUENCE ledger_transaction_seq AS bigint INCREMENT BY 8192;

-- What was decided of an id, for ever: the refused ones too.
CREATE TABLE ledger_transactions (
    id          text        COLLATE "C" PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 160), -- a client's has 128 at most
    seq         bigint      NOT NULL,
    fingerprint bytea       NOT NULL CHECK (octet_length(fingerprint) = 16),
    verdict     smallint    NOT NULL,
    posting     smallint    NOT NULL, -- which one a refusal is about
    at          timestamptz NOT NULL,
    kind        smallint    NOT NULL DEFAULT 0 CHECK (kind BETWEEN 0 AND 4), -- post, hold, capture, release, reverse
    target      text        COLLATE "C", -- what a capture, release or reverse is of
    expires_at  timestamptz CHECK (expires_at IS NULL OR kind = 1),
    closed_by   text        COLLATE "C", -- what has captured, released or reversed this one
    CHECK ((target IS NOT NULL) = (kind IN (2, 3, 4)))
);

CREATE INDEX ledger_transactions_expiring ON ledger_transactions (expires_at)
    WHERE expires_at IS NOT NULL AND closed_by IS NULL AND verdict = 0;

-- What holds reserve. They are open while their transaction is not closed.
CREATE TABLE ledger_holds (
    transaction_id text          COLLATE "C" NOT NULL,
    posting        smallint      NOT NULL,
    debit_no       bigint        NOT NULL,
    credit_no      bigint        NOT NULL CHECK (credit_no <> debit_no),
    amount         numeric(38,0) NOT NULL CHECK (amount > 0 AND amount < 1e38),
    PRIMARY KEY (transaction_id, posting)
);

-- One row a posting, with both accounts' version and balance after it: an
-- account's statement is read off the two unique indexes, which also see to it
-- that a version exists once.
CREATE TABLE ledger_postings (
    seq            bigint   NOT NULL,
    posting        smallint NOT NULL,
    debit_no       bigint   NOT NULL,
    credit_no      bigint   NOT NULL CHECK (credit_no <> debit_no),
    debit_version  bigint   NOT NULL,
    credit_version bigint   NOT NULL,
    at             timestamptz   NOT NULL,
    amount         numeric(38,0) NOT NULL CHECK (amount > 0 AND amount < 1e38),
    debit_balance  numeric(38,0) NOT NULL CHECK (debit_balance > -1e38 AND debit_balance < 1e38),
    credit_balance numeric(38,0) NOT NULL CHECK (credit_balance > -1e38 AND credit_balance < 1e38),
    transaction_id text COLLATE "C" NOT NULL,
    UNIQUE (debit_no, debit_version),
    UNIQUE (credit_no, credit_version)
);

-- A transaction's postings are found by its seq, which grows with the table: a
-- summary of each few pages does, and costs a post next to nothing.
CREATE INDEX ledger_postings_seq ON ledger_postings USING brin (seq) WITH (pages_per_range = 16, autosummarize = on);

-- By number, for what reads all of them in their order.
CREATE INDEX ledger_transactions_seq ON ledger_transactions USING brin (seq) WITH (pages_per_range = 16, autosummarize = on);

-- The hash chain: each seal is over the one before it and the transactions since.
CREATE TABLE ledger_seals (
    number       bigint      PRIMARY KEY,
    to_seq       bigint      NOT NULL,
    transactions bigint      NOT NULL,
    hash         bytea       NOT NULL CHECK (octet_length(hash) = 32),
    sealed_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
