package lock_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/idempotency"
	"github.com/safetill/safetill/idempotency/lock"
	"github.com/safetill/safetill/idempotency/lock/locktest"
	"github.com/safetill/safetill/internal/localdb"
	"github.com/safetill/safetill/internal/testdb"
)

// server is one that a test may kill.
type server interface {
	Kill() error
	Start(context.Context) error
}

// ownServer starts the server that a kind of lock is kept on.
func (b backend) ownServer(t *testing.T) (server, servers) {
	t.Helper()
	if b == onRedis {
		own := testdb.NewRedis(t, localdb.Options{Settings: map[string]string{"appendfsync": "always"}})
		return own, servers{Redis: own.URL()}
	}
	own := testdb.NewPostgres(t)
	return own, servers{Postgres: own.URL()}
}

// The server is killed under a holder and starts again. A lease outlives that if the server is back in time; a connection does
// not, and its holder is told at once. Either way nobody else is let in beside the holder, and the next one's token is higher.
func TestServerKilledUnderAHolder(t *testing.T) {
	each(t, func(t *testing.T, b backend) {
		own, s := b.ownServer(t)
		l := b.locker(t, s, lock.Options{Lease: patience, Wait: -1})
		var first idempotency.Token
		err := l.Do(t.Context(), scope, name, func(ctx context.Context, held lock.Held) error {
			first = held.Token
			require.NoError(t, own.Kill())
			err := l.Do(ctx, scope, "another", never)
			require.Error(t, err)
			require.NotErrorIs(t, err, lock.ErrHeld)
			require.NoError(t, own.Start(t.Context()))
			if b != onConnection {
				require.ErrorIs(t, l.Do(ctx, scope, name, never), lock.ErrHeld)
				return ctx.Err()
			}
			<-ctx.Done()
			return nil
		})
		if b == onConnection {
			require.ErrorIs(t, err, lock.ErrLost)
		} else {
			require.NoError(t, err)
		}
		require.Greater(t, next(t, l), first)
	})
}

// The server stays away for longer than the lease: the holder is told before anybody else can be let in.
func TestServerAwayForLongerThanTheLease(t *testing.T) {
	each(t, func(t *testing.T, b backend) {
		own, s := b.ownServer(t)
		l := b.locker(t, s, lock.Options{Lease: lease, Wait: patience})
		var first idempotency.Token
		begin := time.Now()
		err := l.Do(t.Context(), scope, name, func(ctx context.Context, held lock.Held) error {
			first = held.Token
			require.NoError(t, own.Kill())
			select {
			case <-ctx.Done():
			case <-time.After(patience):
			}
			return context.Cause(ctx)
		})
		require.ErrorIs(t, err, lock.ErrLost)
		t.Logf("told after %v", time.Since(begin))
		require.NoError(t, own.Start(t.Context()))
		require.Greater(t, next(t, l), first)
	})
}

// next takes the lock and returns its token; a pool may first have to find out that its connections are dead.
func next(tb testing.TB, l locktest.Locker) (token idempotency.Token) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := l.Do(tb.Context(), scope, name, func(_ context.Context, held lock.Held) error {
			token = held.Token
			return nil
		})
		if err == nil {
			return token
		}
		if errors.Is(err, lock.ErrLost) || time.Now().After(deadline) {
			require.NoError(tb, err)
		}
	}
}
