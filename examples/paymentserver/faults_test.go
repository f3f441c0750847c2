package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
)

// drainLimit is how long a backlog may take: a message of a dead worker waits for
// its lease, 15 s, and one that Redis lost for the sweep, 5 s. A busy machine takes
// its time for the rest.
const drainLimit = 90 * time.Second

// syncedRedis is one that keeps what it acknowledges when it is killed.
func syncedRedis(t testing.TB) *localdb.Redis {
	return testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"appendfsync": "always"}})
}

// pause is time that the load shall have between two faults.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func TestWorkersKilledEveryTwoSeconds(t *testing.T) {
	t.Parallel()
	args := []string{"-migrate", "-postgres", testdb.PostgresURL(t), "-redis", testdb.RedisURL(t)}
	servers := []*program{startServer(t, args...), startServer(t, args...)}
	b := newBank(t, "killed", servers...)
	b.during(t, 200, func(ctx context.Context) error {
		for i := range 4 {
			if err := pause(ctx, 2*time.Second); err != nil {
				return err
			}
			servers[i%2].Kill()
			limit, cancel := context.WithTimeout(ctx, startLimit)
			err := servers[i%2].restart(limit)
			cancel()
			if err != nil {
				return err
			}
		}
		return pause(ctx, time.Second)
	})
	b.allAcknowledged(t)
	require.Positive(t, b.answers["lost"], "clients have felt the kills")
	b.settle(t, drainLimit)
}

// underLoad runs the load generator while faults happen, once it has begun: before
// that it has customers to make, for which it needs the database. It checks each of its
// receipts by itself; here nothing may have been refused either.
func underLoad(t testing.TB, p *program, faults func(ctx context.Context) error, args ...string) string {
	t.Helper()
	before := newBank(t, "before", p)
	type result struct {
		table string
		err   error
	}
	done := make(chan result, 1)
	go func() {
		table, err := runLoadOn(t.Context(), p, args...)
		done <- result{table, err}
	}()
	eventually(t, startLimit, func() error {
		var s statsView
		if err := before.get(t.Context(), p.admin, "admin/stats", &s); err != nil || len(s.Payments) > 0 {
			return err
		}
		return errors.New("the load has not begun")
	})
	fault := faults(t.Context())
	got := <-done // ends by itself, or with the test's context
	t.Logf("\n%s", got.table)
	require.NoError(t, errors.Join(fault, got.err), "%s", got.table)
	require.Regexp(t, `(?m)^refused +0$`, got.table)
	require.Regexp(t, `(?m)^errors +0$`, got.table)
	newBank(t, "after", p).settle(t, drainLimit)
	return got.table
}

// acceptP99 reads the load generator's table.
func acceptP99(t testing.TB, table string) time.Duration {
	t.Helper()
	found := regexp.MustCompile(`(?m)^accept +p50.* p99 (\S+)`).FindStringSubmatch(table)
	require.NotNil(t, found, table)
	d, err := time.ParseDuration(found[1])
	require.NoError(t, err)
	return d
}

func TestRedisKilledFlushedAndRestarted(t *testing.T) {
	t.Parallel()
	rdb := syncedRedis(t)
	p := startServer(t, "-migrate", "-postgres", testdb.PostgresURL(t), "-redis", rdb.URL(),
		"-limit-ip", "5000", "-limit-customer", "5000", "-limit-global", "5000") // a payment is not refused because its limits cannot be looked up
	options, err := redis.ParseURL(rdb.URL())
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	underLoad(t, p, func(ctx context.Context) error {
		return errors.Join(
			pause(ctx, 2*time.Second), rdb.Kill(),
			pause(ctx, 2*time.Second), rdb.Start(ctx),
			pause(ctx, 2*time.Second), client.FlushAll(ctx).Err(),
			pause(ctx, time.Second), rdb.Kill(), rdb.Start(ctx),
		)
	}, "-rate", strconv.Itoa(loadRate), "-for", "9s", "-duplicates", "0.1", "-settle", drainLimit.String())
}

