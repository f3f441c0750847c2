package statement_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
	"github.com/safetill/safetill/ledger/statement"
)

var update = flag.Bool("update", false, "write the golden files")

var start = time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC)

// newLedger returns a ledger whose clock goes on by step with each batch.
func newLedger(tb testing.TB, step time.Duration, accounts ...ledger.AccountID) *ledger.Ledger {
	tb.Helper()
	now := start
	l, err := ledger.New(ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time {
		now = now.Add(step)
		return now
	}}), nil)
	require.NoError(tb, err)
	require.NoError(tb, l.Open(tb.Context(), ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit}))
	for _, id := range accounts {
		require.NoError(tb, l.Open(tb.Context(), ledger.Account{ID: id, Currency: "NGN", Normal: ledger.Credit}))
	}
	return l
}

// pay moves amount, in kobo, from the bank to an account, or back where it is negative.
func pay(tb testing.TB, l *ledger.Ledger, id string, account ledger.AccountID, kobo int64) {
	tb.Helper()
	p := ledger.Posting{Debit: "bank", Credit: account, Amount: decimal.New(kobo, -2), Currency: "NGN"}
	if kobo < 0 {
		p.Debit, p.Credit, p.Amount = p.Credit, p.Debit, p.Amount.Neg()
	}
	_, err := l.PostOne(tb.Context(), ledger.Transaction{ID: ledger.TransactionID(id), Postings: []ledger.Posting{p}})
	require.NoError(tb, err)
}

// random pays n times, from a fixed seed.
func random(tb testing.TB, l *ledger.Ledger, account ledger.AccountID, n int) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		pay(tb, l, fmt.Sprintf("pay:%05d", i), account, r.Int64N(900_000)-400_000)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	l := newLedger(t, time.Hour, "ada")
	for i := range 10 {
		pay(t, l, fmt.Sprint(i), "ada", int64(100*(i+1)))
	}
	hour := func(n int) time.Time { return start.Add(time.Duration(n) * time.Hour) }
	for _, c := range []struct {
		o                *statement.Options
		entries          int
		opening, closing string
	}{
		{nil, 10, "0", "55"},
		{&statement.Options{From: hour(1)}, 10, "0", "55"},
		{&statement.Options{From: hour(2)}, 9, "1", "55"}, // the first moment of the period is in it
		{&statement.Options{From: hour(2).Add(1)}, 8, "3", "55"},
		{&statement.Options{To: hour(4)}, 3, "0", "6"}, // the first moment after it is not
		{&statement.Options{From: hour(2), To: hour(4)}, 2, "1", "6"},
		{&statement.Options{From: hour(99)}, 0, "55", "55"},
		{&statement.Options{To: start}, 0, "0", "0"},
	} {
		s, err := statement.Read(t.Context(), l, "ada", c.o)
		require.NoError(t, err)
		require.Len(t, s.Entries, c.entries)
		require.Equal(t, c.opening, s.Opening.String())
		require.Equal(t, c.closing, s.Closing.String())
		require.True(t, s.Opening.Add(s.Credits).Sub(s.Debits).Equal(s.Closing))
	}
}

