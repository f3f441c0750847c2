-- Messages of all queues. A message that is claimed stays where it is, with the name of its worker and the end of the lease.
create table queue_messages (
    id          bigint      generated always as identity primary key,
    queue       text        not null,
    body        bytea       not null,
    attempts    integer     not null default 0,
    worker      text,
    lease_until timestamptz,
    check ((worker is null) = (lease_until is null))
);

-- What waits, in order.
create index queue_messages_ready on queue_messages (queue, id) where worker is null;

-- What a worker holds, and whose leases may have run out.
create index queue_messages_claimed on queue_messages (queue, worker) where worker is not null;

-- The table is written three times per message and is almost empty in between, so the dead rows must go early.
alter table queue_messages set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- Claims up to in_limit messages for in_worker and renews what it holds; in_lease is in microseconds.
--
-- It is a function for the sake of its settings. The contents of a queue have nothing to do with the last statistics about
-- them: with none, or with those of a moment when all was claimed, the planner expects a single ready row, chooses to read
-- and sort them all, and then finds a million. Here it can only walk the index and stop at the limit. (jit is off because
-- forbidden plans have a cost that would start the compiler.)
--
-- A claim of nothing by a worker that holds nothing writes nothing and takes no transaction id, so polling is cheap.
create function queue_claim(in_queue text, in_worker text, in_limit integer, in_lease bigint)
returns table (id bigint, body bytea, attempts integer)
language plpgsql
set search_path from current
set enable_sort = off
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
begin
    return query
    -- The oldest are chosen once ("materialized"): a plan that ran the subquery again would find its first choice locked,
    -- skip it and claim more than was asked for.
    with next as materialized (
        select m.id from queue_messages m
        where m.queue = in_queue and m.worker is null
        order by m.id
        limit in_limit
        for update skip locked
    ), held as materialized (
        select m.id from queue_messages m
        where m.queue = in_queue and m.worker = in_worker
        for update skip locked
    ), renewed as (
        update queue_messages m
        set lease_until = clock_timestamp() + in_lease * interval '1 microsecond'
        from held
        where m.id = held.id
    )
    update queue_messages m
    set worker = in_worker, attempts = m.attempts + 1, lease_until = clock_timestamp() + in_lease * interval '1 microsecond'
    from next
    where m.id = next.id
    returning m.id, m.body, m.attempts;
end
$$;

-- Gives back what workers hold whose lease has run out, and returns how many messages. A worker that renews at this moment is
-- spared: its row is locked and skipped, or is read again as it is after the renewal.
create function queue_reap(in_queue text)
returns integer
language plpgsql
set search_path from current
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    reaped integer;
begin
    with dead as materialized (
        select m.id from queue_messages m
        where m.queue = in_queue and m.worker is not null and m.lease_until < clock_timestamp()
        for update skip locked
    )
    update queue_messages m
    set worker = null, lease_until = null
    from dead
    where m.id = dead.id;
    get diagnostics reaped = row_count;
    return reaped;
end
$$;
