package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/cschleiden/go-workflows/backend"
	"github.com/cschleiden/go-workflows/backend/monoprocess"
	"github.com/cschleiden/go-workflows/backend/postgres"
	"github.com/cschleiden/go-workflows/client"
	"github.com/cschleiden/go-workflows/registry"
	"github.com/cschleiden/go-workflows/worker"
	"github.com/cschleiden/go-workflows/workflow"
)

// openGoWorkflows runs client and worker in one process, where they tell each other of tasks and need not poll for them.
func openGoWorkflows(ctx context.Context, db *sagaDB) (run func(context.Context, string) error, stop func() error, err error) {
	migrated, err := db.sql() // migrating keeps a connection for ever
	if err != nil {
		return nil, nil, err
	}
	postgres.NewPostgresBackendWithDB(migrated, postgres.WithApplyMigrations(true)) // panics where it fails
	if err := migrated.Close(); err != nil {
		return nil, nil, err
	}
	handle, err := db.sql()
	if err != nil {
		return nil, nil, err
	}
	store := monoprocess.NewMonoprocessBackend(postgres.NewPostgresBackendWithDB(handle,
		postgres.WithBackendOptions(backend.WithLogger(slog.New(slog.DiscardHandler)))))
	options := worker.DefaultOptions
	options.WorkflowExecutorCacheSize = max(options.WorkflowExecutorCacheSize, 2*db.callers)
	w := worker.New(store, &options)
	step := func(context.Context) (int, error) {
		db.step()
		return 0, nil
	}
	saga := func(ctx workflow.Context, id string) (string, error) {
		for range sagaSteps {
			if _, err := workflow.ExecuteActivity[int](ctx, workflow.DefaultActivityOptions, "step").Get(ctx); err != nil {
				return "", err
			}
		}
		return id, nil
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop = func() error {
		cancel()
		return errors.Join(w.WaitForCompletion(), handle.Close())
	}
	c := client.New(store)
	run = func(ctx context.Context, id string) error {
		instance, err := c.CreateWorkflowInstance(ctx, client.WorkflowInstanceOptions{InstanceID: id}, "saga", id)
		if err != nil {
			return err
		}
		_, err = client.GetWorkflowResult[string](ctx, c, instance, sagaLimit)
		return err
	}
	return run, stop, errors.Join(w.RegisterWorkflow(saga, registry.WithName("saga")), w.RegisterActivity(step, registry.WithName("step")), w.Start(running))
}
