package statement

import (
	"fmt"
	"strings"
	"time"

	"github.com/shopspring/decimal"
)

// The chart's size, in the units of its viewBox.
const (
	chartWidth  = 900
	chartHeight = 280
	plotTop     = 18 // room for the topmost label
	plotBottom  = 252
	columns     = 450 // in which entries are put together
)

// chart is a balance over time as steps.
type chart struct {
	Width, Height, Top, Bottom int

	Line, Area string // paths
	YTicks     []yTick
	XTicks     []xTick
	Low, High  decimal.Decimal
}

type yTick struct {
	Y, LabelY string
	Value     decimal.Decimal
	Zero      bool
}

type xTick struct {
	X, Label, Anchor string
}

// column is what happened in one column of the chart: the balances that it ends
// with and that it reached in between.
type column struct {
	at                    int
	first, low, high, end decimal.Decimal
}

// newChart returns nil where there is nothing to draw.
func newChart(s *Statement, where *time.Location) *chart {
	from, to := s.span()
	if len(s.Entries) == 0 && (from.IsZero() || !from.Before(to)) {
		return nil
	}
	c := &chart{Width: chartWidth, Height: chartHeight, Top: plotTop, Bottom: plotBottom, Low: s.Opening, High: s.Opening}
	for _, e := range s.Entries {
		c.Low, c.High = decimal.Min(c.Low, e.Balance), decimal.Max(c.High, e.Balance)
	}
	y := newScale(c.Low, c.High, -s.Opening.Exponent())
	c.YTicks = y.ticks()
	c.XTicks = xTicks(from, to, where)
	c.Line = path(s.Opening, s.columns(from, to), y)
	c.Area = fmt.Sprintf("%sV%sH0Z", c.Line, y.at(decimal.Zero))
	return c
}

// span is the period that is drawn. Where it is open it has some room before the
// first entry and after the last, so that the balance there is seen.
func (s *Statement) span() (from, to time.Time) {
	from, to = s.From, s.To
	n := len(s.Entries)
	if n == 0 {
		return from, to
	}
	first, last := s.Entries[0].At, s.Entries[n-1].At
	room := last.Sub(first) / 40
	if from.IsZero() {
		from = first.Add(-room)
	}
	if to.IsZero() {
		to = last.Add(room)
	}
	return from, to
}

// columns puts the entries together that are in one column.
func (s *Statement) columns(from, to time.Time) (cols []column) {
	for i, e := range s.Entries {
		x := float64(i+1) / float64(len(s.Entries)+1) // all at one moment: by their order
		if from.Before(to) {
			x = share(from, e.At, to)
		}
		at := int(min(max(x, 0), 1) * columns)
		if n := len(cols); n == 0 || cols[n-1].at < at {
			cols = append(cols, column{at: at, first: e.Balance, low: e.Balance, high: e.Balance})
		}
		last := &cols[len(cols)-1]
		last.low, last.high, last.end = decimal.Min(last.low, e.Balance), decimal.Max(last.high, e.Balance), e.Balance
	}
	return cols
}

// path draws steps: level to the next column, then up and down in it.
func path(opening decimal.Decimal, cols []column, y scale) string {
	var b strings.Builder
	level := y.at(opening)
	fmt.Fprintf(&b, "M0 %s", level)
	for _, c := range cols {
		fmt.Fprintf(&b, "H%d", c.at*chartWidth/columns)
		for _, v := range []decimal.Decimal{c.first, c.low, c.high, c.end} {
			if next := y.at(v); next != level {
				level = next
				fmt.Fprintf(&b, "V%s", level)
			}
		}
	}
	fmt.Fprintf(&b, "H%d", chartWidth)
	return b.String()
}

// scale maps balances to heights, without floats.
type scale struct{ low, high, step decimal.Decimal }

// newScale returns a scale from low to high and over 0, in round steps of no less
// than the currency's minor unit.
func newScale(low, high decimal.Decimal, places int32) scale {
	low, high = decimal.Min(low, decimal.Zero), decimal.Max(high, decimal.Zero)
	unit := decimal.New(1, -places)
	if low.Equal(high) {
		high = unit
	}
	raw := high.Sub(low).DivRound(decimal.New(4, 0), places+2)
	step := decimal.New(1, int32(raw.NumDigits())+raw.Exponent()-1)
	for _, m := range []int64{1, 2, 5, 10} {
		if s := step.Mul(decimal.New(m, 0)); s.GreaterThanOrEqual(raw) {
			step = s
			break
		}
	}
	step = decimal.Max(step, unit)
	// To whole steps, away from 0.
	return scale{low: upTo(low.Neg(), step).Neg(), high: upTo(high, step), step: step}
}

// upTo returns the least multiple of step that is v ≥ 0 or more.
func upTo(v, step decimal.Decimal) decimal.Decimal {
	steps, rest := v.QuoRem(step, 0)
	if !rest.IsZero() {
		steps = steps.Add(decimal.New(1, 0))
	}
	return steps.Mul(step)
}

func (s scale) at(v decimal.Decimal) string {
	height := decimal.New(plotBottom-plotTop, 0)
	up := v.Sub(s.low).Mul(height).DivRound(s.high.Sub(s.low), 1)
	return decimal.New(plotBottom, 0).Sub(up).String()
}

func (s scale) ticks() (ticks []yTick) {
	for v := s.low; v.LessThanOrEqual(s.high); v = v.Add(s.step) {
		y := s.at(v)
		label := decimal.RequireFromString(y).Sub(decimal.New(4, 0))
		ticks = append(ticks, yTick{Y: y, LabelY: label.String(), Value: v, Zero: v.IsZero()})
	}
	return ticks
}
