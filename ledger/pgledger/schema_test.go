package pgledger_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// A change comes as the next file: databases out there have run this one.
func TestShippedMigrationsDoNotChange(t *testing.T) {
	t.Parallel()
	shipped := map[string]string{
		"0001_init.sql":    "82b4699ed28123756c5c4c036fa46fd2f825a06e50725c90f2bf3ff2d4a1eedf",
		"0002_domains.sql": "a7d91c2a1e189681ecffcf1616d9e32a4253ede9269d896e451784cd275dc596",
	}
	files := pgledger.Migrations()
	names, err := fs.Glob(files, "*")
	require.NoError(t, err)
	require.Len(t, names, len(shipped))
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		require.NoError(t, err)
		sum := sha256.Sum256(text)
		require.Equal(t, shipped[name], hex.EncodeToString(sum[:]), name)
	}
}

// The files alone make a ledger, for those who have a migration tool; and one
// that is in use goes on with the next file.
func TestAStoreWithoutADatabaseSaysSo(t *testing.T) {
	t.Parallel()
	var pool *pgxpool.Pool // as it is left by who does not look at the error of pgxpool.New
	for _, store := range []*pgledger.Store{pgledger.NewStore(nil, nil), pgledger.NewStore(pool, nil), pgledger.NewStore(nil, nil).In(pool)} {
		l, err := ledger.New(store, nil)
		require.NoError(t, err)
		_, err = l.Balances(t.Context(), "ada")
		require.ErrorContains(t, err, "pgledger: database is nil")
		require.ErrorContains(t, l.Open(t.Context(), ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit}), "database is nil")
		_, err = l.PostOne(t.Context(), ledger.Transaction{ID: "tx", Postings: []ledger.Posting{
			{Debit: "ada", Credit: "obi", Amount: decimal.NewFromInt(1), Currency: "NGN"},
		}})
		require.ErrorContains(t, err, "database is nil")
		_, err = l.Verify(t.Context())
		require.ErrorContains(t, err, "database is nil")
		_, err = l.Seal(t.Context())
		require.ErrorContains(t, err, "database is nil")
		require.ErrorContains(t, store.CheckSchema(t.Context()), "database is nil")
	}
	require.ErrorContains(t, pgledger.Migrate(t.Context(), pool, nil), "database is nil")
}

func TestMigrationsByAnotherTool(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	files := pgledger.Migrations()
	names, err := fs.Glob(files, "*.sql")
	require.NoError(t, err)
	f := fixture{Ledger: on(t, pool), pool: pool}
	for i, name := range names {
		text, err := fs.ReadFile(files, name)
		require.NoError(t, err)
		exec(t, pool, string(text))
		pool.Reset()                           // statements are prepared for the tables as they were
		require.NoError(t, f.Open(t.Context(), // again, but for the first file
			ledger.Account{ID: "x", Currency: "NGN", Normal: ledger.Debit}, ledger.Account{ID: "y", Currency: "NGN", Normal: ledger.Debit, Floor: new(decimal.NewFromInt(-9))}))
		hold := move(fmt.Sprint("hold", i), "x", "y", "0.5")
		hold.Kind, hold.Expires = ledger.KindHold, time.Hour
		f.want(t, ledger.Posted, move(fmt.Sprint("post", i), "x", "y", "1"), hold)
		f.want(t, ledger.InsufficientFunds, move(fmt.Sprint("refused", i), "x", "y", "10"))
	}
	require.Len(t, names, 2)
	f.balance(t, "x", "2", 2)
	require.EqualValues(t, 4, f.verify(t).Entries)
}

func TestSchemaOfAnyName(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	for _, name := range []string{`Odd "name"; -- 'é {seq}`, "select"} {
		schema := name + strings.ToLower(rand.Text()[:8])
		t.Cleanup(func() {
			_, err := pool.Exec(context.WithoutCancel(t.Context()), "DROP SCHEMA "+pgx.Identifier{schema}.Sanitize()+" CASCADE")
			require.NoError(t, err)
		})
		store := pgledger.NewStore(pool, &pgledger.Options{Schema: schema})
		require.ErrorAs(t, store.CheckSchema(t.Context()), new(*pgledger.SchemaError))
		for range 2 {
			require.NoError(t, pgledger.Migrate(t.Context(), pool, &pgledger.MigrateOptions{Schema: schema}))
		}
		require.NoError(t, store.CheckSchema(t.Context()))
		l, err := ledger.New(store, nil)
		require.NoError(t, err)
		f := fixture{Ledger: l, pool: pool}
		require.NoError(t, f.Open(t.Context(),
			ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit}, ledger.Account{ID: "a", Currency: "NGN", Normal: ledger.Credit}))
		for range 2 {
			f.want(t, ledger.Posted, move("1", "bank", "a", "1"))
		}
		f.balance(t, "a", "1", 1)
		for e, err := range f.Entries(t.Context(), "a", 0) {
			require.NoError(t, err)
			require.Equal(t, ledger.AccountID("bank"), e.Contra)
		}
		require.EqualValues(t, 2, f.verify(t).Entries)
	}
	require.Zero(t, count(t, pool, "SELECT count(*) FROM pg_class WHERE relname LIKE 'ledger%' AND relnamespace = current_schema()::regnamespace"))
}

