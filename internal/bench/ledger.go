package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// accounts is how many accounts the uniform load is spread over.
const accounts = 100_000

// contestant posts transfers until ctx ends and counts those that are durable.
type contestant struct {
	name string
	hot  bool
	run  func(ctx context.Context, db *bank, hot bool, posted *atomic.Int64) error

	rates, cpu, failed []float64 // a round each: transfers/s, PostgreSQL's µs a transfer, share of transfers given up
}

// bank is a database with the accounts of all contestants.
type bank struct {
	pool   *pgxpool.Pool
	ledger *ledger.Ledger
	nextID atomic.Int64
	gaveUp atomic.Int64
}

// benchLedger compares batches with the usual transaction for each transfer.
func benchLedger(ctx context.Context, s *settings, w io.Writer) error {
	server, err := localdb.StartPostgres(ctx, localdb.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	db, err := openBank(ctx, server.URL())
	if err != nil {
		return err
	}
	defer db.pool.Close()

	var field []*contestant
	for _, hot := range []bool{false, true} {
		field = append(field,
			&contestant{name: "one FOR UPDATE transaction each, 8 callers", hot: hot, run: forUpdate},
			&contestant{name: "version check, 3 retries, 10 callers", hot: hot, run: optimistic},
			&contestant{name: "pgledger.Post of 1, 8 callers", hot: hot, run: posts(8, 1)},
			&contestant{name: "pgledger.Post of 100, 4 callers", hot: hot, run: posts(4, 100)},
			&contestant{name: "pgledger.Post of 1,000, 2 callers", hot: hot, run: posts(2, 1000)},
		)
	}
	if err := rounds(ctx, s, db, server.Pid(), field, nil); err != nil {
		return err
	}
	printLedger(w, s, field)
	report, err := db.ledger.Verify(ctx)
	if err != nil || !report.OK() {
		return errors.Join(err, fmt.Errorf("the ledger does not add up: %v", report.Breaks))
	}
	fmt.Fprintf(w, "\nAfterwards `Verify` went through %d entries and found no break.\n", report.Entries)
	return nil
}

// rounds lets the contestants take turns, and then between. The first round warms
// tables and caches and does not count.
func rounds(ctx context.Context, s *settings, db *bank, pid int, field []*contestant, between func() error) error {
	for n := range s.rounds + 1 {
		for _, c := range field {
			if err := c.round(ctx, db, pid, s.span); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if n == 0 {
				c.rates, c.cpu, c.failed = nil, nil, nil
			}
		}
		if between != nil && n > 0 {
			if err := between(); err != nil {
				return err
			}
		}
	}
	return nil
}

func printLedger(w io.Writer, s *settings, field []*contestant) {
	fmt.Fprintf(w, "\n## Posting a transfer, PostgreSQL, fsync on\n\nMedians of %d interleaved rounds of %v, after one to warm up. Uniform: between any two of %d accounts. "+
		"Hot: every transfer credits the same account. Each account has been posted to once before. CPU is PostgreSQL's, all its processes.\n\n", s.rounds, s.span, accounts)
	fmt.Fprintln(w, "| | transfers/s | × FOR UPDATE | PostgreSQL CPU a transfer | given up |\n|---|---|---|---|---|")
	var base float64
	for _, c := range field {
		load := "uniform"
		if c.hot {
			load = "hot"
		}
		rate := median(c.rates)
		if c.name == field[0].name {
			base = rate
		}
		fmt.Fprintf(w, "| %s: %s | %.0f | %.1f | %.0f µs | %.0f %% |\n", load, c.name, rate, rate/base, median(c.cpu), 100*median(c.failed))
	}
}

func (c *contestant) round(ctx context.Context, db *bank, pid int, span time.Duration) error {
	if _, err := db.pool.Exec(ctx, "CHECKPOINT"); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	var posted atomic.Int64
	db.gaveUp.Store(0)
	cpu, start := cpuOf(pid), time.Now()
	if err := c.run(limited, db, c.hot, &posted); err != nil && limited.Err() == nil {
		return err
	}
	n := float64(posted.Load())
	c.rates = append(c.rates, n/time.Since(start).Seconds())
	c.failed = append(c.failed, float64(db.gaveUp.Load())/(n+float64(db.gaveUp.Load())))
	c.cpu = append(c.cpu, float64((cpuOf(pid)-cpu).Microseconds())/n)
	return nil
}

// openBank returns a ledger that has posted to each of its accounts.
func openBank(ctx context.Context, url string) (*bank, error) {
	db, err := newBank(ctx, url)
	if err != nil {
		return nil, err
	}
	return db, db.touch(ctx)
}

// newBank returns a ledger that has posted nothing.
func newBank(ctx context.Context, url string) (*bank, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	l, err := ledger.New(pgledger.NewStore(pool, nil), nil)
	if err != nil {
		return nil, err
	}
	db := &bank{pool: pool, ledger: l}
	if err := pgledger.Migrate(ctx, pool, nil); err != nil {
		return nil, err
	}
	var open []ledger.Account
	for n := range accounts + 1 {
		open = append(open, ledger.Account{ID: account(n), Currency: "NGN", Normal: ledger.Credit})
	}
	if err := l.Open(ctx, open...); err != nil {
		return nil, err
	}
	_, err = pool.Exec(ctx, `
CREATE TABLE plain_accounts (id text PRIMARY KEY, balance bigint NOT NULL, version bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE plain_transfers (id text PRIMARY KEY, amount bigint NOT NULL, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE plain_entries (account text NOT NULL, version bigint NOT NULL, transfer text NOT NULL, amount bigint NOT NULL, balance bigint NOT NULL,
    PRIMARY KEY (account, version));
INSERT INTO plain_accounts SELECT id, 0, 0 FROM ledger_accounts`)
	return db, err
}

// touch posts to each account once: the store knows them from then on, as one that has served for a while does.
func (db *bank) touch(ctx context.Context) error {
	var txs []ledger.Transaction
	for n := 0; n < accounts; n += 2 {
		txs = append(txs, ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("touch", n)), Postings: []ledger.Posting{
			{Debit: account(n), Credit: account(n + 1), Amount: decimal.New(100, -2), Currency: "NGN"},
		}})
	}
	for batch := range slices.Chunk(txs, 1000) {
		if _, err := db.ledger.Post(ctx, batch); err != nil {
			return err
		}
	}
	_, err := db.pool.Exec(ctx, "VACUUM ANALYZE")
	return err
}

