package journal_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/journal"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, have []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, have, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(have))
}

// formats are the writers by the name of their golden file, and how to read what they wrote.
var formats = map[string]struct {
	write func(io.Writer, iter.Seq2[journal.Transaction, error]) error
	read  func(testing.TB, string) []line
}{
	"odd.csv": {func(w io.Writer, txs iter.Seq2[journal.Transaction, error]) error {
		return journal.WriteCSV(w, txs, nil)
	}, readCSV},
	"odd.journal": {func(w io.Writer, txs iter.Seq2[journal.Transaction, error]) error {
		return journal.WriteHledger(w, txs, nil)
	}, hledger.read},
	"odd.beancount": {func(w io.Writer, txs iter.Seq2[journal.Transaction, error]) error {
		return journal.WriteBeancount(w, txs, nil)
	}, beancount.read},
}

// expect are the lines that the named accounts' postings make, read from their entries.
func expect(t *testing.T, l *ledger.Ledger, ids ...ledger.AccountID) (lines []line) {
	t.Helper()
	for tx, err := range journal.Read(t.Context(), l, ids...) {
		require.NoError(t, err)
		for _, p := range tx.Postings {
			amount := p.Amount.StringFixed(-p.Amount.Exponent())
			lines = append(lines,
				line{string(tx.ID), string(p.Debit.ID), amount, p.Currency}, line{string(tx.ID), string(p.Credit.ID), "-" + amount, p.Currency})
		}
	}
	return lines
}

func TestFormats(t *testing.T) {
	t.Parallel()
	l, ids := oddLedger(t)
	want := expect(t, l, ids...)
	require.Len(t, want, 2*(len(odd)+6))
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			require.NoError(t, f.write(&b, journal.Read(t.Context(), l, ids...)))
			golden(t, name, b.Bytes())
			require.Equal(t, want, f.read(t, b.String()))
		})
	}
}

func TestRandomLedgerAddsUpInEveryFormat(t *testing.T) {
	t.Parallel()
	l, ids := randomLedger(t, 12)
	want := expect(t, l, ids...)
	sums := map[ledger.AccountID]decimal.Decimal{}
	for _, line := range want {
		id := ledger.AccountID(line.account)
		sums[id] = sums[id].Add(decimal.RequireFromString(line.amount))
	}
	balances, err := l.Balances(t.Context(), ids...)
	require.NoError(t, err)
	for _, b := range balances {
		require.True(t, b.Debits.Sub(b.Credits).Equal(sums[b.Account]), "%s", b.Account)
	}
	for name, f := range formats {
		var b bytes.Buffer
		require.NoError(t, f.write(&b, journal.Read(t.Context(), l, ids...)))
		require.Equal(t, want, f.read(t, b.String()), name)
	}
}

func TestReadOrdersAndWritesOnce(t *testing.T) {
	t.Parallel()
	l, ids := randomLedger(t, 5)
	for n := 1; n <= len(ids); n++ {
		named := map[ledger.AccountID]bool{}
		want := map[string]int{} // entries by transaction and posting
		for _, id := range ids[:n] {
			named[id] = true
		}
		for id := range named {
			for e, err := range l.Entries(t.Context(), id, 0) {
				require.NoError(t, err)
				want[string(e.Transaction)+"/"+string(rune('0'+e.Posting))]++
			}
		}
		var last journal.Transaction
		have := 0
		for tx, err := range journal.Read(t.Context(), l, append(ids[:n:n], ids[:n]...)...) { // each named twice
			require.NoError(t, err)
			require.True(t, last.At.Before(tx.At) || last.At.Equal(tx.At) && last.ID < tx.ID, "%v after %v", tx, last)
			last = tx
			index := -1
			for _, p := range tx.Postings {
				require.Greater(t, p.Index, index)
				index = p.Index
				require.True(t, named[p.Debit.ID] || named[p.Credit.ID])
				require.NotZero(t, want[string(tx.ID)+"/"+string(rune('0'+p.Index))])
				require.NotZero(t, p.Debit.Normal)
				require.NotZero(t, p.Credit.Normal)
				have++
			}
		}
		require.Len(t, want, have)
	}
}

