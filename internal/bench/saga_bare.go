package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// bareTable is a saga with nothing that an engine needs but the fence.
const bareTable = `CREATE TABLE IF NOT EXISTS bare (id text PRIMARY KEY, revision bigint NOT NULL, token bigint NOT NULL, progress text NOT NULL,
	data json NOT NULL, updated_at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 50)`

// bareProgress is as long as an engine's.
const bareProgress = "D1234 D2345 O O O"

var errFencedOff = errors.New("the saga is fenced off")

// openBare is what a saga cannot do with less: its row is inserted, and updated behind each step by a statement that names the revision and the
// token, on whatever connection is free. There is no engine, and nothing is shared.
func openBare(ctx context.Context, db *sagaDB) (run func(context.Context, string) error, stop func() error, err error) {
	pool, err := db.pool(ctx)
	if err != nil {
		return nil, nil, err
	}
	stop = func() error {
		pool.Close()
		return nil
	}
	_, err = pool.Exec(ctx, bareTable)
	run = func(ctx context.Context, id string) error {
		data := fmt.Sprintf(`{"ID":%q}`, id)
		if _, err := pool.Exec(ctx, `INSERT INTO bare (id, revision, token, progress, data) VALUES ($1, 0, 1, $2, $3)`, id, bareProgress, data); err != nil {
			return err
		}
		for n := range sagaSteps {
			db.step()
			tag, err := pool.Exec(ctx, `UPDATE bare SET revision = $2, progress = $3, data = $4, updated_at = now() WHERE id = $1 AND revision = $2 - 1 AND token = 1`,
				id, int64(n+1), bareProgress, data)
			if err != nil {
				return err
			}
			if tag.RowsAffected() != 1 {
				return errFencedOff
			}
		}
		return nil
	}
	return run, stop, err
}

// openGrouped is the same where many sagas write together: a store without an engine, and the ceiling of engines that do so. Two writers have a
// connection each. While one waits for the disk the other's batch fills, and nobody waits for company.
func openGrouped(ctx context.Context, db *sagaDB) (run func(context.Context, string) error, stop func() error, err error) {
	pool, err := db.pool(ctx)
	if err != nil {
		return nil, nil, err
	}
	g := newBatches[*bareWrite]()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var writers sync.WaitGroup
	stop = func() error {
		cancel()
		writers.Wait()
		pool.Close()
		return nil
	}
	if _, err := pool.Exec(ctx, bareTable); err != nil {
		return nil, stop, err
	}
	for range 2 {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return nil, stop, err
		}
		if _, err := conn.Exec(ctx, "SET plan_cache_mode = force_generic_plan"); err != nil {
			return nil, stop, err
		}
		writers.Go(func() {
			defer conn.Release()
			g.serve(ctx, func(batch []*bareWrite) { writeAll(ctx, conn.Conn(), batch) })
		})
	}
	run = func(_ context.Context, id string) error {
		w := &bareWrite{id: id, data: fmt.Sprintf(`{"ID":%q}`, id), done: make(chan error, 1)}
		for w.revision = range int64(sagaSteps + 1) {
			if w.revision > 0 {
				db.step()
			}
			g.put(w)
			if err := <-w.done; err != nil {
				return err
			}
		}
		return nil
	}
	return run, stop, nil
}

// bareWrite is a saga's row as it becomes: inserted at revision 0.
type bareWrite struct {
	id, data string
	revision int64
	done     chan error
}

// writeAll writes a batch and tells each saga what has become of it.
func writeAll(ctx context.Context, conn *pgx.Conn, batch []*bareWrite) {
	written, err := writeBare(ctx, conn, batch)
	for _, w := range batch {
		switch {
		case err != nil:
			w.done <- err
		case w.revision > 0 && !written[w.id]:
			w.done <- errFencedOff
		default:
			w.done <- nil
		}
	}
}

// writeBare writes a batch in one statement and says which rows it has updated.
func writeBare(ctx context.Context, conn *pgx.Conn, batch []*bareWrite) (updated map[string]bool, err error) {
	var newIDs, newData, ids, data, progress []string
	var revisions []int64
	for _, w := range batch {
		if w.revision == 0 {
			newIDs, newData = append(newIDs, w.id), append(newData, w.data)
			continue
		}
		ids, revisions, data, progress = append(ids, w.id), append(revisions, w.revision), append(data, w.data), append(progress, bareProgress)
	}
	rows, err := conn.Query(ctx, `WITH new AS (
	INSERT INTO bare (id, revision, token, progress, data) SELECT unnest($2::text[]), 0, 1, $1, unnest($3::text[])::json
) UPDATE bare SET revision = w.revision, progress = w.progress, data = w.data::json, updated_at = now()
FROM (SELECT unnest($4::text[]) AS id, unnest($5::bigint[]) AS revision, unnest($6::text[]) AS progress, unnest($7::text[]) AS data) AS w
WHERE bare.id = w.id AND bare.revision = w.revision - 1 AND bare.token = 1 RETURNING bare.id`, bareProgress, newIDs, newData, ids, revisions, progress, data)
	if err != nil {
		return nil, err
	}
	updated = make(map[string]bool, len(ids))
	var id string
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		updated[id] = true
		return nil
	})
	return updated, err
}
