package connect

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
)

func TestAppendOnlyIsAskedUntilItIsOn(t *testing.T) {
	t.Parallel()
	server := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"appendonly": "no", "appendfsync": "everysec"}})
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	rdb, err := Redis(server.URL(), log)
	require.NoError(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	durable := AppendOnly(rdb, 2*time.Second, log)

	require.ErrorIs(t, durable(t.Context()), ErrNotDurable)
	require.NoError(t, rdb.ConfigSet(t.Context(), "appendonly", "yes").Err())
	for range 3 {
		require.NoError(t, durable(t.Context()))
	}
	require.Equal(t, 1, strings.Count(out.String(), `"appendfsync":"everysec"`), "one warning: %s", &out)

	require.NoError(t, server.Kill())
	require.NoError(t, durable(t.Context()), "what is known is not asked for")
	require.Error(t, AppendOnly(rdb, 2*time.Second, log)(t.Context()))
}

func TestAppendOnlyHasNothingToSayOfAFileThatIsSynced(t *testing.T) {
	t.Parallel()
	server := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"appendfsync": "always"}})
	var out bytes.Buffer
	rdb, err := Redis(server.URL(), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	require.NoError(t, AppendOnly(rdb, 2*time.Second, slog.New(slog.NewTextHandler(&out, nil)))(t.Context()))
	require.Empty(t, out.String())
}

func TestPostgresBoundsItsConnections(t *testing.T) {
	t.Parallel()
	pool, err := Postgres(t.Context(), testdb.PostgresURL(t), 3)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.EqualValues(t, 3, pool.Config().MaxConns)
	for name, want := range map[string]string{"enable_seqscan": "off", "jit": "off", "idle_in_transaction_session_timeout": "10s"} {
		var got string
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&got))
		require.Equal(t, want, got, name)
	}
}

func TestURLsThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	_, err := Postgres(t.Context(), "not a url", 1)
	require.Error(t, err)
	_, err = Redis("not a url", slog.New(slog.DiscardHandler))
	require.Error(t, err)
}

func TestAnErrorOfAURLDoesNotTellThePassword(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	for _, rest := range []string{"host:port/0", "host:6379/x", "host:6379/0?db=1&max_retries=x", "[::1/0", "host:6379/%zz", "host:6379/0?a=%zz"} {
		for _, scheme := range []string{"redis", "rediss", "unix", "postgres", "http", "re dis"} {
			_, err := Redis(scheme+"://ada:hunter2@"+rest, log)
			require.NotContains(t, fmt.Sprint(err), "hunter2")
			pool, err := Postgres(t.Context(), scheme+"://ada:hunter2@"+rest, 1)
			require.NotContains(t, fmt.Sprint(err), "hunter2")
			if err == nil {
				pool.Close()
			}
		}
	}
}
