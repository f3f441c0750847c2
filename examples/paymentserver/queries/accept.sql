-- Inserts payments, and completes those that were pending. For each it tells
-- whether its customer is known, and when it was accepted: null where the
-- reference is taken. By whom, this statement may be too early to see, as another
-- transaction took it while this one ran; the next statement is not. They are
-- locked in the order in which due.sql locks them, whatever the language of the database.
WITH input AS (
    SELECT unnest($1::text[]) AS reference, unnest($2::text[]) AS customer_id, unnest($3::text[]) AS payment_status, unnest($4::numeric[]) AS amount,
           unnest($5::timestamp[]) AS transaction_date, unnest($6::text[]) AS state, unnest($7::timestamptz[]) AS accepted_at,
           generate_subscripts($1::text[], 1) AS n
), fresh AS (
    INSERT INTO payments AS p (reference, customer_id, payment_status, amount, transaction_date, state, reason, accepted_at)
    SELECT i.reference, i.customer_id, i.payment_status, i.amount, i.transaction_date,
           CASE WHEN c.id IS NULL THEN 'REJECTED' ELSE i.state END, CASE WHEN c.id IS NULL THEN 'unknown_customer' ELSE '' END,
           coalesce(i.accepted_at, clock_timestamp())
    FROM input i LEFT JOIN customers c ON c.id = i.customer_id WHERE c.id IS NOT NULL OR $8 ORDER BY i.reference COLLATE "C"
    ON CONFLICT (reference) DO UPDATE
    SET payment_status = excluded.payment_status, transaction_date = excluded.transaction_date, state = excluded.state,
        reason = excluded.reason, accepted_at = excluded.accepted_at
    WHERE p.payment_status = 'PENDING' AND excluded.payment_status <> 'PENDING'
      AND p.customer_id = excluded.customer_id AND p.amount = excluded.amount
    RETURNING reference, accepted_at
)
SELECT c.id IS NOT NULL, f.accepted_at
FROM input i LEFT JOIN fresh f USING (reference) LEFT JOIN customers c ON c.id = i.customer_id
ORDER BY i.n
