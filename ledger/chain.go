package ledger

// Decide decides on drafts in order, chains as wholes, and calls done for each
// that was not decided before: with the lines that a [Posted] one made.
//
// A chain of which some were decided before cannot be done as a whole any more:
// the others fail. So a chain that is repeated as it was gives what it gave.
func (b *Book) Decide(drafts []Draft, before func(i int) bool, done func(i int, v Verdict, posting int, lines []Line)) {
	var lines []Line
	for from := 0; from < len(drafts); {
		to := from + 1
		for drafts[to-1].Linked && to < len(drafts) {
			to++
		}
		if to-from == 1 {
			if !before(from) {
				var v Verdict
				var posting int
				lines, v, posting = b.Apply(&drafts[from], lines[:0])
				done(from, v, posting, lines)
			}
		} else {
			b.decideChain(drafts, from, to, before, done)
		}
		from = to
	}
}

func (b *Book) decideChain(drafts []Draft, from, to int, before func(int) bool, done func(int, Verdict, int, []Line)) {
	known := 0
	for i := from; i < to; i++ {
		if before(i) {
			known++
		}
	}
	culprit, verdict, posting := -1, LinkFailed, 0
	var lines []Line
	ends := []int{0} // lines[ends[k]:ends[k+1]] are of the k-th of the chain
	for i := from; known == 0 && culprit < 0 && i < to; i++ {
		var v Verdict
		if lines, v, posting = b.Apply(&drafts[i], lines); v == Posted {
			ends = append(ends, len(lines))
		} else {
			culprit, verdict = i, v
		}
	}
	refused := known > 0 || culprit >= 0
	if refused {
		for k := len(ends) - 2; k >= 0; k-- {
			b.Revert(&drafts[from+k], lines[ends[k]:ends[k+1]])
		}
	}
	for i := from; i < to; i++ {
		switch {
		case before(i):
		case i == culprit:
			done(i, verdict, posting, nil)
		case refused:
			done(i, LinkFailed, 0, nil)
		default:
			done(i, Posted, 0, lines[ends[i-from]:ends[i-from+1]])
		}
	}
}
