package pgsaga_test

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// fixture is a store in a schema of its own.
type fixture struct {
	*pgsaga.Store
	pool *pgxpool.Pool
}

func open(tb testing.TB) fixture {
	tb.Helper()
	return openOn(tb, testdb.Postgres(tb))
}

func openOn(tb testing.TB, pool *pgxpool.Pool) fixture {
	tb.Helper()
	require.NoError(tb, pgsaga.Migrate(tb.Context(), pool, nil))
	return fixture{pgsaga.NewStore(pool, nil), pool}
}

var plan = saga.Plan{
	{Name: "validate", Kind: saga.KindPure},
	{Name: "reserve", Kind: saga.KindStep, Tx: true, Undo: true},
	{Name: "charge", Kind: saga.KindStep, Undo: true, Group: 1},
	{Name: "confirm", Kind: saga.KindPivot, Group: 1},
	{Name: "notify", Kind: saga.KindRetriable},
}

// begun is a record of five steps as its owner creates it; owner "" is nobody.
func begun(id, owner string) *saga.Record {
	r := &saga.Record{
		ID: id, BusinessID: "order " + id, Definition: "pay", Version: 3, Plan: plan, Fingerprint: sha256.Sum256([]byte(id)), Parent: "of " + id,
		Status: saga.Running, Steps: make(saga.Progress, len(plan)), Data: []byte(`{ "amount": "10.00",  "card": "☃"}`),
		DeadlineAfter: time.Hour, Owner: owner,
	}
	for i := range r.Steps {
		r.Steps[i].Mark = saga.Open
	}
	if owner != "" {
		r.Token = 1
	}
	return r
}

// create adds a saga with a lease of a minute.
func (f fixture) create(tb testing.TB, id, owner string) *saga.Record {
	tb.Helper()
	c := &saga.Create{Record: begun(id, owner), Lease: time.Minute}
	require.NoError(tb, f.Create(tb.Context(), []*saga.Create{c}))
	require.NoError(tb, c.Err)
	require.Equal(tb, owner != "", c.Mine)
	return c.Record
}

// next is the checkpoint after r.
func next(r *saga.Record) *saga.Write {
	n := *r
	n.Revision++
	n.Steps = append(saga.Progress{}, r.Steps...)
	if at := int(n.Revision - 1); at < len(n.Steps) {
		n.Steps[at] = saga.StepState{Mark: saga.Done, At: time.Duration(at+1) * time.Millisecond, Attempts: at}
	}
	return &saga.Write{Record: &n}
}

// save writes one checkpoint and returns what was said of it.
func (f fixture) save(tb testing.TB, w *saga.Write) error {
	tb.Helper()
	require.NoError(tb, f.Save(tb.Context(), []*saga.Write{w}))
	return w.Err
}

func (f fixture) claim(tb testing.TB, owner string, limit int, ids ...string) []saga.Claimed {
	tb.Helper()
	claimed, err := f.Claim(tb.Context(), saga.Claim{Owner: owner, Lease: time.Minute, Limit: limit, Definitions: []string{"pay"}, IDs: ids})
	require.NoError(tb, err)
	return claimed
}

// find returns a saga with its history.
func (f fixture) find(tb testing.TB, id string) *saga.Record {
	tb.Helper()
	for r, err := range f.Find(tb.Context(), saga.Filter{IDs: []string{id}, Events: true}) {
		require.NoError(tb, err)
		return r
	}
	return nil
}

func (f fixture) exec(tb testing.TB, sql string, args ...any) {
	tb.Helper()
	_, err := f.pool.Exec(tb.Context(), sql, args...)
	require.NoError(tb, err)
}

func (f fixture) count(tb testing.TB, sql string, args ...any) (n int) {
	tb.Helper()
	require.NoError(tb, f.pool.QueryRow(tb.Context(), sql, args...).Scan(&n))
	return n
}

func TestASagaComesBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	f := open(t)
	r := f.create(t, "1", "me")
	require.Equal(t, r, f.find(t, "1"))
	for n := range plan {
		w := next(r)
		w.Record.Failed, w.Record.Error, w.Record.Crashes = fmt.Sprint("step", n), "a \x00 b \xff", n
		if n == len(plan)-1 {
			w.Record.Status = saga.Completed
		}
		require.NoError(t, f.save(t, w))
		require.Nil(t, w.Signals)
		r = w.Record
		have := f.find(t, "1")
		require.True(t, have.Updated.After(have.Created))
		have.Updated, r.Error = r.Updated, "a \uFFFD b \uFFFD"
		if n == len(plan)-1 {
			r.Owner = ""
		}
		require.Equal(t, r, have)
	}
	require.Empty(t, f.claim(t, "other", 10))
}
