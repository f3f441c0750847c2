SELECT state, count(*), coalesce(sum(amount) FILTER (WHERE state = 'POSTED'), 0)::text,
(SELECT count(*) FROM customers) FROM payments GROUP BY state UNION ALL SELECT '', 0, '0', count(*) FROM customers
