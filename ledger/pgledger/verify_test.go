package pgledger_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// tampered is a small ledger in which something was changed behind its back.
func tampered(t *testing.T, sql ...string) []string {
	t.Helper()
	f := open(t)
	f.want(t, ledger.Posted, move("1", "bank", "a", "10"), move("2", "bank", "b", "7"), move("3", "a", "b", "4"), move("4", "b", "a", "1"))
	f.want(t, ledger.InsufficientFunds, move("5", "a", "b", "100"))
	return changed(t, f, sql...)
}

// changed changes a ledger and says what Verify then finds.
func changed(t *testing.T, f fixture, sql ...string) []string {
	t.Helper()
	f.verify(t)
	for _, change := range sql {
		tag, err := f.pool.Exec(t.Context(), change)
		require.NoError(t, err, change)
		require.NotZero(t, tag.RowsAffected(), change)
	}
	r, err := f.Verify(t.Context())
	require.NoError(t, err)
	var breaks []string
	for _, b := range r.Breaks {
		breaks = append(breaks, b.String())
	}
	return breaks
}

const ofThird = ` WHERE transaction_id = '3'`

// tamperings are by hand, with what Verify says of them.
var tamperings = map[string]struct {
	sql  []string
	want []string
}{
	"a balance": {
		[]string{`UPDATE ledger_accounts SET credits = credits + 500 WHERE id = 'a'`},
		[]string{"NGN sum: 22, should be 27", `NGN credits of account "a": 16, should be 11`},
	},
	"a balance on both sides": {
		[]string{`UPDATE ledger_accounts SET credits = credits + 500, debits = debits + 500 WHERE id = 'a'`},
		[]string{`NGN credits of account "a": 16, should be 11`, `NGN debits of account "a": 9, should be 4`},
	},
	"an amount": {
		[]string{`UPDATE ledger_postings SET amount = 300` + ofThird},
		[]string{
			`NGN balance of entry 2 of account "a": 6, should be 7`, `NGN debits of account "a": 4, should be 3`,
			`NGN balance of entry 2 of account "b": 11, should be 10`, `NGN credits of account "b": 11, should be 10`,
		},
	},
	"a running balance": {
		[]string{`UPDATE ledger_postings SET credit_balance = 1200` + ofThird},
		[]string{`NGN balance of entry 2 of account "b": 12, should be 11`},
	},
	"a running balance on a debit account": {
		[]string{`UPDATE ledger_postings SET debit_balance = debit_balance - 1 WHERE transaction_id = '2'`},
		[]string{`NGN balance of entry 2 of account "bank": 16.99, should be 17`},
	},
	"the first running balance": {
		[]string{`UPDATE ledger_postings SET credit_balance = 900 WHERE transaction_id = '1'`},
		[]string{`NGN balance of entry 1 of account "a": 9, should be 10`},
	},
	"the first posting is deleted": {
		[]string{`DELETE FROM ledger_postings WHERE transaction_id = '1'`},
		[]string{
			"postings of transaction 1: 0, should be 1",
			`NGN balance of entry 2 of account "a": 6, should be -4`, `NGN credits of account "a": 11, should be 1`,
			`NGN entry of account "a": 2, should be 1`, `NGN version of account "a": 3, should be 2`,
			`NGN balance of entry 2 of account "bank": 17, should be 7`, `NGN debits of account "bank": 17, should be 7`,
			`NGN entry of account "bank": 2, should be 1`, `NGN version of account "bank": 2, should be 1`,
		},
	},
	"a posting is deleted": {
		[]string{`DELETE FROM ledger_postings` + ofThird},
		[]string{
			"postings of transaction 3: 0, should be 1",
			`NGN balance of entry 3 of account "a": 7, should be 11`, `NGN debits of account "a": 4, should be 0`,
			`NGN entry of account "a": 3, should be 2`, `NGN version of account "a": 3, should be 2`,
			`NGN balance of entry 3 of account "b": 10, should be 6`, `NGN credits of account "b": 11, should be 7`,
			`NGN entry of account "b": 3, should be 2`, `NGN version of account "b": 3, should be 2`,
		},
	},
	"the last posting is deleted, its accounts set back": {
		[]string{
			`DELETE FROM ledger_postings WHERE transaction_id = '4'`,
			`UPDATE ledger_accounts SET credits = credits - 100, version = version - 1 WHERE id = 'a'`,
			`UPDATE ledger_accounts SET debits = debits - 100, version = version - 1 WHERE id = 'b'`,
		},
		[]string{"postings of transaction 4: 0, should be 1"},
	},
	"a version of an account": {
		[]string{`UPDATE ledger_accounts SET version = 9 WHERE id = 'bank'`},
		[]string{`NGN version of account "bank": 9, should be 2`},
	},
	"an earlier version of an account": {
		[]string{`UPDATE ledger_accounts SET version = 1 WHERE id = 'bank'`},
		[]string{`NGN version of account "bank": 1, should be 2`},
	},
	"a transaction is deleted": {
		[]string{`DELETE FROM ledger_transactions WHERE id = '3'`},
		[]string{`NGN postings without a transaction of account "a": 1, should be 0`},
	},
	"a transaction is called refused": {
		[]string{`UPDATE ledger_transactions SET verdict = 12 WHERE id = '3'`},
		[]string{`NGN postings without a transaction of account "a": 1, should be 0`},
	},
	"a refusal is called posted": {
		[]string{`UPDATE ledger_transactions SET verdict = 0 WHERE id = '5'`},
		[]string{"postings of transaction 5: 0, should be 1"},
	},
	"an account is deleted": {
		[]string{`DELETE FROM ledger_accounts WHERE id = 'b'`},
		[]string{"entries without an account, number 2: 3, should be 0", "NGN sum: 21, should be 11"},
	},
	"a currency": {
		[]string{`UPDATE ledger_accounts SET currency = 'USD' WHERE id = 'a'`},
		[]string{
			"NGN sum: 18, should be 11", "USD sum: 4, should be 11",
			`USD postings with an account in NGN of account "a": 1, should be 0`,
			`NGN postings with an account in USD of account "b": 1, should be 0`,
			`NGN postings with an account in USD of account "bank": 1, should be 0`,
		},
	},
	"decimal places": {
		[]string{`UPDATE ledger_accounts SET scale = 0 WHERE id = 'b'`},
		[]string{
			"NGN sum: 121, should be 1111",
			`NGN postings with an account of other decimal places of account "a": 1, should be 0`,
			`NGN postings with an account of other decimal places of account "b": 1, should be 0`,
			`NGN postings with an account of other decimal places of account "bank": 1, should be 0`,
		},
	},
	"a posting is given to another transaction": {
		[]string{`UPDATE ledger_postings SET transaction_id = '1'` + ofThird},
		[]string{`NGN postings without a transaction of account "a": 1, should be 0`},
	},
	"the sides are swapped": {
		[]string{`UPDATE ledger_postings SET debit_no = credit_no, credit_no = debit_no, debit_version = credit_version, credit_version = debit_version WHERE transaction_id = '1'`},
		[]string{
			`NGN balance of entry 1 of account "a": 10, should be -10`, `NGN credits of account "a": 11, should be 1`,
			`NGN debits of account "a": 4, should be 14`,
			`NGN balance of entry 1 of account "bank": 10, should be -10`, `NGN credits of account "bank": 0, should be 10`,
			`NGN debits of account "bank": 17, should be 7`,
		},
	},
}

