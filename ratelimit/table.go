package ratelimit

import "math/bits"

// state is what a table keeps of a counter.
type state interface {
	// idle tells that nothing counts any more: the counter is as if it had never been.
	idle(now int64) bool
	// load is how much is used, in parts of 1024. From 1024 on the next unit is refused.
	load(now int64) int64
}

// table keeps the counters of one shard in one piece of memory: open addressing, linear probing, deletion by shifting back. A key is kept as a
// 64-bit digest with a seed of the process, so two of a million keys share a counter once in 40 million starts, and nobody can make it happen.
type table[S state] struct {
	slots []slot[S]
	used  int
	limit int // slots that may be in use
	// rebuilt is when what is idle was dropped last.
	rebuilt int64
	// crowd has the counters, one for each limit, of keys that came when there was no room: see put.
	crowd map[uint64]S
}

type slot[S state] struct {
	digest uint64 // 0: free
	state  S
}

// The slots are full to between 64 and 80 %.
const (
	minSlots   = 16
	fullNum    = 4
	fullDen    = 5
	evictAmong = 8
	// rebuildAfter is how often a full table is searched for what is idle, in µs.
	rebuildAfter = 1_000_000
)

func (t *table[S]) home(digest uint64) int {
	hi, _ := bits.Mul64(digest, uint64(len(t.slots)))
	return int(hi)
}

func (t *table[S]) next(i int) int {
	if i++; i == len(t.slots) {
		return 0
	}
	return i
}

// find returns the slot of a digest, or -1.
func (t *table[S]) find(digest uint64) int {
	if t.used == 0 {
		return -1
	}
	for i := t.home(digest); ; i = t.next(i) {
		switch t.slots[i].digest {
		case digest:
			return i
		case 0:
			return -1
		}
	}
}

// get returns the counter of a digest; of one that is not there, or is one of the crowd, what it would begin with.
func (t *table[S]) get(digest, limit uint64, now int64) S {
	if i := t.find(digest); i >= 0 {
		return t.slots[i].state
	}
	if t.crowd != nil && t.crowded(digest, now) {
		return t.crowd[limit]
	}
	var none S
	return none
}

// crowded tells whether there is no room for a new counter. What is idle elsewhere is dropped first, now and then: a key that was given a counter of
// its own, in the hope of that, would bring a new one for the whole crowd if there is none.
func (t *table[S]) crowded(digest uint64, now int64) bool {
	if t.used < t.limit || t.victim(digest, now) >= 0 {
		return false
	}
	if now-t.rebuilt > rebuildAfter {
		t.rebuild(now)
	}
	return t.used >= t.limit && t.victim(digest, now) < 0
}

// put writes the counter of a digest. Where there is no room for a new one, an idle counter makes way, else of some neighbours the one that is
// used least: it has the least to gain from being forgotten. One that is exhausted never makes way, or whoever sends enough other keys could
// reset it. If all are, the new keys share one counter for each limit.
func (t *table[S]) put(digest, limit uint64, s S, now int64) {
	if i := t.find(digest); i >= 0 {
		t.slots[i].state = s
		return
	}
	if (t.used+1)*fullDen > len(t.slots)*fullNum && t.used < t.limit {
		t.rebuild(now)
	}
	if t.used >= t.limit {
		victim := t.victim(digest, now)
		if victim < 0 && now-t.rebuilt > rebuildAfter { // what is idle may be elsewhere
			t.rebuild(now)
		}
		switch {
		case t.used < t.limit:
		case victim < 0:
			if t.crowd == nil {
				t.crowd = map[uint64]S{}
			}
			t.crowd[limit] = s
			return
		default:
			t.remove(victim)
		}
	}
	t.insert(digest, s)
}

func (t *table[S]) insert(digest uint64, s S) {
	i := t.home(digest)
	for t.slots[i].digest != 0 {
		i = t.next(i)
	}
	t.slots[i] = slot[S]{digest, s}
	t.used++
}

// rebuild drops what is idle and takes as much memory as the rest needs.
func (t *table[S]) rebuild(now int64) {
	t.rebuilt = now
	old := t.slots
	live := 0
	for i := range old {
		if old[i].digest != 0 && !old[i].state.idle(now) {
			live++
		}
	}
	n := max(minSlots, live+live*9/16+1) // full to 64 %
	n = min(n, t.limit*fullDen/fullNum+2)
	t.slots, t.used = make([]slot[S], n), 0
	for i := range old {
		if old[i].digest != 0 && !old[i].state.idle(now) {
			t.insert(old[i].digest, old[i].state)
		}
	}
	for id, s := range t.crowd {
		if s.idle(now) {
			delete(t.crowd, id)
		}
	}
}

// victim is the slot in the neighbourhood of a digest that can make way best, -1 if none can.
func (t *table[S]) victim(digest uint64, now int64) int {
	victim, least := -1, int64(1024)
	i := t.home(digest)
	for range min(evictAmong, len(t.slots)) {
		if t.slots[i].digest != 0 {
			if t.slots[i].state.idle(now) {
				return i
			}
			if load := t.slots[i].state.load(now); load < least {
				victim, least = i, load
			}
		}
		i = t.next(i)
	}
	return victim
}

// remove empties a slot, and moves back what was displaced by it.
func (t *table[S]) remove(i int) {
	t.used--
	for j := t.next(i); t.slots[j].digest != 0; j = t.next(j) {
		// It may move to i if its home is not behind i, on the way from i to j.
		if h := t.home(t.slots[j].digest); (j-h+len(t.slots))%len(t.slots) >= (j-i+len(t.slots))%len(t.slots) {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = slot[S]{}
}

func (t *table[S]) delete(digest uint64) {
	if i := t.find(digest); i >= 0 {
		t.remove(i)
	}
}
