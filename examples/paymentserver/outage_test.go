package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/examples/internal/breaker"
	"github.com/safetill/safetill/examples/internal/problem"
	"github.com/safetill/safetill/examples/internal/strictjson"
	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/internal/queue"
)

// What outages leave behind, looked at in one process and without servers.

func newQueue(t *testing.T) queue.Queue {
	t.Helper()
	q, err := queue.NewMemory(nil)
	require.NoError(t, err)
	return q
}

// silent is a queue that does not say how long it is.
type silent struct{ queue.Queue }

func (silent) Stats(context.Context) (queue.Stats, error) {
	return queue.Stats{}, errors.New("no Redis")
}

// A payment that the drain has in hand was acknowledged, and is not in the database yet.
func TestAPaymentThatIsBeingDrainedIsNotUnknown(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newMemoryServer(t)
	s.spill = newQueue(t)
	look := func() error {
		_, err := s.payment(ctx, "reference", "R")
		return err
	}
	spill := s.spill
	s.spill = silent{spill}
	require.ErrorIs(t, look(), errUnavailable, "nobody knows what is on the list")
	s.spill = spill
	require.NoError(t, s.spill.Push(ctx, strictjson.Encode(storePayment("R", bankComplete, "10"))))
	require.ErrorIs(t, look(), errUnavailable)
	msgs, err := s.spill.Claim(ctx, "w", 1)
	require.NoError(t, err)
	require.ErrorIs(t, look(), errUnavailable)
	require.NoError(t, s.drain(ctx, msgs))
	require.NoError(t, look())
}

// arriving is a store into which a payment comes when it has been looked for in vain.
type arriving struct {
	store
	payment *payment
}

func (a *arriving) find(ctx context.Context, references ...string) ([]payment, error) {
	found, err := a.store.find(ctx, references...)
	if err == nil && a.payment != nil {
		_, err = a.accept(ctx, []*payment{a.payment}, true)
		a.payment = nil
	}
	return found, err
}

// the database does not have the payment yet
// the drain brings it there, and the spill list is empty
// the list is looked at, and nothing is on it
func TestAPaymentThatIsDrainedMeanwhileIsNotUnknown(t *testing.T) {
	t.Parallel()
	s := newMemoryServer(t)
	s.spill, s.store = newQueue(t), &arriving{s.store, storePayment("R", bankComplete, "10")}
	got, err := s.payment(t.Context(), "reference", "R")
	require.NoError(t, err)
	require.Equal(t, "R", got.Reference)
	_, err = s.payment(t.Context(), "reference", "S")
	p, ok := errors.AsType[*problem.Problem](err)
	require.True(t, ok && p.Status == http.StatusNotFound, err)
}

// keeping is a store that notes whether what it is offered was acknowledged.
type keeping struct {
	store
	acknowledged []bool
}

func (k *keeping) accept(ctx context.Context, payments []*payment, acknowledged bool) ([]acceptance, error) {
	k.acknowledged = append(k.acknowledged, acknowledged)
	return k.store.accept(ctx, payments, acknowledged)
}

// What was acknowledged and cannot be posted is told to a person, and nothing else is.
func TestADrainedPaymentThatIsRefusedIsTold(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newMemoryServer(t)
	var log strings.Builder
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	nobodys := storePayment("N", bankComplete, "10")
	nobodys.CustomerID = "GIG99999"
	var msgs []queue.Message
	for _, p := range []*payment{storePayment("C", bankComplete, "10"), nobodys, storePayment("P", bankPending, "10"), storePayment("C", bankComplete, "11")} {
		msgs = append(msgs, queue.Message{Body: strictjson.Encode(p)})
	}
	offered := &keeping{store: s.store}
	s.store = offered
	require.NoError(t, s.drain(ctx, msgs))
	require.Equal(t, []bool{true, true}, offered.acknowledged, "a customer's that is unknown is kept")
	require.Equal(t, 2, strings.Count(log.String(), "a spilled payment was refused"), log.String())
	require.Contains(t, log.String(), "reference=N")
	require.Contains(t, log.String(), "reference=C")
	require.Contains(t, s.metrics(t), `payments_accepted_total{result="drain_refused"} 2`)
	due, err := s.queue.Claim(ctx, "w", 10)
	require.NoError(t, err)
	require.Len(t, due, 1)
	require.Equal(t, "C", string(due[0].Body))

	require.Error(t, s.drain(ctx, []queue.Message{{Body: []byte("{")}}), "what cannot be read stays on the list")
	s.store = &failing{store: s.store}
	require.Error(t, s.drain(ctx, msgs), "and so does what is not recorded")
}

