package ledger

// batch is one call of Post on its way to the store and back.
type batch struct {
	txs     []Transaction
	results []Result
	drafts  []Draft
	index   []int // of each draft's transaction in txs
	repeats []repeat
}

// repeat is a transaction whose id came before in the same batch.
type repeat struct {
	at, draft   int // index in txs, and in drafts of the first with that id
	fingerprint Fingerprint
}

// newBatch gives malformed transactions their verdict and drafts the others,
// each id once.
func (l *Ledger) newBatch(txs []Transaction) *batch {
	b := &batch{
		txs:     txs,
		results: make([]Result, len(txs)),
		drafts:  make([]Draft, 0, len(txs)),
		index:   make([]int, 0, len(txs)),
	}
	n := 0
	for i := range txs {
		n += min(len(txs[i].Postings), MaxPostings)
	}
	postings := make([]DraftPosting, 0, n) // one piece of memory for all drafts
	seen := make(map[TransactionID]int, len(txs))
	for i := range txs {
		b.results[i].ID = txs[i].ID
		d, verdict, posting := txs[i].draft(postings[len(postings):], l.scale)
		if verdict != Posted {
			b.results[i].Verdict, b.results[i].Posting = verdict, posting
			continue
		}
		if first, ok := seen[d.ID]; ok {
			b.repeats = append(b.repeats, repeat{at: i, draft: first, fingerprint: d.Fingerprint})
			continue
		}
		postings = postings[:len(postings)+len(d.Postings)]
		seen[d.ID] = len(b.drafts)
		b.drafts = append(b.drafts, d)
		b.index = append(b.index, i)
	}
	return b
}

func (l *Ledger) scale(currency string) (uint8, bool) {
	s, ok := l.scales[currency]
	return s, ok
}

// settle writes the store's outcomes into the results. It returns the indices
// in txs of transactions that are still open: those that repeat an id of the
// batch with other content. Only the store can say whether that content is the
// one that has the id, so they go to it afterwards.
func (b *batch) settle(outcomes []Outcome) (open []int) {
	for k, o := range outcomes {
		b.results[b.index[k]].take(o)
	}
	for _, r := range b.repeats {
		if b.drafts[r.draft].Fingerprint != r.fingerprint {
			open = append(open, r.at)
			continue
		}
		o := outcomes[r.draft]
		o.Duplicate = o.Verdict != Conflict
		b.results[r.at].take(o)
	}
	return open
}

func (r *Result) take(o Outcome) {
	r.Verdict, r.Posting, r.Duplicate, r.At = o.Verdict, o.Posting, o.Duplicate, o.At
}
