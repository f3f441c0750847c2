package saga

import (
	"errors"
	"fmt"
	"time"
)

// check refuses what could not always be undone or finished, fills in the
// defaults and makes the plan.
func (p *program) check() error {
	var faults []error
	fault := func(field, reason string) { faults = append(faults, &InputError{Field: field, Reason: reason}) }
	if !named(p.name) {
		fault("name", "is not 1 to 64 letters, digits, dots, dashes and underscores")
	}
	if p.version < 1 {
		fault("version", "is less than 1")
	}
	if len(p.parts) == 0 {
		fault("steps", "are none")
	}
	seen := map[string]bool{}
	for _, s := range p.parts {
		p.plan = append(p.plan, Planned{Name: s.name, Kind: s.kind, Tx: s.tx != nil, Undo: s.undoable(), Group: s.group})
	}
	pivot := p.plan.pivot()
	for i, s := range p.parts {
		field := fmt.Sprintf("step %q", s.name)
		if !named(s.name) {
			fault(field, "has a name that is not 1 to 64 letters, digits, dots, dashes and underscores")
		}
		if seen[s.name] {
			fault(field, "is there twice")
		}
		if s.name == undoName {
			fault(field, "has the name with which the keys of compensations end")
		}
		seen[s.name] = true
		for _, reason := range s.faults(i - pivot) {
			fault(field, reason)
		}
		if i == pivot && i > 0 && s.group > 0 && s.group == p.parts[i-1].group {
			fault(field, "is in a Parallel with steps that can still fail: the saga could neither go on nor back")
		}
		s.defaults()
	}
	return errors.Join(faults...)
}

// faults tells what is wrong with a step that stands that far behind the pivot.
func (p *part) faults(behind int) (faults []string) {
	refuse := func(bad bool, reason string) {
		if bad {
			faults = append(faults, reason)
		}
	}
	refuse(p.fault != "", p.fault)
	effect := p.kind == KindStep || p.kind == KindPivot || p.kind == KindRetriable
	refuse(p.fault == "" && effect && p.do == nil && p.doTx == nil || p.kind == KindPure && p.do == nil, "has no function")
	refuse(behind < 0 && p.kind == KindStep && !p.undoable(), "cannot be undone: give it an Undo, or make it Pure, or the Pivot")
	refuse(behind < 0 && p.kind == KindChild && !p.undoable(), "cannot be undone: give it an Undo")
	refuse(behind >= 0 && p.kind == KindStep, "is behind the pivot: make it Retriable, or move it")
	refuse(behind >= 0 && p.kind == KindChild, "is a Child behind the pivot: move it, or start the other saga in a Retriable step")
	refuse(behind > 0 && p.kind == KindPivot, "is a second pivot, or behind a Retriable step")
	refuse(behind >= 0 && p.undoable(), "is never undone, as the saga cannot go back from there: take its Undo away")
	refuse(behind > 0 && p.kind == KindAwait && p.late == nil, "waits for a signal behind the pivot: give it an Otherwise")
	refuse(p.kind == KindPure && (p.undo != nil || p.verify != nil), "is Pure: there is nothing to undo or to verify")
	refuse(p.group > 0 && (p.doTx != nil || p.kind == KindPivot || p.wait != nil || p.start != nil), "cannot be in a Parallel")
	refuse(p.timeout < 0 || p.timeout > 24*time.Hour, "has a timeout that is not between 0 and a day")
	for _, r := range []Retry{p.retry, p.undoRetry} {
		refuse(r.Attempts < 0 || r.First < 0 || r.Max < 0, "has a negative number in its Retry")
	}
	return faults
}

func (p *part) defaults() {
	if p.timeout == 0 {
		p.timeout = defaultTimeout
	}
	if p.kind == KindRetriable {
		p.retry = p.retry.or(patient)
	}
	p.retry = p.retry.or(brief)
	p.undoRetry = p.undoRetry.or(patient)
}

func named(s string) bool {
	for _, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= maxName
}
