package pgledger

import (
	"cmp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/safetill/safetill/ledger"
)

// writes collects what a batch has to write, column by column, as unnest takes
// it. Numerics travel as array literals: PostgreSQL parses them faster than the
// driver could make its binary form.
type writes struct {
	decided []decidedRow
	moved   map[*ledger.State]int64 // ledger_accounts.no

	seqs                                               []int64
	postings                                           []int16
	debitNos, creditNos, debitVersions, creditVersions []int64
	amounts, debitBalances, creditBalances             numerics
	transactions                                       []string
}

type decidedRow struct {
	id          string
	seq         int64
	fingerprint []byte
	verdict     int16
	posting     int16
}

func newWrites(n int) *writes {
	return &writes{
		decided: make([]decidedRow, 0, n), moved: make(map[*ledger.State]int64, 2*n),
		seqs: make([]int64, 0, n), postings: make([]int16, 0, n),
		debitNos: make([]int64, 0, n), creditNos: make([]int64, 0, n),
		debitVersions: make([]int64, 0, n), creditVersions: make([]int64, 0, n),
		transactions: make([]string, 0, n),
	}
}

func (w *writes) addDecided(d *ledger.Draft, seq int64, o *ledger.Outcome) {
	w.decided = append(w.decided, decidedRow{
		id: string(d.ID), seq: seq, fingerprint: d.Fingerprint[:], verdict: int16(o.Verdict), posting: int16(o.Posting),
	})
}

func (w *writes) addLine(id ledger.TransactionID, seq int64, posting int, l *ledger.Line, numbers map[ledger.AccountID]int64) {
	debit, credit := numbers[l.Debit.ID], numbers[l.Credit.ID]
	w.moved[l.Debit], w.moved[l.Credit] = debit, credit
	w.seqs = append(w.seqs, seq)
	w.postings = append(w.postings, int16(posting))
	w.debitNos = append(w.debitNos, debit)
	w.creditNos = append(w.creditNos, credit)
	w.debitVersions = append(w.debitVersions, l.DebitVersion)
	w.creditVersions = append(w.creditVersions, l.CreditVersion)
	w.amounts.add(l.Amount)
	w.debitBalances.add(l.DebitBalance)
	w.creditBalances.add(l.CreditBalance)
	w.transactions = append(w.transactions, string(id))
}

// queue adds the statements that write it all.
func (w *writes) queue(b *pgx.Batch, sql *statements, at time.Time) {
	if len(w.decided) > 0 {
		ids, seqs, fingerprints, verdicts, postings := w.decidedColumns()
		b.Queue(sql.insertDecided, ids, seqs, fingerprints, verdicts, postings, at)
	}
	if len(w.seqs) > 0 {
		nos, debits, credits, versions := w.movedColumns()
		b.Queue(sql.update, nos, debits.String(), credits.String(), versions)
		b.Queue(sql.insert, at, w.seqs, w.postings, w.debitNos, w.creditNos, w.debitVersions, w.creditVersions,
			w.amounts.String(), w.debitBalances.String(), w.creditBalances.String(), w.transactions)
	}
}

// decidedColumns sorts by id: two batches that insert the same ids must not wait
// for each other in a circle.
func (w *writes) decidedColumns() (ids []string, seqs []int64, fingerprints [][]byte, verdicts, postings []int16) {
	slices.SortFunc(w.decided, func(a, b decidedRow) int { return cmp.Compare(a.id, b.id) })
	for _, r := range w.decided {
		ids, seqs, fingerprints = append(ids, r.id), append(seqs, r.seq), append(fingerprints, r.fingerprint)
		verdicts, postings = append(verdicts, r.verdict), append(postings, r.posting)
	}
	return ids, seqs, fingerprints, verdicts, postings
}

func (w *writes) movedColumns() (nos []int64, debits, credits numerics, versions []int64) {
	for s, no := range w.moved {
		nos, versions = append(nos, no), append(versions, s.Version)
		debits.add(s.Debits)
		credits.add(s.Credits)
	}
	return nos, debits, credits, versions
}

// numerics is the literal of a numeric[].
type numerics struct{ text []byte }

func (n *numerics) add(a ledger.Amount) { n.text = a.Append(n.next()) }

func (n *numerics) addNull() { n.text = append(n.next(), "NULL"...) }

func (n *numerics) next() []byte {
	if len(n.text) == 0 {
		return append(n.text, '{')
	}
	return append(n.text, ',')
}

func (n *numerics) String() string { return string(append(n.text, '}')) }