// A clock that is set back over midnight: what is in neither day's statement, or in both, is money that nobody can account for.
func TestDaysMeetWhereTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	midnight := start.Add(time.Hour)
	for range 100 {
		now := start
		l, err := ledger.New(ledger.NewMemory(&ledger.MemoryOptions{Now: func() time.Time { return now }}), nil)
		require.NoError(t, err)
		require.NoError(t, l.Open(t.Context(),
			ledger.Account{ID: "bank", Currency: "NGN", Normal: ledger.Debit}, ledger.Account{ID: "ada", Currency: "NGN", Normal: ledger.Credit}))
		n := 0
		post := func(at time.Time) {
			now = at
			pay(t, l, fmt.Sprint(n), "ada", 100)
			n++
		}
		for range r.IntN(20) {
			post(midnight.Add(time.Duration(r.IntN(60)-30) * time.Second))
		}
		post(midnight.Add(time.Minute))
		first, err := statement.Read(t.Context(), l, "ada", &statement.Options{To: midnight})
		require.NoError(t, err)
		for range r.IntN(20) {
			post(midnight.Add(time.Hour))
		}
		second, err := statement.Read(t.Context(), l, "ada", &statement.Options{From: midnight, To: midnight.AddDate(0, 0, 1)})
		require.NoError(t, err)
		require.Equal(t, first.Closing.String(), second.Opening.String())
		require.Len(t, append(first.Entries, second.Entries...), n)
	}
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	l := newLedger(t, time.Hour)
	for _, from := range []time.Time{{}, start} {
		_, err := statement.Read(t.Context(), l, "nobody", &statement.Options{From: from})
		_, ok := errors.AsType[*ledger.UnknownAccountError](err)
		require.True(t, ok, "%v", err)
	}
	_, err := statement.Read(t.Context(), l, "bank", &statement.Options{From: start, To: start})
	bad, ok := errors.AsType[*ledger.InputError](err)
	require.True(t, ok)
	require.Equal(t, "Options.To", bad.Field)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = statement.Read(ctx, l, "bank", nil)
	require.ErrorIs(t, err, context.Canceled)
}

func render(tb testing.TB, l *ledger.Ledger, account ledger.AccountID, o *statement.Options, h *statement.HTMLOptions) string {
	tb.Helper()
	s, err := statement.Read(tb.Context(), l, account, o)
	require.NoError(tb, err)
	var b bytes.Buffer
	require.NoError(tb, statement.WriteHTML(&b, s, h))
	wellFormed(tb, b.String())
	return b.String()
}

// wellFormed checks that every element is closed, and that nothing is fetched or run.
func wellFormed(tb testing.TB, page string) {
	tb.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(tb, err)
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		require.NotContains(tb, []string{"script", "link", "img", "iframe", "object", "embed", "use", "image", "a", "form", "base"}, e.Name.Local)
		for _, a := range e.Attr {
			require.NotContains(tb, []string{"src", "href", "srcset", "action", "style"}, a.Name.Local)
			require.False(tb, strings.HasPrefix(a.Name.Local, "on"), a.Name.Local)
		}
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	small := newLedger(t, 26*time.Hour, "wallet:ada")
	random(t, small, "wallet:ada", 24)
	empty := newLedger(t, time.Hour, "new")
	for name, page := range map[string]string{
		"small.html": render(t, small, "wallet:ada", nil, nil),
		"period.html": render(t, small, "wallet:ada",
			&statement.Options{From: start.Truncate(24*time.Hour).AddDate(0, 0, 4), To: start.Truncate(24*time.Hour).AddDate(0, 0, 11)},
			&statement.HTMLOptions{Title: "Kontoauszug", Language: "de", Location: time.FixedZone("CET", 3600)}),
		"empty.html": render(t, empty, "new", nil, nil),
	} {
		path := filepath.Join("testdata", name)
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(page), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), page, name)
	}
}

// A period in which nothing happened is drawn, where it has two ends. Days are told with the last one included.
func TestPageOfAPeriodWithoutEntries(t *testing.T) {
	t.Parallel()
	l := newLedger(t, time.Hour, "ada", "new")
	pay(t, l, "1", "ada", 100)
	later := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, account := range []ledger.AccountID{"ada", "new"} {
		page := render(t, l, account, &statement.Options{From: later, To: later.AddDate(0, 1, 0)}, nil)
		require.Contains(t, page, "Entries from 1 March 2026 to the end of 31 March 2026;")
		require.Contains(t, page, "<svg")
		page = render(t, l, account, &statement.Options{From: later}, nil)
		require.Contains(t, page, "Entries from 1 March 2026;")
		require.NotContains(t, page, "<svg")
		page = render(t, l, account, &statement.Options{From: later, To: later.Add(36 * time.Hour)}, nil)
		require.Contains(t, page, "Entries from 1 March 2026 until 2 March 2026 12:00:00;")
		page = render(t, l, account, &statement.Options{From: later, To: later.AddDate(0, 0, 1).Add(1)}, nil)
		require.Contains(t, page, "Entries from 1 March 2026 until 2 March 2026 00:00:00.000000001;")
	}
	page := render(t, l, "new", &statement.Options{To: later}, nil)
	require.Contains(t, page, "Entries to the end of 28 February 2026;")
	require.NotContains(t, page, "<svg")
}

