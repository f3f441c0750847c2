-- In the order of their references, so that two workers with the same payments
-- wait for each other; the second then finds them posted. All get one time.
SELECT reference, customer_id, payment_status, amount, to_char(transaction_date, 'YYYY-MM-DD HH24:MI:SS'),
state, reason, accepted_at, (SELECT clock_timestamp()) FROM payments
WHERE reference = ANY($1) AND state = 'RECEIVED' ORDER BY reference FOR NO KEY UPDATE
