package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// bareLedger is the least that a transfer can be once it is to be there once, and to say both balances: whole amounts without a currency, one
// index that is written, and no check.
const bareLedger = `CREATE TABLE bare_accounts (no bigint PRIMARY KEY, balance bigint NOT NULL, version bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE bare_transfers (id text PRIMARY KEY, debit bigint NOT NULL, credit bigint NOT NULL, debit_version bigint NOT NULL, credit_version bigint NOT NULL,
	amount bigint NOT NULL, debit_balance bigint NOT NULL, credit_balance bigint NOT NULL, at timestamptz NOT NULL DEFAULT now());
INSERT INTO bare_accounts SELECT n, 0, 0 FROM generate_series(0, %d) AS n`

// bareMove updates the accounts of a batch, in their order, where they are at the version that this process remembers, and inserts its transfers.
const bareMove = `WITH moved AS (
	UPDATE bare_accounts a SET balance = u.balance, version = u.version 
	FROM (SELECT unnest($1::bigint[]) AS no, unnest($2::bigint[]) AS before, unnest($3::bigint[]) AS version, unnest($4::bigint[]) AS balance) u
	WHERE a.no = u.no AND a.version = u.before RETURNING 1
), written AS (
	INSERT INTO bare_transfers (id, debit, credit, debit_version, credit_version, amount, debit_balance, credit_balance)
	SELECT unnest($5::text[]), unnest($6::bigint[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::bigint[]), unnest($10::bigint[]), unnest($11::bigint[]), unnest($12::bigint[])
) SELECT count(*) FROM moved`

var errBareMoved = errors.New("an account has another version")

// bareTransfer is one that waits, and then how it leaves its accounts.
type bareTransfer struct {
	id                    string
	debit, credit, amount int64
	done                  chan error
}

// bareSum is an account. It is in the hands of one batch at most.
type bareSum struct {
	balance, version, before int64
	taken                    bool
}

// bareBatches is a ledger in batches with nothing that a ledger needs, and the ceiling of those that have it: the sums are in memory, a batch is
// one statement on one of two connections, and nobody waits for company.
type bareBatches struct {
	*batches[*bareTransfer] // whose mu guards sums too

	sums []bareSum
}

// openBareLedger makes the tables and two connections, which are closed by the end of all rounds: the CPU of one that is gone would not be counted.
func openBareLedger(ctx context.Context, pool *pgxpool.Pool) (conns []*pgx.Conn, shut func(), err error) {
	shut = func() {
		for _, conn := range conns {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}
	config := pool.Config().ConnConfig
	config.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	for range 2 {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return nil, shut, err
		}
		conns = append(conns, conn)
	}
	_, err = pool.Exec(ctx, fmt.Sprintf(bareLedger, accounts))
	return conns, shut, err
}

// throughBare runs callers of one transfer each over bareBatches. They begin with what the database holds.
func throughBare(conns []*pgx.Conn) func(context.Context, *bank, bool, *atomic.Int64) error {
	return func(ctx context.Context, db *bank, hot bool, posted *atomic.Int64) error {
		g := &bareBatches{newBatches[*bareTransfer](), make([]bareSum, accounts+1)}
		if err := g.load(ctx, conns[0]); err != nil {
			return err
		}
		running, stop := context.WithCancel(context.WithoutCancel(ctx))
		var writers sync.WaitGroup
		defer writers.Wait()
		defer stop()
		for _, conn := range conns {
			writers.Go(func() { g.writer(running, conn) })
		}
		return callers(ctx, grouped, func(context.Context) error {
			debit, credit := pair(hot)
			t := &bareTransfer{id: "b" + strconv.FormatInt(db.nextID.Add(1), 10), debit: int64(debit), credit: int64(credit), amount: 100, done: make(chan error, 1)}
			g.put(t)
			err := <-t.done
			if err == nil {
				posted.Add(1)
			}
			return err
		})
	}
}

func (g *bareBatches) load(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, "SELECT no, balance, version FROM bare_accounts")
	if err != nil {
		return err
	}
	var no, balance, version int64
	_, err = pgx.ForEachRow(rows, []any{&no, &balance, &version}, func() error {
		g.sums[no] = bareSum{balance: balance, version: version}
		return nil
	})
	return err
}

func (g *bareBatches) writer(ctx context.Context, conn *pgx.Conn) {
	for {
		select {
		case <-g.wake:
		case <-ctx.Done():
			return
		}
		batch, touched, columns := g.take()
		if len(batch) == 0 {
			continue
		}
		var moved int
		err := conn.QueryRow(ctx, bareMove, columns...).Scan(&moved)
		if err == nil && moved != len(touched) {
			err = errBareMoved
		}
		g.mu.Lock()
		for _, no := range touched {
			g.sums[no].taken = false
		}
		g.mu.Unlock()
		g.rouse() // for those whose accounts were taken
		for _, t := range batch {
			t.done <- err
		}
	}
}

// take returns the transfers whose accounts nobody has in hand, the accounts, and what bareMove is called with.
func (g *bareBatches) take() (batch []*bareTransfer, touched []int64, columns []any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	mine := map[int64]bool{}
	left := g.queue[:0]
	for _, t := range g.queue {
		if !mine[t.debit] && g.sums[t.debit].taken || !mine[t.credit] && g.sums[t.credit].taken {
			left = append(left, t)
			continue
		}
		mine[t.debit], mine[t.credit] = true, true
		batch = append(batch, t)
	}
	g.queue = left
	for no := range mine {
		g.sums[no].taken, g.sums[no].before = true, g.sums[no].version
		touched = append(touched, no)
	}
	slices.Sort(touched)
	n := len(batch)
	ids := make([]string, n)
	var c [7][]int64
	for i := range c {
		c[i] = make([]int64, n)
	}
	for i, t := range batch {
		debit, credit := &g.sums[t.debit], &g.sums[t.credit]
		debit.move(-t.amount)
		credit.move(t.amount)
		ids[i] = t.id
		for at, v := range [...]int64{t.debit, t.credit, debit.version, credit.version, t.amount, debit.balance, credit.balance} {
			c[at][i] = v
		}
	}
	befores, versions, balances := make([]int64, len(touched)), make([]int64, len(touched)), make([]int64, len(touched))
	for i, no := range touched {
		befores[i], versions[i], balances[i] = g.sums[no].before, g.sums[no].version, g.sums[no].balance
	}
	return batch, touched, []any{touched, befores, versions, balances, ids, c[0], c[1], c[2], c[3], c[4], c[5], c[6]}
}

func (s *bareSum) move(amount int64) {
	s.balance += amount
	s.version++
}
