package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/pgidem"
	"github.com/safetill/safetill/idempotency/redisidem"
	"github.com/safetill/safetill/internal/localdb"
)

const (
	liveKeys   = 10_000_000
	replayed   = 200 // bytes of a response
	claimLease = 30 * time.Second
)

// once is a way to answer one request, by one caller at a time.
type once struct {
	name   string
	call   func(n int) error // the n-th call
	server int               // process id of the server that it asks; 0: none
	trips  string

	nanos, cpu, serverCPU, allocs []float64 // of a call, a round each
}

// benchIdempotency compares Do with the least that could do its work: for a replay, to read the response; for a run, to
// write that it has begun and that it is done.
func benchIdempotency(ctx context.Context, s *settings, w io.Writer) error {
	pg, err := localdb.StartPostgres(ctx, localdb.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = pg.Close(context.WithoutCancel(ctx)) }()
	rd, err := localdb.StartRedis(ctx, localdb.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = rd.Close(context.WithoutCancel(ctx)) }()
	pool, err := pgxpool.New(ctx, pg.URL())
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pgidem.Migrate(ctx, pool, nil); err != nil {
		return err
	}
	rdb := redis.NewClient(&redis.Options{Addr: rd.Addr()})
	defer func() { _ = rdb.Close() }()

	replays, runs, err := idempotent(ctx, pool, pg.Pid(), rdb, rd.Pid())
	if err != nil {
		return err
	}
	for n := range s.rounds + 1 { // the first one warms up
		for _, o := range slices.Concat(replays, runs) {
			if err := o.round(ctx, s.span/3, n > 0); err != nil {
				return fmt.Errorf("%s: %w", o.name, err)
			}
		}
	}
	fmt.Fprintf(w, "\n## Idempotency: a replay of %d bytes, and a run\n\nOne caller. Medians of %d interleaved rounds of %v, after one to warm up. "+
		"CPU is that of this process; the server's is beside it. Baselines do the least: they have no fingerprint, no lease and no fence.\n",
		replayed, s.rounds, s.span/3)
	printOnce(w, "replay", replays)
	printOnce(w, "first request", runs)
	return memoryTable(ctx, w)
}

func printOnce(w io.Writer, what string, field []*once) {
	fmt.Fprintf(w, "\n| %s | time | CPU | server's CPU | allocations | round trips |\n|---|---|---|---|---|---|\n", what)
	for _, o := range field {
		server := "–"
		if o.server != 0 {
			server = fmt.Sprintf("%.0f µs", median(o.serverCPU)/1e3)
		}
		fmt.Fprintf(w, "| %s | %.0f ns | %.0f ns | %s | %.1f | %s |\n", o.name, median(o.nanos), median(o.cpu), server, median(o.allocs), o.trips)
	}
}

// round calls for as long as span.
func (o *once) round(ctx context.Context, span time.Duration, count bool) error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	server, own, start := time.Duration(0), cpuOf(os.Getpid()), time.Now()
	if o.server != 0 {
		server = cpuOf(o.server)
		own -= server // it is our child
	}
	calls := 0
	for ; calls%100 != 0 || time.Since(start) < span; calls++ {
		if err := o.call(calls); err != nil {
			return err
		}
	}
	took, used, served := time.Since(start), cpuOf(os.Getpid()), time.Duration(0)
	if o.server != 0 {
		served = cpuOf(o.server)
		used -= served
	}
	runtime.ReadMemStats(&after)
	if count {
		n := float64(calls)
		o.nanos, o.cpu = append(o.nanos, float64(took)/n), append(o.cpu, float64(used-own)/n)
		o.serverCPU = append(o.serverCPU, float64(served-server)/n)
		o.allocs = append(o.allocs, float64(after.Mallocs-before.Mallocs)/n)
	}
	return ctx.Err()
}

type receipt struct {
	ID       string `json:"id"`
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
}

// doing is Do on a store: of one key again and again, or of a new one each time.
func doing[T any](ctx context.Context, store idempotency.Store, value T, fresh *atomic.Int64) (func(int) error, error) {
	guard, err := idempotency.New(store, nil)
	if err != nil {
		return nil, err
	}
	fp := idempotency.FingerprintOf([]byte(`{"amount":"80.50"}`))
	key := benchKey(int(fresh.Add(1)))
	work := func(context.Context, *idempotency.Run) (T, error) { return value, nil }
	again := func(int) error {
		_, err := idempotency.Do(ctx, guard, key, fp, work)
		return err
	}
	return again, again(0)
}

