package pgledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// verifySQL goes through every account's entries in the order of their versions
// and compares neighbours, and lays postings, holds and what closes something
// beside transactions, in one statement and so in one snapshot. It returns a row for each break, and at last
// one of counts. The arrays are a version, what is there and what should be:
// their least is that of the first break.
const verifySQL = `
WITH entries AS (
    SELECT debit_no AS no, debit_version AS version, 1 AS side, amount, debit_balance AS balance FROM {postings}
    UNION ALL
    SELECT credit_no, credit_version, 2, amount, credit_balance FROM {postings}
), neighbours AS (
    SELECT no, version, side, amount, balance,
           lag(version, 1, 0::bigint) OVER w + 1 AS want_version, balance - lag(balance, 1, 0::numeric) OVER w AS change
    FROM entries WINDOW w AS (PARTITION BY no ORDER BY version)
), sums AS (
    SELECT no, sum(amount) FILTER (WHERE side = 1) AS debits, sum(amount) FILTER (WHERE side = 2) AS credits, count(*) AS n,
           min(ARRAY[version, version, want_version]) FILTER (WHERE version <> want_version) AS gap,
           min(ARRAY[version, balance, balance - change + CASE side WHEN 1 THEN amount ELSE -amount END])
               FILTER (WHERE change <> CASE side WHEN 1 THEN amount ELSE -amount END) AS debit_break,
           min(ARRAY[version, balance, balance - change + CASE side WHEN 2 THEN amount ELSE -amount END])
               FILTER (WHERE change <> CASE side WHEN 2 THEN amount ELSE -amount END) AS credit_break
    FROM neighbours GROUP BY no
), checked AS (
    SELECT coalesce(no, s.no) AS no, a.id, a.currency, a.scale, a.debits, a.credits, a.held_debits, a.held_credits, a.version, coalesce(s.debits, 0) AS want_debits,
           coalesce(s.credits, 0) AS want_credits, coalesce(s.n, 0) AS n, s.gap,
           CASE a.normal WHEN 1 THEN s.debit_break ELSE s.credit_break END AS broken
    FROM {accounts} a FULL JOIN sums s USING (no)
), held AS (
    SELECT no, sum(debit) AS debits, sum(credit) AS credits FROM (
        SELECT h.debit_no AS no, h.amount AS debit, 0::numeric AS credit, h.transaction_id FROM {holds} h
        UNION ALL SELECT h.credit_no, 0, h.amount, h.transaction_id FROM {holds} h
    ) h JOIN {transactions} t ON t.id = h.transaction_id AND t.verdict = 0 AND t.closed_by IS NULL GROUP BY no
), strays AS (
    SELECT p.debit_no, p.transaction_id, t.id AS transaction, d.id, d.currency, c.currency AS other, d.scale <> c.scale AS rescaled
    FROM {postings} p FULL JOIN (SELECT seq, id FROM {transactions} WHERE verdict = 0 AND kind IN (0, 2, 4)) t ON t.seq = p.seq
    LEFT JOIN {accounts} d ON d.no = p.debit_no LEFT JOIN {accounts} c ON c.no = p.credit_no
    WHERE p.transaction_id IS DISTINCT FROM t.id OR d.currency <> c.currency OR d.scale <> c.scale
), closings AS MATERIALIZED (
    SELECT id, closed_by, CASE verdict WHEN 0 THEN target END AS target FROM {transactions} WHERE closed_by IS NOT NULL OR target IS NOT NULL
), breaks AS (
    SELECT id, currency, scale, 'debits' AS what, debits AS have, want_debits AS want FROM checked WHERE debits <> want_debits
    UNION ALL SELECT id, currency, scale, 'credits', credits, want_credits FROM checked WHERE credits <> want_credits
    UNION ALL SELECT id, currency, scale, 'held debits', held_debits, coalesce(h.debits, 0)
              FROM checked c LEFT JOIN held h USING (no) WHERE held_debits <> coalesce(h.debits, 0)
    UNION ALL SELECT id, currency, scale, 'held credits', held_credits, coalesce(h.credits, 0)
              FROM checked c LEFT JOIN held h USING (no) WHERE held_credits <> coalesce(h.credits, 0)
    UNION ALL SELECT id, currency, 0, 'version', version, n FROM checked WHERE version <> n
    UNION ALL SELECT id, currency, 0, 'entry', gap[2], gap[3] FROM checked WHERE id IS NOT NULL AND gap IS NOT NULL
    UNION ALL SELECT id, currency, scale, 'balance of entry ' || broken[1], broken[2], broken[3] FROM checked WHERE id IS NOT NULL AND broken IS NOT NULL
    UNION ALL SELECT '', '', 0, 'entries without an account, number ' || no, n, 0 FROM checked WHERE id IS NULL
    UNION ALL SELECT id, currency, 0, 'postings without a transaction', count(*), 0
              FROM strays WHERE id IS NOT NULL AND transaction_id IS DISTINCT FROM transaction GROUP BY id, currency
    UNION ALL SELECT id, currency, 0, 'postings with an account in ' || other, count(*), 0
              FROM strays WHERE currency <> other GROUP BY id, currency, other
    UNION ALL SELECT id, currency, 0, 'postings with an account of other decimal places', count(*), 0
              FROM strays WHERE rescaled GROUP BY id, currency
    UNION ALL SELECT '', '', 0, 'postings of transaction ' || transaction, 0, 1 FROM strays WHERE debit_no IS NULL
    UNION ALL SELECT '', '', 0, coalesce('transactions that close ' || t.id, 'transactions closed by ' || c.id), 0, 1
              FROM (SELECT id, closed_by FROM closings WHERE closed_by IS NOT NULL) t
              FULL JOIN (SELECT id, target FROM closings WHERE target IS NOT NULL) c ON c.id = t.closed_by AND c.target = t.id
              WHERE t.id IS NULL OR c.id IS NULL
    UNION ALL SELECT '', '', 0, 'amounts held by ' || h.transaction_id || ', which is no hold', count(*), 0
              FROM {holds} h LEFT JOIN {transactions} t ON t.id = h.transaction_id AND t.kind = 1 WHERE t.id IS NULL GROUP BY h.transaction_id
    UNION ALL SELECT '', '', 0, 'amounts held by ' || t.id, 0, 1
              FROM {transactions} t WHERE t.kind = 1 AND t.verdict = 0 AND NOT EXISTS (SELECT FROM {holds} h WHERE h.transaction_id = t.id)
    UNION ALL SELECT '', currency, 30, 'sum', sum(debits * unit), sum(credits * unit) -- in what every currency has units of
              FROM (SELECT currency, debits, credits, ('1e' || 30 - scale)::numeric AS unit FROM checked) c
              GROUP BY currency HAVING sum(debits * unit) <> sum(credits * unit)
)
(SELECT id, currency, scale::int, what, have::text, want::text, 0::bigint, 0::bigint, 0::bigint FROM breaks ORDER BY id, what COLLATE "C" LIMIT $1)
UNION ALL
SELECT '', '', 0, '', '0', '0', (SELECT count(id) FROM checked), (SELECT count(*) FROM {transactions}), (SELECT coalesce(sum(n), 0)::bigint FROM checked)`

