package saga_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/saga"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "%s; -update writes it anew", path)
}

// pictured are the plans that are drawn.
func pictured(t *testing.T) map[string]*saga.Record {
	t.Helper()
	begun := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	record := func(id string, status saga.Status, plan, steps string) *saga.Record {
		r := &saga.Record{ID: id, Definition: "order", Version: 1, Status: status, Created: begun, Updated: begun.Add(2400 * time.Millisecond), Revision: 6}
		require.NoError(t, r.Plan.UnmarshalText([]byte(plan)))
		require.NoError(t, r.Steps.UnmarshalText([]byte(steps)))
		return r
	}
	many := make([]string, 20)
	for i := range many {
		many[i] = fmt.Sprintf("step-number-%d:su", i+1)
	}
	many[12] = "the-step-with-the-longest-name-that-anybody-could-think-of-today:v"
	for i := 13; i < 20; i++ {
		many[i] = fmt.Sprintf("step-number-%d:r", i+1)
	}
	order := "validate:p reserve:stu charge:su confirm:v notify:r"
	all := map[string]*saga.Record{
		"order":       record("order-42", saga.Running, order, ""),
		"compensated": record("order-42", saga.Compensated, order, "D812 U1900000 U1650000 O O"),
		"stuck":       record("order-42", saga.Stuck, order, "D812 D1650 D52000*3 M1200000*2 O"),
		"parallel": record("trip", saga.Suspended, "quote:p flight:su1 hotel:su1 car:su1 approval:a book:v mail:r2 invoice:r2",
			"D10 D300 U3000 X4000*20 W9000000 O O O"),
		"twenty": record("long", saga.Running, strings.Join(many, " "), strings.TrimSpace(strings.Repeat("D1000 ", 9)+" S2 N3 F5*2"+strings.Repeat(" O", 8))),
	}
	stuck := all["stuck"]
	stuck.Failed, stuck.Error, stuck.BusinessID = "confirm", "nobody knows whether it took effect", "customer-7"
	stuck.Events = []saga.Event{
		{At: begun.Add(20 * time.Millisecond), Kind: saga.EventRetry, Step: "charge", Attempt: 1, Text: "502 Bad Gateway\n\x1b[2J<html>"},
		{At: begun.Add(40 * time.Millisecond), Kind: saga.EventRetry, Step: "charge", Attempt: 2, Text: "502 Bad Gateway"},
		{At: begun.Add(1300 * time.Millisecond), Kind: saga.EventFailed, Step: "confirm", Attempt: 2, Text: "nobody knows whether it took effect"},
		{At: begun.Add(1300 * time.Millisecond), Kind: saga.EventStuck, Step: "confirm", Text: "nobody knows whether it took effect"},
		{At: begun.Add(90 * time.Minute), Kind: saga.EventResolved, Step: "confirm", Actor: "ada", Text: "retry: the shop is back"},
	}
	return all
}

func TestPictures(t *testing.T) {
	t.Parallel()
	for name, rec := range pictured(t) {
		var svg, text bytes.Buffer
		require.NoError(t, saga.WriteSVG(&svg, rec.Plan, rec.Steps))
		wellFormed(t, svg.Bytes())
		golden(t, name+".svg", svg.Bytes())
		golden(t, name+".mmd", []byte(saga.DiagramOf(rec)))
		require.NoError(t, saga.WriteTimeline(&text, rec))
		golden(t, name+".txt", text.Bytes())
	}
}

func TestDiagramOfADefinition(t *testing.T) {
	t.Parallel()
	golden(t, "five.mmd", []byte(saga.Diagram(five())))
}

func wellFormed(t *testing.T, doc []byte) {
	t.Helper()
	in := xml.NewDecoder(bytes.NewReader(doc))
	for {
		_, err := in.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
	}
}