func running(ctx context.Context, store idempotency.Store, fresh *atomic.Int64) (func(int) error, error) {
	guard, err := idempotency.New(store, nil)
	if err != nil {
		return nil, err
	}
	body := make([]byte, replayed)
	return func(int) error {
		result, err := idempotency.Do(ctx, guard, benchKey(int(fresh.Add(1))), idempotency.Fingerprint{},
			func(context.Context, *idempotency.Run) ([]byte, error) { return body, nil })
		if err == nil && result.Replayed {
			err = errors.New("replayed a new key")
		}
		return err
	}, nil
}

// benchKey is a key as they are in production: 11 + 14 + 36 bytes.
func benchKey(n int) idempotency.Key {
	return idempotency.Key{
		Scope: fmt.Sprintf("tenant-%04d", n%10_000), Op: "create-payment", Value: fmt.Sprintf("%08x-40d5-43dd-bc93-%012x", uint32(n), n),
	}
}

// idempotent returns what replays and what runs.
func idempotent(ctx context.Context, pool *pgxpool.Pool, pgPid int, rdb *redis.Client, rdPid int) (replays, runs []*once, err error) {
	body := make([]byte, replayed)
	var fresh atomic.Int64
	var faults []error
	must := func(call func(int) error, err error) func(int) error {
		faults = append(faults, err)
		return call
	}
	pgStore, err1 := pgidem.NewStore(pool, nil)
	rdStore, err2 := redisidem.NewStore(rdb, nil)
	if err := errors.Join(err1, err2); err != nil {
		return nil, nil, err
	}
	memory := idempotency.NewMemory(nil)
	text := strings.Repeat("x", replayed)
	replays = []*once{
		{name: "memory: a map and a mutex", call: plainMap(body), trips: "0"},
		{name: "memory: Do of []byte", call: must(doing(ctx, memory, body, &fresh)), trips: "0"},
		{name: "memory: Do of string", call: must(doing(ctx, memory, text, &fresh)), trips: "0"},
		{name: "memory: Do of a struct, by encoding/json", call: must(doing(ctx, memory, receipt{"pay-1", "80.50", "NGN"}, &fresh)), trips: "0"},
		{name: "Redis: GET", call: redisGet(ctx, rdb, body), server: rdPid, trips: "1"},
		{name: "Redis: Do of []byte", call: must(doing(ctx, rdStore, body, &fresh)), server: rdPid, trips: "1"},
		{name: "PostgreSQL: SELECT by primary key", call: must(selectOne(ctx, pool, body)), server: pgPid, trips: "1"},
		{name: "PostgreSQL: Do of []byte", call: must(doing(ctx, pgStore, body, &fresh)), server: pgPid, trips: "1"},
	}
	runs = []*once{
		{name: "memory: Do", call: must(running(ctx, memory, &fresh)), trips: "0"},
		{name: "Redis: SET NX and SET", call: redisSets(ctx, rdb, body, &fresh), server: rdPid, trips: "2"},
		{name: "Redis: Do", call: must(running(ctx, rdStore, &fresh)), server: rdPid, trips: "2"},
		{name: "PostgreSQL: INSERT and UPDATE, a commit each", call: inserts(ctx, pool, body, &fresh), server: pgPid, trips: "2"},
		{name: "PostgreSQL: Do", call: must(running(ctx, pgStore, &fresh)), server: pgPid, trips: "2"},
	}
	return replays, runs, errors.Join(faults...)
}

func plainMap(body []byte) func(int) error {
	var mu sync.Mutex
	key := benchKey(1)
	records := map[idempotency.Key][]byte{key: body}
	return func(int) error {
		mu.Lock()
		defer mu.Unlock()
		if got := slices.Clone(records[key]); len(got) != len(body) {
			return errors.New("lost")
		}
		return nil
	}
}

func redisGet(ctx context.Context, rdb *redis.Client, body []byte) func(int) error {
	return func(n int) error {
		if n == 0 {
			if err := rdb.Set(ctx, "bare", body, time.Hour).Err(); err != nil {
				return err
			}
		}
		return rdb.Get(ctx, "bare").Err()
	}
}

func redisSets(ctx context.Context, rdb *redis.Client, body []byte, fresh *atomic.Int64) func(int) error {
	return func(int) error {
		key := benchKey(int(fresh.Add(1))).String()
		if err := rdb.SetArgs(ctx, key, "in flight", redis.SetArgs{Mode: "NX", TTL: claimLease}).Err(); err != nil {
			return err
		}
		return rdb.Set(ctx, key, body, 24*time.Hour).Err()
	}
}

