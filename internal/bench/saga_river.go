package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverStep is the job that is a step of a saga.
type riverStep struct {
	Saga string `json:"saga"`
	Step int    `json:"step"`
}

func (riverStep) Kind() string { return "step" }

// riverWorker works a step. It leaves the step's end to River, which writes many in one statement: half the CPU of ending it in the transaction
// that inserts the next one. A step that is worked again, because the process died between the two, would then fork the saga; that a step of a
// saga is unique prevents it. The last step's end is awaited, and written at once.
type riverWorker struct {
	river.WorkerDefaults[riverStep]
	pool  *pgxpool.Pool
	step  func()
	ended sync.Map // by saga, a channel for the news
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverStep]) error {
	w.step()
	if job.Args.Step < sagaSteps {
		_, err := river.ClientFromContext[pgx.Tx](ctx).Insert(ctx, riverStep{job.Args.Saga, job.Args.Step + 1}, &river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: true}})
		return err
	}
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
	if ended, ok := w.ended.Load(job.Args.Saga); ok && err == nil {
		ended.(chan struct{}) <- struct{}{}
	}
	return err
}

// openRiver makes a saga a chain of jobs. River's defaults are to poll each second and to rest for 100 ms after a fetch.
func openRiver(poll, cooldown time.Duration) func(context.Context, *sagaDB) (func(context.Context, string) error, func() error, error) {
	return func(ctx context.Context, db *sagaDB) (run func(context.Context, string) error, stop func() error, err error) {
		pool, err := db.pool(ctx)
		if err != nil {
			return nil, nil, err
		}
		logger := slog.New(slog.DiscardHandler)
		driver := riverpgxv5.New(pool)
		migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: logger})
		if err != nil {
			return nil, nil, err
		}
		if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return nil, nil, err
		}
		w := &riverWorker{pool: pool, step: db.step}
		workers := river.NewWorkers()
		river.AddWorker(workers, w)
		client, err := river.NewClient(driver, &river.Config{
			Logger: logger, Workers: workers, FetchPollInterval: poll, FetchCooldown: cooldown,
			Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: max(100, db.callers)}},
		})
		if err != nil {
			return nil, nil, err
		}
		stop = func() error {
			defer pool.Close()
			return client.Stop(context.WithoutCancel(ctx))
		}
		run = func(ctx context.Context, id string) error {
			ended := make(chan struct{}, 1)
			w.ended.Store(id, ended)
			defer w.ended.Delete(id)
			if _, err := client.Insert(ctx, riverStep{id, 1}, nil); err != nil {
				return err
			}
			select {
			case <-ended:
				return nil
			case <-time.After(sagaLimit):
				return errors.New("the chain has broken")
			}
		}
		return run, stop, client.Start(context.WithoutCancel(ctx))
	}
}
