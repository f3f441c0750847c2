package redislimit

import (
	"context"
	"errors"

	"github.com/safetill/safetill/ratelimit"
)

// Modes of a call, added up.
const (
	reserving byte = 1 << iota // its takes are reservations
	several                    // it has more than one take, here or elsewhere
	forced                     // lapsed reservations are not in its way
)

// decide carries out one call.
func (s *Store) decide(ctx context.Context, c *ratelimit.Call, reply *ratelimit.Reply) {
	if len(c.Ops) == 1 && plain(&c.Ops[0]) && s.decideOne(ctx, &c.Ops[0], reply) {
		return
	}
	t, err := s.plan(c)
	if err != nil {
		reply.Err = err
		return
	}
	finish := s.begin(ctx, t)
	reply.Outcomes, reply.Err = finish()
}

// decideOne carries out an op as most are. done is false where it was not, and nothing is known to be wrong with it.
func (s *Store) decideOne(ctx context.Context, op *ratelimit.Op, reply *ratelimit.Reply) (done bool) {
	f, err := s.forms.of(op.Limit)
	if err != nil {
		reply.Err = err
		return true
	}
	j := newJob()
	key := s.keyName(f.class, op.Key, f.Name)
	j.place, j.keys = s.layout.place(key), append(j.keys, key)
	j.pack(f, op)
	if !s.alone(ctx, j) {
		reply.Err = s.launch(j, false)
	}
	if reply.Err != nil {
		return true
	}
	if reply.Err = j.await(ctx); reply.Err != nil {
		return true
	}
	if j.postponed == "" {
		reply.Outcomes = []ratelimit.Outcome{f.outcome(op, false, j.now, j.answer)}
		done = true
	}
	j.free()
	return done
}

// decideMany carries out calls side by side.
func (s *Store) decideMany(ctx context.Context, calls []ratelimit.Call, replies []ratelimit.Reply) {
	finish := make([]func() ([]ratelimit.Outcome, error), len(calls))
	for i := range calls {
		t, err := s.plan(&calls[i])
		if err != nil {
			replies[i].Err = err
			continue
		}
		finish[i] = s.begin(ctx, t)
	}
	for i := range calls {
		if finish[i] != nil {
			replies[i].Outcomes, replies[i].Err = finish[i]()
		}
	}
}

// trip is a call with what is needed to carry it out.
type trip struct {
	call  *ratelimit.Call
	forms [1]*form // of a call of one op
	many  []*form
	takes int
}

func (t *trip) form(i int) *form {
	if t.many == nil {
		return t.forms[0]
	}
	return t.many[i]
}

// plan looks for faults of a call.
func (s *Store) plan(c *ratelimit.Call) (*trip, error) {
	t := &trip{call: c}
	if len(c.Ops) != 1 || !plain(&c.Ops[0]) {
		if err := c.Validate(); err != nil {
			return nil, err
		}
	}
	if len(c.Ops) > 1 {
		t.many = make([]*form, len(c.Ops))
	}
	for i := range c.Ops {
		f, err := s.forms.of(c.Ops[i].Limit)
		if err != nil {
			return nil, err
		}
		if t.many == nil {
			t.forms[0] = f
		} else {
			t.many[i] = f
		}
		if c.Ops[i].Kind == ratelimit.Take {
			t.takes++
		}
	}
	return t, nil
}

// plain tells that an op is one of the many that need no further look, but for their limit.
func plain(o *ratelimit.Op) bool {
	return len(o.Key)-1 < ratelimit.MaxKey && o.Key != "" && o.N > 0 && o.Kind <= ratelimit.Peek && o.Min == 0 && o.Ahead == 0 &&
		o.Limit.Algorithm != ratelimit.Concurrency
}

// begin puts a call on its way. The function that it returns waits for the outcomes.
func (s *Store) begin(ctx context.Context, t *trip) func() ([]ratelimit.Outcome, error) {
	groups := s.group(t)
	if len(groups) > 1 {
		return s.beginApart(ctx, t, groups)
	}
	l := &leg{trip: t, group: groups[0]}
	s.start(l)
	return func() ([]ratelimit.Outcome, error) {
		outcomes, _, err := s.finishAll(ctx, []*leg{l})
		return outcomes, err
	}
}

