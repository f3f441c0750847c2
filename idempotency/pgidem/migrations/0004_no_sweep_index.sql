-- The sweep walks through the table, page by page, so that no statement of a payment pays for an index that is read once an
-- hour. The column is left to programs of the version before, which write it until they have been replaced.
DROP INDEX idempotency_records_sweep_at;
ALTER TABLE idempotency_records
    ALTER COLUMN sweep_at DROP DEFAULT,
    ALTER COLUMN sweep_at DROP NOT NULL;