// A clock that is set back: nothing may be lost or written twice.
func TestReadAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	l, err := ledger.New(ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return now }}), nil)
	require.NoError(t, err)
	for _, id := range []ledger.AccountID{"a", "b", "c"} {
		require.NoError(t, l.Open(t.Context(), ledger.Account{ID: id, Currency: "NGN", Normal: ledger.Debit}))
	}
	post(t, l, ledger.Transaction{ID: "late", Postings: []ledger.Posting{move("a", "c", "1", "NGN")}})
	now = now.Add(-time.Hour)
	post(t, l, ledger.Transaction{ID: "early", Postings: []ledger.Posting{move("a", "b", "2", "NGN"), move("b", "c", "3", "NGN"), move("c", "b", "4", "NGN")}})
	amounts := map[string]int{}
	for _, line := range expect(t, l, "a", "b", "c") {
		amounts[line.amount]++
	}
	require.Len(t, amounts, 8)
	for amount, n := range amounts {
		require.Equal(t, 1, n, amount)
	}
}

// Beancount refuses a posting to an account that is not open yet, and with it the file.
func TestBeancountHasNoPostingBeforeItsAccountIsOpen(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 2, 1, 0, 0, 10, 0, time.UTC)
	l, err := ledger.New(ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return now }}), nil)
	require.NoError(t, err)
	for _, id := range []ledger.AccountID{"a", "b", "c"} {
		require.NoError(t, l.Open(t.Context(), ledger.Account{ID: id, Currency: "NGN", Normal: ledger.Debit}))
	}
	post(t, l, ledger.Transaction{ID: "after midnight", Postings: []ledger.Posting{move("a", "b", "1", "NGN")}})
	now = now.Add(-time.Minute)
	post(t, l, ledger.Transaction{ID: "before", Postings: []ledger.Posting{move("a", "c", "2", "NGN")}})
	var b bytes.Buffer
	require.NoError(t, journal.WriteBeancount(&b, journal.Read(t.Context(), l, "a", "b", "c"), nil))
	require.Contains(t, b.String(), "\n2026-02-01 open Assets:A\n")
	require.Contains(t, b.String(), "\n2026-02-01 * \"before\"\n  time: \"2026-01-31T23:59:10Z\"\n")
	b.Reset()
	require.NoError(t, journal.WriteHledger(&b, journal.Read(t.Context(), l, "a", "b", "c"), nil))
	require.Contains(t, b.String(), "\n2026-01-31 * (before)", "hledger opens no accounts")

	post(t, l, ledger.Transaction{ID: "to b", Postings: []ledger.Posting{move("c", "b", "3", "NGN")}})
	b.Reset()
	require.NoError(t, journal.WriteBeancount(&b, journal.Read(t.Context(), l, "b"), nil))
	require.Contains(t, b.String(), "\n2026-02-01 * \"to b\"\n")
}

// one yields a transaction that was never in a ledger.
func one(tx journal.Transaction) iter.Seq2[journal.Transaction, error] {
	return func(yield func(journal.Transaction, error) bool) { yield(tx, nil) }
}

// An id may be what a customer chose, to be run by who opens the file.
func TestCSVHasNoFormulas(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"=1", "+1", "-1", "@x", "＝1", "＋1", "－1", "＠x", " =1", "\u00a0=1", "\u3000＝1", "'1", " '1"} {
		var b bytes.Buffer
		require.NoError(t, journal.WriteCSV(&b, one(journal.Transaction{
			ID: ledger.TransactionID(id), At: time.Date(2026, 1, 31, 1, 0, 0, 0, time.FixedZone("", 3600)),
			Postings: []journal.Posting{{Debit: journal.Account{ID: "a"}, Credit: journal.Account{ID: ledger.AccountID(id)}, Amount: decimal.New(5, 0), Currency: "JPY"}},
		}), nil))
		rows, err := csv.NewReader(&b).ReadAll()
		require.NoError(t, err)
		require.Equal(t, []string{"2026-01-31T00:00:00Z", "'" + id, "0", "a", "'" + id, "5", "JPY"}, rows[1])
	}
}

// What is small fits into a buffer, and fails when that is written.
func TestADiskThatIsFullIsToldOf(t *testing.T) {
	t.Parallel()
	for name, f := range formats {
		require.ErrorIs(t, f.write(full{}, one(journal.Transaction{ID: "small"})), errFull, name)
	}
}

// A buffer that is full is written wherever a line stands.
func TestAReadThatFailsLeavesWholeTransactions(t *testing.T) {
	t.Parallel()
	const n = 1000
	whole := func(yield func(journal.Transaction, error) bool) {
		for i := range n {
			if !yield(journal.Transaction{ID: ledger.TransactionID(fmt.Sprintf("%08d", i)), Postings: []journal.Posting{{
				Debit: journal.Account{ID: "a"}, Credit: journal.Account{ID: "b"}, Amount: decimal.New(5, 0), Currency: "JPY",
			}}}, nil) {
				return
			}
		}
	}
	for name, f := range formats {
		var want, have bytes.Buffer
		require.NoError(t, f.write(&want, whole), name)
		require.ErrorIs(t, f.write(&have, func(yield func(journal.Transaction, error) bool) {
			whole(yield)
			yield(journal.Transaction{}, errFull)
		}), errFull, name)
		require.Equal(t, want.Len(), have.Len(), name)
	}
}