// What a connection knows of one schema's statements says nothing of those of another.
func TestPostThatFailsInAnotherSchemaLeavesTheCallersTransactionUsable(t *testing.T) {
	t.Parallel()
	f := open(t)
	schema := "other" + strings.ToLower(rand.Text()[:8])
	t.Cleanup(func() {
		_, err := f.pool.Exec(context.WithoutCancel(t.Context()), "DROP SCHEMA "+schema+" CASCADE")
		require.NoError(t, err)
	})
	require.NoError(t, pgledger.Migrate(t.Context(), f.pool, &pgledger.MigrateOptions{Schema: schema}))
	locker := begin(t, f, pgx.TxOptions{})
	exec(t, locker, "LOCK TABLE "+schema+".ledger_accounts")
	tx := begin(t, f, pgx.TxOptions{})
	want(t, on(t, tx), ledger.Posted, move("1", "bank", "a", "1"))
	exec(t, tx, "SET LOCAL lock_timeout = '50ms'")
	l, err := ledger.New(pgledger.NewStore(tx, &pgledger.Options{Schema: schema}), nil)
	require.NoError(t, err)
	_, err = l.Post(t.Context(), []ledger.Transaction{move("1", "bank", "a", "1")})
	require.ErrorContains(t, err, "lock timeout")
	require.NoError(t, tx.Commit(t.Context()))
	f.balance(t, "a", "1", 1)
}

// Whoever goes past this package still cannot write down money that is none.
func TestConstraintsRefuseWhatGoRefuses(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.want(t, ledger.Posted, move("1", "bank", "a", "10"))
	const check, unique, outOfRange, notNull, cannotBe = "23514", "23505", "22003", "23502", "22P02"
	over := "1" + strings.Repeat("0", 38)
	posting := func(amount string) string {
		return fmt.Sprintf(`INSERT INTO ledger_postings
			(seq, posting, debit_no, credit_no, debit_version, credit_version, at, amount, debit_balance, credit_balance, transaction_id)
			VALUES (99, 0, 1, 2, 99, 99, now(), %s, 0, 0, 'x')`, amount)
	}
	account := func(set string) string { return "UPDATE ledger_accounts SET " + set + " WHERE id = 'a'" }
	change := func(set string) string { return "UPDATE ledger_postings SET " + set }
	for _, c := range []struct{ sql, code string }{
		{posting("'NaN'"), check},
		{posting("'Infinity'"), outOfRange},
		{posting("'-Infinity'"), outOfRange},
		{posting("0"), check},
		{posting("-1"), check},
		{posting("0.4"), check}, // rounds to 0
		{posting(over), outOfRange},
		{posting("NULL"), notNull},
		{posting("'1,0'"), cannotBe},
		{change("credit_no = debit_no"), check},
		{change("debit_balance = 'NaN'"), check},
		{change("credit_balance = 'NaN'"), check},
		{change("debit_balance = 'Infinity'"), outOfRange},
		{account("debits = debits + 1001"), check}, // 0.01 below the floor
		{account("credits = credits - 1001"), check},
		{account("debits = 'NaN'"), check},
		{account("credits = 'NaN'"), check},
		{account("credits = 'Infinity'"), outOfRange},
		{account("credits = -1"), check},
		{account("held_debits = 'NaN'"), check},
		{account("held_debits = -1"), check},
		{account("held_credits = 'Infinity'"), outOfRange},
		{account("credits = " + over), outOfRange},
		{account("floor = 1"), check},
		{account("floor = 'NaN'"), check},
		{account("floor = '-Infinity'"), outOfRange},
		{account("version = -1"), check},
		{account("normal = 3"), check},
		{account("scale = 31"), check},
		{account("currency = 'ngn'"), check},
		{account("id = ''"), check},
		{account("id = repeat('x', 129)"), check},
		{account("id = 'b'"), unique},
		{"INSERT INTO ledger_transactions SELECT * FROM ledger_transactions", unique},
		{"UPDATE ledger_transactions SET fingerprint = ''", check},
		{"UPDATE ledger_transactions SET id = ''", check},
		{"UPDATE ledger_transactions SET id = repeat('x', 161)", check},
		{"UPDATE ledger_transactions SET kind = 5", check},
		{"UPDATE ledger_transactions SET expires_at = now()", check},
		{"UPDATE ledger_transactions SET target = 'x'", check},
		{"UPDATE ledger_transactions SET kind = 2", check},
		{"INSERT INTO ledger_holds VALUES ('x', 0, 1, 2, 'NaN')", check},
		{"INSERT INTO ledger_holds VALUES ('x', 0, 1, 2, 0)", check},
		{"INSERT INTO ledger_holds VALUES ('x', 0, 1, 1, 1)", check},
		{"INSERT INTO ledger_postings SELECT seq + 1, posting, debit_no, credit_no, debit_version, credit_version + 1, at, amount, 0, 0, 'x' FROM ledger_postings", unique},
		{"INSERT INTO ledger_postings SELECT seq + 1, posting, debit_no, credit_no, debit_version + 1, credit_version, at, amount, 0, 0, 'x' FROM ledger_postings", unique},
	} {
		_, err := f.pool.Exec(t.Context(), c.sql)
		var e *pgconn.PgError
		require.ErrorAs(t, err, &e, c.sql)
		require.Equal(t, c.code, e.Code, "%s: %v", c.sql, e)
	}
	f.balance(t, "a", "10", 1)
	f.verify(t)
}

// PostgreSQL evaluates all checks of a table for each row of an update, and plans
// them anew for each statement: a check of one column belongs to a domain.
func TestAPostPaysForNoChecksOfOtherColumns(t *testing.T) {
	t.Parallel()
	f := open(t)
	for table, checks := range map[string]int{"ledger_accounts": 1, "ledger_transactions": 1, "ledger_postings": 1, "ledger_holds": 1} {
		require.Equal(t, checks, count(t, f.pool, "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid = '"+table+"'::regclass"), table)
	}
}
