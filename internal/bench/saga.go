package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/internal/localdb"
)

// sagaSteps is how many steps a saga has. They do nothing: what is measured is what an engine adds.
const sagaSteps = 5

// sagaLimit is when a saga is lost.
const sagaLimit = time.Minute

// sagaContender is an engine that runs sagas, on a database of its own.
type sagaContender struct {
	name  string
	loads []int // how many callers run sagas at once: a row each

	// open migrates the database and starts the engine. It returns what runs a saga with a new id, whose steps call db.step, and comes back
	// when the end is durable; and what stops the engine and closes its connections.
	open func(ctx context.Context, db *sagaDB) (run func(ctx context.Context, id string) error, stop func() error, err error)
}

// sagaContenders begins with the one that the others are compared with.
func sagaContenders() []*sagaContender {
	return []*sagaContender{
		{name: "DBOS Transact", loads: []int{1, 64, 512}, open: openDBOS},
		{name: "safetill", loads: []int{1, 64, 512}, open: openSafetill},
		{name: "a fenced UPDATE for each step, no engine", loads: []int{1, 64}, open: openBare},
		{name: "fenced UPDATEs in batches, no engine", loads: []int{1, 64, 512}, open: openGrouped},
		{name: "go-workflows, monoprocess", loads: []int{1, 64}, open: openGoWorkflows},
		{name: "River, a chain of jobs", loads: []int{1, 64}, open: openRiver(0, 0)},
		{name: "River, 5 ms poll, 1 ms cooldown", loads: []int{1, 64}, open: openRiver(5*time.Millisecond, time.Millisecond)},
	}
}

// benchSaga measures the executor of sagas.
func benchSaga(ctx context.Context, s *settings, w io.Writer) error {
	for _, table := range []func(context.Context, *settings, io.Writer) error{
		benchSagaEngines, benchSagaAlone, benchSagaMillion, benchSagaMemory,
	} {
		if err := table(ctx, s, w); err != nil {
			return err
		}
	}
	return nil
}

// sagaRow is an engine under one load.
type sagaRow struct {
	*sagaContender
	callers int

	rates, p50, server, client, commits, trips []float64 // a round each: sagas/s, ms, and a saga's µs of PostgreSQL, own µs, commits, round trips
}

// benchSagaEngines compares engines on one PostgreSQL. Each is opened anew for its turn, so that nobody polls while another is measured.
func benchSagaEngines(ctx context.Context, s *settings, w io.Writer) error {
	server, err := localdb.StartPostgres(ctx, localdb.Options{Settings: map[string]string{
		"fsync": "on", "synchronous_commit": "on",
		"max_wal_size": "8GB", "checkpoint_timeout": "1h", // no checkpoint in anybody's turn, and the log is there until its commits are counted
	}})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	log, err := openWAL(ctx, server.URL())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close(context.WithoutCancel(ctx)) }()
	var field []*sagaRow
	for _, c := range sagaContenders() {
		if _, err := log.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{c.name}.Sanitize()); err != nil {
			return err
		}
		for _, n := range c.loads {
			field = append(field, &sagaRow{sagaContender: c, callers: n})
		}
	}
	slices.SortStableFunc(field, func(a, b *sagaRow) int { return a.callers - b.callers })
	for n := range s.rounds {
		for i := range field {
			r := field[(i+n)%len(field)]
			if err := r.round(ctx, server, log, s.span); err != nil {
				return fmt.Errorf("%s, %d callers: %w", r.name, r.callers, err)
			}
		}
	}
	printSagaEngines(w, s, field)
	return nil
}

// sagaMark is what has been used up to a moment.
type sagaMark struct {
	lsn            string
	server, client time.Duration
	trips, steps   int64
	at             time.Time
}

// sagaEnds are the sagas that have ended.
type sagaEnds struct {
	mu   sync.Mutex
	list []sagaEnd
}

type sagaEnd struct {
	at   time.Time
	took time.Duration
}

func (e *sagaEnds) add(begin time.Time) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, sagaEnd{now, now.Sub(begin)})
}

// wait returns when n sagas have ended, or ctx.
func (e *sagaEnds) wait(ctx context.Context, n int) error {
	for tick := time.Tick(10 * time.Millisecond); ; {
		e.mu.Lock()
		ended := len(e.list)
		e.mu.Unlock()
		if ended >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick:
		}
	}
}

