package proof

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/safetill/safetill/ledger"
)

const checkLimit = time.Minute

func (h *history) linearizable(t *testing.T, m porcupine.Model) {
	t.Helper()
	if result := h.check(t, m); result != porcupine.Ok {
		h.explain(t, m)
		require.Equal(t, porcupine.Ok, result)
	}
	require.Empty(t, h.odd)
}

// check runs the checker and logs what it had to do.
func (h *history) check(t *testing.T, m porcupine.Model) porcupine.CheckResult {
	t.Helper()
	start := time.Now()
	result := porcupine.CheckOperationsTimeout(m, h.bounded(), checkLimit)
	took := time.Since(start)
	unknown, duplicates := 0, 0
	kinds, verdicts := map[string]int{}, map[ledger.Verdict]int{}
	for _, op := range h.ops {
		c, a := op.Input.(*call), op.Output.(answer)
		switch {
		case a.unknown:
			unknown++
		case c.expiry:
			kinds["expiry"]++
		case len(c.txs) > 1 && c.txs[0].linked:
			kinds["chain"]++
		}
		for i, r := range a.results {
			if r.duplicate {
				duplicates++
				continue
			}
			verdicts[r.verdict]++
			if r.verdict == ledger.Posted && !c.expiry {
				kinds[kindNames[c.txs[i].kind]]++
			}
		}
	}
	t.Logf("%s in %v: %d operations in %v, %d of them unknown; %d duplicates, %d holds expired; posted %v; %v", result, took.Round(time.Millisecond),
		len(h.ops), start.Sub(h.start).Round(time.Millisecond), unknown, duplicates, h.expired, kinds, verdicts)
	return result
}

// bounded returns the history with an end for what was not answered, since the checker's work grows with all that may still happen.
//
// If others have decided all of its ids that are decided, it has done nothing, and is left out. If it may have decided some, it changes
// nothing any more once each of its chains has an id that is decided: if it has not happened when the first has heard that, it can be put
// there as well as anywhere behind.
func (h *history) bounded() (ops []porcupine.Operation) {
	heard := map[*registry]map[int]hearing{}
	for _, d := range h.dealers {
		heard[&d.registry] = map[int]hearing{}
	}
	for _, op := range h.ops {
		c, a := op.Input.(*call), op.Output.(answer)
		for i, r := range a.results {
			if r.verdict == ledger.LinkFailed {
				continue
			}
			first, ok := heard[c.registry][c.txs[i].id]
			if !ok || op.Return < first.at {
				first.at = op.Return
			}
			first.fresh = first.fresh || !r.duplicate && r.verdict != ledger.Conflict
			heard[c.registry][c.txs[i].id] = first
		}
	}
	for _, op := range h.ops {
		if op.Output.(answer).unknown {
			c := op.Input.(*call)
			if op.Return = c.end(heard[c.registry]); op.Return < op.Call {
				continue
			}
		}
		ops = append(ops, op)
	}
	return ops
}

// hearing is when the first heard that an id is decided, and whether somebody has heard that it was he who did it.
type hearing struct {
	at    int64
	fresh bool
}

// end returns the time by which a call that was not answered has happened, or never will; 0: it never has.
func (c *call) end(heard map[int]hearing) (end int64) {
	idle := true
	for _, chain := range chains(c.txs) {
		first := int64(math.MaxInt64)
		for _, t := range chain {
			if by, ok := heard[t.id]; ok {
				first, idle = min(first, by.at), idle && by.fresh
			}
		}
		idle = idle && first < math.MaxInt64
		end = max(end, first)
	}
	if idle {
		return 0
	}
	return end
}

// explain logs, of each shard whose history has no explanation, the operations around where the longest attempt at one gave up.
func (h *history) explain(t *testing.T, m porcupine.Model) {
	t.Helper()
	for _, part := range m.Partition(h.bounded()) {
		result, info := porcupine.CheckOperationsVerbose(m, part, checkLimit)
		if result == porcupine.Ok {
			continue
		}
		partial := info.PartialLinearizationsOperations()
		if len(partial) == 0 || len(partial[0]) == 0 {
			continue
		}
		longest := slices.MaxFunc(partial[0], func(a, b []porcupine.Operation) int { return len(a) - len(b) })
		explained := map[any]bool{}
		for _, op := range longest {
			explained[op.Input] = true
		}
		slices.SortFunc(part, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
		at := slices.IndexFunc(part, func(op porcupine.Operation) bool { return !explained[op.Input] })
		for _, op := range longest[max(0, len(longest)-12):] {
			t.Logf("explained: %s", line(op))
		}
		for _, op := range part[at:min(len(part), at+4)] {
			t.Logf("not explained (%t): %s", !explained[op.Input], line(op))
		}
	}
}

func line(op porcupine.Operation) string {
	return fmt.Sprintf("client %d, %v to %v: %s", op.ClientId, time.Duration(op.Call), time.Duration(op.Return), strict.DescribeOperation(op.Input, op.Output))
}
