package idempotency

import (
	"bytes"
	"container/heap"
	"slices"
	"sync/atomic"
	"time"
)

// flight is a key that is claimed, or was and has not been completed.
type flight struct {
	key         Key
	fingerprint Fingerprint
	token       Token
	until       time.Duration // the end of the lease
	forget      time.Duration // when it may be removed
	keep        time.Duration // until when the steps are kept; 0 without any
	steps       []StepRecord
	index       int // in the heap
}

// take claims a key that is not completed.
func (s *memoryShard) take(q *Request, now time.Duration, tokens *atomic.Int64) Record {
	f := s.flights[q.Key]
	if f == nil {
		f = &flight{key: q.Key, index: -1}
		if s.flights == nil {
			s.flights = make(map[Key]*flight)
		}
		s.flights[q.Key] = f
	} else {
		held, stepped := f.until > now, f.keep > now
		switch {
		case (held || stepped) && f.fingerprint != q.Fingerprint:
			return Record{Outcome: Mismatch}
		case held:
			return Record{Outcome: InFlight, Remaining: f.until - now}
		case !stepped:
			f.keep, f.steps = 0, nil
		}
	}
	f.fingerprint = q.Fingerprint
	f.token = Token(tokens.Add(1))
	s.hold(f, now+q.Lease, AbandonedFor)
	return Record{Outcome: Won, Token: f.token, Steps: slices.Clip(f.steps)}
}

// add appends a step, unless there is one of that name.
func (f *flight) add(step StepRecord, keep time.Duration) {
	f.keep = max(f.keep, keep)
	if !slices.ContainsFunc(f.steps, func(s StepRecord) bool { return s.Name == step.Name }) {
		f.steps = append(f.steps, StepRecord{Name: step.Name, Result: bytes.Clone(step.Result)})
	}
}

// hold sets the end of a lease and puts the flight in its place in the heap.
func (s *memoryShard) hold(f *flight, until, rememberFor time.Duration) {
	f.until, f.forget = until, max(until+rememberFor, f.keep)
	if f.index < 0 {
		heap.Push(&s.expiry, f)
		return
	}
	heap.Fix(&s.expiry, f.index)
}

// land removes a flight.
func (s *memoryShard) land(f *flight) {
	heap.Remove(&s.expiry, f.index)
	delete(s.flights, f.key)
}

// flightHeap has the flight that may be forgotten first at its root.
type flightHeap []*flight

func (h flightHeap) Len() int           { return len(h) }
func (h flightHeap) Less(i, j int) bool { return h[i].forget < h[j].forget }

func (h flightHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *flightHeap) Push(x any) {
	f := x.(*flight)
	f.index = len(*h)
	*h = append(*h, f)
}

func (h *flightHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