// names are the accounts' ids, made once: what is measured is not fmt.
var names = sync.OnceValue(func() []ledger.AccountID {
	ids := make([]ledger.AccountID, accounts+1)
	for n := range ids {
		ids[n] = ledger.AccountID(fmt.Sprintf("account:%06d", n))
	}
	return ids
})

func account(n int) ledger.AccountID { return names()[n] }

// pair returns who pays and who is paid; the last account is the hot one.
func pair(hot bool) (debit, credit int) {
	debit, credit = rand.IntN(accounts), rand.IntN(accounts-1)
	if credit >= debit {
		credit++
	}
	if hot {
		credit = accounts
	}
	return debit, credit
}

// callers runs f again and again in n goroutines until ctx ends.
func callers(ctx context.Context, n int, f func(context.Context) error) error {
	var wg sync.WaitGroup
	faults := make([]error, n)
	for i := range n {
		wg.Go(func() {
			for faults[i] == nil && ctx.Err() == nil {
				faults[i] = f(ctx)
			}
		})
	}
	wg.Wait()
	return errors.Join(faults...)
}

func posts(n, batch int) func(context.Context, *bank, bool, *atomic.Int64) error {
	return func(ctx context.Context, db *bank, hot bool, posted *atomic.Int64) error {
		return callers(ctx, n, func(ctx context.Context) error {
			txs := make([]ledger.Transaction, batch)
			for i := range txs {
				debit, credit := pair(hot)
				txs[i] = ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("t", db.nextID.Add(1))), Postings: []ledger.Posting{
					{Debit: account(debit), Credit: account(credit), Amount: decimal.New(100, -2), Currency: "NGN"},
				}}
			}
			results, err := db.ledger.Post(ctx, txs)
			for _, r := range results {
				err = errors.Join(err, r.Err())
			}
			if err == nil {
				posted.Add(int64(batch))
			}
			return err
		})
	}
}