// A payment that the ledger refuses is seen by nobody but who reads the log or the metrics.
func TestAPaymentThatIsRejectedIsTold(t *testing.T) {
	t.Parallel()
	s := newMemoryServer(t)
	var log strings.Builder
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	books := s.store.(*memoryStore)
	books.ids = append(books.ids, "GIG99999") // who has no account
	good, nobodys := storePayment("G", bankComplete, "10"), storePayment("N", bankComplete, "10")
	nobodys.CustomerID = "GIG99999"
	_, err := s.store.accept(t.Context(), []*payment{good, nobodys}, false)
	require.NoError(t, err)
	n, err := s.post(t.Context(), []string{"G", "N"})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, 1, strings.Count(log.String(), "rejected by the ledger"), log.String())
	require.Contains(t, log.String(), "reference=N reason=unknown_account")
	for _, state := range []string{statePosted, stateRejected} {
		require.Contains(t, s.metrics(t), `paymentserver_payments_posted_total{state="`+state+`"} 1`)
	}
}

// ahead is a store of a payment that was taken by a server whose clock is ahead.
type ahead struct{ store }

func (ahead) post(context.Context, []string) ([]payment, error) {
	now := time.Now()
	return []payment{{State: statePosted, AcceptedAt: now.Add(time.Hour), PostedAt: now}}, nil
}

// A sum of delays that falls is a counter that was reset, to Prometheus.
func TestADelayIsNotNegative(t *testing.T) {
	t.Parallel()
	s := newMemoryServer(t)
	s.store = ahead{s.store}
	_, err := s.post(t.Context(), []string{"A"})
	require.NoError(t, err)
	require.Contains(t, s.metrics(t), "\npaymentserver_posting_delay_seconds_sum 0\n")
}

// stuckStore and stuckCache hang until their caller has had enough.
type stuckStore struct{ store }

func (stuckStore) accept(ctx context.Context, _ []*payment, _ bool) ([]acceptance, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

type stuckCache struct{ idempotency.Store }

func (stuckCache) Claim(ctx context.Context, _ []idempotency.Request) ([]idempotency.Record, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A payment waits for a Redis that hangs half a second, and for a PostgreSQL a second: it
// has somewhere else to go.
func TestAPaymentDoesNotWaitForWhatHangs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cache idempotency.Store
		hangs bool // PostgreSQL
		wait  time.Duration
	}{
		"Redis":      {stuckCache{idempotency.NewMemory(nil)}, false, 500 * time.Millisecond},
		"PostgreSQL": {idempotency.NewMemory(nil), true, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newMemoryServer(t)
				s.cache, s.spill, s.durable = c.cache, newQueue(t), func(context.Context) error { return nil }
				spilled := 0
				if c.hangs {
					s.store, spilled = stuckStore{s.store}, 1
				}
				var joining sync.WaitGroup
				ctx, stop := context.WithCancel(t.Context())
				joining.Go(func() { _ = s.joiner.Run(ctx) })
				defer joining.Wait()
				defer stop()
				begin := time.Now()
				w := s.pays(t)
				require.Equal(t, http.StatusAccepted, w.Code, w.Body)
				require.InDelta(t, c.wait, time.Since(begin), float64(10*time.Millisecond))
				list, err := s.spill.Stats(t.Context())
				require.NoError(t, err)
				require.Equal(t, spilled, list.Ready)
				require.Equal(t, spilled == 1, strings.Contains(s.metrics(t), `payments_accepted_total{result="spilled"} 1`))
			})
		})
	}
}

