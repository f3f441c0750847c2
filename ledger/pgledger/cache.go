package pgledger

import (
	"context"
	"slices"
	"sync"

	"github.com/safetill/safetill/ledger"
)

// cache keeps the accounts that were posted to last, as our commits have left
// them. Nothing is written on trust of it: the statement that writes checks that
// the accounts still are what they were thought to be. So an entry that is old,
// or there twice, costs a second attempt and nothing else.
//
// It also gives turns: two batches of this store that share an account go one
// after the other, the second on what the first has left.
type cache struct {
	limit int

	mu       sync.Mutex
	accounts map[ledger.AccountID]*cached
}

// cached is an account. All but the last two fields are for who has its turn.
type cached struct {
	state *ledger.State // nil: not known
	no    int64         // ledger_accounts.no
	place place         // of its row

	// Others post to the account too: in how many turns more it is to be read
	// again, or even to be locked, before it is decided on.
	reread, lock int

	taken   bool
	waiting []chan struct{} // closed when the turn has come
}

// contested is for how many turns an account is handled with more care, once
// somebody else was faster: what an attempt in vain costs is spread over these.
const contested = 32

func newCache(limit int) *cache {
	return &cache{limit: limit, accounts: map[ledger.AccountID]*cached{}}
}

// turn is the right to accounts, sorted by their ids.
type turn struct {
	cache    *cache
	ids      []string
	accounts []*cached
	places   []place // where a commit has left them; nil: that is not known
}

// take waits until the turn of each account has come. All take them in the order
// of the ids, so nobody waits in a circle.
func (c *cache) take(ctx context.Context, ids []string) (*turn, error) {
	t := &turn{cache: c, ids: ids, accounts: make([]*cached, 0, len(ids))}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		a := c.accounts[ledger.AccountID(id)]
		if a == nil {
			a = &cached{}
			c.accounts[ledger.AccountID(id)] = a
		}
		if a.taken {
			if err := c.wait(ctx, a); err != nil {
				t.pass()
				return nil, err
			}
		}
		a.taken = true
		t.accounts = append(t.accounts, a)
	}
	return t, nil
}

// wait waits for one account, without the mutex meanwhile.
func (c *cache) wait(ctx context.Context, a *cached) error {
	mine := make(chan struct{})
	a.waiting = append(a.waiting, mine)
	c.mu.Unlock()
	select {
	case <-mine:
		c.mu.Lock()
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	if i := slices.Index(a.waiting, mine); i >= 0 {
		a.waiting = slices.Delete(a.waiting, i, i+1)
	} else { // it has come at this very moment
		a.pass()
	}
	return context.Cause(ctx)
}

// pass gives the turn to who waits longest.
func (a *cached) pass() {
	if len(a.waiting) == 0 {
		a.taken = false
		return
	}
	close(a.waiting[0])
	a.waiting = a.waiting[1:]
}

// end gives the accounts back as a commit has left them. What is nil, or not
// there, is not known any more.
func (t *turn) end(states map[ledger.AccountID]*ledger.State, numbers map[ledger.AccountID]int64) {
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, a := range t.accounts {
		id := ledger.AccountID(t.ids[i])
		a.state, a.no, a.place = states[id], numbers[id], place{}
		if t.places != nil {
			a.place = t.places[i]
		}
	}
	t.pass()
	for id := range c.accounts { // any will do: who has or awaits its turn holds the account itself
		if len(c.accounts) <= c.limit {
			break
		}
		delete(c.accounts, id)
	}
}

// pass passes the turns on, and forgets accounts that there may not be. The
// cache's mutex is held.
func (t *turn) pass() {
	for i, a := range t.accounts {
		a.pass()
		if id := ledger.AccountID(t.ids[i]); a.state == nil && !a.taken && t.cache.accounts[id] == a {
			delete(t.cache.accounts, id)
		}
	}
}

// locked tells whether an account shall be locked first.
func (t *turn) locked() (some bool) {
	for _, a := range t.accounts {
		if a.lock > 0 {
			a.lock--
			some = true
		}
	}
	return some
}
