UPDATE payments p SET state = u.state, reason = u.reason, posted_at = $4
FROM unnest($1::text[], $2::text[], $3::text[]) AS u(reference, state, reason) WHERE p.reference = u.reference
