package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fleet are processes that own keys among themselves.
type fleet struct {
	members *Members
	nodes   map[string]*Owned
	dead    map[string]bool
	asked   int
}

func newFleet(t *testing.T, limit Limit, o *OwnedOptions, names ...string) *fleet {
	f := &fleet{members: NewMembers(names...), nodes: map[string]*Owned{}, dead: map[string]bool{}}
	for _, n := range names {
		f.join(t, n, f.members, limit, o)
	}
	return f
}

func (f *fleet) join(t *testing.T, name string, m *Members, limit Limit, o *OwnedOptions) {
	w, err := NewOwned(name, m, func(node string) Peer { return phone{f, node} }, limit, o)
	require.NoError(t, err)
	f.nodes[name] = w
}

// phone asks a node of the fleet.
type phone struct {
	f    *fleet
	node string
}

func (p phone) Decide(ctx context.Context, calls []Call) []Reply {
	p.f.asked++
	if p.f.dead[p.node] {
		replies := make([]Reply, len(calls))
		for i := range replies {
			replies[i].Err = errors.New("peer: connection refused")
		}
		return replies
	}
	return p.f.nodes[p.node].Answer(ctx, calls)
}

func names(n int) (all []string) {
	for i := range n {
		all = append(all, "10.0.0."+strconv.Itoa(i)+":7070")
	}
	return all
}

// When one of ten goes, its keys move, and no others; each has a tenth of all, and of what moves a ninth.
func TestOnlyTheLostNodesKeysMove(t *testing.T) {
	t.Parallel()
	const keys = 100_000
	ten := names(10)
	before, after := NewMembers(ten...), NewMembers(append(ten[:3:3], ten[4:]...)...)
	had, got := map[string]int{}, map[string]int{}
	for i := range keys {
		key := "user-" + strconv.Itoa(i)
		was, is := before.Owner(key), after.Owner(key)
		had[was]++
		if was == ten[3] {
			got[is]++
			continue
		}
		require.Equal(t, was, is, key)
	}
	for _, n := range ten {
		require.InEpsilon(t, keys/10, had[n], 0.04, n)
		if n != ten[3] {
			require.InEpsilon(t, had[ten[3]]/9, got[n], 0.12, n)
		}
	}
	require.Zero(t, got[ten[3]])
}

func TestMembers(t *testing.T) {
	t.Parallel()
	m := NewMembers("b", "", "a", "b")
	require.Equal(t, []string{"a", "b"}, m.List())
	other := NewMembers("a", "b")
	for i := range 100 {
		require.Equal(t, m.Owner(strconv.Itoa(i)), other.Owner(strconv.Itoa(i)))
	}
	m.Set()
	require.Empty(t, m.Owner("k"))
	// Other processes, and other versions, must agree.
	require.Equal(t, "b", NewMembers("a", "b", "c", "d").Owner("user-1"))
	owners := ""
	for i := range 16 {
		owners += NewMembers("a", "b", "c", "d").Owner(strconv.Itoa(i))
	}
	require.Equal(t, "bdacacaaacaaacad", owners)
}

// All nodes together admit the limit, whomever a caller asks.
func TestOwnedIsOneLimit(t *testing.T) {
	t.Parallel()
	f := newFleet(t, quota(100), nil, names(5)...)
	for k := range 20 {
		key, got := strconv.Itoa(k), int64(0)
		for range 50 {
			for _, w := range f.nodes {
				got += admit(t, w, key, 1)
			}
		}
		require.EqualValues(t, 100, got)
		owner := f.nodes[f.members.Owner(key)]
		r, err := owner.Peek(t.Context(), key)
		require.NoError(t, err)
		require.False(t, r.Allowed)
		for _, w := range f.nodes {
			require.NoError(t, w.Reset(t.Context(), key))
			require.EqualValues(t, 1, admit(t, w, key, 1))
		}
	}
}

// Whoever is refused by an owner is not asked for again until the wait is over.
func TestOwnedRemembersRefusals(t *testing.T) {
	t.Parallel()
	f := newFleet(t, quota(10), nil, "a", "b")
	key := keyOf(f.members, "b")
	require.EqualValues(t, 10, admit(t, f.nodes["a"], key, 1000))
	require.Equal(t, 11, f.asked)
}

func keyOf(m *Members, owner string) string {
	for i := 0; ; i++ {
		if key := strconv.Itoa(i); m.Owner(key) == owner {
			return key
		}
	}
}

