-- Inserts payments, and reads beside it what was there before. What another
-- transaction commits while this one runs is in neither: a reference that was
-- taken, or a pending payment that was completed. Its accepted_at is null then,
-- and the caller asks again.
WITH input AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::numeric[], $5::timestamp[], $6::text[], $7::timestamptz[])
    WITH ORDINALITY AS i(reference, customer_id, payment_status, amount, transaction_date, state, accepted_at, n)
), fresh AS (
    INSERT INTO payments AS p (reference, customer_id, payment_status, amount, transaction_date, state, reason, accepted_at)
    SELECT i.reference, i.customer_id, i.payment_status, i.amount, i.transaction_date,
           CASE WHEN c.id IS NULL THEN 'REJECTED' ELSE i.state END, CASE WHEN c.id IS NULL THEN 'unknown_customer' ELSE '' END,
           coalesce(i.accepted_at, clock_timestamp())
    FROM input i LEFT JOIN customers c ON c.id = i.customer_id WHERE c.id IS NOT NULL OR $8 ORDER BY i.reference
    ON CONFLICT (reference) DO UPDATE
    SET payment_status = excluded.payment_status, transaction_date = excluded.transaction_date, state = excluded.state,
        accepted_at = excluded.accepted_at
    WHERE p.payment_status = 'PENDING' AND excluded.payment_status <> 'PENDING'
      AND p.customer_id = excluded.customer_id AND p.amount = excluded.amount
    RETURNING reference, accepted_at
)
SELECT f.reference IS NOT NULL, c.id IS NOT NULL,
       CASE WHEN f.reference IS NULL AND p.payment_status = 'PENDING' AND i.payment_status <> 'PENDING'
             AND p.customer_id = i.customer_id AND p.amount = i.amount THEN NULL
            ELSE coalesce(f.accepted_at, p.accepted_at) END,
       p.customer_id = i.customer_id AND p.amount = i.amount
       AND (i.payment_status = 'PENDING' AND p.payment_status <> 'PENDING' -- late news of what is decided
            OR p.payment_status = i.payment_status AND p.transaction_date = i.transaction_date)
FROM input i LEFT JOIN fresh f USING (reference) LEFT JOIN payments p USING (reference) LEFT JOIN customers c ON c.id = i.customer_id
ORDER BY i.n
