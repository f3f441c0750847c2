CREATE TABLE customers (
    id        text COLLATE "C" PRIMARY KEY,
    opened_at timestamptz NOT NULL DEFAULT now()
);

-- The primary key is what stops a second payment with one reference, whatever
-- any cache says.
CREATE TABLE payments (
    reference        text COLLATE "C" PRIMARY KEY,
    customer_id      text COLLATE "C" NOT NULL,
    payment_status   text             NOT NULL,
    amount           numeric(15, 2)   NOT NULL CHECK (amount > 0 AND amount < 1e13),
    transaction_date timestamp        NOT NULL,
    state            text             NOT NULL CHECK (state IN ('RECEIVED', 'POSTED', 'RECORDED', 'REJECTED')),
    reason           text             NOT NULL DEFAULT '',
    accepted_at      timestamptz      NOT NULL,
    posted_at        timestamptz
) WITH (fillfactor = 70); -- room for a payment's second version on its page

-- What is still to be posted: short, however long the table gets.
CREATE INDEX payments_received ON payments (accepted_at) WHERE state = 'RECEIVED';
