package main

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

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
	//go:embed queries/totals.sql
	totalsSQL string
)

func migration() pg.Migration {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return pg.Migration{Line: "paymentserver", Files: sub}
}

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return errors.Join(pgledger.Migrate(ctx, pool, nil), pg.Migrate(ctx, pool, migration()))
}

func checkSchema(ctx context.Context, pool *pgxpool.Pool) error {
	return errors.Join(pgledger.NewStore(pool, nil).CheckSchema(ctx), pg.CheckSchema(ctx, pool, migration()))
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

// errRaced says that a reference was taken while our statement ran: it was too
// late to insert and too early to find. Asked again, it is found.
var errRaced = errors.New("reference taken at the same moment")

func raced(a acceptance) bool { return errors.Is(a.err, errRaced) }

func (s *pgStore) accept(ctx context.Context, payments []*payment, acknowledged bool) ([]acceptance, error) {
	out, err := s.offer(ctx, payments, acknowledged)
	if err != nil || !slices.ContainsFunc(out, raced) {
		return out, err
	}
	// Only those are asked again: the others have their answer, and what was
	// refused a moment ago must not be recorded now.
	var rest []*payment
	for i, p := range payments {
		if raced(out[i]) {
			rest = append(rest, p)
		}
	}
	again, err := s.offer(ctx, rest, acknowledged)
	for i := range out {
		if err == nil && raced(out[i]) {
			out[i], again = again[0], again[1:]
		}
	}
	return out, err
}

func (s *pgStore) offer(ctx context.Context, payments []*payment, acknowledged bool) ([]acceptance, error) {
	n := len(payments)
	references, customers, statuses := make([]string, n), make([]string, n), make([]string, n)
	dates, states, amounts, accepted := make([]string, n), make([]string, n), make([]string, n), make([]*time.Time, n)
	for i, p := range payments {
		references[i], customers[i], statuses[i] = p.Reference, p.CustomerID, p.BankStatus
		amounts[i], dates[i], states[i] = p.Amount.String(), `"`+p.Date+`"`, p.State
		if !p.AcceptedAt.IsZero() { // it was spilled
			accepted[i] = &p.AcceptedAt
		}
	}
	rows, err := s.pool.Query(ctx, acceptSQL, references, customers, statuses,
		"{"+strings.Join(amounts, ",")+"}", "{"+strings.Join(dates, ",")+"}", states, accepted, acknowledged)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (a acceptance, err error) {
		var fresh, known bool
		var first *time.Time
		var same *bool
		if err := row.Scan(&fresh, &known, &first, &same); err != nil {
			return a, err
		}
		switch {
		case !known:
			a.err = errUnknownCustomer
		case first == nil:
			a.err = errRaced
		case !fresh && !*same:
			a.err = errOtherContent
		default:
			a.first, a.repeat = *first, !fresh
		}
		return a, nil
	})
}

// post is one transaction: what it marks as posted is in the ledger, always.
func (s *pgStore) post(ctx context.Context, references []string) (due []payment, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, dueSQL, references)
		if err != nil {
			return err
		}
		var now time.Time
		due, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p payment, err error) {
			var amount string
			if err = row.Scan(&p.Reference, &p.CustomerID, &amount, &p.AcceptedAt, &now); err == nil {
				p.Amount, err = decimal.NewFromString(amount)
			}
			return p, err
		})
		if err != nil || len(due) == 0 {
			return err
		}
		if err := postAll(ctx, s.in(tx), due, now); err != nil {
			return err
		}
		var refs, states, reasons []string
		for _, p := range due {
			refs, states, reasons = append(refs, p.Reference), append(states, p.State), append(reasons, p.Reason)
		}
		_, err = tx.Exec(ctx, settleSQL, refs, states, reasons, now)
		return err
	})
	return due, err
}

func (s *pgStore) received(ctx context.Context, age time.Duration, limit int) ([]string, error) {
	rows, err := s.pool.Query(ctx, receivedSQL, age, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (s *pgStore) find(ctx context.Context, reference string) (p payment, found bool, err error) {
	var posted *time.Time
	var amount string
	err = s.pool.QueryRow(ctx, findSQL, reference).
		Scan(&p.Reference, &p.CustomerID, &p.BankStatus, &amount, &p.Date, &p.State, &p.Reason, &p.AcceptedAt, &posted)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, false, nil
	}
	if err == nil {
		p.Amount, err = decimal.NewFromString(amount)
	}
	if posted != nil {
		p.PostedAt = *posted
	}
	return p, err == nil, err
}

func (s *pgStore) seed(ctx context.Context, n int) (int, error) {
	ids := make([]string, n)
	for i := range n {
		ids[i] = customerID(i + 1)
	}
	made := 0
	for chunk := range slices.Chunk(ids, seedChunk) {
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, `INSERT INTO customers (id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING`, chunk)
			if err != nil || tag.RowsAffected() == 0 {
				return err
			}
			made += int(tag.RowsAffected())
			return openCustomers(ctx, s.in(tx), chunk)
		})
		if err != nil {
			return 0, err
		}
	}
	return made, nil
}

func (s *pgStore) customers(ctx context.Context, limit, offset int) (ids []string, total int64, err error) {
	if err = s.pool.QueryRow(ctx, `SELECT count(*) FROM customers`).Scan(&total); err != nil {
		return nil, 0, err
	}
	rows, err := s.pool.Query(ctx, `SELECT id FROM customers ORDER BY id LIMIT $1 OFFSET $2`, limit, offset)
	if err != nil {
		return nil, 0, err
	}
	ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, total, err
}

func (s *pgStore) totals(ctx context.Context) (totals, error) {
	t := totals{Payments: map[string]int64{}}
	rows, err := s.pool.Query(ctx, totalsSQL)
	if err != nil {
		return t, err
	}
	defer rows.Close()
	for rows.Next() {
		var state, posted string
		var n int64
		if err := rows.Scan(&state, &n, &posted, &t.Customers); err != nil {
			return t, err
		}
		amount, err := decimal.NewFromString(posted)
		if err != nil {
			return t, err
		}
		if state != "" {
			t.Payments[state] = n
		}
		t.Posted = t.Posted.Add(amount)
	}
	return t, rows.Err()
}
