package pgledger_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/internal/testdb"
	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/pgledger"
)

// postSome posts a little of everything and returns how many were recorded.
func postSome(t *testing.T, f fixture, prefix string) int64 {
	t.Helper()
	results, err := f.Post(t.Context(), []ledger.Transaction{
		move(prefix+"in", "bank", "a", "5"),
		{ID: ledger.TransactionID(prefix + "hold"), Kind: ledger.KindHold, Expires: time.Hour, Postings: move("", "a", "b", "2").Postings},
		{ID: ledger.TransactionID(prefix + "capture"), Kind: ledger.KindCapture, Of: ledger.TransactionID(prefix + "hold")},
		move(prefix+"refused", "a", "nobody", "1"),
	})
	require.NoError(t, err)
	return int64(len(results))
}

func TestSeals(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	f := openOn(t, pool)
	none, err := f.Seal(t.Context())
	require.NoError(t, err)
	require.Zero(t, none.Number)

	n := postSome(t, f, "first ")
	first, err := f.Seal(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, first.Number)
	require.Equal(t, n, first.Transactions)
	again, err := f.Seal(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, again, "there was nothing to seal")

	postSome(t, f, "second ")
	second, err := f.Seal(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, second.Number)
	require.NotEqual(t, first.Hash, second.Hash)
	postSome(t, f, "not sealed yet ")
	require.Equal(t, second, f.verify(t).Seal)

	// To close what is sealed changes nothing of it.
	r, err := f.PostOne(t.Context(), ledger.Transaction{ID: "undo", Kind: ledger.KindReverse, Of: "first in"})
	require.NoError(t, err, "%+v", r)
	f.verify(t)
}

func TestSealsNameTheFirstThatWasTamperedWith(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	f := openOn(t, pool)
	for i := range 3 {
		postSome(t, f, fmt.Sprint(i, " "))
		_, err := f.Seal(t.Context())
		require.NoError(t, err)
	}
	for _, tamper := range []struct {
		sql  string
		seal int64
	}{
		{"UPDATE ledger_postings SET amount = amount + 1 WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_postings SET debit_no = -1 WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_transactions SET id = '2 altered' WHERE id = '2 in'", 3},
		{"UPDATE ledger_transactions SET verdict = 19 WHERE id = '0 in'", 1},
		{"UPDATE ledger_transactions SET at = at + interval '1 microsecond' WHERE id = '0 refused'", 1},
		{"UPDATE ledger_transactions SET expires_at = expires_at + interval '1 day' WHERE id = '1 hold'", 2},
		{"UPDATE ledger_transactions SET fingerprint = substr(sha256('x'), 1, 16) WHERE id = '1 in'", 2},
		{"UPDATE ledger_holds SET amount = amount - 1 WHERE transaction_id = '2 hold'", 3},
		{"UPDATE ledger_transactions SET seq = seq + 100 WHERE id = '2 refused'", 3},
		{"UPDATE ledger_transactions SET posting = posting + 1 WHERE id = '0 refused'", 1},
		{"UPDATE ledger_transactions SET kind = 3 WHERE id = '1 capture'", 2},
		{"UPDATE ledger_transactions SET target = '0 hold' WHERE id = '1 capture'", 2},
		{"UPDATE ledger_postings SET credit_no = -1 WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_postings SET debit_version = -1 WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_postings SET credit_version = -1 WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_postings SET at = at + interval '1 microsecond' WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_postings SET debit_balance = debit_balance + 1 WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_postings SET credit_balance = credit_balance + 1 WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_postings SET transaction_id = '0 in' WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_holds SET posting = 1 WHERE transaction_id = '2 hold'", 3},
		{"UPDATE ledger_holds SET debit_no = -1 WHERE transaction_id = '2 hold'", 3},
		{"UPDATE ledger_holds SET credit_no = -1 WHERE transaction_id = '2 hold'", 3},
		{"DELETE FROM ledger_transactions WHERE id = '1 refused'", 2},
		{"DELETE FROM ledger_postings WHERE transaction_id = '0 capture'", 1},
		{"INSERT INTO ledger_transactions SELECT 'slipped in', seq, fingerprint, verdict, posting, at FROM ledger_transactions WHERE id = '1 in'", 2},
		{"INSERT INTO ledger_transactions SELECT 'put before the first', 0, fingerprint, 19, posting, at FROM ledger_transactions WHERE id = '1 in'", 1},
		{"INSERT INTO ledger_postings SELECT seq, -1, debit_no, credit_no, -1, -1, at, amount, debit_balance, credit_balance, transaction_id FROM ledger_postings WHERE transaction_id = '1 in'", 2},
		{"UPDATE ledger_seals SET hash = sha256('x') WHERE number = 2", 2},
		{"DELETE FROM ledger_seals WHERE number = 1", 2},
	} {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		exec(t, tx, tamper.sql)
		l, err := ledger.New(pgledger.NewStore(tx, nil), nil)
		require.NoError(t, err)
		report, err := l.Verify(t.Context())
		require.NoError(t, err)
		require.NotNil(t, report.Broken, tamper.sql)
		require.Equal(t, tamper.seal, report.Broken.Number, tamper.sql)
		require.False(t, report.OK())
		require.NoError(t, tx.Rollback(t.Context()))
	}
	f.verify(t)
}