// chartLine is the path of the balance.
func chartLine(page string) string {
	return regexp.MustCompile(`<path class="line" d="([^"]+)"`).FindStringSubmatch(page)[1]
}

// An entry may be in the period beside that of its time.
func TestChartOfAPeriodOverWhichTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	day := start.AddDate(0, 0, 1)
	s := &statement.Statement{Account: "ada", Currency: "JPY", Normal: ledger.Credit, From: start, To: day, Closing: decimal.New(2, 0)}
	for i, at := range []time.Time{start.Add(-time.Hour), day.Add(time.Hour)} {
		s.Entries = append(s.Entries, ledger.Entry{Account: "ada", Version: int64(i + 1), Side: ledger.Credit, Balance: decimal.New(int64(i+1), 0), At: at})
	}
	var b bytes.Buffer
	require.NoError(t, statement.WriteHTML(&b, s, nil))
	require.Equal(t, "M0 252H0V135H900V18H900", chartLine(b.String()))
}

// All at one moment stand side by side, by their order.
func TestChartOfOneMoment(t *testing.T) {
	t.Parallel()
	l := newLedger(t, 0, "ada")
	for _, id := range []string{"1", "2", "3"} {
		pay(t, l, id, "ada", 100)
	}
	line := chartLine(render(t, l, "ada", nil, nil))
	require.Regexp(t, `^M0 252H224V[0-9.]+H450V[0-9.]+H674V[0-9.]+H900$`, line)
}

// Marks are where quarters and even years begin, wherever the period does.
func TestChartIsMarkedAtRoundTimes(t *testing.T) {
	t.Parallel()
	l := newLedger(t, time.Hour, "ada")
	from := time.Date(2021, 2, 10, 0, 0, 0, 0, time.UTC)
	for to, want := range map[time.Time][]string{
		from.AddDate(1, 6, 0): {"Apr 2021", "Jul 2021", "Oct 2021", "Jan 2022", "Apr 2022", "Jul 2022"},
		from.AddDate(8, 0, 0): {"2022", "2024", "2026", "2028"},
	} {
		var marks []string
		page := render(t, l, "ada", &statement.Options{From: from, To: to}, nil)
		for _, m := range regexp.MustCompile(`text-anchor="[a-z]+">([^<]+)<`).FindAllStringSubmatch(page, -1) {
			marks = append(marks, m[1])
		}
		require.Equal(t, want, marks)
	}
}

// No mark is at a part of what the currency has.
func TestChartHasNoMarkBelowTheMinorUnit(t *testing.T) {
	t.Parallel()
	l := newLedger(t, time.Hour, "ada")
	pay(t, l, "1", "ada", 1)
	var marks []string
	for _, m := range regexp.MustCompile(`<text class="label" x="4" [^>]*>([^<]+)<`).FindAllStringSubmatch(render(t, l, "ada", nil, nil), -1) {
		marks = append(marks, m[1])
	}
	require.Equal(t, []string{"0.00", "0.01"}, marks)
}

func TestIDsAreTextInThePage(t *testing.T) {
	t.Parallel()
	const evil = `</title><script>alert(1)</script>"'&`
	l := newLedger(t, time.Hour, evil)
	pay(t, l, evil, evil, 100)
	page := render(t, l, evil, nil, &statement.HTMLOptions{Title: evil, Language: evil})
	require.NotContains(t, page, "<script")
	require.GreaterOrEqual(t, strings.Count(page, "&lt;script&gt;"), 4)
}