func TestVerifyFindsTampering(t *testing.T) {
	t.Parallel()
	for name, c := range tamperings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, tampered(t, c.sql...))
		})
	}
}

// What is held, and what was closed, is no part of entries.
func TestVerifyFindsTamperingWithHoldsAndWhatClosesThem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sql  string
		want []string
	}{
		"what an account holds":    {`UPDATE ledger_accounts SET held_debits = held_debits - 100 WHERE id = 'a'`, []string{`NGN held debits of account "a": 1, should be 2`}},
		"what it is to get":        {`UPDATE ledger_accounts SET held_credits = 0 WHERE id = 'b'`, []string{`NGN held credits of account "b": 0, should be 2`}},
		"more than is held":        {`UPDATE ledger_accounts SET held_debits = held_debits + 100 WHERE id = 'a'`, []string{`NGN held debits of account "a": 3, should be 2`}},
		"more than is to come":     {`UPDATE ledger_accounts SET held_credits = held_credits + 100 WHERE id = 'b'`, []string{`NGN held credits of account "b": 3, should be 2`}},
		"where nothing is held":    {`UPDATE ledger_accounts SET held_debits = 100, held_credits = 200 WHERE id = 'bank'`, []string{`NGN held credits of account "bank": 2, should be 0`, `NGN held debits of account "bank": 1, should be 0`}},
		"a hold is called refused": {`UPDATE ledger_transactions SET verdict = 12 WHERE id = 'open'`, []string{`NGN held debits of account "a": 2, should be 0`, `NGN held credits of account "b": 2, should be 0`}},
		"what is no hold holds":    {`INSERT INTO ledger_holds SELECT 'undone', 1, debit_no, credit_no, 300 FROM ledger_holds WHERE transaction_id = 'open'`, []string{"amounts held by undone, which is no hold: 1, should be 0"}},
		"the amount of a hold":     {`UPDATE ledger_holds SET amount = 300 WHERE transaction_id = 'open'`, []string{`NGN held debits of account "a": 2, should be 3`, `NGN held credits of account "b": 2, should be 3`}},
		"a hold is open again":     {`UPDATE ledger_transactions SET closed_by = NULL WHERE id = 'captured'`, []string{"transactions closed by capture: 0, should be 1", `NGN held debits of account "a": 2, should be 7`, `NGN held credits of account "b": 2, should be 7`}},
		"a posting is not undone":  {`UPDATE ledger_transactions SET closed_by = NULL WHERE id = 'undone'`, []string{"transactions closed by undo: 0, should be 1"}},
		"a posting is undone":      {`UPDATE ledger_transactions SET closed_by = 'nobody' WHERE id = 'fund'`, []string{"transactions that close fund: 0, should be 1"}},
		"by a refusal":             {`UPDATE ledger_transactions SET closed_by = 'refused' WHERE id = 'fund'`, []string{"transactions that close fund: 0, should be 1"}},
		"closed by another":        {`UPDATE ledger_transactions SET closed_by = 'capture' WHERE id = 'undone'`, []string{"transactions closed by undo: 0, should be 1", "transactions that close undone: 0, should be 1"}},
		"undone by another":        {`UPDATE ledger_transactions SET target = 'fund' WHERE id = 'undo'`, []string{"transactions closed by undo: 0, should be 1", "transactions that close undone: 0, should be 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t)
			held := func(id string, amount string) ledger.Transaction {
				tx := move(id, "a", "b", amount)
				tx.Kind = ledger.KindHold
				return tx
			}
			f.want(t, ledger.Posted, move("fund", "bank", "a", "20"), held("captured", "5"), held("open", "2"), move("undone", "bank", "a", "3"),
				ledger.Transaction{ID: "capture", Kind: ledger.KindCapture, Of: "captured", Postings: move("", "a", "b", "4").Postings},
				ledger.Transaction{ID: "undo", Kind: ledger.KindReverse, Of: "undone"})
			f.want(t, ledger.TargetClosed, ledger.Transaction{ID: "refused", Kind: ledger.KindReverse, Of: "undone"})
			require.Equal(t, c.want, changed(t, f, c.sql))
		})
	}
}

