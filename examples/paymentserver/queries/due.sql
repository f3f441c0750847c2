-- Rows that another worker has in hand are skipped: it posts them, or it dies and
-- the sweep finds them.
SELECT reference, customer_id, amount, accepted_at, clock_timestamp() FROM payments
WHERE reference = ANY($1) AND state = 'RECEIVED' FOR NO KEY UPDATE SKIP LOCKED
