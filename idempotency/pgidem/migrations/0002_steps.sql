-- Steps: what runs of the work under a key have recorded before its end, kept until steps_until and dropped when the key
-- is completed. The two arrays have the same length.
ALTER TABLE idempotency_records
    ADD COLUMN step_names   bytea[],
    ADD COLUMN step_results bytea[],
    ADD COLUMN steps_until  timestamptz;

-- The index on held_until changed with each completion and heartbeat, so that PostgreSQL could not update the row in
-- its page (HOT). What is indexed instead is when the sweep is to look at the row, 25 hours after the claim: that seldom
-- changes. The room left in each page is for the completion of its rows.
ALTER TABLE idempotency_records
    ADD COLUMN sweep_at timestamptz NOT NULL DEFAULT now() + interval '25 hours';
DROP INDEX idempotency_records_held_until;
CREATE INDEX idempotency_records_sweep_at ON idempotency_records (sweep_at);
ALTER TABLE idempotency_records SET (fillfactor = 90);