// The engine takes the saga for older than the store does, by the time that the store
// has taken to answer; what is retried is told when that is written.
func TestATimelineIsInTheOrderOfWhatHasHappened(t *testing.T) {
	t.Parallel()
	created := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	rec := &saga.Record{
		ID: "o1", Definition: "order", Version: 1, Status: saga.Stuck, Created: created, Updated: created.Add(20 * time.Millisecond), Revision: 5,
		Plan: saga.Plan{
			{Name: "validate", Kind: saga.KindPure},
			{Name: "reserve", Kind: saga.KindStep, Undo: true},
			{Name: "charge", Kind: saga.KindStep, Undo: true},
			{Name: "confirm", Kind: saga.KindPivot},
			{Name: "notify", Kind: saga.KindRetriable},
		},
		Steps: saga.Progress{
			{Mark: saga.Done, At: 9 * time.Millisecond, Attempts: 1},
			{Mark: saga.Done, At: 7 * time.Millisecond, Attempts: 1}, // of the next owner, whose clock is nearer to the store's
			{Mark: saga.Done, At: 7 * time.Millisecond, Attempts: 2},
			{Mark: saga.Done, At: 19 * time.Millisecond, Attempts: 1},
			{Mark: saga.Failed, Attempts: 2},
		},
		Events: []saga.Event{
			{At: created.Add(8 * time.Millisecond), Kind: saga.EventCrashed, Step: "charge", Text: "owner 1 in a row"},
			{At: created.Add(8 * time.Millisecond), Kind: saga.EventVerified, Step: "charge", Attempt: 1, Text: "it took effect"},
			{At: created.Add(12 * time.Millisecond), Kind: saga.EventRetry, Step: "notify", Attempt: 1, Text: "502"},
		},
	}
	var text strings.Builder
	require.NoError(t, saga.WriteTimeline(&text, rec))
	_, lines, _ := strings.Cut(text.String(), "at notify\n")
	require.Equal(t, `      +7ms  validate  done
      +7ms  reserve   done
      +8ms  charge      crashed   owner 1 in a row
      +8ms  charge      verified  attempt 1: it took effect
      +8ms  charge    done        2 attempts
     +12ms  confirm   done
     +12ms  notify      retry     attempt 1: 502
         -  notify    failed      2 attempts
`, lines)
}

// What was done before a step failed is told before it, also where it is not undone; and
// what fails on the way back comes after.
func TestATimelineOfASagaThatGoesBack(t *testing.T) {
	t.Parallel()
	created := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	rec := &saga.Record{
		ID: "o1", Definition: "order", Version: 1, Status: saga.Compensating, Created: created, Updated: created.Add(15 * time.Millisecond), Revision: 4,
		Undoing: true, Failed: "confirm", Error: "no",
		Plan: saga.Plan{
			{Name: "validate", Kind: saga.KindPure},
			{Name: "reserve", Kind: saga.KindStep, Undo: true},
			{Name: "charge", Kind: saga.KindStep, Undo: true},
			{Name: "confirm", Kind: saga.KindPivot},
		},
		Steps: saga.Progress{
			{Mark: saga.Done, At: 9 * time.Millisecond, Attempts: 1},
			{Mark: saga.Done, At: 8 * time.Millisecond, Attempts: 1},
			{Mark: saga.Undone, At: 12 * time.Millisecond, Attempts: 1},
			{Mark: saga.NotApplied, Attempts: 1},
		},
		Events: []saga.Event{
			{At: created.Add(7 * time.Millisecond), Kind: saga.EventFailed, Step: "confirm", Attempt: 1, Text: "no"},
			{At: created.Add(14 * time.Millisecond), Kind: saga.EventRetry, Step: "reserve", Attempt: 1, Text: "502"},
		},
	}
	var text strings.Builder
	require.NoError(t, saga.WriteTimeline(&text, rec))
	_, lines, _ := strings.Cut(text.String(), "confirm: no\n")
	require.Equal(t, `      +7ms  validate  done
      +7ms  reserve   done
      +7ms  confirm     failed     attempt 1: no
     +12ms  charge    undone
     +14ms  reserve     retry      attempt 1: 502
         -  confirm   not applied
`, lines)
}

