package saga_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// The answer to the charge is lost, and the look-up finds it: the step is done, and what
// it publishes is there.
func TestALookUpPublishesForItsStep(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1, saga.Step("charge", func(context.Context, *order) error { return context.DeadlineExceeded }).
			Undo(noop).Verify(func(ctx context.Context, _ *order) (saga.Outcome, error) {
			return saga.Applied, saga.Publish(ctx, "charged", []byte("1"))
		}))
		_, h, stop := start(t, store, def, saga.Options{})
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
		var keys []string
		_, err := store.Relay(context.Background(), 10, func(_ context.Context, msgs []saga.Message) error {
			for _, m := range msgs {
				keys = append(keys, m.Key)
			}
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, []string{"o1/charge/0"}, keys)
	})
}

func TestNothingIsPublishedWhenItsStepIsOver(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		late := make(chan error, 1)
		def := saga.MustDefine("order", 1, saga.Pivot("charge", func(ctx context.Context, _ *order) error {
			time.AfterFunc(time.Second, func() { late <- saga.Publish(ctx, "charged", nil) })
			return nil
		}))
		_, h, stop := start(t, store, def, saga.Options{})
		require.Equal(t, saga.Completed, wait(t, h).Status)
		require.Error(t, <-late)
		stop()
	})
}

// A Pure step has no checkpoint of its own, but where it publishes something.
func TestAPureStepPublishes(t *testing.T) {
	alone(t, func(t *testing.T, store *saga.Memory) {
		def := saga.MustDefine("order", 1,
			saga.Pure("price", func(ctx context.Context, _ *order) error { return saga.Publish(ctx, "priced", nil) }),
			saga.Step("charge", noop).Undo(noop))
		_, h, stop := start(t, store, def, saga.Options{})
		require.Equal(t, saga.Completed, wait(t, h).Status)
		stop()
		n, err := store.Relay(context.Background(), 9, func(_ context.Context, msgs []saga.Message) error {
			require.Equal(t, "priced", msgs[0].Topic)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 1, n)
	})
}
