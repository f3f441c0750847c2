SELECT (SELECT count(*) FROM customers), coalesce(json_object_agg(state, payments), '{}'), coalesce(sum(posted), 0)
FROM (
    SELECT state, count(*) AS payments, sum(amount) FILTER (WHERE state = 'POSTED') AS posted FROM payments GROUP BY state
) AS states
