package testdb

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/safetill/safetill/internal/localdb"
)

const (
	// envPostgres and envRedis name running servers that win over the machine's binaries.
	envPostgres = "SAFETILL_TEST_POSTGRES_URL"
	envRedis    = "SAFETILL_TEST_REDIS_URL"
	// envRequire, set to 1, makes a missing server a failure.
	envRequire = "REQUIRE_BACKENDS"
)

// limit bounds every single step here: a start, a clean-up.
const limit = 2 * time.Minute

// shared is a server that the whole test binary uses. Nothing closes it: the server ends when the process does, which localdb sees to,
// and no test could know that it is the last one.
type shared[T any] struct {
	start func(context.Context) (T, error)

	once  sync.Once
	value T
	err   error
}

// of returns the server, started by the first test that asks. The start is not bound to that test's context: if the test gave up, the
// others would be left with its error.
func (s *shared[T]) of(tb testing.TB) T {
	tb.Helper()
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), limit)
		defer cancel()
		s.value, s.err = s.start(ctx)
	})
	usable(tb, s.err)
	return s.value
}

// usable ends the test where err says that it has no server: as skipped where none is installed and none is required.
func usable(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case errors.Is(err, localdb.ErrNotInstalled) && os.Getenv(envRequire) != "1":
		tb.Skipf("testdb: %v", err)
	default:
		tb.Fatalf("testdb: %v", err)
	}
}

// cleanup runs f when the test ends, with a context of its own: the test's is over by then.
func cleanup(tb testing.TB, what string, f func(context.Context) error) {
	tb.Helper()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), limit)
		defer cancel()
		if err := f(ctx); err != nil {
			tb.Errorf("testdb: %s: %v", what, err)
		}
	})
}
