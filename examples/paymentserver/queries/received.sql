-- One that was spilled has the time of the server that took it, whose clock may be
-- ahead of this one. Of what is still to come nobody can say how old it is: it is due.
SELECT reference FROM payments
WHERE state = 'RECEIVED' AND accepted_at NOT BETWEEN clock_timestamp() - $1::interval AND clock_timestamp()
ORDER BY accepted_at LIMIT $2
