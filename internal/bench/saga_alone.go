package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// benchSagaAlone measures what it costs a caller that nobody joins that others could have joined it: a checkpoint by the store, and in turn the
// same columns of another saga by a statement on a connection of the pool.
func benchSagaAlone(ctx context.Context, s *settings, w io.Writer) error {
	server, err := localdb.StartPostgres(ctx, localdb.Options{Settings: map[string]string{"fsync": "on", "synchronous_commit": "on"}})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	pool, err := pgxpool.New(ctx, server.URL())
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pgsaga.Migrate(ctx, pool, nil); err != nil {
		return err
	}
	store, def := pgsaga.NewStore(pool, nil), fiveSteps(func() {})
	records := make([]*saga.Record, 2000)
	for i := range records {
		records[i] = &saga.Record{
			ID: fmt.Sprint("alone-", i), Definition: def.Name(), Version: 1, Plan: def.Plan(), Status: saga.Running,
			Steps: make(saga.Progress, len(def.Plan())), Data: []byte(`{"ID":"alone"}`), Owner: "bench", Token: 1,
		}
		for n := range records[i].Steps {
			records[i].Steps[n] = saga.StepState{Mark: saga.Done, At: time.Duration(n) * time.Millisecond}
		}
		c := &saga.Create{Record: records[i], Lease: time.Hour}
		if err := store.Create(ctx, []*saga.Create{c}); err != nil || c.Err != nil {
			return fmt.Errorf("%w %w", err, c.Err)
		}
	}
	const update = `UPDATE sagas SET revision = $2, status = 'RUNNING', undoing = false, progress = $3, failed = '', error = '', crashes = 0, data = $4,
		updated_at = statement_timestamp() WHERE id = $1 AND token = 1 AND revision = $2 - 1 RETURNING id, updated_at, signals`
	var bare, saved []time.Duration
	for n := range 4 * s.rounds * len(records) {
		r := records[n%len(records)]
		r.Revision++
		begun := time.Now()
		if n/len(records)%2 == 0 {
			progress, err := r.Steps.AppendText(nil)
			if err != nil {
				return err
			}
			var id string
			var at time.Time
			var signals []byte
			if err := pool.QueryRow(ctx, update, r.ID, r.Revision, string(progress), string(r.Data)).Scan(&id, &at, &signals); err != nil {
				return err
			}
			bare = append(bare, time.Since(begun))
			continue
		}
		write := &saga.Write{Record: r}
		if err := store.Save(ctx, []*saga.Write{write}); err != nil || write.Err != nil {
			return fmt.Errorf("%w %w", err, write.Err)
		}
		saved = append(saved, time.Since(begun))
	}
	fmt.Fprintf(w, "\n## A checkpoint that nobody joins\n\nOne caller, PostgreSQL, fsync on, %d of each, in turns of %d.\n\n| | p50 | p99 |\n|---|---|---|\n", len(saved), len(records))
	fmt.Fprintf(w, "| the same UPDATE by hand | %.3f ms | %.3f ms |\n", millis(quantile(bare, 50)), millis(quantile(bare, 99)))
	fmt.Fprintf(w, "| pgsaga.Save | %.3f ms | %.3f ms |\n", millis(quantile(saved, 50)), millis(quantile(saved, 99)))
	return nil
}
