-- In the order of their references, so that two workers with the same payments
-- wait for each other; the second then finds them posted.
SELECT reference, customer_id, amount, accepted_at, clock_timestamp() FROM payments
WHERE reference = ANY($1) AND state = 'RECEIVED' ORDER BY reference FOR NO KEY UPDATE
