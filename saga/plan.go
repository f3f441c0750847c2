package saga

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a step is in the terms of Garcia-Molina and Salem, "Sagas"
// (SIGMOD 1987), and of the transactions that they are made of.
type Kind byte

// The kinds.
const (
	KindStep      Kind = 's' // compensatable: before the pivot
	KindPure      Kind = 'p' // changes nothing but the data
	KindPivot     Kind = 'v' // after it the saga only goes forward
	KindRetriable Kind = 'r' // after the pivot: it is repeated until it succeeds
	KindSleep     Kind = 'z'
	KindAwait     Kind = 'a'
	KindChild     Kind = 'c'
)

var kinds = map[Kind]string{
	KindStep: "step", KindPure: "pure", KindPivot: "pivot", KindRetriable: "retriable", KindSleep: "sleep", KindAwait: "await", KindChild: "child",
}

// String returns the kind's name.
func (k Kind) String() string { return kinds[k] }

// Planned is one step of a plan.
type Planned struct {
	Name  string
	Kind  Kind
	Tx    bool // it runs within the transaction of its checkpoint
	Undo  bool // it can be undone
	Group int  // steps in a row with the same number, above 0, run at the same time
}

// Plan is what a saga is going to do. It is stored with the saga, and the saga
// finishes on it, whatever newer versions of its definition say.
type Plan []Planned

// AppendText appends the plan as text, a word a step: its name, a colon, its kind,
// "t" for one within the transaction, "u" for one that can be undone, and its group.
func (p Plan) AppendText(b []byte) ([]byte, error) {
	for i, s := range p {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(append(b, s.Name...), ':', byte(s.Kind))
		if s.Tx {
			b = append(b, 't')
		}
		if s.Undo {
			b = append(b, 'u')
		}
		if s.Group > 0 {
			b = strconv.AppendInt(b, int64(s.Group), 10)
		}
	}
	return b, nil
}

var errPlan = errors.New("saga: malformed plan")

// UnmarshalText reads what [Plan.AppendText] wrote.
func (p *Plan) UnmarshalText(text []byte) error {
	words := strings.Fields(string(text))
	out := make(Plan, len(words))
	for i, word := range words {
		name, flags, ok := strings.Cut(word, ":")
		if !ok || name == "" || flags == "" || kinds[Kind(flags[0])] == "" {
			return fmt.Errorf("%w: %q", errPlan, word)
		}
		s := Planned{Name: name, Kind: Kind(flags[0])}
		flags, s.Tx = strings.CutPrefix(flags[1:], "t")
		flags, s.Undo = strings.CutPrefix(flags, "u")
		group, err := number(flags)
		if err != nil || group > 1<<20 {
			return fmt.Errorf("%w: %q", errPlan, word)
		}
		s.Group = int(group)
		out[i] = s
	}
	*p = out
	return nil
}

// pivot is the index of the first step that no longer can be compensated: the
// pivot, or the first retriable step. len(p) if there is none.
func (p Plan) pivot() int {
	i := slices.IndexFunc(p, func(s Planned) bool { return s.Kind == KindPivot || s.Kind == KindRetriable })
	if i < 0 {
		return len(p)
	}
	return i
}
