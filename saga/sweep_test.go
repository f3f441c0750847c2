package saga_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// sweeps is a store of which a test does the sweeping.
type sweeps struct {
	*saga.Memory
	sweep func(ctx context.Context) (int, error)
}

func (s *sweeps) Sweep(ctx context.Context, _ time.Duration, _ int) (int, error) { return s.sweep(ctx) }

// A server that has gone without a word is asked no longer than any other call, and the
// next one is asked again.
func TestASweepWithoutAnAnswerIsNotTheLast(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		calls := 0
		e, err := saga.New(&sweeps{store, func(ctx context.Context) (int, error) {
			if calls++; calls > 1 {
				return 0, nil
			}
			<-ctx.Done()
			return 0, ctx.Err()
		}}, &saga.Options{Keep: time.Hour})
		require.NoError(t, err)
		_, stop := runs(t, e)
		time.Sleep(2 * time.Minute)
		stop()
		require.Equal(t, 2, calls)
	})
}

// A full batch says that there is more, and an error that there may be: the one is
// followed at once, the other is logged and comes again in a minute.
func TestSweepsFollowEachOtherWhileThereIsMore(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		answers, at := []int{1000, 1000, 7, -1, 0}, []time.Duration{}
		begun := time.Now()
		e, err := saga.New(&sweeps{store, func(context.Context) (int, error) {
			at = append(at, time.Since(begun).Round(time.Second))
			n := answers[0]
			answers = answers[1:]
			if n < 0 {
				return 0, errors.New("it is away")
			}
			return n, nil
		}}, &saga.Options{Keep: time.Hour})
		require.NoError(t, err)
		_, stop := runs(t, e)
		time.Sleep(2*time.Minute + time.Second)
		stop()
		require.Equal(t, []time.Duration{0, 0, 0, time.Minute, 2 * time.Minute}, at)
	})
}

// What is not to be kept at all is removed soon, and the store asked no more than that
// takes.
func TestAStoreThatKeepsNothingIsNotSweptAllTheTime(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		calls := 0
		e, err := saga.New(&sweeps{store, func(context.Context) (int, error) { calls++; return 0, nil }}, &saga.Options{Keep: time.Millisecond})
		require.NoError(t, err)
		_, stop := runs(t, e)
		time.Sleep(10*time.Second - 1)
		stop()
		require.Equal(t, 10, calls)
	})
}
