package pgsaga_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

// ways are those in which a checkpoint is written: each is a statement of its own. What
// happens before it is written is done by meanwhile, of a step within its work.
var ways = map[string]func(t *testing.T, f fixture, w *saga.Write, meanwhile func()) error{
	"alone": func(t *testing.T, f fixture, w *saga.Write, meanwhile func()) error {
		t.Helper()
		meanwhile()
		return f.save(t, w)
	},
	"alone, of a saga that is not well": func(t *testing.T, f fixture, w *saga.Write, meanwhile func()) error {
		t.Helper()
		meanwhile()
		w.Record.Error = "no"
		return f.save(t, w)
	},
	"with others": func(t *testing.T, f fixture, w *saga.Write, meanwhile func()) error {
		t.Helper()
		meanwhile()
		return f.saveWith(t, w, "")
	},
	"with one that is not well": func(t *testing.T, f fixture, w *saga.Write, meanwhile func()) error {
		t.Helper()
		meanwhile()
		return f.saveWith(t, w, "no")
	},
	"with its history": func(t *testing.T, f fixture, w *saga.Write, meanwhile func()) error {
		t.Helper()
		meanwhile()
		w.Events = []saga.Event{{Kind: saga.EventRetry}}
		return f.save(t, w)
	},
	"of a step": func(t *testing.T, f fixture, w *saga.Write, meanwhile func()) error {
		t.Helper()
		return f.SaveTx(t.Context(), w, func(context.Context, any) error { meanwhile(); return nil })
	},
	"of a step, with its history": func(t *testing.T, f fixture, w *saga.Write, meanwhile func()) error {
		t.Helper()
		w.Messages = []saga.Message{{Topic: "paid"}}
		return f.SaveTx(t.Context(), w, func(context.Context, any) error { meanwhile(); return nil })
	},
}

// saveWith writes a checkpoint together with that of another saga, which has this error.
func (f fixture) saveWith(t *testing.T, w *saga.Write, err string) error {
	t.Helper()
	other := next(f.create(t, w.Record.ID+", and another", "me"))
	other.Record.Error = err
	require.NoError(t, f.Save(t.Context(), []*saga.Write{w, other}))
	require.NoError(t, other.Err)
	return w.Err
}

func nothing() {}

// Whoever has lost its saga, or has missed what was written since, writes nothing,
// whichever statement it is.
func TestAStaleCheckpointIsFencedOffInEveryWay(t *testing.T) {
	t.Parallel()
	f := open(t)
	for way, save := range ways {
		r := f.create(t, way, "me")
		require.ErrorIs(t, save(t, f, next(r), func() {
			f.exec(t, "UPDATE sagas SET due_at = now() - interval '1 second' WHERE id = $1", way)
			require.Len(t, f.claim(t, "you", 1, way), 1)
		}), saga.ErrFenced, "%s: it has another owner", way)
		have := f.find(t, way)
		require.Equal(t, []any{"you", int64(2), int64(0)}, []any{have.Owner, have.Token, have.Revision}, way)

		missed := f.create(t, way+" later", "me")
		require.ErrorIs(t, save(t, f, next(missed), func() {
			w := next(missed)
			require.NoError(t, f.save(t, w))
			require.NoError(t, f.save(t, next(w.Record)))
		}), saga.ErrFenced, "%s: it was written since", way)
		require.EqualValues(t, 2, f.find(t, way+" later").Revision, way)
	}
	require.Zero(t, f.count(t, "SELECT (SELECT count(*) FROM saga_events) + (SELECT count(*) FROM saga_outbox)"))
}

// What a checkpoint says about the owner and the time of wake-up, whichever statement
// writes it.
func TestACheckpointReleasesInEveryWay(t *testing.T) {
	t.Parallel()
	f := open(t)
	for name, c := range map[string]struct {
		write  saga.Write
		status saga.Status
		signal bool
		owner  string
		due    string // what is to be true of the row
	}{
		"it stays":                    {status: saga.Running, owner: "me", due: "due_at > now() AND over_at IS NULL"},
		"for a signal":                {write: saga.Write{Release: true, Due: -1}, status: saga.Suspended, due: "due_at IS NULL AND over_at IS NULL"},
		"for a signal, one is known":  {write: saga.Write{Release: true, Due: -1, Seen: 1}, signal: true, status: saga.Suspended, due: "due_at IS NULL"},
		"for a signal that has come":  {write: saga.Write{Release: true, Due: -1}, signal: true, status: saga.Suspended, due: "due_at <= now()"},
		"for an hour":                 {write: saga.Write{Release: true, Due: time.Hour}, status: saga.Suspended, due: "due_at > now() + interval '50 minutes'"},
		"for an hour, one is known":   {write: saga.Write{Release: true, Due: time.Hour, Seen: 1}, signal: true, status: saga.Suspended, due: "due_at > now() + interval '50 minutes'"},
		"for an hour, and one is new": {write: saga.Write{Release: true, Due: time.Hour}, signal: true, status: saga.Suspended, due: "due_at <= now()"},
		"at once":                     {write: saga.Write{Release: true}, status: saga.Suspended, due: "due_at <= now()"},
		"over":                        {status: saga.Completed, due: "due_at IS NULL AND over_at <= now()"},
		"over, and a signal is new":   {status: saga.Completed, signal: true, due: "due_at IS NULL AND over_at <= now()"},
		"stuck":                       {status: saga.Stuck, due: "due_at IS NULL AND over_at IS NULL"},
		"stuck, and a signal is new":  {status: saga.Stuck, signal: true, due: "due_at IS NULL AND over_at IS NULL"},
	} {
		for way, save := range ways {
			id := way + ": " + name
			w := next(f.create(t, id, "me"))
			w.Release, w.Due, w.Seen, w.Record.Status = c.write.Release, c.write.Due, c.write.Seen, c.status
			if c.signal {
				require.NoError(t, f.Deliver(t.Context(), id, "go", []byte("1")))
			}
			require.NoError(t, save(t, f, w, nothing), id)
			require.Equal(t, c.owner, f.find(t, id).Owner, id)
			require.Equal(t, 1, f.count(t, "SELECT count(*) FROM sagas WHERE id = $1 AND "+c.due, id), id)
		}
	}
}

// Sagas that are created together and have not much in common.
func TestSagasThatDifferAreCreatedTogether(t *testing.T) {
	t.Parallel()
	f := open(t)
	free, odd := begun("free", ""), begun("odd", "me")
	odd.Version, odd.DeadlineAfter, odd.Status = 4, 0, saga.Suspended
	odd.Undoing, odd.Crashes, odd.Failed, odd.Error = true, 2, "charge", "no"
	creates := []*saga.Create{{Record: odd, Lease: time.Minute}, {Record: free}}
	require.NoError(t, f.Create(t.Context(), creates))
	for _, c := range creates {
		require.NoError(t, c.Err)
		require.Equal(t, c.Record, f.find(t, c.Record.ID))
	}
	claimed := f.claim(t, "you", 9)
	require.Len(t, claimed, 1)
	require.False(t, claimed[0].Crashed, "nobody had it")
}