// gubernator's trap: who does not own a key must not say that it is under its limit.
func TestNonOwnerSaysNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, quota(10), &OwnedOptions{Options: Options{OnError: FailClosed}}, "a", "b")
	f.join(t, "b", NewMembers("b", "c"), quota(10), nil) // it thinks that c is there, and a is not
	mine, theirs := "", ""
	for i := 0; mine == "" || theirs == ""; i++ {
		key := strconv.Itoa(i)
		if f.members.Owner(key) == "b" {
			if NewMembers("b", "c").Owner(key) == "b" {
				mine = key
			} else {
				theirs = key
			}
		}
	}
	replies := f.nodes["b"].Answer(t.Context(), []Call{
		{Ops: []Op{{Limit: quota(10), Key: theirs, N: 1}}},
		{Ops: []Op{{Limit: quota(10), Key: mine, N: 1}}},
		{Ops: []Op{{Limit: quota(10), Key: mine, N: 1}, {Limit: quota(10), Key: theirs, N: 1}}},
	})
	var not *NotOwnerError
	require.ErrorAs(t, replies[0].Err, &not)
	require.Equal(t, NotOwnerError{"b", "c"}, *not)
	require.NoError(t, replies[1].Err)
	require.ErrorAs(t, replies[2].Err, &not)
	r, err := f.nodes["a"].Allow(t.Context(), theirs)
	require.NoError(t, err)
	require.False(t, r.Allowed)
	require.Equal(t, FromFailClosed, r.Source)
	r, err = f.nodes["a"].Allow(t.Context(), mine)
	require.NoError(t, err)
	require.EqualValues(t, 8, r.Remaining, "nothing was charged for what was not its own")
}

// A dead peer is its keys' matter alone, and only until it is off the list.
func TestDeadPeer(t *testing.T) {
	t.Parallel()
	for policy, source := range map[OnError]Source{FailOpen: FromFailOpen, FailClosed: FromFailClosed, FailLocal: FromFallback} {
		f := newFleet(t, quota(30), &OwnedOptions{Options: Options{OnError: policy, Share: 0.34, Cooldown: time.Hour}}, "a", "b", "c")
		lost, other := keyOf(f.members, "b"), keyOf(f.members, "c")
		f.dead["b"] = true
		for i := range 40 {
			r, err := f.nodes["a"].Allow(t.Context(), lost)
			require.NoError(t, err)
			require.Equal(t, source, r.Source)
			require.Equal(t, policy == FailOpen || policy == FailLocal && i < 10, r.Allowed)
		}
		require.Equal(t, 5, f.asked, "then the breaker is open")
		r, err := f.nodes["a"].Allow(t.Context(), other)
		require.NoError(t, err)
		require.Equal(t, FromStore, r.Source)
		f.members.Set("a", "c")
		require.EqualValues(t, 30, admit(t, f.nodes["a"], lost, 40))
		admit(t, f.nodes["a"], other, 1)
		require.NotContains(t, f.nodes["a"].peers, "b")
		f.members.Set("a", "b", "c")
		f.dead["b"] = false
		r, err = f.nodes["a"].Allow(t.Context(), lost)
		require.NoError(t, err)
		require.Equal(t, FromStore, r.Source)
	}
}

// Owned.Answer is a store's end: leases can be taken from owners.
func TestLeasesFromAnOwner(t *testing.T) {
	t.Parallel()
	f := newFleet(t, quota(110), nil, "a", "b")
	key := keyOf(f.members, "b")
	l := leased(t, phone{f, "b"}, quota(110), LeasedOptions{})
	require.EqualValues(t, 100, admit(t, l, key, 200))
}

func ExampleNewOwned() {
	members := NewMembers("a:7070", "b:7070")
	limiter, err := NewOwned("a:7070", members, func(string) Peer { return NewMemory(nil) }, PerMinute(2), nil)
	if err != nil {
		panic(err)
	}
	for range 3 {
		r, _ := limiter.Allow(context.Background(), "user-7")
		fmt.Println(r.Allowed, r.Remaining)
	}
	// Output:
	// true 1
	// true 0
	// false 0
}

// Who has read the list a moment before it changed makes nobody forget a member that is new: it would be dialed twice.
func TestMemberThatIsNewIsDialedOnce(t *testing.T) {
	t.Parallel()
	m, dialed := NewMembers("a", "b"), map[string]int{}
	w, err := NewOwned("a", m, func(node string) Peer { dialed[node]++; return noPeer{} }, PerHour(3), nil)
	require.NoError(t, err)
	old := m.list.Load()
	all := func() {
		for i := range 100 {
			w.of(strconv.Itoa(i))
		}
	}
	all()
	m.Set("a", "b", "c")
	all()
	w.meet(old, "b")
	all()
	require.Equal(t, map[string]int{"b": 1, "c": 1}, dialed)
}
