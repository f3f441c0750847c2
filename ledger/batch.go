package ledger

// batch is one call of Post, or the rest of one, on its way to the store and back.
type batch struct {
	results []Result
	drafts  []Draft
	index   []int // of each draft's transaction in the call
	repeats []repeat
	later   []int // repeats that have other content than the first
	rest    int   // what begins here has to wait until all before it is decided
}

// repeat is a transaction whose id came before in the same call.
type repeat struct {
	at, draft   int // its index, and that of the first's draft
	fingerprint Fingerprint
}

// newBatch gives malformed transactions their verdict and drafts the others,
// each id once. It ends before the first that has an id of a chain before it, or is
// a chain with an id from before it:
//
//	a chain of a and b fails because of a, so b is not decided;
//	b comes again, alone, and brings money;
//	c, behind it, spends that.
//
// Only when the chain is decided can be said what b comes to, and only then c.
func (l *Ledger) newBatch(txs []Transaction) *batch {
	b := &batch{
		results: make([]Result, len(txs)),
		rest:    len(txs),
		drafts:  make([]Draft, 0, len(txs)),
		index:   make([]int, 0, len(txs)),
	}
	n := 0
	for i := range txs {
		b.results[i].ID = txs[i].ID
		n += min(len(txs[i].Postings), MaxPostings)
	}
	room := make([]DraftPosting, 0, n) // one piece of memory for all drafts
	seen := make(map[TransactionID]int, len(txs))
	for from := 0; from < len(txs); {
		to := from + 1
		for txs[to-1].Linked && to < len(txs) {
			to++
		}
		var ok bool
		if to-from == 1 && !txs[from].Linked {
			room, ok = b.add(txs, from, seen, room, l.scale)
		} else {
			room, ok = b.addChain(txs, from, to, seen, room, l.scale)
		}
		if !ok {
			b.rest = from
			break
		}
		from = to
	}
	return b
}

// add adds a transaction. False: it has to wait for a chain.
func (b *batch) add(txs []Transaction, i int, seen map[TransactionID]int, room []DraftPosting, scale func(string) (uint8, bool)) ([]DraftPosting, bool) {
	d, verdict, posting, fault := txs[i].draft(room[len(room):], scale)
	if verdict != Posted {
		b.results[i].refuse(verdict, posting, fault)
		return room, true
	}
	if first, ok := seen[d.ID]; ok {
		if b.drafts[first].Linked || first > 0 && b.drafts[first-1].Linked {
			return room, false
		}
		b.repeats = append(b.repeats, repeat{at: i, draft: first, fingerprint: d.Fingerprint})
		return room, true
	}
	seen[d.ID] = len(b.drafts)
	b.drafts, b.index = append(b.drafts, d), append(b.index, i)
	return room[:len(room)+len(d.Postings)], true
}

// addChain adds a chain as a whole. One with a malformed transaction, with an id
// twice or without an end is refused as a whole. False: it has to wait for what has
// one of its ids.
func (b *batch) addChain(txs []Transaction, from, to int, seen map[TransactionID]int, room []DraftPosting, scale func(string) (uint8, bool)) ([]DraftPosting, bool) {
	whole, repeats := true, false
	drafts := make([]Draft, 0, to-from)
	own := make(map[TransactionID]bool, to-from)
	used := len(room)
	for i := from; i < to; i++ {
		b.results[i].Verdict = LinkFailed
		d, verdict, posting, fault := txs[i].draft(room[used:used:cap(room)], scale)
		switch {
		case verdict != Posted:
		case own[txs[i].ID]:
			verdict, fault = InvalidKind, &InputError{Field: "ID", Reason: "is that of another one of its chain"}
		case i == to-1 && txs[i].Linked:
			verdict, fault = InvalidKind, &InputError{Field: "Linked", Reason: "is set, but no transaction follows"}
		}
		if verdict != Posted {
			b.results[i].refuse(verdict, posting, fault)
			whole = false
			continue
		}
		_, before := seen[d.ID]
		repeats = repeats || before
		own[d.ID] = true
		drafts = append(drafts, d)
		used += len(d.Postings)
	}
	if !whole || repeats {
		return room, !whole
	}
	for k, d := range drafts {
		seen[d.ID] = len(b.drafts)
		b.drafts, b.index = append(b.drafts, d), append(b.index, from+k)
	}
	return room[:used], true
}

func (l *Ledger) scale(currency string) (uint8, bool) {
	s, ok := l.scales[currency]
	return s, ok
}

// settle writes the store's outcomes into the results.
func (b *batch) settle(outcomes []Outcome) {
	for k, o := range outcomes {
		b.results[b.index[k]].take(o)
	}
	for _, r := range b.repeats {
		o := outcomes[r.draft]
		if b.drafts[r.draft].Fingerprint != r.fingerprint {
			b.later = append(b.later, r.at)
			continue
		}
		o.Duplicate = o.Verdict != Conflict
		b.results[r.at].take(o)
	}
}

func (r *Result) refuse(v Verdict, posting int, fault *InputError) {
	r.Verdict, r.Posting, r.Fault = v, posting, fault
}

func (r *Result) take(o Outcome) {
	r.Verdict, r.Posting, r.Duplicate, r.At = o.Verdict, o.Posting, o.Duplicate, o.At
}
