-- PostgreSQL evaluates every check of a table for each row that is inserted or
-- updated, those of columns that are not written too, and reads and plans each
-- check anew for every statement. An update of two sums paid for the currency's
-- pattern and eight more. A domain's check is read once a session, and evaluated
-- only where a column of the domain is written. It refuses the same, by the same
-- code. What compares columns stays a check of the table. The tables are written
-- anew, which takes as long as that.

CREATE DOMAIN ledger_sum      AS numeric(38,0) CHECK (VALUE >= 0 AND VALUE < 1e38);
CREATE DOMAIN ledger_amount   AS numeric(38,0) CHECK (VALUE > 0 AND VALUE < 1e38);
CREATE DOMAIN ledger_balance  AS numeric(38,0) CHECK (VALUE > -1e38 AND VALUE < 1e38);
CREATE DOMAIN ledger_floor    AS numeric(38,0) CHECK (VALUE <= 0);
CREATE DOMAIN ledger_version  AS bigint        CHECK (VALUE >= 0);
CREATE DOMAIN ledger_id       AS text          COLLATE "C" CHECK (octet_length(VALUE) BETWEEN 1 AND 128);
CREATE DOMAIN ledger_long_id  AS text          COLLATE "C" CHECK (octet_length(VALUE) BETWEEN 1 AND 160); -- a client's has 128 at most
CREATE DOMAIN ledger_currency AS text          CHECK (VALUE ~ '^[A-Z0-9]{1,12}$');
CREATE DOMAIN ledger_scale    AS smallint      CHECK (VALUE BETWEEN 0 AND 30);
CREATE DOMAIN ledger_side     AS smallint      CHECK (VALUE IN (1, 2)); -- 1 debit, 2 credit
CREATE DOMAIN ledger_print    AS bytea         CHECK (octet_length(VALUE) = 16);
CREATE DOMAIN ledger_kind     AS smallint      CHECK (VALUE BETWEEN 0 AND 4); -- post, hold, capture, release, reverse

ALTER TABLE ledger_accounts
    DROP CONSTRAINT ledger_accounts_id_check,
    DROP CONSTRAINT ledger_accounts_currency_check,
    DROP CONSTRAINT ledger_accounts_scale_check,
    DROP CONSTRAINT ledger_accounts_normal_check,
    DROP CONSTRAINT ledger_accounts_floor_check,
    DROP CONSTRAINT ledger_accounts_debits_check,
    DROP CONSTRAINT ledger_accounts_credits_check,
    DROP CONSTRAINT ledger_accounts_held_debits_check,
    DROP CONSTRAINT ledger_accounts_held_credits_check,
    DROP CONSTRAINT ledger_accounts_version_check,
    ALTER COLUMN id           TYPE ledger_id,
    ALTER COLUMN currency     TYPE ledger_currency,
    ALTER COLUMN scale        TYPE ledger_scale,
    ALTER COLUMN normal       TYPE ledger_side,
    ALTER COLUMN floor        TYPE ledger_floor,
    ALTER COLUMN debits       TYPE ledger_sum,
    ALTER COLUMN credits      TYPE ledger_sum,
    ALTER COLUMN held_debits  TYPE ledger_sum,
    ALTER COLUMN held_credits TYPE ledger_sum,
    ALTER COLUMN version      TYPE ledger_version;

ALTER TABLE ledger_transactions
    DROP CONSTRAINT ledger_transactions_id_check,
    DROP CONSTRAINT ledger_transactions_fingerprint_check,
    DROP CONSTRAINT ledger_transactions_kind_check,
    DROP CONSTRAINT ledger_transactions_check,  -- expires_at
    DROP CONSTRAINT ledger_transactions_check1, -- target
    ALTER COLUMN id          TYPE ledger_long_id,
    ALTER COLUMN fingerprint TYPE ledger_print,
    ALTER COLUMN kind        TYPE ledger_kind,
    ADD CONSTRAINT ledger_transactions_of_a_kind
        CHECK ((kind = 1 OR expires_at IS NULL) AND (target IS NULL) = (kind < 2));

ALTER TABLE ledger_postings
    DROP CONSTRAINT ledger_postings_amount_check,
    DROP CONSTRAINT ledger_postings_debit_balance_check,
    DROP CONSTRAINT ledger_postings_credit_balance_check,
    ALTER COLUMN amount         TYPE ledger_amount,
    ALTER COLUMN debit_balance  TYPE ledger_balance,
    ALTER COLUMN credit_balance TYPE ledger_balance;

ALTER TABLE ledger_holds
    DROP CONSTRAINT ledger_holds_amount_check,
    ALTER COLUMN amount TYPE ledger_amount;
