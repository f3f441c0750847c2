package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// turns is how many parts a round has here: what is compared runs in turns short enough for the machine's other jobs
// to meet all alike.
const turns = 10

// keyed is a way to make a payment once.
type keyed struct {
	name string
	pay  func(ctx context.Context, key string, work payment) error
	work payment

	base       *keyed // what it is compared with
	rates, cpu []float64
}

// payment is what one payment does in a transaction. Its id is new.
type payment func(ctx context.Context, tx pgx.Tx, id string) error

// cashier makes payments in several ways.
type cashier struct {
	*bank
	store *pgledger.Store
	guard *pgidem.TxGuard
	guess *pgidem.TxGuard // optimistic
	lease *idempotency.Guard
	told  string // the key that replays ask for
}

// benchDoTx compares a payment under a key with the bare one: in one commit, and in the two commits of a lease.
func benchDoTx(ctx context.Context, s *settings, w io.Writer) error {
	server, err := localdb.StartPostgres(ctx, localdb.Options{Settings: map[string]string{
		"max_wal_size": "8GB", "checkpoint_timeout": "1h", // the cost of a checkpoint would fall on whoever comes after it
	}})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	db, err := openBank(ctx, server.URL())
	if err != nil {
		return err
	}
	defer db.pool.Close()
	c, err := openCashier(ctx, db)
	if err != nil {
		return err
	}
	field := c.field()
	for n := range s.rounds*turns + turns { // one round warms up
		for i := range field {
			k := field[(i+n)%len(field)]
			if err := c.turn(ctx, k, server.Pid(), s.span/turns, n >= turns); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
	}
	printDoTx(w, s, field)
	return c.sound(ctx, w)
}

func openCashier(ctx context.Context, db *bank) (*cashier, error) {
	c := &cashier{bank: db, store: pgledger.NewStore(db.pool, nil), told: "told"}
	if err := pgidem.Migrate(ctx, db.pool, nil); err != nil {
		return nil, err
	}
	store, err := pgidem.NewStore(db.pool, nil)
	if err != nil {
		return nil, err
	}
	if c.guard, err = pgidem.NewTxGuard(db.pool, nil); err != nil {
		return nil, err
	}
	if c.guess, err = pgidem.NewTxGuard(db.pool, &pgidem.TxOptions{Optimistic: true}); err != nil {
		return nil, err
	}
	if c.lease, err = idempotency.New(store, nil); err != nil {
		return nil, err
	}
	_, err = db.pool.Exec(ctx, `INSERT INTO idempotency_records (key, fingerprint, token, completed, claimed_at, held_until, response)
SELECT convert_to('an earlier key ' || i, 'UTF8'), sha256('x'), 1, true, now(), now() + interval '1 day', 'x' FROM generate_series(1, 100000) i`)
	if err == nil {
		_, err = db.pool.Exec(ctx, "VACUUM ANALYZE")
	}
	return c, errors.Join(err, c.oneCommit(ctx, c.told, func(context.Context, pgx.Tx, string) error { return nil }))
}

func (c *cashier) field() (field []*keyed) {
	for _, w := range []struct {
		name string
		work payment
	}{{"a transfer in SQL", c.transfer}, {"a posting by pgledger", c.posting}} {
		bare := &keyed{name: w.name + ", bare", pay: c.bare, work: w.work}
		bare.base = bare
		field = append(field, bare,
			&keyed{name: w.name + ", DoTx", pay: c.oneCommit, work: w.work, base: bare},
			&keyed{name: w.name + ", DoTx, optimistic", pay: c.optimistic, work: w.work, base: bare},
			&keyed{name: w.name + ", an INSERT of key and response, no look-up", pay: c.insertOnly, work: w.work, base: bare},
			&keyed{name: w.name + ", key first, response later in one commit", pay: c.keyFirst, work: w.work, base: bare},
			&keyed{name: w.name + ", Do: a lease, two commits more", pay: c.leased, work: w.work, base: bare})
	}
	again := func(pay func(context.Context, string, payment) error) func(context.Context, string, payment) error {
		return func(ctx context.Context, _ string, work payment) error { return pay(ctx, c.told, work) }
	}
	none := func(context.Context, pgx.Tx, string) error { return errors.New("a replay has run the work") }
	look := &keyed{name: "replay, a SELECT of the response", pay: c.look, work: none}
	look.base = look
	return append(field, look,
		&keyed{name: "replay, DoTx of a key that it has seen", pay: again(c.oneCommit), work: none, base: look},
		&keyed{name: "replay, DoTx of a key that it has not", pay: again(c.unseen), work: none, base: look},
		&keyed{name: "replay, Do", pay: again(c.leased), work: none, base: look})
}

var request = idempotency.FingerprintOf([]byte("the request"))

func keyOf(value string) idempotency.Key {
	return idempotency.Key{Scope: "tenant-7", Op: "create-payment", Value: value}
}

func (c *cashier) bare(ctx context.Context, key string, work payment) error {
	return pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error { return work(ctx, tx, key) })
}

