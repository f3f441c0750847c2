package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// notes is what happened, in order.
type notes struct {
	mu   sync.Mutex
	list []string
}

func (n *notes) add(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, what)
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.list...)
}

func stage(n *notes, name string) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		n.add(name + " stops")
		time.Sleep(20 * time.Millisecond) // it finishes what it has
		n.add(name + " is done")
		return nil
	}
}

// addresses is a log that tells where the service listens.
type addresses struct {
	bytes.Buffer
	found chan [2]string
}

func (a *addresses) Write(line []byte) (int, error) {
	var said struct{ Msg, Addr, Admin string }
	if json.Unmarshal(line, &said) == nil && said.Msg == "serving" {
		a.found <- [2]string{said.Addr, said.Admin}
	}
	return len(line), nil
}

func get(ctx context.Context, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// teapot asks for what is answered by a teapot's status.
func teapot(t *testing.T, addr string) (answered chan error) {
	t.Helper()
	answered = make(chan error, 1)
	go func() {
		status, err := get(t.Context(), "http://"+addr)
		if err == nil && status != http.StatusTeapot {
			err = errors.New("wrong answer")
		}
		answered <- err
	}()
	return answered
}

func TestStopsFromTheOutsideInAndFinishesRequests(t *testing.T) {
	t.Parallel()
	var n notes
	log := &addresses{found: make(chan [2]string, 1)}
	arrived, unready := make(chan struct{}), make(chan struct{})
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-unready
		time.Sleep(Notice + 200*time.Millisecond) // beyond the moment at which the port closes
		n.add("request answered")
		w.WriteHeader(http.StatusTeapot)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Service{
			Addr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", Public: slow, Admin: http.NotFoundHandler(),
			Unready: func() { n.add("unready"); close(unready) },
			Stages:  []func(context.Context) error{stage(&n, "first"), stage(&n, "second")},
			Log:     slog.New(slog.NewJSONHandler(log, nil)),
		})
	}()
	at := <-log.found
	answered := teapot(t, at[0])
	<-arrived
	status, err := get(t.Context(), "http://"+at[1])
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, status)

	cancel()
	require.NoError(t, <-answered)
	require.NoError(t, <-ended)
	require.Equal(t, []string{"unready", "request answered", "first stops", "first is done", "second stops", "second is done"}, n.all())
}

func TestAStageThatFailsStopsTheRest(t *testing.T) {
	t.Parallel()
	var n notes
	broken := errors.New("broken")
	err := Run(t.Context(), Service{
		Addr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", Public: http.NotFoundHandler(), Admin: http.NotFoundHandler(),
		Unready: func() { n.add("unready") },
		Stages: []func(context.Context) error{
			stage(&n, "first"),
			func(context.Context) error { return broken },
		},
		Log: slog.New(slog.DiscardHandler),
	})
	require.ErrorIs(t, err, broken)
	require.Equal(t, []string{"unready", "first stops", "first is done"}, n.all())
}

// A stage that could not finish what it had says so when it is stopped: the program that
// ends as if all were well would not be looked at.
func TestAStageThatFailsAtTheStopIsTold(t *testing.T) {
	t.Parallel()
	first, second := errors.New("first"), errors.New("second")
	failing := func(err error) func(context.Context) error {
		return func(ctx context.Context) error {
			<-ctx.Done()
			return err
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Run(ctx, Service{
		Addr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", Public: http.NotFoundHandler(), Admin: http.NotFoundHandler(),
		Unready: func() {},
		Stages:  []func(context.Context) error{failing(first), failing(nil), failing(second)},
		Log:     slog.New(slog.DiscardHandler),
	})
	require.ErrorIs(t, err, first)
	require.ErrorIs(t, err, second)
	require.NotErrorIs(t, err, http.ErrServerClosed)
}

func TestAnAddressInUseIsAnErrorAndStartsNothing(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	for _, s := range []Service{
		{Addr: taken.Addr().String(), AdminAddr: "127.0.0.1:0"},
		{Addr: "127.0.0.1:0", AdminAddr: taken.Addr().String()},
	} {
		s.Stages = []func(context.Context) error{func(context.Context) error { t.Error("started"); return nil }}
		require.ErrorContains(t, Run(t.Context(), s), "address already in use")
	}
	// Nor does it keep the other address from who comes next.
	listen := func(addr string) net.Listener {
		free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		require.NoError(t, err)
		return free
	}
	free := listen("127.0.0.1:0")
	require.NoError(t, free.Close())
	require.Error(t, Run(t.Context(), Service{Addr: free.Addr().String(), AdminAddr: taken.Addr().String()}))
	require.NoError(t, listen(free.Addr().String()).Close())
}

func TestTogetherEndsWhenOneFails(t *testing.T) {
	t.Parallel()
	var n notes
	broken := errors.New("broken")
	require.ErrorIs(t, Together(t.Context(), stage(&n, "a"), func(context.Context) error { return broken }), broken)
	require.Equal(t, []string{"a stops", "a is done"}, n.all())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, Together(ctx, stage(&n, "b")))
	require.Equal(t, []string{"a stops", "a is done", "b stops", "b is done"}, n.all())
	require.NoError(t, Together(t.Context()))
}

func TestEveryGoesOnAfterAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute+time.Second)
		defer stop()
		done := 0
		err := Every(time.Minute, slog.New(slog.NewTextHandler(&log, nil)), "sweep", func(context.Context) error {
			if done++; done == 2 {
				return errors.New("no store")
			}
			return nil
		})(ctx)
		require.NoError(t, err)
		require.Equal(t, 3, done)
		require.Equal(t, 1, strings.Count(log.String(), `what=sweep error="no store"`), log.String())
	})
}

// A write of an operator may be under way in a stage: the stage finishes it, and its
// answer must arrive.
func TestAnAdminRequestThatAStageFinishesIsAnswered(t *testing.T) {
	t.Parallel()
	log := &addresses{found: make(chan [2]string, 1)}
	arrived, finished := make(chan struct{}), make(chan struct{})
	admin := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-finished
		time.Sleep(100 * time.Millisecond) // it writes down what has been done
		w.WriteHeader(http.StatusTeapot)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Service{
			Addr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", Public: http.NotFoundHandler(), Admin: admin, Unready: func() {},
			Stages: []func(context.Context) error{func(ctx context.Context) error {
				<-ctx.Done()
				close(finished)
				return nil
			}},
			Log: slog.New(slog.NewJSONHandler(log, nil)),
		})
	}()
	at := <-log.found
	answered := teapot(t, at[1])
	<-arrived
	cancel()
	require.NoError(t, <-answered)
	require.NoError(t, <-ended)
}

func TestInBatchesGoesOnUntilThereIsNoMore(t *testing.T) {
	t.Parallel()
	left, calls := 25, 0
	take := func(_ context.Context, size int) (int, error) {
		calls++
		n := min(left, size)
		left -= n
		return n, nil
	}
	require.NoError(t, InBatches(10, take)(t.Context()))
	require.Zero(t, left)
	require.Equal(t, 3, calls)
	fault := errors.New("down")
	require.ErrorIs(t, InBatches(10, func(context.Context, int) (int, error) { return 10, fault })(t.Context()), fault)
}
