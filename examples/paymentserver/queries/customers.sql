SELECT count(*), ARRAY(SELECT id FROM customers ORDER BY id LIMIT $1 OFFSET $2) FROM customers