func (c *cashier) oneCommit(ctx context.Context, key string, work payment) error {
	return payOnce(ctx, c.guard, key, work)
}

func (c *cashier) optimistic(ctx context.Context, key string, work payment) error {
	return payOnce(ctx, c.guess, key, work)
}

func payOnce(ctx context.Context, guard *pgidem.TxGuard, key string, work payment) error {
	_, err := pgidem.DoTx(ctx, guard, keyOf(key), request, func(ctx context.Context, tx pgx.Tx) (string, error) {
		return "receipt of " + key, work(ctx, tx, key)
	})
	return err
}

func (c *cashier) unseen(ctx context.Context, key string, work payment) error {
	guard, err := pgidem.NewTxGuard(c.pool, nil)
	if err != nil {
		return err
	}
	return payOnce(ctx, guard, key, work)
}

func (c *cashier) leased(ctx context.Context, key string, work payment) error {
	_, err := idempotency.Do(ctx, c.lease, keyOf(key), request, func(ctx context.Context, _ *idempotency.Run) (string, error) {
		return "receipt of " + key, c.bare(ctx, key, work)
	})
	return err
}

// keyFirst is the other way to have it in one commit: the unique index does the waiting, and the row is written twice.
func (c *cashier) keyFirst(ctx context.Context, key string, work payment) error {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	id := []byte(keyOf(key).String())
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	b.Queue(`INSERT INTO idempotency_records (key, fingerprint, token, claimed_at, held_until)
VALUES ($1, $2, $3, clock_timestamp(), clock_timestamp() + interval '1 day') ON CONFLICT (key) DO NOTHING`, id, request[:], time.Now().UnixMicro())
	results := conn.SendBatch(ctx, b)
	tx := results.Tx()
	if err := results.Close(); err != nil {
		return err
	}
	if err := work(ctx, tx, key); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	b = &pgx.Batch{}
	b.Queue("UPDATE idempotency_records SET completed = true, response = $2 WHERE key = $1", id, []byte("receipt of "+key))
	b.Queue("COMMIT")
	return conn.SendBatch(ctx, b).Close()
}

