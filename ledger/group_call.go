package ledger

import "slices"

// call is one caller of a [Group], from Post to its answer.
type call struct {
	txs      []Transaction
	postings []Posting     // of all txs
	size     int           // what it counts for in a batch
	done     chan struct{} // holds one: results and err are there

	results []Result
	err     error

	queued     bool
	prev, next *call
}

// newCall copies txs and what they point to, since a caller that hangs up may
// use them for something else while the batch is being posted.
func (g *Group) newCall(txs []Transaction) *call {
	c, ok := g.spare.Get().(*call)
	if !ok {
		c = &call{done: make(chan struct{}, 1)}
	}
	n := 0
	for i := range txs {
		n += len(txs[i].Postings)
		c.size += max(1, len(txs[i].Postings))
	}
	if cap(c.postings) < n {
		c.postings = make([]Posting, 0, n)
	}
	c.txs = append(c.txs, txs...)
	for i := range c.txs {
		from := len(c.postings)
		c.postings = append(c.postings, c.txs[i].Postings...)
		c.txs[i].Postings = c.postings[from:len(c.postings):len(c.postings)]
		c.txs[i].If = copied(c.txs[i].If)
	}
	return c
}

func copied(conditions []Condition) []Condition {
	conditions = slices.Clone(conditions)
	for i := range conditions {
		if a := conditions[i].Available; a != nil {
			conditions[i].Available = new(*a)
		}
		if v := conditions[i].Version; v != nil {
			conditions[i].Version = new(*v)
		}
	}
	return conditions
}

// open tells whether the last transaction is linked to a next one, which the
// caller has not given.
func (c *call) open() bool { return c.txs[len(c.txs)-1].Linked }

// free keeps a call for the next caller. It must be one that no batch has.
func (g *Group) free(c *call) {
	const most = 64 // postings to keep memory for
	if cap(c.txs) > most || cap(c.postings) > most {
		return
	}
	clear(c.txs)
	clear(c.postings)
	*c = call{txs: c.txs[:0], postings: c.postings[:0], done: c.done}
	g.spare.Put(c)
}

// answer gives the call back to its caller.
func (c *call) answer(results []Result, err error) {
	c.results, c.err = results, err
	c.done <- struct{}{}
}

// callQueue is a list of calls, first come first served; any may leave it.
type callQueue struct {
	first, last *call
	size        int // the sum of theirs
}

func (q *callQueue) push(c *call) {
	c.queued, c.prev = true, q.last
	if q.last == nil {
		q.first = c
	} else {
		q.last.next = c
	}
	q.last = c
	q.size += c.size
}

func (q *callQueue) remove(c *call) {
	if c.prev == nil {
		q.first = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.last = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.queued, c.prev, c.next = false, nil, nil
	q.size -= c.size
}
