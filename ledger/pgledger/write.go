package pgledger

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/ledger"
)

// writes collects what a batch has to write, column by column, as unnest takes
// it. Numbers travel as array literals: PostgreSQL parses them faster than the
// driver makes its binary form, for which it would allocate each of them.
type writes struct {
	decided []decidedRow
	moved   map[*ledger.State]int64 // ledger_accounts.no
	posted  columns
	held    columns
	freed   bool
	closed  [2][]string // targets, and what closes them
}

type decidedRow struct {
	id          string
	seq         int64
	fingerprint []byte
	verdict     int16
	posting     int16
	kind        int16
	target      *string
	expires     *time.Time
}

// columns are those of ledger_postings; ledger_holds has some of them.
type columns struct {
	n                                      int
	seqs, postings                         integers
	debitNos, creditNos                    integers
	debitVersions, creditVersions          integers
	amounts, debitBalances, creditBalances numerics
	transactions                           []string
}

func newWrites(n int) *writes {
	return &writes{decided: make([]decidedRow, 0, n), moved: make(map[*ledger.State]int64, 2*n)}
}

// add adds what was decided of a draft.
func (w *writes) add(d *ledger.Draft, seq int64, o *ledger.Outcome, lines []ledger.Line, numbers map[ledger.AccountID]int64) {
	row := decidedRow{
		id: string(d.ID), seq: seq, fingerprint: d.Fingerprint[:], verdict: int16(o.Verdict), posting: int16(o.Posting), kind: int16(d.Kind),
	}
	if d.Of != "" {
		row.target = new(string(d.Of))
		if o.Verdict == ledger.Posted {
			w.closed[0], w.closed[1] = append(w.closed[0], string(d.Of)), append(w.closed[1], string(d.ID))
		}
	}
	if d.Expires > 0 {
		row.expires = new(o.At.Add(d.Expires))
	}
	w.decided = append(w.decided, row)
	var posted, held int16
	for i := range lines {
		l := &lines[i]
		debit, credit := numbers[l.Debit.ID], numbers[l.Credit.ID]
		w.moved[l.Debit], w.moved[l.Credit] = debit, credit
		switch l.Kind {
		case ledger.LinePosted:
			w.posted.add(row.id, seq, posted, l, debit, credit)
			posted++
		case ledger.LineHeld:
			w.held.add(row.id, seq, held, l, debit, credit)
			held++
		case ledger.LineFreed: // the account's sums say it all
			w.freed = true
		}
	}
}

func (c *columns) add(id string, seq int64, posting int16, l *ledger.Line, debit, credit int64) {
	c.n++
	c.seqs.add(seq)
	c.postings.add(int64(posting))
	c.debitNos.add(debit)
	c.creditNos.add(credit)
	c.debitVersions.add(l.DebitVersion)
	c.creditVersions.add(l.CreditVersion)
	c.amounts.add(l.Amount)
	c.debitBalances.add(l.DebitBalance)
	c.creditBalances.add(l.CreditBalance)
	c.transactions = append(c.transactions, id)
}

func (c *columns) all() []any {
	return []any{
		c.seqs.String(), c.postings.String(), c.debitNos.String(), c.creditNos.String(), c.debitVersions.String(), c.creditVersions.String(),
		c.amounts.String(), c.debitBalances.String(), c.creditBalances.String(), c.transactions,
	}
}

// queue adds the statements that write it all.
func (w *writes) queue(b *pgx.Batch, sql *statements, at time.Time) {
	switch columns := w.decidedColumns(); {
	case len(w.decided) == 0:
	case slices.ContainsFunc(w.decided, func(r decidedRow) bool { return r.kind != int16(ledger.KindPost) }):
		b.Queue(sql.insertDecided, append(columns, at)...)
	default:
		b.Queue(sql.insertPlain, append(columns[:plainColumns], at)...)
	}
	switch columns := w.movedColumns(); {
	case len(w.moved) == 0:
	case w.freed || w.held.n > 0:
		b.Queue(sql.updateHeld, columns...)
	default:
		b.Queue(sql.update, columns[:4]...)
	}
	if p := &w.posted; p.n > 0 {
		b.Queue(sql.insert, append(p.all(), at)...)
	}
	if h := &w.held; h.n > 0 {
		b.Queue(sql.hold, h.transactions, h.postings.String(), h.debitNos.String(), h.creditNos.String(), h.amounts.String())
	}
	if len(w.closed[0]) > 0 {
		b.Queue(sql.close, w.closed[0], w.closed[1])
	}
}

// plainColumns are those of decidedColumns that a post has.
const plainColumns = 5

// decidedColumns sorts by id: two batches that insert the same ids must not wait
// for each other in a circle.
func (w *writes) decidedColumns() []any {
	slices.SortFunc(w.decided, func(a, b decidedRow) int { return cmp.Compare(a.id, b.id) })
	n := len(w.decided)
	ids, fingerprints := make([]string, n), make([][]byte, n)
	var seqs, verdicts, postings, kinds integers
	targets, expires := make([]*string, n), make([]*time.Time, n)
	for i, r := range w.decided {
		ids[i], fingerprints[i] = r.id, r.fingerprint
		seqs.add(r.seq)
		verdicts.add(int64(r.verdict))
		postings.add(int64(r.posting))
		kinds.add(int64(r.kind))
		targets[i], expires[i] = r.target, r.expires
	}
	return []any{ids, seqs.String(), fingerprints, verdicts.String(), postings.String(), kinds.String(), targets, expires}
}

func (w *writes) movedColumns() []any {
	var nos, versions integers
	var debits, credits, heldDebits, heldCredits numerics
	for s, no := range w.moved {
		nos.add(no)
		versions.add(s.Version)
		debits.add(s.Debits)
		credits.add(s.Credits)
		heldDebits.add(s.HeldDebits)
		heldCredits.add(s.HeldCredits)
	}
	return []any{nos.String(), versions.String(), debits.String(), credits.String(), heldDebits.String(), heldCredits.String()}
}

// literal is that of an array.
type literal struct{ text []byte }

func (l *literal) next() []byte {
	if len(l.text) == 0 {
		return append(make([]byte, 0, 256), '{') // of a few dozen, as most are
	}
	return append(l.text, ',')
}

func (l *literal) null() { l.text = append(l.next(), "NULL"...) }

func (l *literal) String() string { return string(append(l.text, '}')) }

// integers is the literal of a bigint[] or smallint[].
type integers struct{ literal }

func (n *integers) add(i int64) { n.text = strconv.AppendInt(n.next(), i, 10) }

// numerics is the literal of a numeric[].
type numerics struct{ literal }

func (n *numerics) add(a ledger.Amount) { n.text = a.Append(n.next()) }

func (n *numerics) addFloor(floor *ledger.Amount) {
	if floor != nil {
		n.add(*floor)
		return
	}
	n.null()
}
