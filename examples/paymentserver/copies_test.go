package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/queue"
	"github.com/safetill/safetill/internal/testdb"
)

func TestAThousandCopiesOfOnePayment(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) []*program{
		"two processes": func(t *testing.T) []*program {
			args := []string{"-migrate", "-postgres", testdb.PostgresURL(t), "-redis", testdb.RedisURL(t)}
			return []*program{startServer(t, args...), startServer(t, args...)}
		},
		"two processes without Redis": func(t *testing.T) []*program {
			args := []string{"-migrate", "-postgres", testdb.PostgresURL(t)}
			return []*program{startServer(t, args...), startServer(t, args...)}
		},
		"memory": func(t *testing.T) []*program { return []*program{startServer(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := start(t)
			b := newBank(t, "copies", servers...)
			r := b.next()
			replies, errs := make([]reply, 1000), make([]error, 1000)
			begin := time.Now()
			var wg sync.WaitGroup
			for i := range replies {
				wg.Go(func() {
					for { // a slow machine may not get through a thousand in a request's time
						replies[i], errs[i] = b.attempt(t.Context(), servers[i%len(servers)], r)
						answered := errs[i] == nil && replies[i].status != http.StatusServiceUnavailable
						if answered || time.Since(begin) > bankPatience || pause(t.Context(), bankPauseMost) != nil {
							break
						}
					}
				})
			}
			wg.Wait()
			t.Logf("answers %v in %v", b.answers, time.Since(begin).Round(time.Millisecond))
			for i, got := range replies {
				require.NoError(t, errs[i])
				require.Contains(t, []int{http.StatusOK, http.StatusAccepted}, got.status, got.body)
				require.True(t, got.AcceptedAt.Equal(replies[0].AcceptedAt), "%v and %v", got.AcceptedAt, replies[0].AcceptedAt)
			}
			if b.answers["lost"] == 0 {
				require.Equal(t, 1, b.answers["202"], "one of them was the first")
			}
			require.LessOrEqual(t, b.answers["202"], 1)
			b.settle(t, drainLimit)
			var s statsView
			require.NoError(t, b.get(t.Context(), servers[0].admin, "admin/stats", &s))
			require.Equal(t, map[string]int{"POSTED": 1}, s.Payments)
		})
	}
}

// TestClientsThatHangUpOpenNoBreaker: a thousand of them, who pay and who read.
func TestClientsThatHangUpOpenNoBreaker(t *testing.T) {
	t.Parallel()
	p := startServer(t, "-migrate", "-postgres", testdb.PostgresURL(t), "-redis", testdb.RedisURL(t))
	b := newBank(t, "hangs-up", p)
	limit := make(chan struct{}, 50)
	for i := range 500 {
		limit <- struct{}{}
		r := b.next()
		b.paying.Go(func() {
			defer func() { <-limit }()
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%20)*500*time.Microsecond)
			defer cancel()
			if i%2 == 0 {
				_, _ = b.attempt(ctx, p, r) // the receipt tells
			} else {
				var c customerView
				_ = b.get(ctx, p.addr, "customers/"+r.customer+"/balance", &c) // nobody waits for it
			}
		})
	}
	b.paying.Wait()
	t.Logf("answers %v", b.answers)
	require.Greater(t, b.answers["lost"], 100)
	var s statsView
	require.NoError(t, b.get(t.Context(), p.admin, "admin/stats", &s))
	require.Equal(t, map[string]string{"database": "closed", "redis": "closed"}, s.Breakers)
	require.NotContains(t, b.metrics(t, p), `http_responses_total{code="503"}`, "nor was one open meanwhile")
	b.settle(t, drainLimit)
}

// failing is a store whose every accept fails.
type failing struct {
	store
	calls int
}

func (f *failing) accept(context.Context, []*payment, bool) ([]acceptance, error) {
	f.calls++
	return nil, &pgconn.PgError{Code: "53100"} // disk_full
}

