SELECT reference FROM payments
WHERE state = 'RECEIVED' AND accepted_at <= clock_timestamp() - $1::interval ORDER BY accepted_at LIMIT $2