func TestPostgresRestarted(t *testing.T) {
	t.Parallel()
	db := testdb.NewPostgres(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", syncedRedis(t).URL())
	underLoad(t, p, func(ctx context.Context) error {
		return errors.Join(
			pause(ctx, 2*time.Second), db.Stop(ctx), db.Start(ctx),
			pause(ctx, 3*time.Second), db.Kill(), db.Start(ctx),
		)
	}, "-rate", strconv.Itoa(loadRate), "-for", "9s", "-duplicates", "0.1", "-settle", drainLimit.String())
}

// loadRate is what a server takes in a second also on a busy machine and under the race
// detector. Beyond that payments wait for each other, and some are refused when their
// time is up.
const loadRate = 100

// TestPostgresGoneForHalfAMinute: all payments are taken, none waits for it, and they
// come into the database in the order of their taking.
func TestPostgresGoneForHalfAMinute(t *testing.T) {
	t.Parallel()
	outage := 30 * time.Second
	if testing.Short() {
		outage = 6 * time.Second
	}
	db := testdb.NewPostgres(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", syncedRedis(t).URL())
	execute(t, db, `CREATE TABLE arrival (n bigserial, accepted_at timestamptz);
		CREATE FUNCTION arrive() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN INSERT INTO arrival (accepted_at) VALUES (NEW.accepted_at); RETURN NULL; END $$;
		CREATE TRIGGER arrive AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION arrive()`)
	var down, up time.Time
	table := underLoad(t, p, func(ctx context.Context) error {
		err := errors.Join(pause(ctx, time.Second), db.Stop(ctx))
		down = time.Now()
		err = errors.Join(err, pause(ctx, outage))
		up = time.Now()
		return errors.Join(err, db.Start(ctx))
	}, "-rate", strconv.Itoa(loadRate), "-for", (outage + 4*time.Second).String(), "-settle", drainLimit.String())
	require.Less(t, acceptP99(t, table), outage/2, "of accept: nobody waits for its end")

	arrived := query[time.Time](t, db, `SELECT accepted_at FROM arrival WHERE accepted_at BETWEEN $1 AND $2 ORDER BY n`,
		down.Add(time.Second), up)
	require.Greater(t, len(arrived), int(outage.Seconds())*loadRate/2, "they are taken meanwhile; a busy machine is seconds behind")
	latest := arrived[0]
	for i, at := range arrived {
		// Two batches that are pushed at one time may change places, and on a
		// machine that is short of time that is a while.
		require.False(t, at.Before(latest.Add(-2*time.Second)), "payment %d of %d was taken %v before one that came earlier", i, len(arrived), latest.Sub(at))
		if at.After(latest) {
			latest = at
		}
	}
}

func execute(t testing.TB, db *localdb.Postgres, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func query[T any](t testing.TB, db *localdb.Postgres, sql string, args ...any) []T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	rows, err := conn.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return found
}

// TestServerKilledWhilePostgresIsGone: what it had taken is in Redis alone, and
// the next one takes more.
func TestServerKilledWhilePostgresIsGone(t *testing.T) {
	t.Parallel()
	db, rdb := testdb.NewPostgres(t), syncedRedis(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", rdb.URL())
	p.args = p.args[1:] // the schema is there
	b := newBank(t, "outage", p)
	b.during(t, 200, func(ctx context.Context) error {
		if err := errors.Join(pause(ctx, time.Second), db.Stop(ctx), pause(ctx, 2*time.Second)); err != nil {
			return err
		}
		p.Kill()
		limit, cancel := context.WithTimeout(ctx, startLimit)
		err := p.restart(limit)
		if err == nil {
			err = b.pay(limit, b.next())
		}
		cancel()
		return errors.Join(err, pause(ctx, 2*time.Second), db.Start(ctx), pause(ctx, time.Second))
	})
	b.allAcknowledged(t)
	b.settle(t, drainLimit)
}

// TestRedisKilledWhilePostgresIsGone: what it had been given it has on its disk.
func TestRedisKilledWhilePostgresIsGone(t *testing.T) {
	t.Parallel()
	db, rdb := testdb.NewPostgres(t), syncedRedis(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", rdb.URL())
	b := newBank(t, "spill-killed", p)
	b.during(t, 200, func(ctx context.Context) error {
		return errors.Join(
			db.Stop(ctx), pause(ctx, 2*time.Second), rdb.Kill(), pause(ctx, time.Second), rdb.Start(ctx),
			pause(ctx, 2*time.Second), db.Start(ctx), pause(ctx, time.Second),
		)
	})
	b.allAcknowledged(t)
	b.settle(t, drainLimit)
}

// TestBothGone: what cannot be kept is not acknowledged.
func TestBothGone(t *testing.T) {
	t.Parallel()
	db, rdb := testdb.NewPostgres(t), syncedRedis(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", rdb.URL())
	b := newBank(t, "both", p)
	require.NoError(t, b.pay(t.Context(), b.next()))
	require.NoError(t, errors.Join(db.Stop(t.Context()), rdb.Stop(t.Context())))
	for range 20 { // breakers closed at first, and then open
		got, err := b.attempt(t.Context(), p, b.next())
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
		require.Equal(t, "application/problem+json", got.header.Get("Content-Type"))
		seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
		require.NoError(t, err)
		require.Positive(t, seconds)
	}
	eventually(t, startLimit, func() error {
		return wantStatus(t.Context(), b, "http://"+p.addr+"/readyz", http.StatusServiceUnavailable)
	})
	require.NoError(t, wantStatus(t.Context(), b, "http://"+p.addr+"/livez", http.StatusOK))

	require.NoError(t, errors.Join(rdb.Start(t.Context()), db.Start(t.Context())))
	for _, r := range b.receipts {
		require.NoError(t, b.pay(t.Context(), r), "without a restart of the server")
	}
	b.allAcknowledged(t)
	b.settle(t, drainLimit)
	require.NoError(t, wantStatus(t.Context(), b, "http://"+p.addr+"/readyz", http.StatusOK))
}

func wantStatus(ctx context.Context, b *bank, url string, want int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	if err := resp.Body.Close(); err != nil || resp.StatusCode != want {
		return errors.Join(err, statusError{path: url, status: resp.StatusCode})
	}
	return nil
}

// fullDisk makes PostgreSQL answer as it does when its disk is full: nothing can
// be written, and all can be read.
const fullDisk = `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON payments FOR EACH STATEMENT EXECUTE FUNCTION full_disk()`

func TestFullDisk(t *testing.T) {
	t.Parallel()
	for name, spills := range map[string]bool{"with Redis": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := testdb.NewPostgres(t)
			args := []string{"-migrate", "-postgres", db.URL()}
			if spills {
				args = append(args, "-redis", syncedRedis(t).URL())
			}
			p := startServer(t, args...)
			b := newBank(t, "disk", p)
			require.NoError(t, b.pay(t.Context(), b.next()))
			execute(t, db, fullDisk)
			for range 50 {
				got, err := b.attempt(t.Context(), p, b.next())
				require.NoError(t, err)
				if spills {
					require.Equal(t, http.StatusAccepted, got.status, got.body)
				} else {
					require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
					require.NotEmpty(t, got.header.Get("Retry-After"))
				}
			}
			execute(t, db, `DROP TRIGGER full_disk ON payments`)
			b.settle(t, drainLimit)
			for _, r := range b.receipts {
				require.Equal(t, spills || r == b.receipts[0], r.acknowledged)
				require.NoError(t, b.pay(t.Context(), r))
			}
			b.settle(t, drainLimit)
		})
	}
}

// TestASpilledPaymentIsNotUnknown while PostgreSQL answers, but does not have it yet:
// whoever follows the address in a 202 must not hear that there is no such payment.
func TestASpilledPaymentIsNotUnknown(t *testing.T) {
	t.Parallel()
	db, rdb := testdb.NewPostgres(t), syncedRedis(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", rdb.URL())
	b := newBank(t, "spilled-read", p)
	look := func(reference string) int {
		var got paymentView
		err := b.get(t.Context(), p.addr, "payments/"+reference, &got)
		e, _ := errors.AsType[statusError](err)
		return e.status
	}
	require.Equal(t, http.StatusNotFound, look("nobodys"))
	execute(t, db, fullDisk)
	r := b.next()
	require.NoError(t, b.pay(t.Context(), r))
	require.Equal(t, http.StatusServiceUnavailable, look(r.reference))
	require.NoError(t, rdb.Stop(t.Context()))
	require.Equal(t, http.StatusServiceUnavailable, look(r.reference), "Redis has it")
	require.NoError(t, rdb.Start(t.Context()))
	execute(t, db, `DROP TRIGGER full_disk ON payments`)
	b.settle(t, drainLimit)
	require.Zero(t, look(r.reference))
	eventually(t, drainLimit, func() error {
		if got := look("nobodys"); got != http.StatusNotFound {
			return statusError{path: "nobodys", status: got}
		}
		return nil
	})
}

// TestARefusedPaymentIsCorrectedDuringAnOutage: the cache remembers for a while what was
// refused, and cannot tell it from what was taken.
func TestARefusedPaymentIsCorrectedDuringAnOutage(t *testing.T) {
	t.Parallel()
	db := testdb.NewPostgres(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", syncedRedis(t).URL())
	b := newBank(t, "corrected", p)
	r := b.next()
	known := r.customer
	r.customer = "GIG99999"
	got, err := b.attempt(t.Context(), p, r)
	require.NoError(t, err)
	require.Equal(t, http.StatusUnprocessableEntity, got.status, got.body)
	execute(t, db, fullDisk)
	r.customer = known
	got, err = b.attempt(t.Context(), p, r)
	require.NoError(t, err)
	require.Contains(t, []int{http.StatusServiceUnavailable, http.StatusAccepted}, got.status, got.body)
	execute(t, db, `DROP TRIGGER full_disk ON payments`)
	require.NoError(t, b.pay(t.Context(), r))
	b.settle(t, drainLimit)
}

// TestPostgresRestoredFromABackup does not have a payment that the cache knows. README
// says which keys are to be deleted, and which are not.
func TestPostgresRestoredFromABackup(t *testing.T) {
	t.Parallel()
	db, rdb := testdb.NewPostgres(t), syncedRedis(t)
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", rdb.URL())
	b := newBank(t, "restored", p)
	execute(t, db, `CREATE TABLE backup AS SELECT * FROM payments`)
	lost := b.next()
	lost.customer = "GIG00002"
	got, err := b.attempt(t.Context(), p, lost)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, got.status, got.body)
	execute(t, db, fullDisk)
	spilled := b.next()
	require.NoError(t, b.pay(t.Context(), spilled))
	p.Kill()
	execute(t, db, `DROP TRIGGER full_disk ON payments; DELETE FROM payments; INSERT INTO payments SELECT * FROM backup`)

	options, err := redis.ParseURL(rdb.URL())
	require.NoError(t, err)
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	keys, err := client.Keys(t.Context(), "idempotency:*").Result()
	require.NoError(t, err)
	require.NoError(t, client.Del(t.Context(), keys...).Err())
	require.NoError(t, p.restart(t.Context()))
	got, err = b.attempt(t.Context(), p, lost)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, got.status, "it is taken again: %s", got.body)
	b.settle(t, drainLimit)
}

// TestRedisWithoutAFile keeps what it is given in memory alone: no payment is
// acknowledged for that.
func TestRedisWithoutAFile(t *testing.T) {
	t.Parallel()
	db := testdb.NewPostgres(t)
	rdb := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"appendonly": "no"}})
	p := startServer(t, "-migrate", "-postgres", db.URL(), "-redis", rdb.URL())
	require.Contains(t, p.logs(), "payments are refused while PostgreSQL is down")
	b := newBank(t, "no-file", p)
	execute(t, db, fullDisk)
	for range 10 {
		got, err := b.attempt(t.Context(), p, b.next())
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
	}
	execute(t, db, `DROP TRIGGER full_disk ON payments`)
	b.settle(t, drainLimit)
	require.Zero(t, b.answers["202"])
	ready := "http://" + p.addr + "/readyz"
	require.NoError(t, wantStatus(t.Context(), b, ready, http.StatusOK))
	require.NoError(t, rdb.Kill())
	var health struct {
		Status string
		Stores map[string]string
	}
	require.NoError(t, b.get(t.Context(), p.addr, "health", &health))
	require.Equal(t, "degraded", health.Status)
	require.Equal(t, map[string]string{"postgres": "up", "redis": "down"}, health.Stores)
	require.NoError(t, rdb.Start(t.Context()))
	require.NoError(t, db.Stop(t.Context()))
	require.NoError(t, wantStatus(t.Context(), b, ready, http.StatusServiceUnavailable), "a balancer sends payments to where they are taken")
}
