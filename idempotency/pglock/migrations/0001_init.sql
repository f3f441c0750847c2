-- One row a name: the highest fencing number that was given out for it by a Locker, or seen of it by a Fence. A row must
-- stay for as long as a late holder may come: names are those of things that stay, such as accounts.
CREATE TABLE lock_fences (
    key   bytea  PRIMARY KEY CHECK (octet_length(key) BETWEEN 9 AND 777), -- idempotency.Key.String
    token bigint NOT NULL CHECK (token > 0)
) WITH (fillfactor = 80);