// A plan comes from a store, which may have been written by anybody.
func TestPicturesOfHostileNames(t *testing.T) {
	t.Parallel()
	rec := &saga.Record{ID: "\"]\n<script>", Plan: saga.Plan{{Name: "\"]<script>alert(1)</script>\x1b", Kind: saga.KindStep, Undo: true}}, Steps: saga.Progress{{Mark: '?'}}}
	var svg, text bytes.Buffer
	require.NoError(t, saga.WriteSVG(&svg, rec.Plan, rec.Steps))
	wellFormed(t, svg.Bytes())
	require.NotContains(t, svg.String(), "<script")
	require.NoError(t, saga.WriteTimeline(&text, rec))
	require.NotContains(t, text.String(), "\x1b")
	require.NotContains(t, saga.DiagramOf(rec), "<script")
	require.NotContains(t, saga.DiagramOf(rec), `"]<`)
}

// A letter is not as wide as another.
func TestANameStaysInItsBox(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		strings.Repeat("a", 25):             strings.Repeat("a", 25),
		strings.Repeat("a", 26):             strings.Repeat("a", 24) + "…",
		"RESERVE_WAREHOUSE_STOCK":           "RESERVE_WAREHOUSE…",
		strings.Repeat("W", 25):             strings.Repeat("W", 14) + "…",
		strings.Repeat("\xff", 26):          strings.Repeat("\ufffd", 24) + "…",
		"check-customer-credit-at-a-bureau": "check-customer-credit-a…",
	} {
		var svg bytes.Buffer
		require.NoError(t, saga.WriteSVG(&svg, saga.Plan{{Name: name, Kind: saga.KindPivot}}, nil))
		require.Contains(t, svg.String(), `y="64">`+want+`</text>`)
	}
}

func TestAMarkThatNobodyHasSetIsDrawnAsOpen(t *testing.T) {
	t.Parallel()
	rec := &saga.Record{ID: "o1", Plan: saga.Plan{{Name: "pay", Kind: saga.KindPivot}}, Steps: make(saga.Progress, 1)}
	var svg bytes.Buffer
	require.NoError(t, saga.WriteSVG(&svg, rec.Plan, rec.Steps))
	require.Contains(t, svg.String(), `<g class="open strong">`)
	require.Contains(t, saga.DiagramOf(rec), ":::open\n")
}

func TestPicturesTellThatTheWriterFails(t *testing.T) {
	t.Parallel()
	rec := pictured(t)["stuck"]
	r, w := io.Pipe()
	require.NoError(t, r.Close())
	require.ErrorIs(t, saga.WriteSVG(w, rec.Plan, rec.Steps), io.ErrClosedPipe)
	require.ErrorIs(t, saga.WriteTimeline(w, rec), io.ErrClosedPipe)
}

// countedWrites counts how often it is written to.
type countedWrites struct{ n int }

func (c *countedWrites) Write(p []byte) (int, error) {
	c.n++
	return len(p), nil
}

func TestAPictureIsOneWrite(t *testing.T) {
	t.Parallel()
	var svg, text countedWrites
	rec := pictured(t)["twenty"]
	rec.Events = make([]saga.Event, 1000)
	require.NoError(t, saga.WriteSVG(&svg, rec.Plan, rec.Steps))
	require.NoError(t, saga.WriteTimeline(&text, rec))
	require.Equal(t, []int{1, 1}, []int{svg.n, text.n})
}

func TestAPictureOfNothing(t *testing.T) {
	t.Parallel()
	var svg bytes.Buffer
	require.NoError(t, saga.WriteSVG(&svg, nil, nil))
	wellFormed(t, svg.Bytes())
}
