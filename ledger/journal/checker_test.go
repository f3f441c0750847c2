package journal_test

import (
	"encoding/csv"
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
)

// line is one side of a posting, read back from what was written.
type line struct{ transaction, account, amount, currency string }

// dialect is how a journal reads.
type dialect struct {
	title, posting, skip *regexp.Regexp
	transaction          func(string) string
	account              func(string) string
	currency             func(string) string
}

var hledger = dialect{
	title:       regexp.MustCompile(`^\d{4}-\d\d-\d\d \* \(([^()]+)\)  ; time:\S+Z$`),
	posting:     regexp.MustCompile(`^  ([^\s;()"*!][^\s;()"]*)  (-?[0-9]+(?:\.[0-9]+)?) ([A-Z]+|"[A-Z0-9]+")$`),
	skip:        regexp.MustCompile(`^(decimal-mark \.|commodity 1000\.0* \S+|account \S+|)$`),
	transaction: func(s string) string { return unescape(s, '%') },
	account: func(s string) string {
		_, rest, _ := strings.Cut(s, ":")
		return unescape(rest, '%')
	},
	currency: func(s string) string { return strings.Trim(s, `"`) },
}

// The patterns of posting and open are Beancount's own for accounts and currencies.
var beancount = dialect{
	title:   regexp.MustCompile(`^\d{4}-\d\d-\d\d \* "((?:[^"\\]|\\["\\])*)"$`),
	posting: regexp.MustCompile(`^  ((?:[A-Z][A-Za-z0-9-]*)(?::[A-Z0-9][A-Za-z0-9-]*)+)  (-?[0-9]+(?:\.[0-9]+)?) ([A-Z][A-Z0-9'._-]{0,22}[A-Z0-9])$`),
	skip:    regexp.MustCompile(`^(\d{4}-\d\d-\d\d open \S+|  time: "[^"]+"|  id: "(?:[^"\\]|\\["\\])*"|)$`),
	transaction: func(s string) string {
		return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(s)
	},
	account: func(s string) string {
		_, rest, _ := strings.Cut(s, ":")
		parts := strings.Split(rest, ":")
		for i, p := range parts {
			if own, ok := strings.CutPrefix(p, "0--"); ok {
				parts[i] = unescape(own, '-')
			} else {
				parts[i] = unescape(strings.ToLower(p[:1])+p[1:], '-')
			}
		}
		return strings.Join(parts, ":")
	},
	currency: func(s string) string { return strings.TrimPrefix(s, "X.") },
}

func unescape(s string, mark byte) string {
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != mark {
			b = append(b, s[i])
			continue
		}
		x, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			panic(err)
		}
		b = append(b, x...)
		i += 2
	}
	return string(b)
}

// read reads a journal back and checks that each transaction sums to 0.
func (d dialect) read(tb testing.TB, text string) (lines []line) {
	tb.Helper()
	id, sums := "", map[string]decimal.Decimal{}
	balanced := func() {
		for currency, sum := range sums {
			require.True(tb, sum.IsZero(), "transaction %q leaves %s %s", id, sum, currency)
		}
		clear(sums)
	}
	for s := range strings.SplitSeq(text, "\n") {
		if m := d.title.FindStringSubmatch(s); m != nil {
			balanced()
			id = d.transaction(m[1])
		} else if m := d.posting.FindStringSubmatch(s); m != nil {
			l := line{transaction: id, account: d.account(m[1]), amount: m[2], currency: d.currency(m[3])}
			lines = append(lines, l)
			sums[l.currency] = sums[l.currency].Add(decimal.RequireFromString(l.amount))
		} else {
			require.Regexp(tb, d.skip, s)
		}
	}
	balanced()
	return lines
}

// readCSV reads a CSV back, as two lines a posting.
func readCSV(tb testing.TB, text string) (lines []line) {
	tb.Helper()
	require.Equal(tb, strings.Count(text, "\n"), strings.Count(text, "\r\n"))
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	require.NoError(tb, err)
	require.Equal(tb, "time,transaction,posting,debit,credit,amount,currency", strings.Join(rows[0], ","))
	for _, r := range rows[1:] {
		for i := range r {
			require.NotContains(tb, "=+-@", r[i][:1], "a formula")
			r[i] = strings.TrimPrefix(r[i], "'")
		}
		lines = append(lines, line{r[1], r[3], r[5], r[6]}, line{r[1], r[4], "-" + r[5], r[6]})
	}
	return lines
}
