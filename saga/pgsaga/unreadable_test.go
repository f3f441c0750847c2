package pgsaga_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
	"github.com/safetill/safetill/saga/pgsaga"
)

// A saga that this version cannot read is claimed with others: they are not to lose an
// owner each time, until each is a person's business.
func TestASagaThatCannotBeReadDoesNotFailItsNeighbours(t *testing.T) {
	t.Parallel()
	f := open(t)
	type none struct{}
	def := saga.MustDefine("plain", 1, saga.Pivot("a", func(context.Context, *none) error { return nil }))
	store := pgsaga.NewStore(f.pool, nil)
	idle, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
	require.NoError(t, err)
	for n := range 20 {
		_, err := def.Start(t.Context(), idle, fmt.Sprint(n), none{}, nil)
		require.NoError(t, err)
	}
	f.exec(t, "UPDATE sagas SET progress = 'Q' WHERE id = '7'")
	e := running(t, store, def)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for n := range 20 {
		if n == 7 {
			continue
		}
		r, err := def.Handle(e, fmt.Sprint(n)).Wait(ctx)
		require.NoError(t, err, n)
		require.Equal(t, saga.Completed, r.Status, n)
	}
	require.Equal(t, 19, f.count(t, "SELECT count(*) FROM sagas WHERE status = 'COMPLETED' AND token = 1"))
}

// A row was changed by hand, or put together from two backups: it has more or fewer steps
// than its plan. That is not to end the process that takes it up, and each that comes after;
// nor is it over where no step is left of it.
func TestASagaWhoseStepsAreNotThoseOfItsPlanEndsNoProcess(t *testing.T) {
	t.Parallel()
	f := open(t)
	type none struct{}
	def := saga.MustDefine("plain", 1,
		saga.Pure("price", func(context.Context, *none) error { return nil }),
		saga.Pivot("a", func(context.Context, *none) error { return nil }))
	store := pgsaga.NewStore(f.pool, nil)
	idle, err := saga.New(store, &saga.Options{Definitions: []saga.Registered{def}})
	require.NoError(t, err)
	for _, id := range []string{"fewer", "more", "whole"} {
		_, err := def.Start(t.Context(), idle, id, none{}, nil)
		require.NoError(t, err)
	}
	f.exec(t, "UPDATE sagas SET progress = CASE id WHEN 'fewer' THEN 'O' ELSE 'D1 D2 O' END, owner = 'somebody' WHERE id <> 'whole'")
	e := running(t, store, def)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r, err := def.Handle(e, "whole").Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, saga.Completed, r.Status)
	for _, id := range []string{"fewer", "more"} {
		_, err = e.Admin().Inspect(ctx, id)
		require.ErrorContains(t, err, "a plan of 2", id)
	}
}

// Versions are deployed beside each other, and one of them cannot read what the other has
// written. It claims it again and again: that costs the saga no owner, and one that had
// died before is not forgotten.
func TestASagaThatCannotBeReadIsGivenBackAsItWas(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.create(t, "free", "")
	f.create(t, "died", "me")
	f.exec(t, "UPDATE sagas SET status = 'SUSPENDED', progress = 'Q ' || progress")
	for range 3 {
		f.expire(t)
		claimed, err := f.Claim(t.Context(), saga.Claim{Owner: "old", Lease: time.Minute, Limit: 9, Definitions: []string{"pay"}})
		require.ErrorContains(t, err, "free: ")
		require.ErrorContains(t, err, "died: ")
		require.Empty(t, claimed)
		require.Empty(t, f.claim(t, "new", 9), "it is left alone for as long as a lease")
	}
	f.exec(t, "UPDATE sagas SET progress = substr(progress, 3)")
	f.expire(t)
	claimed := f.claim(t, "new", 9)
	require.Len(t, claimed, 2)
	for _, c := range claimed {
		died := c.Record.ID == "died"
		require.Equal(t, died, c.Crashed, c.Record.ID)
		require.Equal(t, map[bool]int{true: 1}[died], c.Record.Crashes, c.Record.ID)
	}
}

