package pg

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The settings are local: where nobody began a transaction they end with the
// statement that they are for, and in the caller's they are put back.
var (
	probes = PlannerFor("probe", "enable_seqscan", "off", "plan_cache_mode", "force_generic_plan")

	probing     = "SELECT " + probes.Set
	keeping     = "SELECT " + probes.Keep
	puttingBack = "SELECT " + probes.Restore
)

// Probe runs one statement whose plan must be index probes, in one round trip.
// scan reads its rows and closes them.
//
// The driver keeps a statement's plan for as long as its connection lives. Made
// while the tables are new and small, it would be a sequential scan, and stay so
// for the minutes until PostgreSQL analyzes what has grown meanwhile: the cost of
// a call would grow with the table. And where PostgreSQL thinks that a plan for
// these very arguments is better, as with arrays that are shorter than it guesses,
// it makes one for each call, which takes longer than to carry it out (ADR 22).
func Probe(ctx context.Context, db DB, scan func(pgx.Rows) error, sql string, args ...any) error {
	batcher, ok := db.(Batcher)
	if !ok { // a DB of the caller's own: its plans are its own too
		rows, err := db.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		return scan(rows)
	}
	b := &pgx.Batch{}
	callers := !begins(db)
	if callers {
		b.Queue(keeping)
	}
	b.Queue(probing)
	b.Queue(sql, args...).Query(scan)
	if callers {
		b.Queue(puttingBack)
	}
	return batcher.SendBatch(ctx, b).Close()
}

// begins tells whether what is sent to db is a transaction of its own.
func begins(db DB) bool {
	switch db := db.(type) {
	case *pgxpool.Pool:
		return true
	case *pgx.Conn:
		return db.PgConn().TxStatus() == 'I'
	}
	return false
}