func selectOne(ctx context.Context, pool *pgxpool.Pool, body []byte) (func(int) error, error) {
	_, err := pool.Exec(ctx, `CREATE TABLE bare (key bytea PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), response bytea)`)
	if err != nil {
		return nil, err
	}
	key := []byte(benchKey(1).String())
	if _, err := pool.Exec(ctx, "INSERT INTO bare (key, response) VALUES ($1, $2)", key, body); err != nil {
		return nil, err
	}
	return func(int) error {
		var got []byte
		return pool.QueryRow(ctx, "SELECT response FROM bare WHERE key = $1", key).Scan(&got)
	}, nil
}

func inserts(ctx context.Context, pool *pgxpool.Pool, body []byte, fresh *atomic.Int64) func(int) error {
	return func(int) error {
		key := []byte(benchKey(int(fresh.Add(1))).String())
		if _, err := pool.Exec(ctx, "INSERT INTO bare (key) VALUES ($1)", key); err != nil {
			return err
		}
		_, err := pool.Exec(ctx, "UPDATE bare SET response = $2 WHERE key = $1", key, body)
		return err
	}
}

// plainRecord is what a key costs where nothing is done about it.
type plainRecord struct {
	fingerprint idempotency.Fingerprint
	token       int64
	until       time.Time
	status      int32
	response    []byte
}

// plainTable returns how many bytes a key of a plain map has beside the response.
func plainTable(n int, response []byte) float64 {
	before, until := heap(), time.Now()
	plain := make(map[idempotency.Key]*plainRecord)
	for i := range n {
		plain[benchKey(i)] = &plainRecord{fingerprint: idempotency.Fingerprint{byte(i)}, token: int64(i), until: until, status: 200, response: slices.Clone(response)}
	}
	bytes := float64(heap()-before)/float64(n) - float64(len(response))
	runtime.KeepAlive(plain)
	return bytes
}

// memoryTable fills the memory with ten million keys.
func memoryTable(ctx context.Context, w io.Writer) error {
	n := liveKeys
	response := []byte(`{"id":"pay-1","amount":"80.50","currency":"NGN","status":"done"}`)
	bare := plainTable(n/10, response) // a tenth tells as much

	var ahead atomic.Int64
	store := idempotency.NewMemory(&idempotency.MemoryOptions{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	before := heap()
	start := time.Now()
	if err := fill(ctx, store, n, response); err != nil {
		return err
	}
	filled := time.Since(start)
	perKey := float64(heap()-before)/float64(n) - float64(len(response))
	start = time.Now()
	runtime.GC()
	collected := time.Since(start)

	ahead.Store(int64(48 * time.Hour))
	var steps []time.Duration
	for { // a step of 128 is what is done under one lock
		start := time.Now()
		removed, err := store.Sweep(ctx, 128)
		if err != nil {
			return err
		}
		if removed < 128 {
			break
		}
		steps = append(steps, time.Since(start))
	}
	slices.Sort(steps)
	at := func(share float64) time.Duration { return steps[int(share*float64(len(steps)-1))] }
	fmt.Fprintf(w, "\n%d live keys of 61 bytes in memory:\n\n| | bytes a key beside the response |\n|---|---|\n| idempotency.Memory | %.0f |\n"+
		"| a map of pointers to structs, without expiry | %.0f |\n\nFilled in %v, %.1f µs a key; a garbage collection then takes %v. When all are over, the sweep takes 128 at a "+
		"time: p50 %v, p99 %v, p99.9 %v, longest %v of %d.\n", n, perKey, bare, filled.Round(time.Millisecond), filled.Seconds()*1e6/float64(n),
		collected.Round(time.Millisecond), at(0.5), at(0.99), at(0.999), at(1), len(steps))
	return nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what has a finalizer goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func fill(ctx context.Context, store idempotency.Store, n int, response []byte) error {
	const at = 1000
	requests, completions := make([]idempotency.Request, at), make([]idempotency.Completion, at)
	for from := 0; from < n; from += at {
		for i := range requests {
			requests[i] = idempotency.Request{Key: benchKey(from + i), Lease: claimLease}
		}
		records, err := store.Claim(ctx, requests)
		if err != nil {
			return err
		}
		for i, r := range records {
			completions[i] = idempotency.Completion{Key: requests[i].Key, Token: r.Token, Response: response, TTL: 24 * time.Hour}
		}
		if _, err := store.Complete(ctx, completions); err != nil {
			return err
		}
	}
	return nil
}
