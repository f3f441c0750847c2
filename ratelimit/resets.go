package ratelimit

import "sync"

// resets knows which counters were reset through a limiter, so that nothing is given back of what a Reset has forgotten:
//
//	A takes units, and holds them
//	the counter is reset; B takes all there is
//	A gives back: the counter has room again, for units that B has used
//
// A store cannot tell: of a bucket it keeps no more than an instant.
type resets struct {
	mu   sync.Mutex
	n    uint64             // how many there were
	lost uint64             // of those up to this one it is not known any more of which counters they were
	last map[counter]uint64 // which one was the last of a counter
}

// maxResets bounds how many are known one by one.
const maxResets = 1024

// count is how many there were until now.
func (r *resets) count() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

func (r *resets) note(p *plan, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	if r.last == nil || len(r.last) >= maxResets {
		r.last, r.lost = map[counter]uint64{}, r.n-1
	}
	r.last[counter{p.Name, key}] = r.n
}

// since tells whether a counter was reset after so many, or may have been.
func (r *resets) since(p *plan, key string, count uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return count < r.lost || r.last[counter{p.Name, key}] > count
}