// insertOnly is the least that there is: one row more, in the batch of the COMMIT. A repeat is an error, and runs the work to find that out.
func (c *cashier) insertOnly(ctx context.Context, key string, work payment) error {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if err := work(ctx, tx, key); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO idempotency_records (key, fingerprint, token, completed, claimed_at, held_until, response)
VALUES ($1, $2, 1, true, now(), now() + interval '1 day', $3)`, []byte(keyOf(key).String()), request[:], []byte("receipt of "+key))
	b.Queue("COMMIT")
	return conn.SendBatch(ctx, b).Close()
}

func (c *cashier) look(ctx context.Context, _ string, _ payment) error {
	var response []byte
	return c.pool.QueryRow(ctx, "SELECT response FROM idempotency_records WHERE key = $1", []byte(keyOf(c.told).String())).Scan(&response)
}

// transfer locks two accounts, and writes the transfer, its two entries and the balances.
func (c *cashier) transfer(ctx context.Context, tx pgx.Tx, id string) error {
	debit, credit := pair(false)
	return plainTransfer(ctx, tx, id, string(account(debit)), string(account(credit)), 100)
}

func (c *cashier) posting(ctx context.Context, tx pgx.Tx, id string) error {
	l, err := ledger.New(c.store.In(tx), nil)
	if err != nil {
		return err
	}
	debit, credit := pair(false)
	_, err = l.PostOne(ctx, ledger.Transaction{ID: ledger.TransactionID(id), Postings: []ledger.Posting{
		{Debit: account(debit), Credit: account(credit), Amount: decimal.New(100, -2), Currency: "NGN"},
	}})
	return err
}

func (c *cashier) turn(ctx context.Context, k *keyed, pid int, span time.Duration, counts bool) error {
	limited, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	var made atomic.Int64
	cpu, start := cpuOf(pid), time.Now()
	err := callers(limited, 8, func(context.Context) error { // what has begun ends
		err := k.pay(ctx, fmt.Sprint("key-", c.nextID.Add(1)), k.work)
		made.Add(1)
		return err
	})
	if err != nil {
		return err
	}
	if n := float64(made.Load()); counts {
		k.rates = append(k.rates, n/time.Since(start).Seconds())
		k.cpu = append(k.cpu, float64((cpuOf(pid)-cpu).Microseconds())/n)
	}
	return nil
}

func printDoTx(w io.Writer, s *settings, field []*keyed) {
	fmt.Fprintf(w, "\n## A payment under a key, PostgreSQL, fsync on\n\n8 callers. Medians of %d interleaved turns of %v, after a round to warm up; 100,000 other keys in the table. "+
		"CPU is PostgreSQL's, all its processes; what is extra is the median over the turns.\n\n", s.rounds*turns, s.span/turns)
	fmt.Fprintln(w, "| | /s | PostgreSQL CPU each | extra |\n|---|---|---|---|")
	for _, k := range field {
		extra := make([]float64, len(k.cpu))
		for i := range extra {
			extra[i] = 100 * (k.cpu[i]/k.base.cpu[i] - 1)
		}
		fmt.Fprintf(w, "| %s | %.0f | %.0f µs | %+.0f %% |\n", k.name, median(slices.Clone(k.rates)), median(slices.Clone(k.cpu)), median(extra))
	}
}

// sound compares what was paid with what is recorded.
func (c *cashier) sound(ctx context.Context, w io.Writer) error {
	report, err := c.ledger.Verify(ctx)
	if err != nil || !report.OK() {
		return errors.Join(err, fmt.Errorf("the ledger does not add up: %v", report.Breaks))
	}
	var keys, lost int
	// A key that is looked up by itself is looked up in all of the table: of another collation than the index.
	err = c.pool.QueryRow(ctx, `WITH k AS MATERIALIZED (
	SELECT substring(convert_from(key, 'UTF8') FROM 'key-[0-9]+$') AS key FROM idempotency_records WHERE completed
), lost AS (
	SELECT key FROM k WHERE key IS NOT NULL EXCEPT (SELECT id FROM plain_transfers UNION ALL SELECT id FROM ledger_transactions)
)
SELECT (SELECT count(key) FROM k), (SELECT count(*) FROM lost)`).Scan(&keys, &lost)
	if err == nil && (lost > 0 || keys == 0) {
		err = fmt.Errorf("of %d keys %d have no payment", keys, lost)
	}
	if err == nil {
		fmt.Fprintf(w, "\nAfterwards each of the %d keys had its payment.\n", keys)
	}
	return err
}
