package main

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/examples/internal/receivables"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/pg"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

//go:embed migrations/*.sql
var files embed.FS

var (
	//go:embed queries/accept.sql
	acceptSQL string
	//go:embed queries/due.sql
	dueSQL string
	//go:embed queries/settle.sql
	settleSQL string
	//go:embed queries/received.sql
	receivedSQL string
	//go:embed queries/find.sql
	findSQL string
	//go:embed queries/customers.sql
	customersSQL string
	//go:embed queries/totals.sql
	totalsSQL string
)

// prepare brings the schema up to date, or else checks that it is.
func prepare(ctx context.Context, pool *pgxpool.Pool, keys *pgidem.Store, migrate bool) error {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		return err
	}
	own := pg.Migration{Line: "paymentserver", Files: sub}
	if migrate {
		return errors.Join(pgledger.Migrate(ctx, pool, nil), pgidem.Migrate(ctx, pool, nil), pg.Migrate(ctx, pool, own))
	}
	return errors.Join(pgledger.NewStore(pool, nil).CheckSchema(ctx), keys.CheckSchema(ctx), pg.CheckSchema(ctx, pool, own))
}

// pgStore is a store in PostgreSQL.
type pgStore struct {
	pool   *pgxpool.Pool
	ledger *pgledger.Store
}

func newPGStore(pool *pgxpool.Pool) *pgStore {
	return &pgStore{pool: pool, ledger: pgledger.NewStore(pool, nil)}
}

// in returns the ledger within a transaction.
func (s *pgStore) in(tx pgx.Tx) *ledger.Ledger {
	l, err := ledger.New(s.ledger.In(tx), nil)
	if err != nil {
		panic(err) // only bad options are refused, and there are none
	}
	return l
}

// errGone tells of a payment that nobody has:
//
//	its reference is taken, and so it is not inserted
//	somebody deletes the one that has the reference, by hand, or to restore a backup
//	it is looked for and not found
//
// Or a trigger of the table's owner drops it. It must not be acknowledged.
var errGone = errors.New("a payment was neither inserted nor is it there")

func (s *pgStore) accept(ctx context.Context, payments []*payment, acknowledged bool) ([]acceptance, error) {
	out, err := s.insert(ctx, payments, acknowledged)
	// Of two that insert one reference PostgreSQL undoes one, if its default is stricter than READ COMMITTED.
	for tries := 1; pg.Retryable(err) && !pg.Unavailable(err) && tries < 10; tries++ {
		out, err = s.insert(ctx, payments, acknowledged)
	}
	if err != nil {
		return nil, err
	}
	taken := map[string]int{}
	for i, a := range out {
		if a == (acceptance{}) {
			taken[payments[i].Reference] = i
		}
	}
	if len(taken) == 0 {
		return out, nil
	}
	have, err := s.find(ctx, slices.Collect(maps.Keys(taken))...)
	for _, first := range have {
		i := taken[first.Reference]
		out[i] = first.again(payments[i])
	}
	if err == nil && len(have) < len(taken) {
		err = errGone
	}
	return out, err
}

// insert leaves the acceptance empty where a reference is taken.
func (s *pgStore) insert(ctx context.Context, payments []*payment, acknowledged bool) ([]acceptance, error) {
	n := len(payments)
	references, customers, statuses := make([]string, n), make([]string, n), make([]string, n)
	dates, states, amounts, accepted := make([]string, n), make([]string, n), make([]string, n), make([]zeronull.Timestamptz, n)
	for i, p := range payments {
		references[i], customers[i], statuses[i] = p.Reference, p.CustomerID, p.BankStatus
		amounts[i], dates[i], states[i] = p.Amount.String(), `"`+p.Date+`"`, p.State
		accepted[i] = zeronull.Timestamptz(p.AcceptedAt) // of one that was spilled
	}
	rows, _ := s.pool.Query(ctx, acceptSQL, references, customers, statuses, // an error is in the rows, too
		"{"+strings.Join(amounts, ",")+"}", "{"+strings.Join(dates, ",")+"}", states, accepted, acknowledged)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (a acceptance, err error) {
		var known bool
		if err = row.Scan(&known, (*zeronull.Timestamptz)(&a.first)); !known {
			a.err = errUnknownCustomer
		}
		return a, err
	})
}

// readCommitted is what statements that wait for others' rows are written for, whatever the database's default.
var readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}

// post is one transaction: what it marks as posted is in the ledger, always.
func (s *pgStore) post(ctx context.Context, references []string) (due []payment, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, readCommitted, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, dueSQL, references)
		if due, err = pgx.CollectRows(rows, scanPayment); err != nil || len(due) == 0 {
			return err
		}
		if err := postAll(ctx, s.in(tx), due); err != nil {
			return err
		}
		var refs, states, reasons []string
		for _, p := range due {
			refs, states, reasons = append(refs, p.Reference), append(states, p.State), append(reasons, p.Reason)
		}
		_, err = tx.Exec(ctx, settleSQL, refs, states, reasons, due[0].PostedAt)
		return err
	})
	return due, err
}

func (s *pgStore) received(ctx context.Context, age time.Duration, limit int) ([]string, error) {
	rows, _ := s.pool.Query(ctx, receivedSQL, age, limit)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (s *pgStore) find(ctx context.Context, references ...string) (found []payment, err error) {
	err = pg.Probe(ctx, s.pool, func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, scanPayment)
		return err
	}, findSQL, references)
	return found, err
}

func scanPayment(row pgx.CollectableRow) (p payment, err error) {
	err = row.Scan(&p.Reference, &p.CustomerID, &p.BankStatus, &p.Amount, &p.Date, &p.State, &p.Reason,
		&p.AcceptedAt, (*zeronull.Timestamptz)(&p.PostedAt))
	return p, err
}

func (s *pgStore) open(ctx context.Context, ids []string) (opened int, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, readCommitted, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO customers (id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING`, ids)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		opened = int(tag.RowsAffected())
		return receivables.Open(ctx, s.in(tx), ids)
	})
	return opened, err
}

func (s *pgStore) customers(ctx context.Context, limit, offset int) (ids []string, total int64, err error) {
	err = s.pool.QueryRow(ctx, customersSQL, limit, offset).Scan(&total, &ids)
	return ids, total, err
}

func (s *pgStore) totals(ctx context.Context) (t totals, err error) {
	err = s.pool.QueryRow(ctx, totalsSQL).Scan(&t.Customers, &t.Payments, &t.Posted)
	return t, err
}