// What a hold reserves is gone together with what its accounts say of it: all sums agree, and to capture it would pay nothing.
func TestVerifyFindsAHoldThatHoldsNothing(t *testing.T) {
	t.Parallel()
	f := open(t)
	hold := func(id string) ledger.Transaction {
		tx := move(id, "a", "b", "5")
		tx.Kind = ledger.KindHold
		return tx
	}
	f.want(t, ledger.Posted, move("fund", "bank", "a", "20"), hold("open"), hold("given up"), ledger.Transaction{ID: "release", Kind: ledger.KindRelease, Of: "given up"})
	refused := hold("refused")
	refused.Postings[0].Amount = decimal.New(100, 0)
	f.want(t, ledger.InsufficientFunds, refused)
	require.Equal(t, []string{"amounts held by given up: 0, should be 1", "amounts held by open: 0, should be 1"}, changed(t, f,
		"DELETE FROM ledger_holds", "UPDATE ledger_accounts SET held_debits = 0, held_credits = 0"))
}

// Of an account that is gone there are entries only, with breaks of their own.
func TestVerifyOfAnAccountThatIsGone(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.want(t, ledger.Posted, move("1", "bank", "a", "10"), move("2", "bank", "b", "7"), move("3", "a", "b", "4"), move("4", "b", "a", "1"))
	breaks := changed(t, f, "DELETE FROM ledger_accounts WHERE id = 'b'", "DELETE FROM ledger_postings"+ofThird)
	require.Contains(t, breaks, "entries without an account, number 2: 2, should be 0")
	r, err := f.Verify(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, r.Accounts)
	require.EqualValues(t, 6, r.Entries)
}

// A debit and a credit of one account cannot share a version by a constraint, since each has an index of its own.
func TestVerifyFindsAVersionThatIsThereTwice(t *testing.T) {
	t.Parallel()
	// b has entry 1 as a credit, 2 as a credit and 3 as a debit: now 1, 2, 2.
	breaks := tampered(t, `UPDATE ledger_postings SET debit_version = 2 WHERE transaction_id = '4'`)
	require.Contains(t, breaks, `NGN entry of account "b": 2, should be 3`)
}

