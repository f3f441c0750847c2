package pgqueue

import (
	"strings"

	"github.com/safetill/safetill/internal/pg"
)

// statements are the SQL of one queue table.
//
// Claiming, renewing and reaping lock their rows with "skip locked", so they wait for nobody; acknowledging and returning wait
// only for them. So no two calls can wait for each other, in whatever order they meet their rows.
type statements struct {
	push, claim, ack, giveBack, reap, stats string
}

func statementsFor(schema string) statements {
	names := strings.NewReplacer("@table", pg.Table(schema, "queue_messages"), "@claim", pg.Table(schema, "queue_claim"), "@reap", pg.Table(schema, "queue_reap"))
	return statements{
		push:     names.Replace(pushSQL),
		claim:    names.Replace(claimSQL),
		ack:      names.Replace(ackSQL),
		giveBack: names.Replace(returnSQL),
		reap:     names.Replace(reapSQL),
		stats:    names.Replace(statsSQL),
	}
}

// The identity is drawn after the sort, so ids follow the order of the arguments.
const pushSQL = `
insert into @table (queue, body)
select $1, u.body
from unnest($2::bytea[]) with ordinality as u (body, place)
order by u.place`

const claimSQL = `select id, body, attempts from @claim($1, $2, $3, $4) order by id`

// The fence is a CASE so that the planner does not look into it. Seeing "worker = $2" it would expect a single row, begin with
// all that the worker holds, and compare each of those with each of the arguments: 11 s instead of 0.5 s for 10,000. This way
// it begins with the arguments and looks them up by primary key. (See also the function queue_claim.)
const fence = `
m.id = named.id and
case when m.queue = $1 and m.worker = $2 and m.attempts = named.attempts then true else false end`

const ackSQL = `
delete from @table m
using unnest($3::bigint[], $4::integer[]) as named (id, attempts)
where ` + fence

const returnSQL = `
update @table m
set worker = null, lease_until = null
from unnest($3::bigint[], $4::integer[]) as named (id, attempts)
where ` + fence

const reapSQL = `select @reap($1)`

const statsSQL = `
select count(*) filter (where worker is null), count(*) filter (where worker is not null)
from @table
where queue = $1`
