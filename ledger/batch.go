package ledger

// batch is one call of Post on its way to the store and back.
type batch struct {
	results []Result
	drafts  []Draft
	index   []int // of each draft's transaction in the call
	repeats []repeat
	later   []group
}

// repeat is a transaction whose id came before in the same call.
type repeat struct {
	at, draft   int // its index, and that of the first's draft
	fingerprint Fingerprint
}

// group is a transaction or chain of the call that has to wait for the rest of
// it: only when that is decided can the store say what an id of both comes to.
type group struct{ from, to int }

// newBatch gives malformed transactions their verdict and drafts the others,
// each id once.
func (l *Ledger) newBatch(txs []Transaction) *batch {
	b := &batch{
		results: make([]Result, len(txs)),
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
		if to-from == 1 && !txs[from].Linked {
			room = b.add(txs, from, seen, room, l.scale)
		} else {
			room = b.addChain(txs, group{from, to}, seen, room, l.scale)
		}
		from = to
	}
	return b
}

func (b *batch) add(txs []Transaction, i int, seen map[TransactionID]int, room []DraftPosting, scale func(string) (uint8, bool)) []DraftPosting {
	d, verdict, posting := txs[i].draft(room[len(room):], scale)
	if verdict != Posted {
		b.results[i].Verdict, b.results[i].Posting = verdict, posting
		return room
	}
	if first, ok := seen[d.ID]; ok {
		b.repeats = append(b.repeats, repeat{at: i, draft: first, fingerprint: d.Fingerprint})
		return room
	}
	seen[d.ID] = len(b.drafts)
	b.drafts, b.index = append(b.drafts, d), append(b.index, i)
	return room[:len(room)+len(d.Postings)]
}

// addChain adds a chain as a whole. One with a malformed transaction, with an id
// twice or without an end is refused as a whole.
func (b *batch) addChain(txs []Transaction, g group, seen map[TransactionID]int, room []DraftPosting, scale func(string) (uint8, bool)) []DraftPosting {
	whole, repeats := !txs[g.to-1].Linked, false
	drafts := make([]Draft, 0, g.to-g.from)
	own := make(map[TransactionID]bool, g.to-g.from)
	used := len(room)
	for i := g.from; i < g.to; i++ {
		b.results[i].Verdict = LinkFailed
		d, verdict, posting := txs[i].draft(room[used:used:cap(room)], scale)
		if verdict == Posted && (own[txs[i].ID] || i == g.to-1 && txs[i].Linked) {
			verdict = InvalidKind
		}
		if verdict != Posted {
			b.results[i].Verdict, b.results[i].Posting, whole = verdict, posting, false
			continue
		}
		_, before := seen[d.ID]
		repeats = repeats || before
		own[d.ID] = true
		drafts = append(drafts, d)
		used += len(d.Postings)
	}
	switch {
	case !whole:
		return room
	case repeats:
		b.later = append(b.later, g)
		return room
	}
	for k, d := range drafts {
		seen[d.ID] = len(b.drafts)
		b.drafts, b.index = append(b.drafts, d), append(b.index, g.from+k)
	}
	return room[:used]
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
		// What fails with its chain is not decided: it may come a second time, alone.
		if b.drafts[r.draft].Fingerprint != r.fingerprint || o.Verdict == LinkFailed {
			b.later = append(b.later, group{r.at, r.at + 1})
			continue
		}
		o.Duplicate = o.Verdict != Conflict
		b.results[r.at].take(o)
	}
}

func (r *Result) take(o Outcome) {
	r.Verdict, r.Posting, r.Duplicate, r.At = o.Verdict, o.Posting, o.Duplicate, o.At
}