// forUpdate is the transaction that most services write: lock both rows in the
// order of their ids, insert the transfer and its two entries, update the rows.
func forUpdate(ctx context.Context, db *bank, hot bool, posted *atomic.Int64) error {
	return callers(ctx, 8, func(ctx context.Context) error {
		debit, credit := pair(hot)
		err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
			return plainTransfer(ctx, tx, fmt.Sprint("p", db.nextID.Add(1)), string(account(debit)), string(account(credit)), 100)
		})
		if err == nil {
			posted.Add(1)
		}
		return err
	})
}

var errVersion = errors.New("somebody else was faster")

// optimistic reads both accounts and updates them where their version is still
// the one read, and tries again 3 times: the way of the version column.
func optimistic(ctx context.Context, db *bank, hot bool, posted *atomic.Int64) error {
	return callers(ctx, 10, func(ctx context.Context) error {
		debit, credit := pair(hot)
		id := fmt.Sprint("o", db.nextID.Add(1))
		for range 4 {
			err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
				return versionedTransfer(ctx, tx, id, string(account(debit)), string(account(credit)), 100)
			})
			if err == nil {
				posted.Add(1)
				return nil
			}
			if !errors.Is(err, errVersion) {
				return err
			}
		}
		db.gaveUp.Add(1)
		return nil
	})
}

func versionedTransfer(ctx context.Context, tx pgx.Tx, id, debit, credit string, amount int64) error {
	read, err := readAccounts(ctx, tx, "SELECT id, balance, version FROM plain_accounts WHERE id IN ($1, $2) ORDER BY id", debit, credit)
	if err != nil {
		return err
	}
	for _, r := range read {
		change := amount
		if r.ID == debit {
			change = -amount
		}
		tag, err := tx.Exec(ctx, "UPDATE plain_accounts SET balance = balance + $2, version = version + 1 WHERE id = $1 AND version = $3", r.ID, change, r.Version)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errVersion
		}
		if _, err := tx.Exec(ctx, "INSERT INTO plain_entries (account, version, transfer, amount, balance) VALUES ($1, $2, $3, $4, $5)",
			r.ID, r.Version+1, id, change, r.Balance+change); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, "INSERT INTO plain_transfers (id, amount) VALUES ($1, $2)", id, amount)
	return err
}

type plainAccount struct {
	ID               string
	Balance, Version int64
}

func readAccounts(ctx context.Context, tx pgx.Tx, sql, debit, credit string) ([]plainAccount, error) {
	rows, err := tx.Query(ctx, sql, debit, credit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[plainAccount])
}

func plainTransfer(ctx context.Context, tx pgx.Tx, id, debit, credit string, amount int64) error {
	locked, err := readAccounts(ctx, tx, "SELECT id, balance, version FROM plain_accounts WHERE id IN ($1, $2) ORDER BY id FOR UPDATE", debit, credit)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO plain_transfers (id, amount) VALUES ($1, $2)", id, amount); err != nil {
		return err
	}
	b := &pgx.Batch{} // the four writes in one round trip, as a careful service would
	for _, r := range locked {
		change := amount
		if r.ID == debit {
			change = -amount
		}
		b.Queue("INSERT INTO plain_entries (account, version, transfer, amount, balance) VALUES ($1, $2, $3, $4, $5)",
			r.ID, r.Version+1, id, change, r.Balance+change)
		b.Queue("UPDATE plain_accounts SET balance = $2, version = version + 1 WHERE id = $1", r.ID, r.Balance+change)
	}
	return tx.SendBatch(ctx, b).Close()
}
