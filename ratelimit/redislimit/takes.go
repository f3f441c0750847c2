package redislimit

import (
	"bytes"

	"github.com/safetill/safetill/ratelimit"
)

// Plain takes, of one unit of a bucket and without more, are most of what is asked. In a script they are sorted by limit and key: a key is read and
// written once, however many callers want it, and what each of them is told is worked out here.

// takes are those of one limit.
type takes struct {
	form  *form
	seats []*seat
}

// seat has the jobs of one key, in their order.
type seat struct {
	first, last *job
	n           int
}

const (
	maxTimes = 250  // how often a script takes from a key; what comes beyond that is not plain
	maxSeats = 1000 // keys that are read at once
	maxTakes = 255
	seatSize = 13
)

// sort parts the jobs of a script into plain takes and others. Where jobs share a key their order stays: what comes behind one that is not plain, or
// is of another limit, is not plain either.
func (r *script) sort() {
	r.takes, r.others = r.takes[:0], nil
	seats := make([]seat, 0, len(r.jobs)) // in one piece of memory, which must not move
	var where map[any]*seat               // nil for a key: what wants it is not plain any more
	if len(r.jobs) > 1 {
		where = make(map[any]*seat, len(r.jobs))
	}
	for _, j := range r.jobs {
		s, known := where[j.keys[0]]
		switch {
		case j.plain == nil:
		case !known:
			seats = append(seats, seat{})
			if s = &seats[len(seats)-1]; !r.place(s, j.plain) {
				s = nil
			}
		case s != nil && (s.n == maxTimes || !s.first.plain.same(j.plain)):
			s = nil
		}
		if j.plain != nil && s != nil {
			s.add(j)
		} else {
			s = nil
			j.unplain()
			r.others = append(r.others, j)
		}
		if where != nil {
			for _, key := range j.keys {
				where[key] = s
			}
		}
	}
}

// place gives a seat its place among the takes of a limit. There may be no more room.
func (r *script) place(s *seat, f *form) bool {
	for i := range r.takes {
		if t := &r.takes[i]; t.form.same(f) {
			if len(t.seats) == maxSeats {
				return false
			}
			t.seats = append(t.seats, s)
			return true
		}
	}
	if len(r.takes) == maxTakes {
		return false
	}
	r.takes = append(r.takes, takes{form: f, seats: []*seat{s}})
	return true
}

func (s *seat) add(j *job) {
	j.next = nil
	if s.n == 0 {
		s.first = j
	} else {
		s.last.next = j
	}
	s.last = j
	s.n++
}

// same tells whether two limits count alike.
func (f *form) same(g *form) bool { return f == g || bytes.Equal(f.head, g.head) }

// pack packs a call of one op and no mode, unless it is a plain take.
func (j *job) pack(f *form, op *ratelimit.Op) {
	j.size = f.class.size()
	if f.plainTake(op) {
		j.plain = f
		return
	}
	j.packed = f.appendOp(append(j.packed[:0], 1, 0), op)
}

// unplain packs a plain take like any other call.
func (j *job) unplain() {
	if j.plain == nil {
		return
	}
	j.packed = append(append(j.packed[:0], 1, 0, bucketCode+oneKind), j.plain.head...)
	j.plain = nil
}

// appendTakes packs the plain takes of a script, and adds their keys.
func (r *script) appendTakes(b []byte, args []any) ([]byte, []any) {
	b = append(b, byte(len(r.takes)))
	r.seats = r.seats[:0]
	for i := range r.takes {
		t := &r.takes[i]
		b = append(b, t.form.head...)
		b = append(b, byte(len(t.seats)>>8), byte(len(t.seats)))
		for k := range t.seats {
			b = append(b, byte(t.seats[k].n))
			args = append(args, t.seats[k].first.keys[0])
		}
		r.seats = append(r.seats, t.seats...)
	}
	return b, args
}

// landTakes gives plain takes their part of the answer, and returns what is left of it. What the script found to be not plain after all, and all that
// stands behind it, it has left alone: left.
func (r *script) landTakes(now int64, b []byte) (rest []byte, left []*job, err error) {
	n := min(len(r.seats), len(b)/seatSize)
	if len(b) < n*seatSize || n < len(r.seats) && len(b) > n*seatSize {
		return nil, nil, errAnswer
	}
	if n < len(r.seats) {
		left = r.behind(n)
	}
	for i, s := range r.seats[:n] {
		s.land(now, b[i*seatSize:])
	}
	return b[n*seatSize:], left, nil
}

// behind returns the jobs of all but the first n seats, and the others, in their order. None is plain any more.
func (r *script) behind(n int) (jobs []*job) {
	for _, s := range r.seats[n:] {
		for j := s.first; j != nil; j = j.next {
			j.unplain()
		}
	}
	for _, j := range r.jobs {
		if j.plain == nil {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

// land tells the jobs of a key, of which so many were admitted, and the last of these has left what is due.
func (s *seat) land(now int64, b []byte) {
	admitted, due := int(b[0]), span{get64(b[1:]), get32(b[9:])}
	f, j := s.first.plain, s.first
	for i := 1; i <= s.n; i++ {
		next := j.next // before j is its caller's again
		if i <= admitted {
			j.told(now, 1, f.sub(due, f.span(int64(admitted-i))))
		} else {
			j.told(now, 0, due)
		}
		j = next
	}
}

// told ends a plain take as the script would have answered it by itself.
func (j *job) told(now int64, admitted byte, due span) {
	j.packed = append(j.packed[:0], admitted, 0, 0, 0, admitted)
	j.packed = u32(u64(j.packed, due.us), due.frac)
	j.now, j.answer, j.postponed = now, j.packed, ""
	j.finish()
}