// finishAll waits for all legs of a call. allowed tells whether all takes were admitted.
func (s *Store) finishAll(ctx context.Context, legs []*leg) (outcomes []ratelimit.Outcome, allowed bool, err error) {
	t := legs[0].trip
	allowed = true
	for _, l := range legs {
		if fault := s.finish(ctx, l); fault != nil {
			err = errors.Join(err, fault)
			continue
		}
		allowed = allowed && l.allowed()
	}
	if err != nil {
		return nil, false, err
	}
	outcomes = make([]ratelimit.Outcome, len(t.call.Ops))
	for _, l := range legs {
		l.read(!allowed && t.takes > 1, outcomes)
		l.job.free()
	}
	return outcomes, allowed, nil
}

// group is that part of a call that is in one place.
type group struct {
	place place
	ops   []int
	keys  []string
	takes int
}

// group splits a call by place.
func (s *Store) group(t *trip) []*group {
	var groups []*group
	for i := range t.call.Ops {
		op, f := &t.call.Ops[i], t.form(i)
		key := s.keyName(f.class, op.Key, f.Name)
		p := s.layout.place(key)
		var g *group
		for _, one := range groups {
			if one.place == p {
				g = one
			}
		}
		if g == nil {
			g = &group{place: p}
			groups = append(groups, g)
		}
		g.ops, g.keys = append(g.ops, i), append(g.keys, key)
		if op.Kind == ratelimit.Take {
			g.takes++
		}
	}
	return groups
}

// leg is one group of a call on its way.
type leg struct {
	*trip
	*group
	mode    byte
	reserve *reservation
	inside  bool // the store's own work, which Close waits for and does not refuse
	job     *job
	err     error // why it did not take off
}

// start sends a leg.
func (s *Store) start(l *leg) {
	if l.trip.takes > 1 {
		l.mode |= several
	}
	j := newJob()
	j.place = l.place
	for _, key := range l.keys {
		j.keys = append(j.keys, key)
	}
	if len(l.ops) == 1 && l.mode == 0 {
		j.pack(l.form(l.ops[0]), &l.call.Ops[l.ops[0]])
	} else {
		j.packed = append(j.packed, byte(len(l.ops)), l.mode)
		if l.reserve != nil {
			j.packed = l.reserve.append(j.packed)
		}
		for _, i := range l.ops {
			f := l.form(i)
			j.packed = f.appendOp(j.packed, &l.call.Ops[i])
			j.size += f.class.size()
		}
	}
	l.job, l.err = j, s.launch(j, l.inside)
}

// finish waits for a leg, and sends it again for as long as lapsed reservations are in its way. Where their decision cannot be looked up, what they
// have charged counts.
func (s *Store) finish(ctx context.Context, l *leg) error {
	for {
		if l.err != nil {
			return l.err
		}
		if err := l.job.await(ctx); err != nil {
			return err
		}
		name := l.job.postponed
		if name == "" {
			return nil
		}
		l.job.free()
		if err := s.resolve(ctx, l, name); err != nil {
			if ctx.Err() != nil {
				return err
			}
			l.mode |= forced
		}
		s.start(l)
	}
}

// allowed tells whether all takes of a leg were admitted.
func (l *leg) allowed() bool {
	b := l.job.answer
	for _, i := range l.ops {
		if op := &l.call.Ops[i]; op.Kind == ratelimit.Take && b[0] == 0 {
			return false
		}
		b = b[l.form(i).class.size():]
	}
	return true
}

// read reads the outcomes of a leg. refused tells that none of the call's takes was carried out.
func (l *leg) read(refused bool, outcomes []ratelimit.Outcome) {
	b := l.job.answer
	for _, i := range l.ops {
		op, f := &l.call.Ops[i], l.form(i)
		size := f.class.size()
		outcomes[i] = f.outcome(op, refused && op.Kind == ratelimit.Take, l.job.now, b[:size])
		b = b[size:]
	}
}
