package pgledger

import (
	"strings"

	"github.com/safetill/safetill/internal/pg"
)

// statements are the store's SQL, with the schema's tables filled in.
type statements struct {
	schema string

	open, states, lines, verify   string
	lock, decided                 string
	insertDecided, update, insert string
}

func newStatements(schema string) statements {
	names := strings.NewReplacer(
		"{accounts}", pg.Table(schema, "ledger_accounts"),
		"{transactions}", pg.Table(schema, "ledger_transactions"),
		"{postings}", pg.Table(schema, "ledger_postings"),
		"{seq}", strings.ReplaceAll(pg.Table(schema, "ledger_transaction_seq"), "'", "''"),
	).Replace
	return statements{
		schema: schema,
		open:   names(openSQL), states: names(statesSQL), lines: names(linesSQL), verify: names(verifySQL),
		lock: names(lockSQL), decided: names(decidedSQL),
		insertDecided: names(insertDecidedSQL), update: names(updateSQL), insert: names(insertSQL),
	}
}

const (
	openSQL = `
INSERT INTO {accounts} (id, currency, scale, normal, floor)
SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[], $5::numeric[])
ON CONFLICT (id) DO NOTHING`

	// One row for each id asked for, in their order, nulls where there is none.
	statesSQL = `
SELECT a.id, a.currency, a.scale, a.normal, a.floor::text, a.debits::text, a.credits::text, a.version
FROM unnest($1::text[]) WITH ORDINALITY AS q(id, n) LEFT JOIN {accounts} a ON a.id = q.id
ORDER BY q.n`

	linesSQL = `
SELECT p.version, p.transaction_id, p.posting, p.side, p.amount::text, p.balance::text, a.id, p.at
FROM (
    (SELECT debit_version AS version, transaction_id, posting, 1 AS side, amount, debit_balance AS balance, credit_no AS contra, at
     FROM {postings} WHERE debit_no = (SELECT no FROM {accounts} WHERE id = $1) AND debit_version > $2
     ORDER BY debit_version LIMIT $3)
    UNION ALL
    (SELECT credit_version, transaction_id, posting, 2, amount, credit_balance, debit_no, at
     FROM {postings} WHERE credit_no = (SELECT no FROM {accounts} WHERE id = $1) AND credit_version > $2
     ORDER BY credit_version LIMIT $3)
) p JOIN {accounts} a ON a.no = p.contra
ORDER BY p.version LIMIT $3`

	// Sorted, so that any two batches lock what they share in one order.
	lockSQL = `
SELECT no, id, currency, scale, normal, floor::text, debits::text, credits::text, version
FROM {accounts} WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE`

	// The clock and the number are read with the accounts locked: along an
	// account's versions neither goes back.
	decidedSQL = `
SELECT t.id, t.fingerprint, t.verdict, t.posting, t.at, c.seq, c.at
FROM (SELECT nextval('{seq}') AS seq, clock_timestamp() AS at) c
LEFT JOIN {transactions} t ON t.id = ANY($1)`

	insertDecidedSQL = `
INSERT INTO {transactions} (id, seq, fingerprint, verdict, posting, at)
SELECT u.id, u.seq, u.fingerprint, u.verdict, u.posting, $6
FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::smallint[], $5::smallint[]) AS u(id, seq, fingerprint, verdict, posting)`

	updateSQL = `
UPDATE {accounts} a SET debits = u.debits, credits = u.credits, version = u.version
FROM unnest($1::bigint[], $2::numeric[], $3::numeric[], $4::bigint[]) AS u(no, debits, credits, version)
WHERE a.no = u.no`

	insertSQL = `
INSERT INTO {postings} (seq, posting, debit_no, credit_no, debit_version, credit_version, at, amount, debit_balance, credit_balance, transaction_id)
SELECT u.seq, u.posting, u.debit_no, u.credit_no, u.debit_version, u.credit_version, $1, u.amount, u.debit_balance, u.credit_balance, u.transaction_id
FROM unnest($2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::numeric[], $9::numeric[], $10::numeric[], $11::text[])
AS u(seq, posting, debit_no, credit_no, debit_version, credit_version, amount, debit_balance, credit_balance, transaction_id)`
)

// verifySQL goes through every account's entries in the order of their versions
// and compares neighbours, in one statement and so in one snapshot. It returns a
// row for each break, and at last one of counts.
const verifySQL = `
WITH entries AS (
    SELECT debit_no AS no, debit_version AS version, amount AS debit, 0::numeric AS credit, debit_balance AS balance FROM {postings}
    UNION ALL
    SELECT credit_no, credit_version, 0, amount, credit_balance FROM {postings}
), neighbours AS (
    SELECT no, version, debit, credit, balance - lag(balance, 1, 0::numeric) OVER w AS moved, version - lag(version, 1, 0::bigint) OVER w AS step
    FROM entries WINDOW w AS (PARTITION BY no ORDER BY version)
), sums AS (
    SELECT no, sum(debit) AS debits, sum(credit) AS credits, count(*) AS n,
           min(version) FILTER (WHERE step <> 1) AS gap,
           min(version) FILTER (WHERE moved <> debit - credit) AS debit_break,
           min(version) FILTER (WHERE moved <> credit - debit) AS credit_break
    FROM neighbours GROUP BY no
), checked AS (
    SELECT a.id, a.currency, a.scale, a.debits, a.credits, a.version, coalesce(s.debits, 0) AS want_debits,
           coalesce(s.credits, 0) AS want_credits, coalesce(s.n, 0) AS n, s.gap,
           CASE a.normal WHEN 1 THEN s.debit_break ELSE s.credit_break END AS broken
    FROM {accounts} a LEFT JOIN sums s ON s.no = a.no
), breaks AS (
    SELECT id, currency, scale, 'debits' AS what, debits AS have, want_debits AS want FROM checked WHERE debits <> want_debits
    UNION ALL SELECT id, currency, scale, 'credits', credits, want_credits FROM checked WHERE credits <> want_credits
    UNION ALL SELECT id, currency, 0, 'version', version, n FROM checked WHERE version <> n
    UNION ALL SELECT id, currency, 0, 'gap before entry', gap, gap - 1 FROM checked WHERE gap IS NOT NULL
    UNION ALL SELECT id, currency, 0, 'balance of entry', broken, broken FROM checked WHERE broken IS NOT NULL
    UNION ALL SELECT '', currency, max(scale), 'sum', sum(debits), sum(credits) FROM checked GROUP BY currency HAVING sum(debits) <> sum(credits)
)
(SELECT id, currency, scale::int, what, have::text, want::text, 0::bigint, 0::bigint, 0::bigint FROM breaks ORDER BY id, what LIMIT $1)
UNION ALL
SELECT '', '', 0, '', '0', '0', (SELECT count(*) FROM checked), (SELECT count(*) FROM {transactions}), (SELECT coalesce(sum(n), 0)::bigint FROM checked)`