// Far more entries than columns: the page's path stays small, and the one peak is in it.
func TestChartKeepsExtremes(t *testing.T) {
	t.Parallel()
	l := newLedger(t, time.Minute, "ada")
	random(t, l, "ada", 5000)
	pay(t, l, "peak", "ada", 1e12)
	pay(t, l, "trough", "ada", -2e12)
	pay(t, l, "back", "ada", 1e12)
	random2 := rand.New(rand.NewPCG(3, 4))
	for i := range 5000 {
		pay(t, l, fmt.Sprint("more", i), "ada", random2.Int64N(900_000)-400_000)
	}
	page := render(t, l, "ada", nil, nil)
	line := regexp.MustCompile(`<path class="line" d="([^"]+)"`).FindStringSubmatch(page)[1]
	require.Less(t, len(line), 20_000)
	heights := map[string]bool{}
	for _, m := range regexp.MustCompile(`V([0-9.]+)`).FindAllStringSubmatch(line, -1) {
		heights[m[1]] = true
	}
	low, high := decimal.New(1000, 0), decimal.Zero
	for h := range heights {
		low, high = decimal.Min(low, decimal.RequireFromString(h)), decimal.Max(high, decimal.RequireFromString(h))
	}
	require.True(t, low.LessThan(decimal.New(80, 0)), "the peak is at %s", low)
	require.True(t, high.GreaterThan(decimal.New(190, 0)), "the trough is at %s", high)
}

// Whatever is drawn lies within the chart and has a few round marks.
func TestChartOfAnyLedger(t *testing.T) {
	t.Parallel()
	number := regexp.MustCompile(`[MHV ]([-0-9.]+)`)
	for _, step := range []time.Duration{0, 1, time.Millisecond, time.Second, time.Hour, 24 * time.Hour, 400 * 24 * time.Hour, 40_000 * time.Hour} {
		for _, amounts := range [][]int64{{1}, {-1}, {1, -1}, {100, 200, -300}, {9e18, -9e18, -9e18}, {-5, 3, 7, 1e15}} {
			l := newLedger(t, step, "ada")
			for i, kobo := range amounts {
				pay(t, l, fmt.Sprint(i), "ada", kobo)
			}
			page := render(t, l, "ada", nil, nil)
			line := regexp.MustCompile(`<path class="line" d="([^"]+)"`).FindStringSubmatch(page)[1]
			for _, m := range number.FindAllStringSubmatch(line, -1) {
				v := decimal.RequireFromString(m[1])
				require.True(t, v.Sign() >= 0 && v.LessThanOrEqual(decimal.New(900, 0)), "%s in %s", v, line)
			}
			marks := strings.Count(page, `<text class="label" x="4"`)
			require.True(t, marks >= 2 && marks <= 7, "%d marks for %v", marks, amounts)
			times := strings.Count(page, `<text class="label"`) - marks
			require.True(t, times >= 1 && times <= 8, "%d times for %v", times, step)
		}
	}
}

// A Duration ends after 292 years; a period does not, and neither do the marks run into each other.
func TestChartOfAnyPeriod(t *testing.T) {
	t.Parallel()
	l := newLedger(t, time.Hour, "ada")
	pay(t, l, "1", "ada", 1)
	label := regexp.MustCompile(`<text class="label" x="([0-9.]+)" y="[0-9.]+" text-anchor`)
	for _, o := range []*statement.Options{
		{From: time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC), To: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)},
		{From: start, To: start.AddDate(300, 0, 0)},
		{From: start, To: start.AddDate(500, 0, 0)},
		{From: start, To: time.Unix(1<<60, 0)},
		{From: time.Unix(-1<<60, 0), To: start.AddDate(1, 0, 0)},
		{From: start, To: time.Unix(1<<63-62135596801, 999999999)}, // the last there is
		{From: start, To: start.Add(time.Hour + 1)},
	} {
		page := render(t, l, "ada", o, nil)
		marks := label.FindAllStringSubmatch(page, -1)
		require.True(t, len(marks) >= 1 && len(marks) <= 8, "%d marks from %v to %v", len(marks), o.From, o.To)
		last := decimal.New(-1, 0)
		for _, m := range marks {
			x := decimal.RequireFromString(m[1])
			require.True(t, x.GreaterThan(last) && x.LessThanOrEqual(decimal.New(900, 0)), "%s after %s", x, last)
			last = x
		}
	}
}

type full struct{}

var errFull = errors.New("disk full")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	s, err := statement.Read(t.Context(), newLedger(t, 1), "bank", nil)
	require.NoError(t, err)
	require.ErrorIs(t, statement.WriteHTML(full{}, s, nil), errFull)
}