// Ids are whatever a client chose, digits and spaces too. Each pair of logs has one text but for the lengths in it: who has sealed the first could
// show the second, with a payment that was never made.
func TestTwoLogsHaveNoSealInCommon(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	f := openOn(t, pool)
	zeros := strings.Repeat("0", 32)
	decided := func(id string, seq int64, kind int, target string) string {
		return fmt.Sprintf(`INSERT INTO ledger_transactions (id, seq, fingerprint, verdict, posting, at, kind, target)
			VALUES ('%s', %d, decode('%s', 'hex'), 0, 0, to_timestamp(0), %d, nullif('%s', ''))`, id, seq, zeros, kind, target)
	}
	posted := func(id string, seq int64, posting int) string {
		return fmt.Sprintf(`INSERT INTO ledger_postings (seq, posting, debit_no, credit_no, debit_version, credit_version, at, amount, debit_balance,
			credit_balance, transaction_id) VALUES (%d, %d, 1, 2, %d, %[3]d, to_timestamp(0), 5, 5, 5, '%[4]s')`, seq, posting, seq+int64(posting), id)
	}
	for name, logs := range map[string]func(x string, seq int64) [2][]string{
		"an id": func(x string, seq int64) [2][]string {
			other := fmt.Sprintf("%d %s 0 0 0.000000 0 0 ", seq, zeros)
			return [2][]string{
				{decided(x, seq, 3, other)},
				{decided(fmt.Sprintf("%s %d %s 0 0 0.000000 3 %d", x, seq, zeros, len(other)), seq, 0, "")},
			}
		},
		"a target": func(x string, seq int64) [2][]string {
			return [2][]string{
				{decided(x, seq, 3, fmt.Sprintf("z 0 0 1 2 %d %[1]d 0.000000 5 5 5 8 t", seq))},
				{decided(x, seq, 3, "z"), posted("t 0 none", seq, 0)},
			}
		},
		"a posting's transaction": func(x string, seq int64) [2][]string {
			return [2][]string{
				{decided(x, seq, 0, ""), posted(fmt.Sprintf("t 1 1 2 %d %[1]d 0.000000 5 5 5 t", seq+1), seq, 0)},
				{decided(x, seq, 0, ""), posted("t", seq, 0), posted("t", seq, 1)},
			}
		},
	} {
		var seq int64
		require.NoError(t, pool.QueryRow(t.Context(), "SELECT nextval('ledger_transaction_seq')").Scan(&seq))
		log := logs(fmt.Sprint("x", seq), seq)
		for _, sql := range log[0] {
			exec(t, pool, sql)
		}
		seal, err := f.Seal(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, seal.Transactions, name)
		tx := begin(t, f, pgx.TxOptions{})
		for _, sql := range []string{"DELETE FROM ledger_transactions", "DELETE FROM ledger_postings"} {
			exec(t, tx, sql+fmt.Sprintf(" WHERE seq = %d", seq))
		}
		for _, sql := range log[1] {
			exec(t, tx, sql)
		}
		report, err := on(t, tx).Verify(t.Context())
		require.NoError(t, err)
		require.NotNil(t, report.Broken, name)
		require.Equal(t, seal.Number, report.Broken.Number, name)
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

// A dump that was restored has the rows that there were, elsewhere.
func TestASealDoesNotGoByWhereRowsLie(t *testing.T) {
	t.Parallel()
	f := open(t)
	several := func(id string, kind ledger.Kind) ledger.Transaction {
		tx := ledger.Transaction{ID: ledger.TransactionID(id), Kind: kind}
		for _, amount := range []string{"3", "1", "2", "4"} {
			tx.Postings = append(tx.Postings, move("", "bank", "a", amount).Postings...)
		}
		return tx
	}
	f.want(t, ledger.Posted, several("1", ledger.KindPost), several("2", ledger.KindHold), move("3", "bank", "a", "5"))
	seal, err := f.Seal(t.Context())
	require.NoError(t, err)
	for _, table := range []string{"ledger_transactions", "ledger_postings", "ledger_holds"} {
		exec(t, f.pool, "CREATE TABLE kept AS SELECT * FROM "+table)
		exec(t, f.pool, "TRUNCATE "+table)
		exec(t, f.pool, "INSERT INTO "+table+" SELECT * FROM kept ORDER BY posting DESC, kept DESC")
		exec(t, f.pool, "DROP TABLE kept")
	}
	require.Equal(t, seal, f.verify(t).Seal)
}

// A seal is over 10,000 batches at most. What was decided since the last one may be more.
func TestASealThatIsAskedForIsOverAllThatIsDecided(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.want(t, ledger.Posted, move("1", "bank", "a", "1"))
	exec(t, f.pool, "SELECT count(nextval('ledger_transaction_seq')) FROM generate_series(1, 10000)")
	f.want(t, ledger.Posted, move("2", "bank", "a", "1"))
	seal, err := f.Seal(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, seal.Number)
	require.Equal(t, 2, count(t, f.pool, "SELECT sum(transactions)::int FROM ledger_seals"))
	f.verify(t)
}

// A transaction that has drawn its number and is not committed must not be
// passed by: a seal without it could never be verified again.
func TestASealWaitsForWhoIsStillWriting(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	f := openOn(t, pool)
	for name, tx := range map[string]ledger.Transaction{
		"with accounts":    move("slow", "bank", "a", "1"),
		"without a lock":   move("slow unknown", "nobody", "nowhere", "1"),
		"and rolled back":  move("never", "bank", "b", "1"),
		"and rolled back2": move("never unknown", "nowhere", "nobody", "1"),
	} {
		slow, err := pool.Begin(t.Context())
		require.NoError(t, err)
		l, err := ledger.New(pgledger.NewStore(slow, nil), nil)
		require.NoError(t, err)
		_, err = l.Post(t.Context(), []ledger.Transaction{tx})
		require.NoError(t, err)
		_, err = f.Post(t.Context(), []ledger.Transaction{move("quick "+name, "c", "d", "1")}) // a higher number, committed before
		require.NoError(t, err)

		var sealing sync.WaitGroup
		var seal ledger.Seal
		var sealErr error
		sealing.Go(func() { seal, sealErr = f.Seal(t.Context()) })
		time.Sleep(50 * time.Millisecond) // it must still wait by then
		if tx.ID == "slow" || tx.ID == "slow unknown" {
			require.NoError(t, slow.Commit(t.Context()))
		} else {
			require.NoError(t, slow.Rollback(t.Context()))
		}
		sealing.Wait()
		require.NoError(t, sealErr, name)
		require.Equal(t, seal, f.verify(t).Seal, name)
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		l, err := ledger.New(pgledger.NewStore(tx, nil), nil)
		require.NoError(t, err)
		_, err = l.Seal(t.Context())
		return err
	})
	require.ErrorContains(t, err, "not within a transaction")
}

// secondLook calls then when a seal looks once more at who is still writing.
type secondLook struct {
	n    atomic.Int64
	then func()
}

func (s *secondLook) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "pg_snapshot_xmin") && s.n.Add(1) == 2 {
		s.then()
	}
	return ctx
}

