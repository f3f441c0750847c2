SELECT reference, customer_id, payment_status, amount, to_char(transaction_date, 'YYYY-MM-DD HH24:MI:SS'),
state, reason, accepted_at, posted_at FROM payments WHERE reference = ANY($1)
