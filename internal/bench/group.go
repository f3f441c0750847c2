package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/ledger"
)

// grouped is how many callers post one transaction each.
const grouped = 64

// offered is the rate of the open loop, transfers a second.
const offered = 5000

// waits are latencies of one kind of call, a median or quantile a round.
type waits struct{ p50, p99 []time.Duration }

func (w *waits) round(all []time.Duration) {
	slices.Sort(all)
	if n := len(all); n > 0 {
		w.p50, w.p99 = append(w.p50, all[n/2]), append(w.p99, all[n*99/100])
	}
}

// benchGroup compares callers of one transaction each: joined into batches, and
// each in a transaction of its own.
func benchGroup(ctx context.Context, s *settings, w io.Writer) error {
	server, err := localdb.StartPostgres(ctx, localdb.Options{Settings: map[string]string{
		"max_wal_size": "8GB", "checkpoint_timeout": "1h", // a checkpoint doubles what the next turn writes to the log, whoever's that is
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
	config := db.pool.Config()
	config.MaxConns = grouped
	wide, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer wide.Close()

	bare, shut, err := openBareLedger(ctx, wide)
	defer shut()
	if err != nil {
		return err
	}

	var field []*contestant
	for _, hot := range []bool{false, true} {
		field = append(field,
			&contestant{name: "one FOR UPDATE transaction each, 8 callers", hot: hot, run: forUpdateBy(8, wide)},
			&contestant{name: "one FOR UPDATE transaction each, 64 callers", hot: hot, run: forUpdateBy(grouped, wide)},
			&contestant{name: "ledger.Group, 64 callers", hot: hot, run: throughGroup(nil)},
			&contestant{name: "bare UPDATEs in batches, no ledger, 64 callers", hot: hot, run: throughBare(bare)},
		)
	}
	var open, alone, joined waits
	err = rounds(ctx, s, db, server.Pid(), field, func() error { return latencies(ctx, db, s.span, &open, &alone, &joined) })
	if err != nil {
		return err
	}
	printGroup(w, s, field, &open, &alone, &joined)
	report, err := db.ledger.Verify(ctx)
	if err != nil || !report.OK() {
		return errors.Join(err, fmt.Errorf("the ledger does not add up: %v", report.Breaks))
	}
	fmt.Fprintf(w, "\nAfterwards `Verify` went through %d entries and found no break.\n", report.Entries)
	return nil
}

func printGroup(w io.Writer, s *settings, field []*contestant, open, alone, joined *waits) {
	fmt.Fprintf(w, "\n## Callers of one transfer each, PostgreSQL, fsync on\n\nMedians of %d interleaved rounds of %v, after one to warm up. Uniform: between any two of %d accounts. "+
		"Hot: every transfer credits the same account. Each account has been posted to once before. CPU is PostgreSQL's, all its processes.\n\n",
		s.rounds, s.span, accounts)
	fmt.Fprintln(w, "| | transfers/s | × FOR UPDATE by 8 | × FOR UPDATE by 64 | PostgreSQL CPU a transfer | errors and refusals |\n|---|---|---|---|---|---|")
	for i, c := range field {
		load := "uniform"
		if c.hot {
			load = "hot"
		}
		by8, by64 := field[i/4*4], field[i/4*4+1] // of the same load
		rate := median(c.rates)
		fmt.Fprintf(w, "| %s: %s | %.0f | %.1f | %.1f | %.0f µs | %.1f %% |\n", load, c.name, rate, rate/median(by8.rates), rate/median(by64.rates),
			median(c.cpu), 100*median(c.failed))
	}
	millis := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	fmt.Fprintln(w, "\n| a call of `Post` with one transfer | p50 | p99 |\n|---|---|---|")
	for _, row := range []struct {
		name string
		*waits
	}{
		{fmt.Sprintf("Group, %d/s offered by an open loop, from the intended time", offered), open},
		{"Group, nobody else calls", joined},
		{"Ledger, nobody else calls", alone},
	} {
		fmt.Fprintf(w, "| %s | %.2f ms | %.2f ms |\n", row.name, millis(median(row.p50)), millis(median(row.p99)))
	}
}

// forUpdateBy is [forUpdate] by n callers with a connection each, which end what
// they have begun: a backend that waits for the hot row does not hear that its
// caller is gone, and would still be at work when the next contestant runs.
func forUpdateBy(n int, pool *pgxpool.Pool) func(context.Context, *bank, bool, *atomic.Int64) error {
	return func(ctx context.Context, db *bank, hot bool, posted *atomic.Int64) error {
		return callers(ctx, n, func(ctx context.Context) error {
			ctx = context.WithoutCancel(ctx)
			debit, credit := pair(hot)
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				return plainTransfer(ctx, tx, fmt.Sprint("p", db.nextID.Add(1)), string(account(debit)), string(account(credit)), 100)
			})
			if err == nil {
				posted.Add(1)
			}
			return err
		})
	}
}

// withGroup runs a group for as long as f takes.
func withGroup(ctx context.Context, db *bank, o *ledger.GroupOptions, f func(*ledger.Group) error) error {
	g, err := ledger.NewGroup(db.ledger, o)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Run(running) }) // nil, or it was called twice
	defer wg.Wait()
	defer stop()
	return f(g)
}

func (db *bank) transfer(hot bool) ledger.Transaction {
	debit, credit := pair(hot)
	return ledger.Transaction{ID: ledger.TransactionID(fmt.Sprint("t", db.nextID.Add(1))), Postings: []ledger.Posting{
		{Debit: account(debit), Credit: account(credit), Amount: decimal.New(100, -2), Currency: "NGN"},
	}}
}

// throughGroup counts what a caller is told that is not success: the bar is none.
func throughGroup(o *ledger.GroupOptions) func(context.Context, *bank, bool, *atomic.Int64) error {
	return func(ctx context.Context, db *bank, hot bool, posted *atomic.Int64) error {
		return withGroup(ctx, db, o, func(g *ledger.Group) error {
			return callers(ctx, grouped, func(ctx context.Context) error {
				switch _, err := g.PostOne(ctx, db.transfer(hot)); {
				case err == nil:
					posted.Add(1)
				case ctx.Err() == nil:
					db.gaveUp.Add(1)
				}
				return nil
			})
		})
	}
}

// latencies measures how long callers wait: offered in an open loop, and alone,
// where a call through the group and one without it take turns.
func latencies(ctx context.Context, db *bank, span time.Duration, open, alone, joined *waits) error {
	return withGroup(ctx, db, nil, func(g *ledger.Group) error {
		took := make([]time.Duration, offered*int(span/time.Millisecond)/1000)
		faults := make([]error, len(took))
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range took {
			due := begin.Add(time.Duration(i) * time.Second / offered)
			time.Sleep(time.Until(due))
			wg.Go(func() {
				_, faults[i] = g.PostOne(ctx, db.transfer(false))
				took[i] = time.Since(due)
			})
		}
		wg.Wait()
		open.round(took)
		if err := errors.Join(faults...); err != nil {
			return err
		}
		var with, without []time.Duration
		for range 300 {
			for _, call := range []struct {
				post func(context.Context, ledger.Transaction) (ledger.Result, error)
				took *[]time.Duration
			}{{db.ledger.PostOne, &without}, {g.PostOne, &with}} {
				tx := db.transfer(false)
				begin := time.Now()
				if _, err := call.post(ctx, tx); err != nil {
					return err
				}
				*call.took = append(*call.took, time.Since(begin))
			}
		}
		alone.round(without)
		joined.round(with)
		return nil
	})
}