// The planner cannot foresee how few breaks there are, takes the statement for a
// huge one and compiles it for longer than it then runs. Workers beside it would
// help with a part that is short, and take the processors from the other audit.
const plainly = `SELECT set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)`

// Verify is [ledger.Store.Verify]: one statement, in one snapshot, that sorts
// all entries. It takes no locks. A million entries take seconds, and where they
// do not fit work_mem, room for temporary files. Cost: four round trips.
func (s *Store) Verify(ctx context.Context) (r ledger.Report, err error) {
	err = s.audit(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql.verify, ledger.MaxBreaks)
		if err != nil {
			return err
		}
		r, err = readReport(rows)
		return err
	})
	if err != nil {
		return ledger.Report{}, fail("verify", err)
	}
	return r, nil
}

// audit reads in a transaction, of which there is nothing to commit: so a caller's
// own gets its settings back.
func (s *Store) audit(ctx context.Context, read func(pgx.Tx) error) error {
	if err := s.idle(); err != nil {
		return err
	}
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
		defer cancel()
		_ = tx.Rollback(ctx)
	}()
	if _, err := tx.Exec(ctx, plainly); err != nil {
		return err
	}
	return read(tx)
}

// readReport reads the breaks and the row of counts, and closes the rows.
func readReport(rows pgx.Rows) (r ledger.Report, err error) {
	defer rows.Close()
	for rows.Next() {
		var id, currency, what, have, want string
		var scale int32
		if err := rows.Scan(&id, &currency, &scale, &what, &have, &want, &r.Accounts, &r.Transactions, &r.Entries); err != nil {
			return r, err
		}
		if what == "" { // the row of counts
			continue
		}
		b := ledger.Break{Account: ledger.AccountID(id), Currency: currency, What: what}
		if b.Have, b.Want, err = decimals(have, want, scale); err != nil {
			return r, err
		}
		r.Breaks = append(r.Breaks, b)
	}
	return r, rows.Err()
}

func decimals(have, want string, scale int32) (h, w decimal.Decimal, err error) {
	h, err = decimal.NewFromString(have)
	if err == nil {
		w, err = decimal.NewFromString(want)
	}
	return h.Shift(-scale), w.Shift(-scale), err
}
