package pgsaga_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// relay returns the topics of what was relayed.
func (f fixture) relay(tb testing.TB, limit int) (topics []string) {
	tb.Helper()
	n, err := f.Relay(tb.Context(), limit, func(_ context.Context, msgs []saga.Message) error {
		for _, m := range msgs {
			topics = append(topics, m.Topic)
		}
		return nil
	})
	require.NoError(tb, err)
	require.Len(tb, topics, n)
	return topics
}

func TestRelay(t *testing.T) {
	t.Parallel()
	f := open(t)
	w := next(f.create(t, "1", "me"))
	w.Messages = []saga.Message{{Step: "charge", Topic: "a", Key: "k1", Payload: []byte{0, 255}}, {Topic: "b", Key: "k2"}}
	require.NoError(t, f.save(t, w))
	w = next(w.Record)
	w.Messages = []saga.Message{{Topic: "c"}}
	require.NoError(t, f.save(t, w))
	no := errors.New("no")
	for range 2 { // what fails comes again
		n, err := f.Relay(t.Context(), 2, func(ctx context.Context, msgs []saga.Message) error {
			require.Len(t, msgs, 2)
			require.Equal(t, saga.Message{ID: msgs[0].ID, SagaID: "1", Step: "charge", Topic: "a", Key: "k1", Payload: []byte{0, 255}}, msgs[0])
			require.Less(t, msgs[0].ID, msgs[1].ID)
			other, err := f.Relay(ctx, 2, func(context.Context, []saga.Message) error { panic("one at a time") })
			require.NoError(t, err)
			require.Zero(t, other)
			return no
		})
		require.ErrorIs(t, err, no)
		require.Zero(t, n)
	}
	require.Equal(t, []string{"a", "b"}, f.relay(t, 2))
	require.Equal(t, []string{"c"}, f.relay(t, 2))
	require.Empty(t, f.relay(t, 2))
}

// Numbers are drawn before the commit, so a message may become visible when one with a
// higher number was relayed already. It must come all the same.
func TestOutboxOrderBySerialIDSkipsNoRows(t *testing.T) {
	t.Parallel()
	f := open(t)
	slow, quick := ahead(f.create(t, "slow", "me")), next(f.create(t, "quick", "me"))
	quick.Messages = []saga.Message{{Topic: "quick"}}
	slow.Messages = []saga.Message{{Topic: "slow"}}
	f.exec(t, `CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.topic = 'slow' THEN PERFORM pg_advisory_lock_shared(hashtext(current_schema())); PERFORM pg_advisory_unlock_shared(hashtext(current_schema())); END IF;
		RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON saga_outbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()`)
	holder, err := f.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer holder.Release()
	_, err = holder.Exec(t.Context(), "SELECT pg_advisory_lock(hashtext(current_schema()))")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { // it has its number, and waits at its commit
		if err := f.SaveTx(t.Context(), slow, func(context.Context, any) error { return nil }); err != nil {
			t.Error(err)
		}
	})
	require.Eventually(t, func() bool {
		return f.count(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = 0 AND objid = (hashtext(current_schema())::bigint & 4294967295)::oid") == 1 ||
			f.count(t, "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE locktype = 'advisory' AND NOT granted AND a.query ILIKE 'commit'") > 0
	}, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, f.save(t, quick))
	require.Equal(t, []string{"quick"}, f.relay(t, 10))
	_, err = holder.Exec(t.Context(), "SELECT pg_advisory_unlock(hashtext(current_schema()))")
	require.NoError(t, err)
	wg.Wait()
	require.Equal(t, []string{"slow"}, f.relay(t, 10))
}

// The same while the others are published: what was not published is not removed.
func TestAMessageThatIsCommittedMeanwhileStays(t *testing.T) {
	t.Parallel()
	f := open(t)
	quick := next(f.create(t, "quick", "me"))
	quick.Messages = []saga.Message{{Topic: "quick"}}
	tx, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO saga_outbox (created_at, saga_id, step, topic, key, payload) VALUES (now(), 'slow', '', 'slow', '', '')")
	require.NoError(t, err)
	require.NoError(t, f.save(t, quick))
	n, err := f.Relay(t.Context(), 10, func(ctx context.Context, _ []saga.Message) error { return tx.Commit(ctx) })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []string{"slow"}, f.relay(t, 10))
}

// Many write and many relay at once: nothing is lost, and each saga's messages come in
// the order of its steps.
func TestRelayUnderLoad(t *testing.T) {
	t.Parallel()
	const sagas, steps = 40, 5
	f := open(t)
	var mu sync.Mutex
	seen := map[string]int{}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers, relays sync.WaitGroup
	for range 4 {
		relays.Go(func() {
			for ctx.Err() == nil {
				_, err := f.Relay(t.Context(), 7, func(_ context.Context, msgs []saga.Message) error {
					mu.Lock()
					defer mu.Unlock()
					for _, m := range msgs {
						if want := fmt.Sprint(seen[m.SagaID]); m.Topic != want {
							t.Errorf("%s: got %s, want %s", m.SagaID, m.Topic, want)
						}
						seen[m.SagaID]++
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range sagas {
		writers.Go(func() {
			c := &saga.Create{Record: begun(fmt.Sprint(n), "me"), Lease: time.Minute}
			if err := f.Create(t.Context(), []*saga.Create{c}); err != nil {
				t.Error(err)
			}
			r := c.Record
			for step := range steps {
				w := next(r)
				w.Messages = []saga.Message{{Topic: fmt.Sprint(step)}}
				if err := f.Save(t.Context(), []*saga.Write{w}); err != nil || w.Err != nil {
					t.Error(err, w.Err)
				}
				r = w.Record
			}
		})
	}
	writers.Wait()
	require.Eventually(t, func() bool { return f.count(t, "SELECT count(*) FROM saga_outbox") == 0 }, 20*time.Second, 5*time.Millisecond)
	stop()
	relays.Wait()
	for n := range sagas {
		require.Equal(t, steps, seen[fmt.Sprint(n)])
	}
}