func TestReadBeginsWithTheEarliest(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	for _, id := range []ledger.AccountID{"a", "b", "c", "d", "e"} {
		require.NoError(t, l.Open(t.Context(), ledger.Account{ID: id, Currency: "NGN", Normal: ledger.Debit}))
	}
	post(t, l, ledger.Transaction{ID: "2", Postings: []ledger.Posting{move("d", "e", "1", "NGN")}})
	post(t, l, ledger.Transaction{ID: "1", Postings: []ledger.Posting{move("b", "c", "1", "NGN")}})
	post(t, l, ledger.Transaction{ID: "0", Postings: []ledger.Posting{move("a", "c", "1", "NGN")}})
	var ids []string
	for tx, err := range journal.Read(t.Context(), l, "a", "b", "d") {
		require.NoError(t, err)
		ids = append(ids, string(tx.ID))
	}
	require.Equal(t, []string{"2", "1", "0"}, ids)
}

// An account that is open and has no entry yet is in nobody's way.
func TestReadOfAnAccountWithoutEntries(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	for _, id := range []ledger.AccountID{"a", "b", "idle"} {
		require.NoError(t, l.Open(t.Context(), ledger.Account{ID: id, Currency: "NGN", Normal: ledger.Debit}))
	}
	post(t, l, ledger.Transaction{ID: "1", Postings: []ledger.Posting{move("a", "b", "1", "NGN")}})
	require.Len(t, expect(t, l, "idle", "a"), 2)
	require.Empty(t, expect(t, l, "idle"))
}

// Postings that arrive while a journal is read would tear a transaction apart.
func TestReadIsOfOneMoment(t *testing.T) {
	t.Parallel()
	l, ids := randomLedger(t, 4)
	want := expect(t, l, ids...)
	first := true
	n := 0
	for tx, err := range journal.Read(t.Context(), l, ids...) {
		require.NoError(t, err)
		if first {
			first = false
			post(t, l, ledger.Transaction{ID: "meanwhile", Postings: []ledger.Posting{move(ids[0], ids[1], "1", "NGN"), move(ids[2], ids[3], "1", "NGN")}})
		}
		n += 2 * len(tx.Postings)
		require.NotEqualValues(t, "meanwhile", tx.ID)
	}
	require.Len(t, want, n)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	l, ids := randomLedger(t, 3)
	for name, f := range formats {
		err := f.write(io.Discard, journal.Read(t.Context(), l, "account:0", "nobody"))
		unknown, ok := errors.AsType[*ledger.UnknownAccountError](err)
		require.True(t, ok, name)
		require.EqualValues(t, "nobody", unknown.ID)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, f.write(io.Discard, journal.Read(ctx, l, ids...)), context.Canceled, name)
		require.ErrorIs(t, f.write(full{}, journal.Read(t.Context(), l, ids...)), errFull, name)
		require.NoError(t, f.write(io.Discard, journal.Read(t.Context(), l)), name)
	}
	err := journal.WriteHledger(io.Discard, journal.Read(t.Context(), l, ids...), &journal.Options{Root: func(journal.Account) journal.Root { return "Money" }})
	root, ok := errors.AsType[*journal.RootError](err)
	require.True(t, ok)
	require.EqualValues(t, "Money", root.Root)
	require.ErrorContains(t, err, `Options.Root returned "Money" for account "`+string(root.Account)+`"`)
}

var errFull = errors.New("disk full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestOptions(t *testing.T) {
	t.Parallel()
	l, _ := oddLedger(t)
	o := &journal.Options{
		Root: func(a journal.Account) journal.Root {
			if strings.HasPrefix(string(a.ID), "=") {
				return journal.Income
			}
			return journal.Equity
		},
		Location: time.FixedZone("", -12*60*60),
	}
	var b bytes.Buffer
	require.NoError(t, journal.WriteBeancount(&b, journal.Read(t.Context(), l, "=cmd()"), o))
	golden(t, "options.beancount", b.Bytes())
	b.Reset()
	require.NoError(t, journal.WriteCSV(&b, journal.Read(t.Context(), l, "=cmd()"), &journal.CSVOptions{Raw: true}))
	require.Contains(t, b.String(), ",=cmd(),0,bank,=cmd(),1234.50,NGN\r\n")
}