// Who lists sagas sees those that can be read, and is told of the others.
func TestASagaThatCannotBeReadEndsNoListing(t *testing.T) {
	t.Parallel()
	f := open(t)
	var creates []*saga.Create
	for n := range 230 {
		creates = append(creates, &saga.Create{Record: begun(fmt.Sprintf("%03d", n), "me"), Lease: time.Minute})
	}
	require.NoError(t, f.Create(t.Context(), creates))
	f.exec(t, "UPDATE sagas SET progress = 'Q' WHERE id IN ('000', '099', '100', '229')")
	find := func(filter saga.Filter) (ids []string, err error) {
		t.Helper()
		for r, odd := range f.Find(t.Context(), filter) {
			require.NoError(t, err, "it is the last thing that is said")
			if err = odd; err == nil {
				ids = append(ids, r.ID)
			}
		}
		return ids, err
	}
	ids, err := find(saga.Filter{})
	require.Len(t, ids, 226)
	for _, id := range []string{"000", "099", "100", "229"} {
		require.ErrorContains(t, err, id+": ")
	}
	ids, err = find(saga.Filter{Limit: 150})
	require.Len(t, ids, 150)
	require.Equal(t, "152", ids[149])
	require.ErrorContains(t, err, "099: ")
	require.NotContains(t, err.Error(), "229: ")
	ids, err = find(saga.Filter{After: "100", Limit: 100, Events: true})
	require.NoError(t, err)
	require.Len(t, ids, 100)
	f.exec(t, "UPDATE sagas SET progress = 'Q'")
	ids, err = find(saga.Filter{})
	require.ErrorContains(t, err, "099: ")
	require.NotContains(t, err.Error(), "229: ", "it is not read through for that")
	require.Empty(t, ids)

	f.exec(t, "UPDATE sagas SET progress = 'O O O O O' WHERE id NOT IN ('010', '229')")
	var page struct {
		Sagas      []struct{ ID string }
		Next       string
		Unreadable []string
	}
	list := func(query string) {
		t.Helper()
		w := httptest.NewRecorder()
		saga.Handler(saga.NewAdmin(f), nil).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/sagas"+query, nil))
		require.Equal(t, http.StatusOK, w.Code, w.Body)
		page.Next, page.Unreadable = "", nil
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page))
	}
	list("?after=199")
	require.Len(t, page.Sagas, 29)
	require.Empty(t, page.Next)
	require.Equal(t, []string{"229"}, page.Unreadable)
	list("?limit=50")
	require.Len(t, page.Sagas, 50)
	require.Equal(t, "050", page.Next)
	require.Equal(t, []string{"010"}, page.Unreadable)
}

// interrupted is a database that is held up before its second batch.
type interrupted struct {
	pgsaga.DB
	n         int
	meanwhile func()
}

func (i *interrupted) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if i.n++; i.n == 2 {
		i.meanwhile()
	}
	return i.DB.SendBatch(ctx, b)
}

// A process is held up for longer than the lease of what it could not read: that is not
// taken from the next owner.
func TestASagaThatCannotBeReadIsNotTakenFromItsNextOwner(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.create(t, "1", "")
	f.exec(t, "UPDATE sagas SET progress = 'Q'")
	store := pgsaga.NewStore(&interrupted{DB: f.pool, meanwhile: func() { f.exec(t, "UPDATE sagas SET owner = 'new', token = token + 1") }}, nil)
	_, err := store.Claim(t.Context(), saga.Claim{Owner: "old", Lease: time.Minute, Limit: 9, Definitions: []string{"pay"}})
	require.ErrorContains(t, err, "1: ")
	require.Equal(t, 1, f.count(t, "SELECT count(*) FROM sagas WHERE owner = 'new'"))
}
