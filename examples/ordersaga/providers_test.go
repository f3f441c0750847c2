package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
)

// A provider has an effect once for a key, and none for one that was undone, also before
// it came: an attempt that was given up may arrive behind its compensation.
func TestProviders(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) providers{
		"in memory": func(*testing.T) providers { return &inMemory{effects: map[string]*effect{}} },
		"in PostgreSQL": func(t *testing.T) providers {
			t.Helper()
			p := inPostgres{testdb.Postgres(t)}
			require.NoError(t, p.migrate(t.Context()))
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, ctx := open(t), t.Context()
			there := func(key string) bool {
				found, err := p.find(ctx, key)
				require.NoError(t, err)
				return found
			}
			require.False(t, there("o/charge"))
			for range 2 {
				require.NoError(t, p.apply(ctx, "o/charge", "charge ada"))
			}
			require.True(t, there("o/charge"))
			require.NoError(t, p.apply(ctx, "o1/charge", "charge obi"))
			for _, key := range []string{"o/charge", "o/reserve"} {
				for range 2 {
					require.NoError(t, p.undo(ctx, key))
				}
				require.False(t, there(key))
				require.ErrorIs(t, p.apply(ctx, key, "late"), errUndone)
				require.False(t, there(key))
			}
			all, err := p.all(ctx, "o")
			require.NoError(t, err)
			require.Equal(t, []effect{{"o/charge", "charge ada", true}, {"o/reserve", "nothing", true}}, all)
			require.True(t, there("o1/charge"))
		})
	}
}