func (*secondLook) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// The end of a snapshot is below a transaction that began last and is not done. Not parallel: nobody else may be done after it began.
func TestASealWaitsForWhoBeganLast(t *testing.T) {
	f := open(t)
	waits, over := make(chan struct{}), make(chan struct{})
	l := on(t, newPool(t, f.pool.Config().ConnString(), func(c *pgxpool.Config) { c.ConnConfig.Tracer = &secondLook{then: func() { close(waits) }} }))
	slow := begin(t, f, pgx.TxOptions{})
	want(t, on(t, slow), ledger.Posted, move("slow", "bank", "a", "1"))
	var seal ledger.Seal
	var err error
	go func() {
		defer close(over)
		seal, err = l.Seal(t.Context())
	}()
	select {
	case <-waits:
	case <-over:
	}
	require.NoError(t, slow.Commit(t.Context()))
	<-over
	require.NoError(t, err)
	require.EqualValues(t, 1, seal.Transactions)
	f.verify(t)
}

// Two seal and eight post at once: the chain is whole, and at the end nothing is left out of it.
func TestSealsUnderLoad(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	f := openOn(t, pool)
	var posting, sealing sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		sealing.Go(func() {
			for {
				if _, err := f.Seal(t.Context()); err != nil {
					t.Errorf("seal: %v", err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for c := range 8 {
		posting.Go(func() {
			for i := range 25 {
				for _, tx := range []ledger.Transaction{
					move(fmt.Sprint(c, "-", i), "bank", "a", "1"),
					move(fmt.Sprint(c, "x", i), "nobody", "nowhere", "1"), // locks no row before it draws its number
				} {
					if _, err := f.Post(t.Context(), []ledger.Transaction{tx}); err != nil {
						t.Errorf("post: %v", err)
					}
				}
			}
		})
	}
	posting.Wait()
	close(stop)
	sealing.Wait()
	_, err := f.Seal(t.Context())
	require.NoError(t, err)
	f.verify(t)
	require.Equal(t, 400, count(t, pool, "SELECT sum(transactions)::int FROM ledger_seals"))
}

// paused is a transaction that stops before the second batch that is sent in its
// savepoint: the number is drawn, and nothing is written.
type paused struct {
	pgx.Tx
	batches *int
	pause   func()
}

func (p paused) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := p.Tx.Begin(ctx)
	return paused{Tx: tx, batches: p.batches, pause: p.pause}, err
}

func (p paused) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if *p.batches++; *p.batches == 2 {
		p.pause()
	}
	return p.Tx.SendBatch(ctx, b)
}

// One that locks no row has no transaction id of its own accord when it draws
// its number.
func TestASealWaitsForWhoHasANumberAndHasWrittenNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	f := openOn(t, pool)
	_, err := f.Post(t.Context(), []ledger.Transaction{move("first", "bank", "a", "1")}) // a sequence logs, and needs an id, each 32 numbers
	require.NoError(t, err)
	slow, err := pool.Begin(t.Context())
	require.NoError(t, err)
	sealed := make(chan error, 1)
	n := 0
	store := pgledger.NewStore(paused{Tx: slow, batches: &n, pause: func() {
		_, err := f.Post(t.Context(), []ledger.Transaction{move("quick", "bank", "a", "1")})
		require.NoError(t, err)
		go func() {
			_, err := f.Seal(t.Context())
			sealed <- err
		}()
		select {
		case err := <-sealed:
			t.Errorf("sealed while a lower number was under way: %v", err)
			sealed <- err
		case <-time.After(100 * time.Millisecond):
		}
	}}, nil)
	l, err := ledger.New(store, nil)
	require.NoError(t, err)
	_, err = l.Post(t.Context(), []ledger.Transaction{move("slow", "nobody", "nowhere", "1")})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.NoError(t, slow.Commit(t.Context()))
	require.NoError(t, <-sealed)
	f.verify(t)
	require.Equal(t, 3, count(t, pool, "SELECT sum(transactions)::int FROM ledger_seals"))
}

// Each repeat of what was decided draws a number and writes nothing, so 10,000 of them in a row leave a stretch of numbers that are in no
// seal. A sealer that begins anew behind the last seal would find that stretch empty again and again.
func TestASealPassesByNumbersThatNobodyUsed(t *testing.T) {
	t.Parallel()
	pool := testdb.Postgres(t)
	f := openOn(t, pool)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for n, drawn := range []int{25_000, 10_000, 0} {
		f.want(t, ledger.Posted, move(fmt.Sprint(n), "bank", "a", "1"))
		exec(t, pool, "SELECT count(nextval('ledger_transaction_seq')) FROM generate_series(1, $1)", drawn)
		before, err := f.Seal(ctx)
		require.NoError(t, err)
		require.EqualValues(t, n+1, before.Number)
		exec(t, pool, "SELECT count(nextval('ledger_transaction_seq')) FROM generate_series(1, $1)", drawn)
		again, err := f.Seal(ctx)
		require.NoError(t, err)
		require.Equal(t, before, again, "there was nothing to seal")
		require.Equal(t, before, f.verify(t).Seal)
	}
	require.Equal(t, 3, count(t, pool, "SELECT sum(transactions)::int FROM ledger_seals"))
}
