package redislimit

import "time"

// SetClock makes the script go by a clock in place of the server's. What is written then lives an hour longer, since it expires by the server's.
func (s *Store) SetClock(now func() int64) { s.clock = now }

// Source is the script, and Digest how Redis knows it.
var Source, Digest = source, digest

// Die makes calls over several slots stop at a stage, as if their client had died: "reserved", "decided" or "half settled". last is done before.
func (s *Store) Die(stage string, last func()) {
	s.halt = func(at string) bool {
		if at == stage {
			last()
		}
		return at == stage
	}
}

// Pause makes a call over several slots do f when it has reserved.
func (s *Store) Pause(f func()) {
	s.halt = func(at string) bool {
		if at == "reserved" {
			f()
		}
		return false
	}
}

// Insist makes calls that a Cluster turns away be sent again for so long.
func (s *Store) Insist(d time.Duration) { s.stubborn = d }

// Decision is a call that sets, looks up or forgets a decision, as the script has it.
func Decision(what byte) []byte { return u64([]byte{1, 0, decisionCode + anyKind, what}, 1000) }

// Slot is where a Cluster keeps a key.
func Slot(key string) int { return slot(hashTag(key)) }

// Flying is how many flights are under way, Waiting how many calls wait for one.
func (s *Store) Flying() int { n, _ := s.count(); return n }

func (s *Store) Waiting() int { _, n := s.count(); return n }

func (s *Store) count() (flying, waiting int) {
	for i := range s.lanes {
		l := &s.lanes[i]
		l.mu.Lock()
		flying, waiting = flying+len(l.air), waiting+len(l.queue)
		l.mu.Unlock()
	}
	return flying, waiting
}

// Lane is one with so many jobs in the queue, and flights in the air that took off at a time: whether a job more is held, and a flight's share.
func Lane(o Options, queue int, off time.Time, air ...int) (holds bool, share int) {
	l := &lane{queue: make([]*job, queue)}
	for _, jobs := range air {
		f := l.begin()
		f.off, f.jobs = off, jobs
		l.jobs += jobs
	}
	return l.holds(&o), l.share(&o)
}
