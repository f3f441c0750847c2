package statement

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"github.com/safetill/safetill/ledger"
)

// HTMLOptions are the optional settings of [WriteHTML].
type HTMLOptions struct {
	// Title is the page's heading. Default: "Statement of account" and its id.
	Title string

	// Language is that of Title, as a BCP 47 tag. The page's own words are English.
	// Default: en.
	Language string

	// Location is the time zone in which times are told. Default: UTC.
	Location *time.Location
}

//go:embed page.html
var pageHTML string

var page = template.Must(template.New("page").Funcs(template.FuncMap{"money": money}).Parse(pageHTML))

// view is what the page shows.
type view struct {
	*Statement
	Title, Language string
	Period          string
	Grows           string // the side that it grows by
	Rows            []row
	Chart           *chart
	zone            *time.Location
}

type row struct {
	ledger.Entry
	Stamp, Time   string
	Debit, Credit string
}

// WriteHTML writes s as one HTML page that needs nothing else, fit for a screen,
// light or dark, and for paper. An error is w's.
func WriteHTML(w io.Writer, s *Statement, o *HTMLOptions) error {
	v := view{Statement: s, Title: "Statement of account " + string(s.Account), Language: "en", zone: time.UTC, Grows: "debits"}
	if o != nil && o.Title != "" {
		v.Title = o.Title
	}
	if o != nil && o.Language != "" {
		v.Language = o.Language
	}
	if o != nil && o.Location != nil {
		v.zone = o.Location
	}
	if s.Normal == ledger.Credit {
		v.Grows = "credits"
	}
	v.Period = v.period()
	v.Chart = newChart(s, v.zone)
	v.Rows = make([]row, len(s.Entries))
	for i, e := range s.Entries {
		r := row{Entry: e, Stamp: e.At.UTC().Format(time.RFC3339Nano), Time: e.At.In(v.zone).Format(time.DateTime)}
		if e.Side == ledger.Debit {
			r.Debit = money(e.Amount)
		} else {
			r.Credit = money(e.Amount)
		}
		v.Rows[i] = r
	}
	if err := page.Execute(w, v); err != nil {
		return fmt.Errorf("statement: write: %w", err)
	}
	return nil
}

// period says what the statement is of.
func (v *view) period() string {
	if v.From.IsZero() && v.To.IsZero() {
		return "All entries"
	}
	var parts []string
	if !v.From.IsZero() {
		parts = append(parts, "from "+v.tell(v.From))
	}
	if to := v.To.In(v.zone); !v.To.IsZero() {
		if midnight(to) { // days are told with the last one included
			parts = append(parts, "to the end of "+to.Add(-1).Format(dateLayout))
		} else {
			parts = append(parts, "until "+v.tell(to))
		}
	}
	return "Entries " + strings.Join(parts, " ")
}

const dateLayout = "2 January 2006"

func (v *view) tell(t time.Time) string {
	if t = t.In(v.zone); midnight(t) {
		return t.Format(dateLayout)
	}
	return t.Format(dateLayout + " 15:04:05.999999999")
}

func midnight(t time.Time) bool {
	return t.Hour() == 0 && t.Minute() == 0 && t.Second() == 0 && t.Nanosecond() == 0
}

// Zone names the time zone of the page's times.
func (v view) Zone() string { return v.zone.String() }

// money writes d with all its decimal places, its thousands apart and a true minus.
func money(d decimal.Decimal) string {
	whole, fraction, point := strings.Cut(d.Abs().StringFixed(max(0, -d.Exponent())), ".")
	var b strings.Builder
	if d.IsNegative() {
		b.WriteString("−")
	}
	for i, c := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	if point {
		b.WriteString("." + fraction)
	}
	return b.String()
}
