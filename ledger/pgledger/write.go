package pgledger

import (
	"cmp"
	"context"
	"fmt"
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
	moved   map[*ledger.State]struct{}

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
		decided: make([]decidedRow, 0, n), moved: make(map[*ledger.State]struct{}, n),
		seqs: make([]int64, 0, n), postings: make([]int16, 0, n),
		debitNos: make([]int64, 0, n), creditNos: make([]int64, 0, n),
		debitVersions: make([]int64, 0, n), creditVersions: make([]int64, 0, n),
		transactions: make([]string, 0, n),
	}
}

func (w *writes) fresh() int { return len(w.decided) }

func (w *writes) addDecided(d *ledger.Draft, seq int64, o *ledger.Outcome) {
	w.decided = append(w.decided, decidedRow{
		id: string(d.ID), seq: seq, fingerprint: d.Fingerprint[:], verdict: int16(o.Verdict), posting: int16(o.Posting),
	})
}

func (w *writes) addLine(id ledger.TransactionID, seq int64, posting int, l *ledger.Line, numbers map[ledger.AccountID]int64) {
	w.moved[l.Debit], w.moved[l.Credit] = struct{}{}, struct{}{}
	w.seqs = append(w.seqs, seq)
	w.postings = append(w.postings, int16(posting))
	w.debitNos = append(w.debitNos, numbers[l.Debit.ID])
	w.creditNos = append(w.creditNos, numbers[l.Credit.ID])
	w.debitVersions = append(w.debitVersions, l.DebitVersion)
	w.creditVersions = append(w.creditVersions, l.CreditVersion)
	w.amounts.add(l.Amount)
	w.debitBalances.add(l.DebitBalance)
	w.creditBalances.add(l.CreditBalance)
	w.transactions = append(w.transactions, string(id))
}

// write sends everything in one round trip.
func (w *writes) write(ctx context.Context, tx pgx.Tx, sql *statements, at time.Time) error {
	b := &pgx.Batch{}
	ids, seqs, fingerprints, verdicts, postings := w.decidedColumns()
	b.Queue(sql.insertDecided, ids, seqs, fingerprints, verdicts, postings, at)
	if len(w.seqs) > 0 {
		accounts, debits, credits, versions := w.movedColumns()
		b.Queue(sql.update, accounts, debits.String(), credits.String(), versions)
		b.Queue(sql.insert, at, w.seqs, w.postings, w.debitNos, w.creditNos, w.debitVersions, w.creditVersions,
			w.amounts.String(), w.debitBalances.String(), w.creditBalances.String(), w.transactions)
	}
	results := tx.SendBatch(ctx, b)
	tag, err := results.Exec()
	if closed := results.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("write %d transactions: %w", len(w.decided), err)
	}
	if tag.RowsAffected() != int64(len(w.decided)) {
		return errRaced
	}
	return nil
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

func (w *writes) movedColumns() (ids []string, debits, credits numerics, versions []int64) {
	for s := range w.moved {
		ids, versions = append(ids, string(s.ID)), append(versions, s.Version)
		debits.add(s.Debits)
		credits.add(s.Credits)
	}
	return ids, debits, credits, versions
}

// numerics is the literal of a numeric[].
type numerics struct{ text []byte }

func (n *numerics) add(a ledger.Amount) {
	sep := byte(',')
	if len(n.text) == 0 {
		sep = '{'
	}
	n.text = a.Append(append(n.text, sep))
}

func (n *numerics) addNull() {
	sep := byte(',')
	if len(n.text) == 0 {
		sep = '{'
	}
	n.text = append(append(n.text, sep), "NULL"...)
}

func (n *numerics) String() string { return string(append(n.text, '}')) }