func TestVerifyListsAHundredBreaks(t *testing.T) {
	t.Parallel()
	f := open(t)
	var accounts []ledger.Account
	for i := range ledger.MaxBreaks + 50 {
		accounts = append(accounts, ledger.Account{ID: ledger.AccountID(fmt.Sprint("x", i)), Currency: "NGN", Normal: ledger.Debit})
	}
	require.NoError(t, f.Open(t.Context(), accounts...))
	_, err := f.pool.Exec(t.Context(), `UPDATE ledger_accounts SET debits = 1, credits = 1 WHERE id LIKE 'x%'`)
	require.NoError(t, err)
	r, err := f.Verify(t.Context())
	require.NoError(t, err)
	require.Len(t, r.Breaks, ledger.MaxBreaks)
	require.False(t, r.OK())
	require.EqualValues(t, len(accounts)+3, r.Accounts)
	require.True(t, r.Breaks[0].Have.Equal(decimal.New(1, -2)), r.Breaks[0].String())
}

// BenchmarkVerify is of 1,000,000 entries of 10,000 accounts, posted 32 transactions at a time, all of them sealed.
func BenchmarkVerify(b *testing.B) {
	f := open(b)
	fill(b, f.pool, 500_000)
	const seq = " SET seq = (-seq - 1) / 32 * 8192 + (-seq - 1) % 32 + 1"
	for _, sql := range []string{
		"UPDATE ledger_transactions" + seq, "UPDATE ledger_postings" + seq,
		"SELECT setval('ledger_transaction_seq', 500000 / 32 * 8192 + 1)", "VACUUM ANALYZE",
	} {
		_, err := f.pool.Exec(b.Context(), sql)
		require.NoError(b, err)
	}
	seal, err := f.Seal(b.Context())
	require.NoError(b, err)
	require.EqualValues(b, 2, seal.Number)
	l, err := ledger.New(pgledger.NewStore(f.pool, nil), nil)
	require.NoError(b, err)
	for b.Loop() {
		r, err := l.Verify(b.Context())
		require.NoError(b, err)
		require.True(b, r.OK())
		require.EqualValues(b, 1_000_000, r.Entries)
	}
}

// fill makes n transactions of one posting between 5,000 pairs of accounts by SQL, as Post would have made them.
func fill(tb testing.TB, pool *pgxpool.Pool, n int) {
	tb.Helper()
	for _, sql := range []string{
		`INSERT INTO ledger_accounts (id, currency, scale, normal)
		 SELECT 'p' || k || s, 'NGN', 2, CASE s WHEN 'd' THEN 1 ELSE 2 END FROM generate_series(0, 4999) k, (VALUES ('d'), ('c')) v(s)`,
		fmt.Sprintf(`INSERT INTO ledger_transactions (id, seq, fingerprint, verdict, posting, at)
		 SELECT 'fill' || k, -1 - k, decode(md5(k::text), 'hex'), 0, 0, now() FROM generate_series(0, %d) k`, n-1),
		fmt.Sprintf(`INSERT INTO ledger_postings
		   (seq, posting, debit_no, credit_no, debit_version, credit_version, at, amount, debit_balance, credit_balance, transaction_id)
		 SELECT -1 - k, 0, d.no, c.no, k / 5000 + 1, k / 5000 + 1, now(), 100, 100 * (k / 5000 + 1), 100 * (k / 5000 + 1), 'fill' || k
		 FROM generate_series(0, %d) k JOIN ledger_accounts d ON d.id = 'p' || k %% 5000 || 'd' JOIN ledger_accounts c ON c.id = 'p' || k %% 5000 || 'c'`, n-1),
		`UPDATE ledger_accounts a SET debits = 100 * p.n, version = p.n FROM (SELECT debit_no AS no, count(*) AS n FROM ledger_postings GROUP BY 1) p WHERE p.no = a.no AND a.id LIKE 'p%'`,
		`UPDATE ledger_accounts a SET credits = 100 * p.n, version = p.n FROM (SELECT credit_no AS no, count(*) AS n FROM ledger_postings GROUP BY 1) p WHERE p.no = a.no AND a.id LIKE 'p%'`,
	} {
		_, err := pool.Exec(tb.Context(), sql)
		require.NoError(tb, err, sql)
	}
}

// An amount that somebody has put beside a transaction is no part of it, so that a reversal does not move it.
func TestAReversalMovesNothingThatWasPutBesideItsTarget(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.want(t, ledger.Posted, move("fund", "bank", "a", "20"), move("undone", "bank", "a", "3"))
	exec(t, f.pool, "INSERT INTO ledger_holds SELECT 'undone', 1, debit_no, credit_no, 500 FROM ledger_postings WHERE transaction_id = 'undone'")
	f.want(t, ledger.Posted, ledger.Transaction{ID: "undo", Kind: ledger.KindReverse, Of: "undone"})
	f.balance(t, "a", "20", 3)
	r, err := f.Verify(t.Context())
	require.NoError(t, err)
	require.Len(t, r.Breaks, 1)
}
