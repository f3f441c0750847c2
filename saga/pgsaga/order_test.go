package pgsaga_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/saga"
)

// unordered is a store on a server that takes no index, which would give an order that
// nobody has asked for.
func unordered(tb testing.TB) fixture {
	tb.Helper()
	return openOn(tb, newPool(tb, testdb.PostgresURL(tb), func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["enable_indexscan"] = "off"
		c.ConnConfig.RuntimeParams["enable_indexonlyscan"] = "off"
	}))
}

// The oldest are claimed first, wherever they are in the table: or one that is behind
// others would wait for as long as those come again.
func TestTheOldestAreClaimedFirstWithoutAnIndex(t *testing.T) {
	t.Parallel()
	f := unordered(t)
	for n := range 6 {
		f.create(t, fmt.Sprint(n), "")
	}
	f.exec(t, "UPDATE sagas SET due_at = now() - interval '1 minute' * id::int")
	for _, ids := range [][]string{nil, {"0", "1", "2", "3"}} {
		want := []string{"5", "4"}
		if ids != nil {
			want = []string{"3", "2"}
		}
		var got []string
		for _, c := range f.claim(t, "me", 2, ids...) {
			got = append(got, c.Record.ID)
		}
		require.Equal(t, want, got)
	}
}

// A reader who asks for what is after the last page gets each saga once.
func TestPagesAreInOrderWithoutAnIndex(t *testing.T) {
	t.Parallel()
	f := unordered(t)
	f.exec(t, "DROP INDEX sagas_business") // which is taken all the same
	var want []string
	for n := range 7 {
		r := begun(fmt.Sprint(9-n), "me") // the last is the first in the table
		r.BusinessID = "order"
		require.NoError(t, f.Create(t.Context(), []*saga.Create{{Record: r, Lease: time.Minute}}))
		want = append(want, r.ID)
	}
	slices.Sort(want)
	for name, filter := range map[string]saga.Filter{"all": {}, "by an index": {BusinessID: "order"}} {
		filter.Limit = 2
		var got []string
		for more := true; more && len(got) < 20; {
			more = false
			for r, err := range f.Find(t.Context(), filter) {
				require.NoError(t, err)
				got, filter.After, more = append(got, r.ID), r.ID, true
			}
		}
		require.Equal(t, want, got, name)
	}
}

// A history is told, and messages are relayed, in the order in which they were written,
// wherever they are in the table.
func TestHistoryAndOutboxAreInOrderWithoutAnIndex(t *testing.T) {
	t.Parallel()
	f := unordered(t)
	f.exec(t, "ALTER TABLE saga_events DROP CONSTRAINT saga_events_pkey") // which is taken all the same
	r := f.create(t, "1", "me")
	var want []string
	for n := range 3 {
		w := next(r)
		for i := range 3 {
			text := fmt.Sprint(n, " ", i)
			w.Events = append(w.Events, saga.Event{Kind: saga.EventRetry, Text: text})
			w.Messages = append(w.Messages, saga.Message{Topic: text})
			want = append(want, text)
		}
		require.NoError(t, f.save(t, w))
		r = w.Record
	}
	for _, text := range []string{"1 1", "0 2", "2 0", "0 0", "1 0"} { // they go to the end of the table
		f.exec(t, "UPDATE saga_events SET attempt = attempt WHERE text = $1", text)
		f.exec(t, "UPDATE saga_outbox SET step = step WHERE topic = $1", text)
	}
	var got []string
	for _, ev := range f.find(t, "1").Events {
		got = append(got, ev.Text)
	}
	require.Equal(t, want, got)
	require.Equal(t, want, append(f.relay(t, 4), f.relay(t, 9)...))

	w := next(r) // of a step in its transaction
	for _, topic := range want {
		w.Messages = append(w.Messages, saga.Message{Topic: topic})
	}
	require.NoError(t, f.SaveTx(t.Context(), w, func(context.Context, any) error { return nil }))
	require.Equal(t, want, f.relay(t, 9))
}

// Each table has a relay of its own: one that is slow to publish keeps no other waiting.
func TestOutboxesAreRelayedBesideEachOther(t *testing.T) {
	t.Parallel()
	one, other := open(t), open(t)
	for _, f := range []fixture{one, other} {
		w := next(f.create(t, "1", "me"))
		w.Messages = []saga.Message{{Topic: "paid"}}
		require.NoError(t, f.save(t, w))
	}
	n, err := one.Relay(t.Context(), 1, func(context.Context, []saga.Message) error {
		require.Equal(t, []string{"paid"}, other.relay(t, 1))
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, n)
}
