package pgqueue

import "strings"

// statements are the SQL of one queue table.
//
// All but acknowledging and returning take their row locks with "skip locked", so they wait for nobody; those two wait only
// for them. So no two calls can wait for each other, in whatever order they meet their rows.
type statements struct {
	push, claim, ack, giveBack, reap, stats string
}

func statementsFor(table string) statements {
	return statements{
		push:     strings.ReplaceAll(pushSQL, "@table", table),
		claim:    strings.ReplaceAll(claimSQL, "@table", table),
		ack:      strings.ReplaceAll(ackSQL, "@table", table),
		giveBack: strings.ReplaceAll(returnSQL, "@table", table),
		reap:     strings.ReplaceAll(reapSQL, "@table", table),
		stats:    strings.ReplaceAll(statsSQL, "@table", table),
	}
}

// The identity is drawn after the sort, so ids follow the order of the arguments.
const pushSQL = `
insert into @table (queue, body)
select $1, u.body
from unnest($2::bytea[]) with ordinality as u (body, place)
order by u.place`

// An empty claim of a worker that holds nothing writes nothing and takes no transaction id, so polling is cheap.
//
// The oldest rows are chosen once ("materialized"): a plan that ran the subquery again would find the first choice locked,
// skip it and claim more than was asked for.
const claimSQL = `
with next as materialized (
    select id from @table
    where queue = $1 and worker is null
    order by id
    limit $3
    for update skip locked
), held as materialized (
    select id from @table
    where queue = $1 and worker = $2
    for update skip locked
), renewed as (
    update @table m
    set lease_until = clock_timestamp() + $4 * interval '1 microsecond'
    from held
    where m.queue = $1 and m.id = held.id
), claimed as (
    update @table m
    set worker = $2, attempts = m.attempts + 1, lease_until = clock_timestamp() + $4 * interval '1 microsecond'
    from next
    where m.queue = $1 and m.id = next.id
    returning m.id, m.body, m.attempts
)
select id, body, attempts from claimed order by id`

const ackSQL = `
delete from @table m
using unnest($3::bigint[], $4::integer[]) as done (id, attempts)
where m.queue = $1 and m.id = done.id and m.worker = $2 and m.attempts = done.attempts`

const returnSQL = `
update @table m
set worker = null, lease_until = null
from unnest($3::bigint[], $4::integer[]) as undone (id, attempts)
where m.queue = $1 and m.id = undone.id and m.worker = $2 and m.attempts = undone.attempts`

// A worker that renews at this moment is spared: its row is locked and skipped, or is read again as it is after the renewal.
const reapSQL = `
with dead as materialized (
    select id from @table
    where queue = $1 and worker is not null and lease_until < clock_timestamp()
    for update skip locked
)
update @table m
set worker = null, lease_until = null
from dead
where m.queue = $1 and m.id = dead.id`

const statsSQL = `
select count(*) filter (where worker is null), count(*) filter (where worker is not null)
from @table
where queue = $1`
