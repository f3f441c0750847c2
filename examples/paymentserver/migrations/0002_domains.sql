-- A table's checks are read and planned anew for every statement, a domain's once a
-- session. The table is written anew, which takes as long as that.
CREATE DOMAIN payment_amount AS numeric(15, 2) CHECK (VALUE > 0 AND VALUE < 1e13);
CREATE DOMAIN payment_state  AS text CHECK (VALUE IN ('RECEIVED', 'POSTED', 'RECORDED', 'REJECTED'));

ALTER TABLE payments
    DROP CONSTRAINT payments_amount_check,
    DROP CONSTRAINT payments_state_check,
    ALTER COLUMN amount TYPE payment_amount,
    ALTER COLUMN state  TYPE payment_state;
