// Package service runs an HTTP service on a public and an admin port, with stages
// of work behind them, and stops it so that what was taken in is finished.
package service

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// Notice is how long a service says that it is not ready before its port
	// closes, so that a load balancer can turn away first.
	Notice = 500 * time.Millisecond
	// Limit is how long requests in flight may take to end after that.
	Limit = 5 * time.Second
	// WriteLimit is how long a request of the public port may take until its answer is
	// with the client, who may not read.
	WriteLimit = 30 * time.Second
	// HeaderLimit is how many bytes the header of a request may have. net/http takes 4 KiB
	// more than it is told.
	HeaderLimit = 16 << 10
	// AdminLimit is how long those of the admin port have once the stages have stopped.
	AdminLimit = time.Second
)

// Service is what [Run] runs.
type Service struct {
	Addr, AdminAddr string
	Public, Admin   http.Handler

	// Unready is called when the service begins to stop; [Health.Drain] fits.
	Unready func()
	// Stages work until their context ends. Each is stopped when nothing can
	// reach it any more: the first after the public port, each next one after
	// the one before it has returned.
	Stages []func(context.Context) error

	Log *slog.Logger
}

// Run serves until ctx ends or something fails, and returns when all has stopped,
// with all that has failed by then.
// It logs "serving" with both addresses.
func Run(ctx context.Context, s Service) error {
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(200)) // some 30 MB more, and half of the collections
	}
	var listen net.ListenConfig
	public, err := listen.Listen(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	admin, err := listen.Listen(ctx, "tcp", s.AdminAddr)
	if err != nil {
		return errors.Join(err, public.Close())
	}
	failed := make(chan error, len(s.Stages)+2)
	stop := s.start(context.WithoutCancel(ctx), failed)
	servers := []*http.Server{s.public(s.Public), s.http(s.Admin)}
	var serving sync.WaitGroup
	serving.Go(func() { failed <- servers[0].Serve(public) })
	serving.Go(func() { failed <- servers[1].Serve(admin) })
	s.Log.Info("serving", slog.String("addr", public.Addr().String()), slog.String("admin", admin.Addr().String()))

	select {
	case err = <-failed:
		s.Unready()
	case <-ctx.Done():
		s.Unready()
		s.Log.Info("stopping")
		time.Sleep(Notice)
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), Limit)
	defer cancel()
	if late := servers[0].Shutdown(ending); late != nil { // a client that has sent half a request, say
		s.Log.Warn("connections closed that did not end by themselves", slog.Any("error", late))
		err = errors.Join(err, servers[0].Close())
	}
	stop()
	ending, cancel = context.WithTimeout(context.WithoutCancel(ctx), AdminLimit)
	defer cancel()
	if servers[1].Shutdown(ending) != nil { // a profile is being made, say
		err = errors.Join(err, servers[1].Close())
	}
	serving.Wait()
	close(failed) // by now all have returned that write to it
	for late := range failed {
		if !errors.Is(late, http.ErrServerClosed) {
			err = errors.Join(err, late)
		}
	}
	s.Log.Info("stopped")
	return err
}

// start starts the stages and returns what stops them one after the other.
func (s *Service) start(ctx context.Context, failed chan<- error) (stop func()) {
	var stops []func()
	for _, stage := range s.Stages {
		working, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { // waited for by its stop
			defer close(done)
			if err := stage(working); err != nil {
				failed <- err
			}
		}()
		stops = append(stops, func() {
			cancel()
			<-done
		})
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// public is the server of the public port. On the admin port there is no limit to an
// answer, as a profile takes as long as it is asked to.
func (s *Service) public(h http.Handler) *http.Server {
	server := s.http(h)
	server.WriteTimeout = WriteLimit
	return server
}

func (s *Service) http(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, MaxHeaderBytes: HeaderLimit - 4<<10, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
}

// Together runs what works side by side, as one of the Stages: until ctx ends, or
// one fails, and then until all have returned.
func Together(ctx context.Context, works ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(works))
	var running sync.WaitGroup
	for i, work := range works {
		running.Go(func() {
			if errs[i] = work(ctx); errs[i] != nil {
				cancel()
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// Every does something again and again, as one of the Stages. What fails is
// logged, and done the next time.
func Every(period time.Duration, log *slog.Logger, name string, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ticks := time.NewTicker(period)
		defer ticks.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticks.C:
			}
			if err := do(ctx); err != nil && ctx.Err() == nil {
				log.Warn("failed, and will be done again", slog.String("what", name), slog.Any("error", err))
			}
		}
	}
}

// InBatches does something that handles up to size and returns how many it has
// until there is no more.
func InBatches(size int, do func(context.Context, int) (int, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			if n, err := do(ctx, size); err != nil || n < size {
				return err
			}
		}
	}
}
