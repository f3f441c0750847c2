package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
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
	l, err := ledger.New(s.ledger.With(tx), nil)
	if err != nil {
		panic(err) // only bad options are refused, and there are none
	}
	return l
}

// acceptSQL inserts, and reads beside it what was there before. A reference that
// another transaction commits while this one runs is in neither: found is null,
// and the caller asks again.
const acceptSQL = `
WITH input AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::numeric[], $5::timestamp[], $6::text[], $7::timestamptz[])
    WITH ORDINALITY AS i(reference, customer_id, payment_status, amount, transaction_date, state, accepted_at, n)
), fresh AS (
    INSERT INTO payments AS p (reference, customer_id, payment_status, amount, transaction_date, state, reason, accepted_at)
    SELECT i.reference, i.customer_id, i.payment_status, i.amount, i.transaction_date,
           CASE WHEN c.id IS NULL THEN 'REJECTED' ELSE i.state END, CASE WHEN c.id IS NULL THEN 'unknown_customer' ELSE '' END,
           coalesce(i.accepted_at, clock_timestamp())
    FROM input i LEFT JOIN customers c ON c.id = i.customer_id WHERE c.id IS NOT NULL OR $8 ORDER BY i.reference
    ON CONFLICT (reference) DO UPDATE
    SET payment_status = excluded.payment_status, transaction_date = excluded.transaction_date, state = excluded.state
    WHERE p.payment_status = 'PENDING' AND excluded.payment_status <> 'PENDING'
      AND p.customer_id = excluded.customer_id AND p.amount = excluded.amount
    RETURNING reference, accepted_at
)
SELECT f.reference IS NOT NULL, c.id IS NOT NULL, coalesce(f.accepted_at, p.accepted_at),
       p.customer_id = i.customer_id AND p.payment_status = i.payment_status AND p.amount = i.amount AND p.transaction_date = i.transaction_date
FROM input i LEFT JOIN fresh f USING (reference) LEFT JOIN payments p USING (reference) LEFT JOIN customers c ON c.id = i.customer_id
ORDER BY i.n`

func (s *pgStore) accept(ctx context.Context, payments []*payment, acknowledged bool) ([]acceptance, error) {
	out := make([]acceptance, len(payments))
	var again []int
	if err := s.offer(ctx, payments, acknowledged, func(i int, a acceptance, sure bool) {
		if out[i] = a; !sure {
			again = append(again, i)
		}
	}); err != nil {
		return nil, err
	}
	if len(again) == 0 {
		return out, nil
	}
	rest := make([]*payment, len(again))
	for k, i := range again {
		rest[k] = payments[i]
	}
	err := s.offer(ctx, rest, acknowledged, func(k int, a acceptance, sure bool) {
		if out[again[k]] = a; !sure {
			out[again[k]].err = fmt.Errorf("payment %q: neither inserted nor found", rest[k].Reference)
		}
	})
	return out, err
}

// offer runs acceptSQL and gives each answer to take.
func (s *pgStore) offer(ctx context.Context, payments []*payment, acknowledged bool, take func(i int, a acceptance, sure bool)) error {
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
		return err
	}
	defer rows.Close()
	for i := 0; rows.Next(); i++ {
		var fresh, known bool
		var first *time.Time
		var same *bool
		if err := rows.Scan(&fresh, &known, &first, &same); err != nil {
			return err
		}
		a := acceptance{repeat: !fresh}
		switch {
		case !known:
			a.err = errUnknownCustomer
		case first == nil:
			take(i, a, false)
			continue
		case !fresh && !*same:
			a.err = errOtherContent
		default:
			a.first = *first
		}
		take(i, a, true)
	}
	return rows.Err()
}

// Rows that another worker has in hand are skipped: it posts them, or it dies
// and the sweep finds them.
const dueSQL = `
SELECT reference, customer_id, amount, accepted_at, clock_timestamp() FROM payments
WHERE reference = ANY($1) AND state = 'RECEIVED' FOR NO KEY UPDATE SKIP LOCKED`

const settleSQL = `
UPDATE payments p SET state = u.state, reason = u.reason, posted_at = $4
FROM unnest($1::text[], $2::text[], $3::text[]) AS u(reference, state, reason) WHERE p.reference = u.reference`

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
	rows, err := s.pool.Query(ctx, `SELECT reference FROM payments
WHERE state = 'RECEIVED' AND accepted_at <= clock_timestamp() - $1::interval ORDER BY accepted_at LIMIT $2`, age, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (s *pgStore) find(ctx context.Context, reference string) (p payment, found bool, err error) {
	var posted *time.Time
	var amount string
	err = s.pool.QueryRow(ctx, `SELECT reference, customer_id, payment_status, amount::text, to_char(transaction_date, 'YYYY-MM-DD HH24:MI:SS'),
state, reason, accepted_at, posted_at FROM payments WHERE reference = $1`, reference).
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
	rows, err := s.pool.Query(ctx, `SELECT state, count(*), coalesce(sum(amount) FILTER (WHERE state = 'POSTED'), 0)::text,
(SELECT count(*) FROM customers) FROM payments GROUP BY state UNION ALL SELECT '', 0, '0', count(*) FROM customers`)
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
