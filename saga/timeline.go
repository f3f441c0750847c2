package saga

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// WriteTimeline writes what is known of a saga as text for a terminal: a heading, and
// a line for each step that has begun and each event of its history, in order. Steps
// still open come last. rec is best from [Admin.Inspect], which has the history.
// Of a step that was done and then undone, only the latter time is known.
//
// The text of errors is shown without control characters. Cost: one write.
func WriteTimeline(w io.Writer, rec *Record) error {
	lines := timeline(rec)
	var step, what int
	for _, l := range lines {
		step, what = max(step, utf8.RuneCountInString(l.step)), max(what, utf8.RuneCountInString(l.what))
	}
	var out bytes.Buffer
	fmt.Fprintln(&out, heading(rec))
	for _, l := range lines {
		text := fmt.Sprintf("%10s  %-*s  %-*s  %s", l.offset, step, l.step, what, l.what, l.note)
		fmt.Fprintln(&out, strings.TrimRight(text, " "))
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("saga: write timeline: %w", err)
	}
	return nil
}

func heading(rec *Record) string {
	about := ""
	if rec.BusinessID != "" {
		about = " for " + rec.BusinessID
	}
	text := plain(fmt.Sprintf("%s (%s %d)%s: %s after %s, revision %d",
		rec.ID, rec.Definition, rec.Version, about, rec.Status, short(rec.Updated.Sub(rec.Created)), rec.Revision))
	if reason := strings.Join(slices.DeleteFunc([]string{rec.Failed, rec.Error}, func(s string) bool { return s == "" }), ": "); reason != "" {
		text += "\n  " + plain(reason)
	}
	if names := rec.Blocked(); rec.Status == Stuck && len(names) > 0 {
		text += "\n  " + plain("it needs a person at "+strings.Join(names, ", "))
	}
	return text
}

// line is one of the timeline.
type line struct {
	at                       time.Duration
	offset, step, what, note string
}

func timeline(rec *Record) []line {
	var lines, open []line
	for _, ev := range rec.Events { // before the steps: at the same time, they are the cause
		l := line{at: ev.At.Sub(rec.Created).Truncate(time.Microsecond), step: plain(ev.Step), what: "  " + plain(string(ev.Kind)), note: plain(ev.Text)}
		l.offset = "+" + short(l.at)
		if ev.Attempt > 0 {
			l.note = fmt.Sprintf("attempt %d: %s", ev.Attempt, l.note)
		}
		if ev.Actor != "" {
			l.note += " (" + plain(ev.Actor) + ")"
		}
		lines = append(lines, l)
	}
	times := doneAt(rec)
	for i, s := range rec.Steps {
		l := line{at: times[i], offset: "+" + short(times[i]), step: plain(rec.Plan[i].Name), what: s.Mark.String()}
		if s.Attempts > 1 {
			l.note = fmt.Sprintf("%d attempts", s.Attempts)
		}
		switch {
		case s.Mark == Waiting:
			l.note = "until +" + short(s.At)
			l.offset = "-"
			open = append(open, l)
		case s.Mark == Open, s.At == 0:
			l.offset = "-"
			open = append(open, l)
		default:
			lines = append(lines, l)
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at, b.at) })
	return append(lines, open...)
}

// doneAt returns the times of the steps, those that are done made to agree with the
// history. A step's time is that of its engine, which takes the saga for a little older
// than it is, and an event's that of the store, when it was written:
//
//	the engine's clock: confirm is done after 22 ms
//	the store's:        notify, which stands behind it, is tried again after 13 ms
//
// So a step is done when what has happened to it has, and before anything happens to
// those behind it. Of a saga that goes back only the latter holds: what has happened
// to a step may be of its compensation.
func doneAt(rec *Record) []time.Duration {
	times := make([]time.Duration, len(rec.Steps))
	first, last := map[string]time.Duration{}, map[string]time.Duration{} // events of each step
	for _, ev := range rec.Events {
		at := ev.At.Sub(rec.Created).Truncate(time.Microsecond)
		if _, ok := first[ev.Step]; !ok {
			first[ev.Step] = at
		}
		last[ev.Step] = max(last[ev.Step], at)
	}
	behind := time.Duration(math.MaxInt64) // when the first thing has happened behind the stage
	for _, stage := range slices.Backward(rec.Plan[:len(times)].stages()) {
		begun := behind
		for _, i := range stage {
			name, s := rec.Plan[i].Name, rec.Steps[i]
			times[i] = s.At
			if s.Mark == Done {
				if !rec.Undoing {
					times[i] = max(s.At, last[name])
				}
				times[i] = min(times[i], behind-1)
				begun = min(begun, times[i])
			}
			if at, ok := first[name]; ok {
				begun = min(begun, at)
			}
		}
		behind = begun
	}
	return times
}

// short is a time with as many digits as a person reads.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

// plain is text that cannot move a terminal's cursor: what providers answer is not
// ours.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) {
			return ' '
		}
		return c
	}, s)
}