// newMemoryServer returns a server of which nothing runs yet.
func newMemoryServer(t *testing.T) *server {
	t.Helper()
	o, err := parseOptions(nil, t.Output())
	require.NoError(t, err)
	o.postgres, o.redis = "", ""
	s, err := newServer(t.Context(), o, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(s.close)
	return s
}

// TestTheFifthFailureStopsCalls is of the server's own wiring; a breaker alone is
// tested in its package.
func TestTheFifthFailureStopsCalls(t *testing.T) {
	t.Parallel()
	s := newMemoryServer(t)
	broken := &failing{store: s.store}
	s.store = broken
	var joining sync.WaitGroup
	joining.Go(func() { _ = s.joiner.Run(t.Context()) })
	t.Cleanup(joining.Wait)
	for n := range 20 {
		_, err := s.joiner.Do(t.Context(), &payment{Reference: "R" + strconv.Itoa(n), CustomerID: customerID(1), BankStatus: bankComplete})
		require.ErrorIs(t, err, errUnavailable)
		require.Equal(t, min(n+1, breaker.Trips), broken.calls)
		require.Equal(t, n+1 < breaker.Trips, s.db.Closed(), "after %d failures", n+1)
	}
}

// TestAClientThatHangsUpRightAfterSending: nobody tells it, but it has paid.
func TestAClientThatHangsUpRightAfterSending(t *testing.T) {
	t.Parallel()
	p := startServer(t, "-migrate", "-postgres", testdb.PostgresURL(t), "-redis", testdb.RedisURL(t))
	b := newBank(t, "sent", p)
	for range 100 {
		r := b.next()
		conn := p.dial(t)
		_, err := fmt.Fprintf(conn, "POST /api/v1/payments HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", p.addr, len(r.body()), r.body())
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	eventually(t, 10*time.Second, func() error {
		missing := 0
		for _, r := range b.receipts {
			var got paymentView
			err := b.get(t.Context(), p.addr, "payments/"+r.reference, &got)
			if e := (statusError{}); errors.As(err, &e) && e.status == http.StatusNotFound {
				missing++
			} else if err != nil {
				return err
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d of %d payments are not there", missing, len(b.receipts))
		}
		return nil
	})
	for _, r := range b.receipts {
		require.NoError(t, b.pay(t.Context(), r))
		require.Equal(t, map[int]int{http.StatusOK: 1}, r.answered, "a repeat")
	}
	b.settle(t, drainLimit)
}

// Of what comes in one batch under one reference, a copy is answered with the first, and
// other content by itself, when the first is known.
func TestOtherContentInABatchIsNoCopy(t *testing.T) {
	t.Parallel()
	batch := []*request{
		{payment: storePayment("R", bankComplete, "10")},
		{payment: storePayment("S", bankComplete, "10")},
		{payment: storePayment("R", bankComplete, "10.00")},
		{payment: storePayment("R", bankComplete, "11")},
		{payment: storePayment("R", "FAILED", "10")},
		{payment: storePayment("R", bankComplete, "11")},
		{payment: storePayment("R", bankComplete, "10")},
	}
	got := rounds(batch)
	require.Equal(t, [][]*request{{batch[0], batch[1]}, {batch[3]}, {batch[4]}}, got)
	require.Equal(t, []*request{batch[2], batch[6]}, batch[0].copies)
	require.Equal(t, []*request{batch[5]}, batch[3].copies)
	require.Empty(t, batch[4].copies)
}

// While the database is down a payment is spilled with the time at which it is
// acknowledged, and no worker is told of it. Other content under its reference is
// neither acknowledged nor spilled: what of the two stands, only the database knows.
func TestOtherContentIsNotSpilled(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newMemoryServer(t)
	spill, err := queue.NewMemory(nil)
	require.NoError(t, err)
	durable := error(nil)
	s.store, s.cache, s.spill = &failing{store: s.store}, idempotency.NewMemory(nil), spill
	s.durable = func(context.Context) error { return durable }
	var joining sync.WaitGroup
	running, stop := context.WithCancel(ctx)
	joining.Go(func() { _ = s.joiner.Run(running) })
	t.Cleanup(joining.Wait)
	t.Cleanup(stop)

	first, err := s.joiner.Do(ctx, storePayment("R", bankComplete, "10"))
	require.NoError(t, err)
	_, err = s.joiner.Do(ctx, storePayment("R", bankComplete, "11"))
	require.ErrorIs(t, err, errUnavailable)
	durable = errors.New("nothing is kept")
	_, err = s.joiner.Do(ctx, storePayment("S", bankComplete, "10"))
	require.ErrorIs(t, err, errUnavailable)
	require.ErrorIs(t, err, durable)

	stop()
	joining.Wait() // workers are told after the clients
	msgs, err := spill.Claim(ctx, "w", 10)
	require.NoError(t, err)
	require.Len(t, msgs, 1)
	var kept payment
	require.NoError(t, json.Unmarshal(msgs[0].Body, &kept))
	require.Equal(t, "R", kept.Reference)
	require.Equal(t, "10", kept.Amount.String())
	require.True(t, kept.AcceptedAt.Equal(first.AcceptedAt) && !first.AcceptedAt.IsZero())
	require.Equal(t, first.AcceptedAt.Truncate(time.Microsecond), first.AcceptedAt, "a look-up in PostgreSQL tells the same time")
	told, err := s.queue.Stats(ctx)
	require.NoError(t, err)
	require.Zero(t, told)
}

// Workers hear of what is new and to be posted, and the cache of what was taken: a
// refusal that it called processed would be told to who has mended the payment's customer.
func TestOfWhatWorkersAndCacheAreTold(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newMemoryServer(t)
	s.cache = idempotency.NewMemory(nil)
	complete, pending, nobodys, repeat := storePayment("C", bankComplete, "10"), storePayment("P", bankPending, "10"),
		storePayment("N", bankComplete, "10"), storePayment("R", bankComplete, "10")
	nobodys.CustomerID = "GIG99999"
	_, err := s.store.accept(ctx, []*payment{repeat}, false)
	require.NoError(t, err)
	var joining sync.WaitGroup
	running, stop := context.WithCancel(ctx)
	joining.Go(func() { _ = s.joiner.Run(running) })
	t.Cleanup(joining.Wait)
	t.Cleanup(stop)
	for p, want := range map[*payment]error{complete: nil, pending: nil, nobodys: errUnknownCustomer, repeat: nil} {
		_, err := s.joiner.Do(ctx, p)
		require.ErrorIs(t, err, want, p.Reference)
	}
	stop()
	joining.Wait() // they are told after the clients
	msgs, err := s.queue.Claim(ctx, "w", 10)
	require.NoError(t, err)
	require.Len(t, msgs, 1)
	require.Equal(t, complete.Reference, string(msgs[0].Body))
	for p, want := range map[*payment]bool{complete: true, pending: true, nobodys: false, repeat: true} {
		got, err := s.cache.Claim(ctx, []idempotency.Request{{Key: p.key(), Fingerprint: p.fingerprint(), Lease: claimLease}})
		require.NoError(t, err)
		require.Equal(t, want, got[0].Outcome == idempotency.Completed, p.Reference)
	}
}