// metrics are those that the admin port shows.
func (s *server) metrics(t *testing.T) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.admin().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// A payment that nobody answers is answered all the same, before a stop gives it up.
func TestAPaymentIsAnsweredInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newMemoryServer(t)
		begin := time.Now()
		w := s.pays(t)
		require.Equal(t, http.StatusServiceUnavailable, w.Code, w.Body)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		require.Equal(t, requestLimit, time.Since(begin))
	})
}

// pays sends a payment to the handler of the public port.
func (s *server) pays(t *testing.T) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	s.public().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/payments", strings.NewReader(apiBody())))
	return w
}

// A payment that comes when none are taken any more may be sent again to another server.
func TestAPaymentToAServerThatStops(t *testing.T) {
	t.Parallel()
	s := newMemoryServer(t)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, s.joiner.Run(stopped))
	w := s.pays(t)
	require.Equal(t, http.StatusServiceUnavailable, w.Code, w.Body)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
}

// swept is a store that notes how old what it is asked for has to be.
type swept struct {
	store
	age atomic.Int64
}

func (s *swept) received(_ context.Context, age time.Duration, _ int) ([]string, error) {
	s.age.Store(int64(age))
	return nil, nil
}

// While messages go through, the sweep looks for what has lost its own. When one could
// not be sent it looks at once, and while none can for everything, until Redis is back:
// to find that out no payment has to come.
func TestTheSweepTakesThePlaceOfMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newMemoryServer(t)
		s.queue = unpushed{s.queue}
		age := s.sweeps(t)
		wait := func(d time.Duration) func() { return func() { time.Sleep(d) } }
		push := func() { s.enqueue(t.Context(), [][]byte{[]byte("R")}) }
		require.Equal(t, sweepAge, age(wait(2*time.Second)))
		require.Zero(t, age(push), "a message could not be sent")
		require.Equal(t, sweepAge, age(wait(2*time.Second)))
		for range breaker.Trips {
			push()
		}
		require.Zero(t, age(wait(breaker.Pause/2)))
		require.Equal(t, sweepAge, age(wait(breaker.Pause+2*time.Second)))
		require.True(t, s.redis.Closed())
	})
}

// Without a queue it is the sweep that finds everything.
func TestTheSweepWithoutAQueueIsForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newMemoryServer(t)
		s.queue = nil
		require.Zero(t, s.sweeps(t)(func() { time.Sleep(50 * time.Millisecond) }))
	})
}

// slow is a store that posts a hundred payments a second.
type slow struct {
	store

	left atomic.Int64
}

func (s *slow) received(_ context.Context, _ time.Duration, limit int) ([]string, error) {
	return make([]string, min(int(s.left.Load()), limit)), nil
}

func (s *slow) post(ctx context.Context, references []string) ([]payment, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Duration(len(references)) * 10 * time.Millisecond):
	}
	s.left.Add(-int64(len(references)))
	return make([]payment, len(references)), nil
}

// A commit of more payments than can be posted in its time fails, and so does the same
// one a second later, for ever.
func TestASweepThatIsTooSlowTakesLess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newMemoryServer(t)
		store := &slow{store: s.store}
		store.left.Store(3000)
		s.queue, s.store = nil, store
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		require.NoError(t, s.sweep(ctx))
		require.Zero(t, store.left.Load())
	})
}

// sweeps runs the sweep, and returns what tells the age that it has last asked for when
// something is done; -1 for none.
func (s *server) sweeps(t *testing.T) func(do func()) time.Duration {
	t.Helper()
	looked := &swept{store: s.store}
	s.store = looked
	ctx, stop := context.WithCancel(t.Context())
	var sweeping sync.WaitGroup
	sweeping.Go(func() { _ = s.sweep(ctx) })
	t.Cleanup(sweeping.Wait)
	t.Cleanup(stop)
	return func(do func()) time.Duration {
		synctest.Wait()
		looked.age.Store(-1)
		do()
		synctest.Wait()
		return time.Duration(looked.age.Load())
	}
}

// unpushed is a queue that takes nothing.
type unpushed struct{ queue.Queue }

func (unpushed) Push(context.Context, ...[]byte) error { return errors.New("no Redis") }
