package ledger

import (
	"math"
	"time"
)

// returning is how long a caller that was answered is expected back. One that
// posts again and again is back in microseconds, once it has had the processor.
const returning = 300 * time.Microsecond

// traffic is what a [Group] knows of its commits under way and of who was
// answered. It is guarded by the group's mutex.
type traffic struct {
	commits int               // under way
	size    int               // the sum of theirs
	busy    map[AccountID]int // their accounts, and in how many of them each is
	spare   [][]AccountID     // of commits that have ended

	away   int       // callers that were answered since the last batch was taken, less those who came
	last   time.Time // when one was answered
	wanted int       // at this length of the queue Run looks at it again
}

// commit is a batch of calls on its way.
type commit struct {
	calls    []*call
	size     int         // the sum of theirs
	accounts []AccountID // that it posts to, some of them twice
}

// begin returns a commit without calls.
func (t *traffic) begin() (c commit) {
	if n := len(t.spare); n > 0 {
		c.accounts, t.spare = t.spare[n-1], t.spare[:n-1]
	}
	t.commits++
	t.away, t.wanted = 0, 0
	return c
}

func (t *traffic) add(c *commit, one *call) {
	c.calls = append(c.calls, one)
	c.size += one.size
	t.size += one.size
	for i := range one.postings {
		p := &one.postings[i]
		c.accounts = append(c.accounts, p.Debit, p.Credit)
		t.busy[p.Debit]++
		t.busy[p.Credit]++
	}
}

func (t *traffic) end(c commit) {
	for _, id := range c.accounts {
		if t.busy[id]--; t.busy[id] == 0 {
			delete(t.busy, id)
		}
	}
	clear(c.accounts)
	if cap(c.accounts) <= 4*1024 { // what one large call has needed is not kept
		t.spare = append(t.spare, c.accounts[:0])
	}
	t.commits--
	t.size -= c.size
}

// worthwhile is how many transactions a commit must have for others to be left to
// another one: what a commit costs by itself is as much as ten of them.
const worthwhile = 16

// share is how many of a queue of that size the next commit takes, if there are most
// commits at once: as many as the others have, so that no place stays empty.
func (t *traffic) share(queue, most int) int {
	all := t.size + queue
	parts := max(1, min(most, all/worthwhile))
	return (all + parts - 1) / parts
}

// answer is called just before n callers are answered.
func (t *traffic) answer(n int) {
	t.away += n
	t.last = time.Now()
}

// came is called when a caller is put into a queue that is now so long. It tells
// whether to wake Run.
func (t *traffic) came(size int) bool {
	t.away = max(0, t.away-1)
	return size >= t.wanted
}

// wait returns how long the queue shall grow before it is worth a commit: 0 for
// not at all, ever for as long as no commit has ended. It is not before a time
// that the caller knows.
func (t *traffic) wait(q *callQueue, most int, notBefore time.Time) time.Duration {
	if q.size >= most {
		return 0
	}
	if t.commits > 0 && t.shares(q) {
		// It would only wait in the store for the commit that has the account, and
		// would not grow there.
		t.wanted = most
		return ever
	}
	if left := time.Until(notBefore); left > 0 {
		t.wanted = most
		return left
	}
	if t.wanted == 0 || t.wanted == most {
		// A commit has just answered its callers, the first of them is back with
		// its next transaction, and the others have not had the processor yet.
		// Without this many a batch would be of one.
		t.wanted = min(q.size+t.away, most)
	}
	if q.size >= t.wanted {
		return 0
	}
	return max(0, time.Until(t.last.Add(returning)))
}

const ever = math.MaxInt64

// shares tells whether the queue has an account in common with a commit.
func (t *traffic) shares(q *callQueue) bool {
	for c := q.first; c != nil; c = c.next {
		if t.meets(c) {
			return true
		}
	}
	return false
}

// meets tells whether a call has.
func (t *traffic) meets(c *call) bool {
	for i := range c.postings {
		if t.busy[c.postings[i].Debit] > 0 || t.busy[c.postings[i].Credit] > 0 {
			return true
		}
	}
	return false
}
