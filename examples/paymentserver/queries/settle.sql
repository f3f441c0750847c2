UPDATE payments p SET state = u.state, reason = u.reason, posted_at = $4
FROM (SELECT unnest($1::text[]) AS reference, unnest($2::text[]) AS state, unnest($3::text[]) AS reason) AS u WHERE p.reference = u.reference
