package pg_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/pg"
)

func TestEveryCallOfAMissingDatabaseFails(t *testing.T) {
	t.Parallel()
	var db pg.Batcher = pg.Missing("store: database")
	ctx := t.Context()
	_, err := db.Exec(ctx, "SELECT 1")
	require.EqualError(t, err, "store: database is nil")
	require.False(t, pg.Retryable(err) || pg.Unavailable(err))
	_, err = db.Query(ctx, "SELECT 1")
	require.Error(t, err)
	require.Error(t, db.QueryRow(ctx, "SELECT 1").Scan())
	_, err = db.Begin(ctx)
	require.Error(t, err)
	results := db.SendBatch(ctx, &pgx.Batch{})
	_, err = results.Exec()
	require.Error(t, err)
	_, err = results.Query()
	require.Error(t, err)
	require.Error(t, results.QueryRow().Scan())
	require.Error(t, results.Close())
	require.EqualError(t, pg.Migrate(ctx, nil, pg.Migration{Line: "x", Files: files("CREATE TABLE a ()")}), "pg: migrate x: begin: database is nil")
}
