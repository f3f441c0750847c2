package statement

import (
	"fmt"
	"time"
)

// stride is a distance between two marks on the time axis.
type stride struct {
	years, months, days int
	clock               time.Duration // within a day
	about               time.Duration
	layout              string
}

const day = 24 * time.Hour

// strides from short to long. Each begins where its unit does: a stride of 3
// months at a quarter.
var strides = func() (list []stride) {
	for _, d := range []time.Duration{time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second} {
		list = append(list, stride{clock: d, about: d, layout: "15:04:05"})
	}
	for _, d := range []time.Duration{1, 5, 15, 30, 60, 180, 360, 720} {
		list = append(list, stride{clock: d * time.Minute, about: d * time.Minute, layout: "2 Jan 15:04"})
	}
	for _, n := range []int{1, 2, 5, 10} {
		list = append(list, stride{days: n, about: time.Duration(n) * day, layout: "2 Jan 2006"})
	}
	for _, n := range []int{1, 3, 6} {
		list = append(list, stride{months: n, about: time.Duration(n) * 30 * day, layout: "Jan 2006"})
	}
	for _, n := range []int{1, 2, 5, 10, 50} {
		list = append(list, stride{years: n, about: time.Duration(n) * 365 * day, layout: "2006"})
	}
	return list
}()

// maxXTicks keeps the labels from running into each other.
const maxXTicks = 7

// xTicks returns marks at round times from from to to.
func xTicks(from, to time.Time, where *time.Location) (ticks []xTick) {
	span := to.Sub(from)
	if span < time.Second {
		return []xTick{{X: "0", Label: from.In(where).Format("2 Jan 2006 15:04:05.999"), Anchor: "start"}}
	}
	s := strideFor(span)
	if years := to.Year() - from.Year(); years >= maxXTicks*s.years && s.years > 0 { // also where a Duration cannot tell
		s.years *= 1 + years/(maxXTicks*s.years)
	}
	for at := s.begin(from.In(where)); !at.After(to); {
		if !at.Before(from) {
			ticks = append(ticks, newXTick(share(from, at, to)*chartWidth, at.Format(s.layout)))
		}
		next := s.next(at)
		if !next.After(at) { // a Time ends, too
			break
		}
		at = next
	}
	return ticks
}

func newXTick(x float64, label string) xTick {
	anchor := "middle"
	switch { // labels stay inside
	case x < 50:
		anchor = "start"
	case x > chartWidth-50:
		anchor = "end"
	}
	return xTick{X: fmt.Sprintf("%.1f", x), Label: label, Anchor: anchor}
}

// strideFor returns the shortest stride that gives a span few enough marks, or the
// longest.
func strideFor(span time.Duration) stride {
	for _, s := range strides {
		if span/s.about < maxXTicks {
			return s
		}
	}
	return strides[len(strides)-1]
}

// share tells how far at is from from to to, of which to is later: 0 to 1. A time
// is no money, so a float will do, and a Duration ends after 292 years.
func share(from, at, to time.Time) float64 {
	seconds := func(t time.Time) float64 {
		return float64(t.Unix()) - float64(from.Unix()) + float64(t.Nanosecond()-from.Nanosecond())/1e9
	}
	return seconds(at) / seconds(to)
}

// begin is the last mark at t or before.
func (s stride) begin(t time.Time) time.Time {
	year, month, d := t.Date()
	midnight := time.Date(year, month, d, 0, 0, 0, 0, t.Location())
	switch {
	case s.years > 0:
		return time.Date(year-year%s.years, time.January, 1, 0, 0, 0, 0, t.Location())
	case s.months > 0:
		return time.Date(year, month-(month-1)%time.Month(s.months), 1, 0, 0, 0, 0, t.Location())
	case s.days > 0:
		return midnight
	}
	return midnight.Add(t.Sub(midnight).Truncate(s.clock))
}

func (s stride) next(t time.Time) time.Time {
	return t.AddDate(s.years, s.months, s.days).Add(s.clock)
}