// round measures from the middle of a load: an engine with long sagas would else pay for those that are cut off at both ends.
func (r *sagaRow) round(ctx context.Context, server *localdb.Postgres, log *wal, span time.Duration) (err error) {
	db := &sagaDB{url: server.URL(), name: r.name, callers: r.callers}
	run, stop, err := r.open(ctx, db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	mark := func() (sagaMark, error) {
		lsn, err := log.position(ctx)
		return sagaMark{lsn, cpuOf(server.Pid()), ownCPU(), db.trips.Load(), db.steps.Load(), time.Now()}, err
	}

	loaded, cancel := context.WithTimeout(ctx, sagaLimit)
	defer cancel()
	var ends sagaEnds
	var fault error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		fault = callers(loaded, r.callers, func(context.Context) error { // what has begun ends
			begin := time.Now()
			if err := run(context.WithoutCancel(ctx), db.newID()); err != nil {
				return err
			}
			ends.add(begin)
			return nil
		})
	})
	err0 := ends.wait(loaded, r.callers) // connections are opened, statements prepared
	from, err1 := mark()
	time.Sleep(span)
	to, err2 := mark()
	cancel()
	wg.Wait()

	if err := errors.Join(fault, err0, err1, err2); err != nil {
		return err
	}
	if all := int64(len(ends.list)); db.steps.Load() != sagaSteps*all {
		return fmt.Errorf("%d sagas have run %d steps", all, db.steps.Load())
	}
	commits, err := log.commits(ctx, from.lsn, to.lsn)
	if err != nil {
		return err
	}
	r.add(from, to, ends.list, commits)
	return nil
}

// add counts sagas by their steps. Counted by their ends, where many go in step with each other and take as long as the turn, it would be chance
// whether theirs are in it.
func (r *sagaRow) add(from, to sagaMark, ends []sagaEnd, commits int64) {
	sagas := float64(to.steps-from.steps) / sagaSteps
	r.rates = append(r.rates, sagas/to.at.Sub(from.at).Seconds())
	r.server = append(r.server, float64((to.server-from.server).Microseconds())/sagas)
	r.client = append(r.client, float64((to.client-from.client).Microseconds())/sagas)
	r.commits = append(r.commits, float64(commits)/sagas)
	r.trips = append(r.trips, float64(to.trips-from.trips)/sagas)
	var took []time.Duration
	for _, e := range ends {
		if e.at.After(from.at) && e.at.Before(to.at) {
			took = append(took, e.took)
		}
	}
	if len(took) > 0 {
		r.p50 = append(r.p50, float64(median(took))/float64(time.Millisecond))
	}
}

func printSagaEngines(w io.Writer, s *settings, field []*sagaRow) {
	fmt.Fprintf(w, "\n## Sagas of %d steps that do nothing, PostgreSQL, fsync and synchronous_commit on\n\nMedians of %d interleaved rounds of %v, each from the middle of a load; "+
		"a caller begins a saga when its last one has ended, and five steps count as a saga. Engine and callers are one process beside the server; up to %d connections, at one caller %d. CPU is of all of "+
		"PostgreSQL's processes, and own CPU of engine and callers. Commits are the commit records in the write-ahead log, which a transaction that only reads does not "+
		"write; round trips are what is sent over the engine's connections, with what it polls and listens.\n\n",
		sagaSteps, s.rounds, s.span, (&sagaDB{callers: grouped}).conns(), (&sagaDB{callers: 1}).conns())
	fmt.Fprintln(w, "| callers | | sagas/s | × DBOS | p50 | PostgreSQL CPU a saga | own CPU | commits a saga | round trips a saga |\n|---|---|---|---|---|---|---|---|---|")
	base := map[int]float64{}
	for _, r := range field {
		rate := median(r.rates)
		if _, ok := base[r.callers]; !ok {
			base[r.callers] = rate
		}
		fmt.Fprintf(w, "| %d | %s | %.*f | %.2f | %.1f ms | %.0f µs | %.0f µs | %.1f | %.1f |\n", r.callers, r.name, digits(rate), rate, rate/base[r.callers], median(r.p50),
			median(r.server), median(r.client), median(r.commits), median(r.trips))
	}
}

// digits are enough behind the point to tell a slow rate.
func digits(rate float64) int {
	if rate < 10 {
		return 1
	}
	return 0
}
