-- Messages of all queues. A message that is claimed stays where it is, with the name of its worker and the end of the lease.
create table queue_messages (
    queue       text        not null,
    id          bigint      generated always as identity,
    body        bytea       not null,
    attempts    integer     not null default 0,
    worker      text,
    lease_until timestamptz,
    primary key (queue, id),
    check ((worker is null) = (lease_until is null))
);

-- What a worker holds, to renew it and to find leases that ran out. Claims walk the primary key: the few claimed rows at the
-- head cost less than a third index, which every claim and return would have to change.
create index queue_messages_claimed on queue_messages (queue, worker) where worker is not null;

-- The table is written three times per message and is almost empty in between, so the dead rows must go early.
alter table queue_messages set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
