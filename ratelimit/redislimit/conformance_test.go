package redislimit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ratelimit"
	"github.com/safetill/safetill/ratelimit/ratelimittest"
	"github.com/safetill/safetill/ratelimit/redislimit"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	ratelimittest.Run(t, thorough(1_500, 40_000), func(tb testing.TB, now func() time.Time) ratelimit.Store {
		s, err := redislimit.NewStore(testdb.Redis(tb), nil)
		require.NoError(tb, err)
		tb.Cleanup(func() { require.NoError(tb, s.Close()) })
		s.SetClock(func() int64 { return now().UnixMicro() })
		return s
	})
}
