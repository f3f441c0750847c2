package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
)

// openDBOS starts workflows where they are called, which is DBOS's shortest way: through a queue they would wait for its poll. It is version 1.2:
// 1.8 makes 49 round trips a saga where 1.2 makes 34, for the same 7 commits.
func openDBOS(ctx context.Context, db *sagaDB) (run func(context.Context, string) error, stop func() error, err error) {
	pool, err := db.pool(ctx)
	if err != nil {
		return nil, nil, err
	}
	app, err := dbos.NewContext(context.WithoutCancel(ctx), dbos.Config{
		AppName: "bench", ApplicationVersion: "1", ExecutorID: "bench", SystemDBPool: pool, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, nil, err
	}
	step := func(context.Context) (int, error) {
		db.step()
		return 0, nil
	}
	saga := func(ctx dbos.Context, id string) (string, error) {
		for range sagaSteps {
			if _, err := dbos.RunAsStep(ctx, step); err != nil {
				return "", err
			}
		}
		return id, nil
	}
	dbos.RegisterWorkflow(app, saga, dbos.WithWorkflowName("saga"))
	stop = func() error {
		err := dbos.Shutdown(app, 10*time.Second)
		pool.Close()
		return err
	}
	run = func(_ context.Context, id string) error {
		handle, err := dbos.RunWorkflow(app, saga, id, dbos.WithWorkflowID(id))
		if err != nil {
			return err
		}
		_, err = handle.GetResult(dbos.WithHandleTimeout(sagaLimit))
		return err
	}
	return run, stop, dbos.Launch(app)
}
